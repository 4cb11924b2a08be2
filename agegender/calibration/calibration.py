"""The calibration of a model: age intervals with a nominal coverage, and a temperature for the gender probability.

The intervals are those of `agegender.calibration.intervals`. The gender logit is divided by the temperature that
minimises the log loss (Guo et al. 2017, arXiv 1706.04599), which never changes the more probable gender.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from agegender.calibration.intervals import fit_intervals
from agegender.schema import AGE, BEST_MODEL, CALIBRATION, GENDER, MAX_AGE, MIN_AGE

_VERSION: Final = 1
_MIN_IMAGES: Final = 100
_TEMPERATURES: Final = (0.1, 10.0)
_MAX_BYTES: Final = 1_000_000  # of a file; a calibration has 5,000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """The calibration of a model, fitted to images that it was not trained on.

    Attributes:
        coverage: the nominal coverage, the share of intervals that should contain the recorded age, between 0 and 1.
        ages: predicted ages in years, increasing; None, like `low` and `high`, without an age head.
        low: the lower end of the interval at each of them, in years.
        high: the upper end.
        temperature: the divisor of the gender logit; None without a gender head.
        count: number of images that it was fitted to.
        flip: whether their predictions were averaged over each image and its mirror image.

    Raises:
        ValueError: for a number out of range, and for tables that do not increase, differ in length or leave 0..116.

    Example:

    >>> tables = {"ages": (0, 100), "low": (0, 80), "high": (10, 116)}
    >>> calibration = Calibration(coverage=0.9, **tables, temperature=2.0, count=500)
    >>> calibration.temperature, calibration.flip
    (2.0, False)
    """

    coverage: float
    ages: tuple[float, ...] | None
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    temperature: float | None
    count: int
    flip: bool = False

    def __post_init__(self) -> None:
        _check_coverage(self.coverage)
        tables = (self.ages, self.low, self.high)
        if any(table is None for table in tables) != all(table is None for table in tables):
            raise ValueError("`ages`, `low` and `high` must be given together or not at all")
        if self.ages is not None:
            _check_tables(*(np.asarray(table, "float64") for table in tables))
        if self.temperature is not None and not 1e-3 <= self.temperature <= 1e3:
            raise ValueError(f"`temperature` must be in 0.001..1000. Received: temperature={self.temperature}")
        if not isinstance(self.flip, bool):
            raise ValueError(f"`flip` must be True or False. Received: flip={self.flip!r}")
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f"`count` must be a number of images. Received: count={self.count!r}")

    def intervals(self, ages: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Returns the interval of each predicted age.

        Args:
            ages: predicted ages in years, any shape.

        Returns:
            The lower and the upper ends in years, within 0..116, of the same shape.

        Raises:
            ValueError: if the model has no age head.

        Example:

        >>> tables = {"ages": (0, 100), "low": (0, 80), "high": (10, 116)}
        >>> calibration = Calibration(coverage=0.9, **tables, temperature=None, count=500)
        >>> [float(end) for end in calibration.intervals(50)]
        [40.0, 63.0]
        """
        if self.ages is None or self.low is None or self.high is None:
            raise ValueError("`intervals` needs a calibration of an age head. Received one without")
        ages = np.asarray(ages, "float64")
        return np.interp(ages, self.ages, self.low), np.interp(ages, self.ages, self.high)

    def probabilities(self, p_female: ArrayLike) -> np.ndarray:
        """Returns calibrated probabilities of female; one half stays one half.

        Args:
            p_female: the model's probabilities of female, 0 to 1, any shape.

        Returns:
            Probabilities of the same shape.

        Raises:
            ValueError: if the model has no gender head.

        Example:

        >>> no_age = dict.fromkeys(("ages", "low", "high"))
        >>> calibration = Calibration(coverage=0.9, **no_age, temperature=2.0, count=500)
        >>> calibration.probabilities([0.1, 0.5, 0.9]).round(2)
        array([0.25, 0.5 , 0.75])
        """
        if self.temperature is None:
            raise ValueError("`probabilities` needs a calibration of a gender head. Received one without")
        return _apply_sigmoid(_compute_logits(p_female) / self.temperature)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the calibration as JSON.

        Args:
            path: a file, or an existing folder, for calibration.json in it.
        """
        path = pathlib.Path(path)
        content = json.dumps({"version": _VERSION, **dataclasses.asdict(self)}, allow_nan=False)
        (path / CALIBRATION if path.is_dir() else path).write_text(content + "\n")


def calibrate(
    targets: Mapping[str, ArrayLike], outputs: Mapping[str, ArrayLike], *, coverage: float = 0.95, flip: bool = False
) -> Calibration:
    """Fits age intervals and a gender temperature to predictions of a model.

    Sources: temperature scaling, Guo et al. 2017 (arXiv 1706.04599); intervals by conformal prediction with a coverage
    for each recorded age, localised by a kernel: Vovk 2012 (arXiv 1209.2673), Lei et al. 2018 (arXiv 1604.04173), Guan
    2023 (arXiv 2106.08460).

    Args:
        targets: "age" in years and "gender", 0 = male and 1 = female, each [n] or [n, 1]; those of the model's heads.
        outputs: the predictions of the same images in the same form: years, and the probability of female.
        coverage: the share of intervals that should contain the recorded age, between 0 and 1. In each ten years of
            age, the measured coverage was closer to 0.95 than to 0.9.
        flip: whether the outputs are averaged over each image and its mirror image. The `Predictor` then does so too.

    Returns:
        A `Calibration`. It is valid for images like these; the model must not have been trained on them.

    Raises:
        ValueError: for fewer than 100 images, unequal lengths, or values out of range.

    Example:

    >>> import numpy as np
    >>> ages, genders = np.arange(400.0) % 80, np.arange(400) % 2
    >>> outputs = {"age": ages + 3 * (-1) ** genders, "gender": 0.1 + 0.8 * genders}
    >>> calibrate({"age": ages, "gender": genders}, outputs).count
    400
    """
    _check_coverage(coverage)
    if not outputs or not set(outputs) <= {AGE, GENDER} & set(targets):
        raise ValueError(f"`targets` must have the heads of `outputs`. Received: {sorted(targets)}, {sorted(outputs)}")
    labels = {head: np.asarray(targets[head], "float64").ravel() for head in outputs}
    predictions = {head: np.asarray(outputs[head], "float64").ravel() for head in outputs}
    count = _check_columns(labels, predictions)
    ages = low = high = temperature = None
    if AGE in outputs:
        tables = fit_intervals(labels[AGE], predictions[AGE], coverage)
        ages, low, high = (tuple(table.round(3).tolist()) for table in tables)
    if GENDER in outputs:
        temperature = _fit_temperature(labels[GENDER], predictions[GENDER])
    return Calibration(
        coverage=coverage, ages=ages, low=low, high=high, temperature=temperature, count=count, flip=flip
    )


def load_calibration(path: str | os.PathLike) -> Calibration | None:
    """Loads the file that `Calibration.save` wrote.

    Args:
        path: calibration.json, its folder, or a model file in the same folder.

    Returns:
        The calibration; None if it does not exist, or if `path` is a model other than best.keras.

    Raises:
        ValueError: if the file is damaged.

    Example:

    >>> tables = {"ages": (0, 100), "low": (0, 80), "high": (10, 116)}
    >>> calibration = Calibration(coverage=0.9, **tables, temperature=2.0, count=500)
    >>> calibration.save("calibration.json")
    >>> load_calibration("calibration.json").temperature
    2.0
    """
    path = pathlib.Path(path)
    if path.suffix == ".keras":
        if path.name != BEST_MODEL and path.with_name(BEST_MODEL).exists():
            return None
        path = path.parent
    file = path / CALIBRATION if path.is_dir() else path
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
        values = json.loads(file.read_text("utf-8"))
        if values.pop("version") != _VERSION:
            raise ValueError(f"it must have version {_VERSION}")
        return Calibration(**{**values, **{name: _parse_table(values[name]) for name in ("ages", "low", "high")}})
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{file} is not a valid calibration: {error}. `python -m experiments.calibrate` writes one"
        ) from error


def _parse_table(values: Any) -> tuple[float, ...] | None:
    if not isinstance(values, list | None):
        raise TypeError("a table must be a list of numbers")
    return None if values is None else tuple(map(float, values))


def _fit_temperature(genders: np.ndarray, probabilities: np.ndarray) -> float:
    """Finds the temperature of the smallest log loss by golden-section search: the loss has a single minimum."""
    logits = _compute_logits(probabilities) * np.where(genders == 1, -1, 1)  # positive where the gender is wrong
    ratio = (math.sqrt(5) - 1) / 2
    lower, upper = (math.log(bound) for bound in _TEMPERATURES)
    while upper - lower > 1e-6:
        left, right = upper - ratio * (upper - lower), lower + ratio * (upper - lower)
        losses = [np.logaddexp(0, logits / math.exp(log_temperature)).mean() for log_temperature in (left, right)]
        lower, upper = (lower, right) if losses[0] < losses[1] else (left, upper)
    return math.exp((lower + upper) / 2)


def _compute_logits(probabilities: ArrayLike) -> np.ndarray:
    inside = np.clip(np.asarray(probabilities, "float64"), 1e-7, 1 - 1e-7)
    return np.log(inside) - np.log1p(-inside)


def _apply_sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _check_coverage(coverage: float) -> None:
    if not 0 < coverage < 1:
        raise ValueError(f"`coverage` must be between 0 and 1. Received: coverage={coverage}")


def _check_tables(ages: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    if not len(ages) == len(low) == len(high) >= 2:
        raise ValueError(
            f"The tables must have one length, 2 or more. Received: {len(ages)}, {len(low)}, {len(high)} rows"
        )
    if not (
        np.all(np.isfinite(ages))
        and np.all(np.diff(ages) > 0)
        and np.all((low >= MIN_AGE) & (low <= high) & (high <= MAX_AGE))
    ):
        raise ValueError("`ages` must increase, and 0 <= `low` <= `high` <= 116 years")


def _check_columns(labels: dict[str, np.ndarray], predictions: dict[str, np.ndarray]) -> int:
    lengths = {len(column) for columns in (labels, predictions) for column in columns.values()}
    if len(lengths) != 1:
        raise ValueError(f"`targets` and `outputs` must have one length. Received lengths: {sorted(lengths)}")
    (count,) = lengths
    if count < _MIN_IMAGES:
        raise ValueError(f"`targets` must have {_MIN_IMAGES} images or more. Received: {count}")
    for head, label in labels.items():
        valid = np.isin(label, (0, 1)) if head == GENDER else (label >= MIN_AGE) & (label <= MAX_AGE)
        if not np.all(valid):
            raise ValueError(
                f"`targets` must have ages in {MIN_AGE}..{MAX_AGE} and genders 0 or 1. Received: "
                f"{head}={label[~valid][0]}"
            )
        predicted = predictions[head]
        valid = (predicted >= 0) & (predicted <= 1) if head == GENDER else np.isfinite(predicted)
        if not np.all(valid):
            raise ValueError(
                f"`outputs` must have finite ages and probabilities in 0..1. Received: {head}={predicted[~valid][0]}"
            )
    return count
