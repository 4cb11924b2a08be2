"""Runs a model over labelled images and measures its predictions."""

import logging
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tqdm
from numpy.typing import NDArray

from agegender.evaluation.predictions import COLUMNS, P_CALIBRATED, P_FEMALE, PREDICTED_AGE
from agegender.evaluation.report import Report, measure
from agegender.models.prediction import predict_batch
from agegender.schema import AGE, AGE_HIGH, AGE_LOW, FILE_NAME, GENDER, GROUP, IMAGE, RACE

if TYPE_CHECKING:
    import keras

    from agegender.calibration.calibration import Calibration


def evaluate(
    model: "keras.Model",
    dataset: Any,
    *,
    calibration: "Calibration | None" = None,
    flip: bool = False,
    verbose: int = 0,
) -> Report:
    """Measures a model on labelled images.

    Args:
        model: a model from `build_model`, or loaded from a `.keras` file of a run.
        dataset: finite batches of `(images, targets)`, such as `load_utkface("test", batch_size=64)`. With
            `labels=("race", "file_name", "group")` the report also covers races, names the images, and resamples
            photographs instead of images.
        calibration: a calibration to measure as well.
        flip: whether to average the predictions for each image and its mirror image.
        verbose: 1 shows a progress bar.

    Returns:
        A `Report`. `agegender.evaluation.metrics` defines its measures.

    Raises:
        ValueError: if the dataset is endless or empty, or a batch breaks the data contract: images that are not uint8
            in 0..255, no targets for a head, ages or genders out of range.

    Example:

    >>> from agegender import Predictor, load_utkface
    >>> model = Predictor("runs/1").model
    >>> report = evaluate(model, load_utkface("test", batch_size=64))
    >>> report.count, report.metrics["mae"]
    (8, 9.5)
    """
    table = tabulate(*predict_dataset(model, dataset, flip=flip, verbose=verbose), calibration=calibration)
    if calibration is None:
        return measure(table)
    return measure(table, nominal_coverage=calibration.coverage, temperature=calibration.temperature)


def evaluate_run(
    run: str | os.PathLike | None = None,
    split: str = "test",
    *,
    data_dir: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    flip: bool | None = None,
    batch_size: int = 64,
    verbose: int = 0,
) -> Report:
    """Measures a trained model on a split of the prepared data set and writes the report.

    Args:
        run: the folder of a run, or a model file; None is the released model.
        split: `"train"`, `"validation"`, `"test"`, or a slice such as `"test[:20%]"`.
        data_dir: where `tfds build` wrote; None is the folder that run.json names, or TFDS's own folder.
        out: the folder to write to: the files of `write_report`, errors.html with the worst predictions, and
            predictions.png with the first ones. Both show faces. None writes nothing.
        flip: as in `evaluate`. None does what the calibration was fitted with; a calibration that was fitted with
            the opposite is not measured.
        batch_size: images a step.
        verbose: 1 shows a progress bar.

    Returns:
        The report.

    Raises:
        FileNotFoundError: if there is no such model or no prepared data set.
        ValueError: if one of them is damaged, or there is no such split.

    Example:

    >>> evaluate_run("runs/1", "test", out="report").count
    8
    """
    from agegender import load_utkface
    from agegender.calibration.calibration import load_calibration
    from agegender.data.prepared import known_labels, name_undecodable_image
    from agegender.models.saving import load_model
    from agegender.released import find_released
    from agegender.training.run_record import read_data_dir

    if data_dir is None and run is not None:
        data_dir = read_data_dir(run)
    path = find_released() if run is None else run
    model, calibration = load_model(path), load_calibration(path)
    if out is not None:  # before the slow part, and not where there is no model
        pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    flip = (calibration is not None and calibration.flip) if flip is None else flip
    if calibration and calibration.flip != flip:
        logging.warning("The calibration is not measured: it was fitted with flip=%s", calibration.flip)
        calibration = None
    dataset = load_utkface(
        split,
        batch_size=batch_size,
        image_size=model.input_shape[1],
        data_dir=data_dir,
        labels=known_labels(data_dir),
    )
    with name_undecodable_image(data_dir, split):
        report = evaluate(model, dataset, calibration=calibration, flip=flip, verbose=verbose)
    if out is not None:
        _write_run_report(report, out, f"{run or 'The released model'} on {split}", dataset, split, data_dir)
    return report


