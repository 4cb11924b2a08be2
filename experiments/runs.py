"""The model of a run: built, and once trained calibrated and reported on. Without flags, for the scripts to share."""

import pathlib
from typing import TYPE_CHECKING

from agegender.environment import set_environment
from agegender.schema import BEST_MODEL
from agegender.training.signals import explain_errors
from experiments import config as configs

if TYPE_CHECKING:
    import keras

    from agegender import Calibration, Report


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


@explain_errors(lambda: "The model is as it was, and not calibrated.")
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
    from agegender.evaluation.evaluate import predict_dataset
    from agegender.models.saving import load_model

    model = load_model(workdir)
    unseen = ag.load_utkface(split, batch_size=batch_size, image_size=model.input_shape[1], data_dir=data_dir)
    calibration = ag.calibrate(*predict_dataset(model, unseen, flip=flip), coverage=coverage, flip=flip)
    calibration.save(workdir if workdir.is_dir() else workdir.parent)
    return calibration


@explain_errors(lambda: "The model is as it was; there is no report of it.")
def evaluate_run(
    workdir: pathlib.Path,
    split: str,
    *,
    data_dir: str | None = None,
    batch_size: int = 64,
    flip: bool | None = None,
    out: pathlib.Path | None = None,
) -> "Report":
    """Evaluates a run, writes the report to `out` or beside the model, and prints it."""
    set_environment()
    from agegender.evaluation.evaluate import evaluate_run

    folder = out or _folder(workdir, split, flip)
    report = evaluate_run(workdir, split, data_dir=data_dir, out=folder, flip=flip, batch_size=batch_size, verbose=1)
    print(f"\n{report}\n\nReport: {folder / 'report.html'}")
    print(f"Largest errors, for your eyes only: {folder / 'errors.html'}")
    return report


def _folder(workdir: pathlib.Path, split: str, flip: bool | None) -> pathlib.Path:
    """Beside the model: one for each split, model (but the best one) and value of --flip (if given)."""
    name = "".join(letter if letter.isalnum() else "_" for letter in split)
    model = f"-{workdir.stem}" if workdir.suffix == ".keras" and workdir.name != BEST_MODEL else ""
    return home(workdir) / f"evaluation-{name}{model}{'' if flip is None else '-flip' if flip else '-noflip'}"


def home(workdir: pathlib.Path) -> pathlib.Path:
    return workdir.parent if workdir.suffix == ".keras" else workdir
