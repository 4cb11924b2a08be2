"""Run a model over images with known answers, and measure what it answers.

The way is predict, tabulate, measure: a `Report` depends on nothing but the table of predictions.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from agegender.calibration.calibration import Calibration
from agegender.evaluation.groups import COLUMNS, P_CALIBRATED, P_FEMALE, PREDICTED_AGE
from agegender.evaluation.report import Report, measure
from agegender.models.prediction import predict_batch
from agegender.schema import AGE, AGE_HIGH, AGE_LOW, FILE_NAME, GENDER, GROUP, RACE


def evaluate(
    model: keras.Model, dataset: Any, *, calibration: Calibration | None = None, flip: bool = False, verbose: int = 0
) -> Report:
    """Measures a model on images with known answers.

    Args:
        model: from `build_model`, or loaded from a `.keras` file of a run.
        dataset: finite batches of (images, targets), as from `load_utkface("test", batch_size=64)`; with
            `labels=("race", "file_name", "group")` also by race, with names, and resampled by photograph.
        calibration: measured too, if given.
        flip: answers with the mean of the answers to each image and to its mirror image.
        verbose: 1 shows a progress bar.

    Returns:
        A `Report`; its words are defined in `agegender.evaluation.metrics`.

    Raises:
        ValueError: if the dataset is endless, empty or lacks the targets of a head.

    Example:

    >>> from agegender import Predictor, load_utkface
    >>> model = Predictor("runs/1").model
    >>> report = evaluate(model, load_utkface("test", batch_size=64))
    >>> report.count, report.model["mae"]
    (8, 9.5)
    """
    table = tabulate(*predict_all(model, dataset, flip=flip, verbose=verbose), calibration=calibration)
    if calibration is None:
        return measure(table)
    return measure(table, promised=calibration.coverage, temperature=calibration.temperature)


def predict_all(model: keras.Model, dataset: Any, *, flip: bool = False, verbose: int = 0) -> tuple[dict, dict]:
    """Runs a model over a dataset and keeps what was asked and answered, in order.

    Returns:
        Targets, `{head or other label: [images]}`, and outputs, `{head: float32 [images]}`.
    """
    if hasattr(dataset, "steps_per_epoch"):
        raise ValueError("`dataset` must end. Received one made with training=True, which repeats without end")
    asked, answered = [], []
    bar = keras.utils.Progbar(len(dataset) if hasattr(dataset, "__len__") else None, verbose=verbose)
    for images, targets in dataset:
        outputs = predict_batch(model, np.asarray(images), flip=flip)
        missing = [head for head in outputs if head not in targets]
        if missing:
            raise ValueError(f"`dataset` must give targets for {missing[0]!r}. Received targets: {sorted(targets)}")
        asked.append({label: np.asarray(values).ravel() for label, values in targets.items()})
        answered.append(outputs)
        bar.add(1)
    if not asked:
        raise ValueError("`dataset` must hold at least one batch. Received an empty one")
    return _join(asked), _join(answered)


def tabulate(targets: Mapping, outputs: Mapping, *, calibration: Calibration | None = None) -> dict[str, NDArray[Any]]:
    """Puts what was asked and answered into one table, a column at each of `COLUMNS` that is known.

    Args:
        targets: at "age", "gender", "race", "file_name" and "group", as far as known, [images] each.
        outputs: at "age" and "gender", as far as there are heads, [images] each.
        calibration: gives the columns of intervals and calibrated probabilities.
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


def _join(batches: list[dict]) -> dict[str, NDArray[Any]]:
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