def predict_dataset(
    model: "keras.Model", dataset: Any, *, flip: bool = False, verbose: int = 0
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Predicts every image of a dataset, in order.

    Returns:
        Targets, an array [images] for each label, and predictions, float32 [images] for each head.
    """
    if hasattr(dataset, "steps_per_epoch"):
        raise ValueError("`dataset` must end. Received one made with training=True, which repeats without end")
    from agegender.models.contract import check_batch, name_targets

    heads, size = list(model.output), model.input_shape[1]
    targets_seen, predictions = [], []
    for number, batch in enumerate(tqdm.tqdm(dataset, unit="batch", disable=not verbose), 1):
        check_batch(batch, heads, size, where=f"Batch {number} of `dataset`")
        images, targets = batch[0], batch[1]
        labels = targets if isinstance(targets, Mapping) else name_targets(targets, heads)
        targets_seen.append({label: np.asarray(values).ravel() for label, values in labels.items()})
        predictions.append(predict_batch(model, np.asarray(images), flip=flip))
    if not predictions:
        raise ValueError("`dataset` must have at least one batch. Received an empty one")
    return _concatenate(targets_seen), _concatenate(predictions)


def tabulate(
    targets: Mapping[str, Any], outputs: Mapping[str, Any], *, calibration: "Calibration | None" = None
) -> dict[str, NDArray[Any]]:
    """Puts labels and predictions into one table with the columns `COLUMNS`, as far as they are known.

    Args:
        targets: arrays [images] at "age", "gender", "race", "file_name" and "group", as far as known.
        outputs: arrays [images] at "age" and "gender", as far as the model has the heads.
        calibration: adds the columns of age intervals and calibrated probabilities.
    """
    table = {key: np.asarray(targets[key]).ravel() for key in (FILE_NAME, GROUP, AGE, GENDER, RACE) if key in targets}
    for key in {FILE_NAME, GROUP} & set(table):
        table[key] = np.array([name.decode() if isinstance(name, bytes) else str(name) for name in table[key]])
    if AGE in outputs:
        table[PREDICTED_AGE] = np.asarray(outputs[AGE]).ravel()
    if GENDER in outputs:
        table[P_FEMALE] = np.asarray(outputs[GENDER]).ravel()
    if calibration is not None and AGE in outputs:
        low, high = calibration.intervals(table[PREDICTED_AGE])
        table |= {AGE_LOW: np.asarray(low), AGE_HIGH: np.asarray(high)}
    if calibration is not None and GENDER in outputs:
        table[P_CALIBRATED] = np.asarray(calibration.probabilities(table[P_FEMALE]))
    return {key: table[key] for key in COLUMNS if key in table}


def _write_run_report(
    report: Report, out: Any, title: str, dataset: Any, split: str, data_dir: str | os.PathLike | None
) -> None:
    from agegender.data.prepared import find_prepared, read_encoded
    from agegender.evaluation.plots import draw_predictions
    from agegender.evaluation.report_page import find_largest_errors, write_report

    # One more pass over the split for the images with the largest errors.
    names = report.predictions[FILE_NAME]
    wanted = {str(names[row]) for rows in find_largest_errors(report.predictions).values() for row in rows}
    examples = read_encoded(find_prepared(data_dir), split, (FILE_NAME, IMAGE)).as_numpy_iterator()
    named = ((example[FILE_NAME].decode(), example[IMAGE]) for example in examples)
    write_report(report, out, title=title, images={name: image for name, image in named if name in wanted})
    first_images, _ = next(iter(dataset))
    figure = draw_predictions(np.asarray(first_images), report.predictions)
    figure.savefig(pathlib.Path(out) / "predictions.png", dpi=100)


def _concatenate(batches: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
