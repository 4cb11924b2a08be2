"""How sure: age intervals that keep a promise, gender probabilities that mean what they say, both kept with the model.

The intervals are those of `conformal`. The gender has one temperature: its logit is divided by the number that makes
the log loss least (Guo et al. 2017, arXiv 1706.04599); which gender is the more probable one does not change.
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

from agegender.calibration.intervals import age_tables
from agegender.schema import AGE, BEST_MODEL, CALIBRATION, GENDER, MAX_AGE, MIN_AGE

_VERSION: Final = 1
_FEWEST: Final = 100  # images
_TEMPERATURES: Final = (0.1, 10.0)
_MOST_BYTES: Final = 1_000_000  # of a file; one with a row for each age has 3,000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a model's answers are worth, as measured on images that it was not trained on.

    Attributes:
        coverage: the promised share of intervals that hold the recorded age, between 0 and 1.
        ages: predicted ages in years, rising; None, as `low` and `high`, without an age head.
        low: the lower end of the interval at each of them, in years.
        high: the upper end.
        temperature: the gender logit is divided by it; None without a gender head.
        count: images it was fitted on.
        flip: whether they were predicted as the mean of the image and its mirror image.

    Raises:
        ValueError: for a number out of its range, or tables that do not rise, differ in length or leave 0..116 years.

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
        """The interval of each predicted age.

        Args:
            ages: predicted, in years, any shape.

        Returns:
            The lower and the upper ends in years, within 0..116, of the same shape.

        Raises:
            ValueError: if this is of a model without an age head.

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
        """The calibrated probabilities of female; one half stays one half.

        Args:
            p_female: the model's, 0 to 1, any shape.

        Returns:
            Probabilities of the same shape.

        Raises:
            ValueError: if this is of a model without a gender head.

        Example:

        >>> no_age = dict.fromkeys(("ages", "low", "high"))
        >>> calibration = Calibration(coverage=0.9, **no_age, temperature=2.0, count=500)
        >>> calibration.probabilities([0.1, 0.5, 0.9]).round(2)
        array([0.25, 0.5 , 0.75])
        """
        if self.temperature is None:
            raise ValueError("`probabilities` needs a calibration of a gender head. Received one without")
        return _sigmoid(_logit(p_female) / self.temperature)

    def save(self, path: str | os.PathLike) -> None:
        """Writes it as JSON.

        Args:
            path: of a file, or of a folder that is there, in which the file is calibration.json.
        """
        path = pathlib.Path(path)
        words = json.dumps({"version": _VERSION, **dataclasses.asdict(self)}, allow_nan=False)
        (path / CALIBRATION if path.is_dir() else path).write_text(words + "\n")


def calibrate(
    targets: Mapping[str, ArrayLike], outputs: Mapping[str, ArrayLike], *, coverage: float = 0.95, flip: bool = False
) -> Calibration:
    """Fits age intervals and a gender temperature to answers of a model.

    Sources: the temperature that makes the log loss least, Guo et al. 2017 (arXiv 1706.04599); intervals by conformal
    prediction, a promise for each recorded age, localised by a kernel: Vovk 2012 (arXiv 1209.2673), Lei et al. 2018
    (arXiv 1604.04173), Guan 2023 (arXiv 2106.08460).

    Args:
        targets: ages in years and genders, 0 = male and 1 = female, each [n] or [n, 1]; those of the model's heads.
        outputs: what the model answered, in the same form: years, and the probability of female.
        coverage: the share of intervals that are to hold the recorded age, between 0 and 1. At 0.95 the promise was
            kept better in each ten years of age than at 0.9 (benchmarks/intervals.py).
        flip: whether the outputs are means over the images and their mirror images; the `Predictor` does the same.

    Returns:
        A `Calibration`. Its promise is for images like these, which the model must not have been trained on.

    Raises:
        ValueError: for fewer than 100 images, other lengths, or values out of range.

    Example:

    >>> import numpy as np
    >>> ages, genders = np.arange(400.0) % 80, np.arange(400) % 2
    >>> outputs = {"age": ages + 3 * (-1) ** genders, "gender": 0.1 + 0.8 * genders}
    >>> calibrate({"age": ages, "gender": genders}, outputs).count
    400
    """
    _check_coverage(coverage)
    if not outputs or not set(outputs) <= {AGE, GENDER} & set(targets):
        raise ValueError(f"`targets` must hold the heads of `outputs`. Received: {sorted(targets)}, {sorted(outputs)}")
    asked, answered = ({head: np.asarray(values[head], "float64").ravel() for head in outputs}
                       for values in (targets, outputs))  # fmt: skip
    count = _check_columns(asked, answered)
    tables: Any = (None, None, None)
    if AGE in outputs:
        tables = (tuple(table.round(3).tolist()) for table in age_tables(asked[AGE], answered[AGE], coverage))
    ages, low, high = tables
    temperature = _fit_temperature(asked[GENDER], answered[GENDER]) if GENDER in outputs else None
    return Calibration(
        coverage=coverage, ages=ages, low=low, high=high, temperature=temperature, count=count, flip=flip
    )


