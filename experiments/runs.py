"""The model of a run: built, and once trained calibrated and reported on. Without flags, for the scripts to share."""

import functools
import pathlib
from typing import TYPE_CHECKING, Final

from agegender.environment import set_environment
from agegender.schema import BEST_MODEL, FILE_NAME, IMAGE
from agegender.training.signals import explained
from experiments import config as configs

if TYPE_CHECKING:
    import keras

    from agegender import Calibration, Report

_STATISTICS: Final = 64  # batches of 128, about half of the train split: more would only take longer


def build(config: configs.Config) -> "keras.Model":
    """The model of a config, untrained or as another run left it."""
    import agegender as ag
    from agegender.models.batch_norm import add_batch_norm
    from agegender.models.saving import load_model
    from agegender.training.callbacks import LAST_MODEL

    weights = None if config.weights == "none" else config.weights
    trainable = int(config.trainable) if config.trainable.isdigit() else config.trainable
    trunk = ag.vggface_trunk(
        config.architecture,
        image_size=config.image_size,
        weights=weights,
        trainable=trainable,
        width=config.width,
        seed=config.seed,
    )
    if config.batch_norm:
        trunk = add_batch_norm(trunk)
    model = ag.build_model(trunk, heads=configs.heads(config), age_head=config.age_head)
    if config.start:
        model.set_weights(load_model(pathlib.Path(config.start) / LAST_MODEL).get_weights())
    return model


def renew_run(workdir: pathlib.Path, config: configs.Config, data_dir: str | None = None) -> None:
    """Measures the statistics of a run's batch normalisations anew, in its best model; twice is as good as once."""
    from agegender import load_utkface
    from agegender.files import replacing
    from agegender.models.batch_norm import renew_statistics
    from agegender.models.saving import load_model

    model = load_model(workdir)
    seen = load_utkface(
        f"train[:{config.limit}%]", batch_size=128, image_size=config.image_size, data_dir=data_dir,
        conflicts=config.conflicts,
    )  # fmt: skip
    renew_statistics(model, (images for images, _ in seen.take(_STATISTICS)))
    with replacing(workdir / BEST_MODEL) as aside:
        model.save(aside)


@explained(lambda: "The model is as it was, and not calibrated.")
def calibrate_run(
    workdir: pathlib.Path,
    data_dir: str | None = None,
    *,
    coverage: float = 0.95,
    flip: bool = False,
    batch_size: int = 64,
    split: str = "validation",
) -> "Calibration":
    """Calibrates the best model of a run and writes calibration.json beside it.

    Args:
        workdir: folder of the run, or a `.keras` file.
        data_dir: where `tfds build` wrote; by default TFDS's own folder.
        coverage: the share of intervals that are to hold the recorded age, between 0 and 1.
        flip: whether to answer with the mean over a image and its mirror image; the `Predictor` then does too.
        batch_size: images a step.
        split: as in `load_utkface`; nothing of it may have been trained on.

    Returns:
        What was written.
    """
    set_environment()
    import agegender as ag
    from agegender.evaluation.evaluate import predict_all
    from agegender.models.saving import load_model

    model = load_model(workdir)
    unseen = ag.load_utkface(split, batch_size=batch_size, image_size=model.input_shape[1], data_dir=data_dir)
    calibration = ag.calibrate(*predict_all(model, unseen, flip=flip), coverage=coverage, flip=flip)
    calibration.save(workdir if workdir.is_dir() else workdir.parent)
    return calibration


@explained(lambda: "The model is as it was; there is no report of it.")
def evaluate_run(
    workdir: pathlib.Path,
    split: str,
    *,
    data_dir: str | None = None,
    batch_size: int = 64,
    flip: bool | None = None,
    out: pathlib.Path | None = None,
) -> "Report":
    """Evaluates the best model of a run, or a .keras file, and writes the report.

    Args:
        workdir: the folder or the file.
        split: as in `load_utkface`.
        data_dir: where `tfds build` wrote.
        batch_size: images a step.
        flip: as in `evaluate`; by default as the run was calibrated, with which its intervals keep their promise.
        out: folder to write to.
    """
    set_environment()
    import agegender as ag
    from agegender.data.prepared import known_labels
    from experiments.predictions import draw_predictions

    predictor = ag.Predictor(workdir, aligned=True)
    size = predictor.model.input_shape[1]
    load = functools.partial(ag.load_utkface, split, batch_size=batch_size, image_size=size, data_dir=data_dir)
    calibration, flip = predictor.calibration, predictor.flip if flip is None else flip
    if calibration and calibration.flip != flip:
        print(f"The run was calibrated {'with' if calibration.flip else 'without'} --flip: that is not measured here.")
        calibration = None
    report = ag.evaluate(
        predictor.model, load(labels=known_labels(data_dir)), calibration=calibration, flip=flip, verbose=1
    )
    folder = out or _folder(workdir, split, flip)
    images = _read_worst(report, split, data_dir)
    page = ag.write_report(report, folder, title=_title(workdir, split, flip), images=images)
    draw_predictions(predictor, load(), folder / "predictions.png")
    print(f"\n{report}\n\nReport: {page}\nLargest errors, for your eyes only: {folder / 'errors.html'}")
    return report


def _folder(workdir: pathlib.Path, split: str, flip: bool) -> pathlib.Path:
    """Beside the model; one for each split, way of asking and, but for the best one, model."""
    name = "".join(letter if letter.isalnum() else "_" for letter in split)
    model = f"-{workdir.stem}" if workdir.suffix == ".keras" and workdir.name != BEST_MODEL else ""
    return home(workdir) / f"evaluation-{name}{model}{'-flip' if flip else ''}"


def home(workdir: pathlib.Path) -> pathlib.Path:
    return workdir.parent if workdir.suffix == ".keras" else workdir


def _title(workdir: pathlib.Path, split: str, flip: bool) -> str:
    return f"{workdir} on {split}{', mean over mirror images' if flip else ''}"


def _read_worst(report: "Report", split: str, data_dir: str | None) -> dict[str, bytes]:
    """The encoded images with the largest errors, at their names."""
    from agegender.data.prepared import find_prepared, read_encoded
    from agegender.evaluation.report_html import largest_errors

    names = report.predictions[FILE_NAME]
    wanted = {str(names[row]) for rows in largest_errors(report.predictions).values() for row in rows}
    examples = read_encoded(find_prepared(data_dir), split, (FILE_NAME, IMAGE)).as_numpy_iterator()
    named = ((example[FILE_NAME].decode(), example[IMAGE]) for example in examples)
    return {name: image for name, image in named if name in wanted}