def load_calibration(path: str | os.PathLike) -> Calibration | None:
    """Loads what `Calibration.save` wrote.

    Args:
        path: calibration.json, or the model file or the folder of a run beside or in which it lies.

    Returns:
        The calibration; None if there is none, or if it is that of best.keras and the path another model beside it.

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
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        values = json.loads(file.read_text("utf-8"))
        if values.pop("version") != _VERSION:
            raise ValueError(f"it must have version {_VERSION}")
        return Calibration(**{**values, **{name: _table(values[name]) for name in ("ages", "low", "high")}})
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file} is no calibration: {error}. `python -m experiments.calibrate` writes one") from error


def _table(values: Any) -> tuple[float, ...] | None:
    if not isinstance(values, list | None):
        raise TypeError("a table must be a list of numbers")
    return None if values is None else tuple(map(float, values))


def _fit_temperature(genders: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature of least log loss, by golden section: the loss has one minimum in it."""
    logits = _logit(probabilities) * np.where(genders == 1, -1, 1)  # positive: wrong
    ratio = (math.sqrt(5) - 1) / 2
    lower, upper = (math.log(bound) for bound in _TEMPERATURES)
    while upper - lower > 1e-6:
        left, right = upper - ratio * (upper - lower), lower + ratio * (upper - lower)
        losses = [np.logaddexp(0, logits / math.exp(place)).mean() for place in (left, right)]
        lower, upper = (lower, right) if losses[0] < losses[1] else (left, upper)
    return round(math.exp((lower + upper) / 2), 4)


def _logit(probabilities: ArrayLike) -> np.ndarray:
    inside = np.clip(np.asarray(probabilities, "float64"), 1e-7, 1 - 1e-7)
    return np.log(inside) - np.log1p(-inside)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _check_coverage(coverage: float) -> None:
    if not 0 < coverage < 1:
        raise ValueError(f"`coverage` must be between 0 and 1. Received: coverage={coverage}")


def _check_tables(ages: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    if not len(ages) == len(low) == len(high) >= 2:
        raise ValueError(f"The tables must be of one length. Received: {len(ages)}, {len(low)}, {len(high)} rows")
    if not (
        np.all(np.isfinite(ages))
        and np.all(np.diff(ages) > 0)
        and np.all((low >= MIN_AGE) & (low <= high) & (high <= MAX_AGE))
    ):
        raise ValueError("`ages` must rise, and `low` and `high` be in order within 0..116 years")


def _check_columns(asked: dict[str, np.ndarray], answered: dict[str, np.ndarray]) -> int:
    lengths = {len(column) for columns in (asked, answered) for column in columns.values()}
    if len(lengths) != 1:
        raise ValueError(f"`targets` and `outputs` must be of one length. Received lengths: {sorted(lengths)}")
    (count,) = lengths
    if count < _FEWEST:
        raise ValueError(f"`targets` must hold {_FEWEST} images or more. Received: {count}")
    for head in asked:
        recorded, guessed = asked[head], answered[head]
        good = np.isin(recorded, (0, 1)) if head == GENDER else (recorded >= MIN_AGE) & (recorded <= MAX_AGE)
        if not np.all(good):
            raise ValueError(f"`targets` must hold ages in 0..116 and genders 0 or 1. Received others for {head!r}")
        if not np.all((guessed >= 0) & (guessed <= 1) if head == GENDER else np.isfinite(guessed)):
            raise ValueError(f"`outputs` must hold finite ages and probabilities. Received others for {head!r}")
    return count
