"""A table of predictions, measured: all of it, each group of people, and the gaps between groups.

The table holds a column [images] at each name of `COLUMNS`, as far as it is known: what is recorded, at the keys of
`schema`, and what was predicted.

- Group: the images with one value of age band, gender or race, or of two of these together, as recorded. With fewer
  than 10 images it has no intervals.
- Gap: the measure of the worst group minus that of the best one, of the groups with 30 images or more; the best bias
  is the one nearest to zero. Both are chosen by what was measured, so that a gap is rather too large than too small,
  and more so among many groups; its interval is that of the difference of these two groups.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agegender.evaluation import metrics
from agegender.schema import AGE, AGE_HIGH, AGE_LOW, FILE_NAME, GENDER, GENDERS, GROUP, RACE, RACES

PREDICTED_AGE: Final = "predicted_age"  # years
P_FEMALE: Final = "p_female"  # the probability of female, 0 to 1, as the model gives it
P_CALIBRATED: Final = "p_female_calibrated"  # after temperature scaling

COLUMNS: Final = (FILE_NAME, GROUP, AGE, GENDER, RACE, PREDICTED_AGE, P_FEMALE, AGE_LOW, AGE_HIGH, P_CALIBRATED)
BANDS: Final = (*(f"{first}-{first + 9}" for first in range(0, 80, 10)), "80+")  # years
ENOUGH_FOR_AN_INTERVAL: Final = 10  # images: fewer say little, and their bootstrap less
ENOUGH_FOR_A_GAP: Final = 30  # images

# An age may be guessed below 0, and its interval end there; NaN and infinity are in none of these.
_RANGES: Final = {
    AGE: (0, 200),
    GENDER: (0, 1),
    RACE: (0, len(RACES) - 1),
    **dict.fromkeys((PREDICTED_AGE, AGE_LOW, AGE_HIGH), (-1000, 1000)),
    **dict.fromkeys((P_FEMALE, P_CALIBRATED), (0, 1)),
}

Table = Mapping[str, NDArray[Any]]
Interval = tuple[float, float] | None


class Measure(NamedTuple):
    """How a measure is called and written, and what to minimise for the best group."""

    label: str
    form: str
    badness: Callable[[float], float]


MEASURES: Final = {
    "mae": Measure("age MAE, years", "{:.2f}", float),
    "rmse": Measure("age RMSE, years", "{:.2f}", float),
    "median_error": Measure("age median error, years", "{:.2f}", float),
    "bias": Measure("age bias, years", "{:+.2f}", abs),
    "cs5": Measure("age CS@5", "{:.1%}", lambda share: -share),
    "gender_accuracy": Measure("gender accuracy", "{:.1%}", lambda share: -share),
    "auc": Measure("gender AUC", "{:.3f}", lambda area: -area),
    "log_loss": Measure("gender log loss, nats", "{:.3f}", float),
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of some images.

    Attributes:
        count: of them.
        model: for each of `MEASURES` that there are predictions for, its value; None for the AUC of one gender.
        intervals: their 95 % intervals; None for fewer than ten images, and where `metrics.interval` has none.
        drawn: the values over the rows of the bootstrap, [repetitions].
    """

    count: int
    model: dict[str, float | None]
    intervals: dict[str, Interval]
    drawn: dict[str, NDArray[Any]] = dataclasses.field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """All but what was drawn, as plain Python values."""
        return {"count": self.count, "model": self.model, "intervals": self.intervals}


@dataclasses.dataclass(frozen=True)
class Gap:
    """The best and the worst of the groups with 30 images or more; the best bias is the one nearest to zero.

    Attributes:
        best: name of the group.
        worst: name of the group.
        difference: the measure of the worst group minus that of the best.
        interval: the 95 % interval of the difference of these two groups.
    """

    best: str
    worst: str
    difference: float
    interval: Interval


def compute(table: Table, weights: NDArray[Any] | None = None) -> dict[str, Any]:
    """Computes those of `MEASURES` that there are predictions for; with weights, an array for each."""
    numbers = {}
    if PREDICTED_AGE in table:
        of_age = (table[AGE], table[PREDICTED_AGE])
        numbers["mae"] = metrics.mean_absolute_error(*of_age, weights=weights)
        numbers["rmse"] = metrics.root_mean_squared_error(*of_age, weights=weights)
        numbers["median_error"] = metrics.median_absolute_error(*of_age, weights=weights)
        numbers["bias"] = metrics.bias(*of_age, weights=weights)
        numbers["cs5"] = metrics.cumulative_score(*of_age, years=5, weights=weights)
    if P_FEMALE in table:
        of_gender = (table[GENDER], table[P_FEMALE])
        numbers["gender_accuracy"] = metrics.gender_accuracy(*of_gender, weights=weights)
        numbers["auc"] = metrics.area_under_curve(*of_gender, weights=weights)
        numbers["log_loss"] = metrics.log_loss(*of_gender, weights=weights)
    return numbers


def measure_some(table: Table, weights: NDArray[Any], rows: NDArray[np.bool_] | None = None) -> Measured:
    """Measures the images at `rows`, or all."""
    if rows is not None:
        table, weights = {key: column[rows] for key, column in table.items()}, weights[:, rows]
    count = weights.shape[1]
    values, drawn = compute(table), compute(table, weights)
    model = {key: None if np.isnan(value) else value for key, value in values.items()}
    known = {key: count >= ENOUGH_FOR_AN_INTERVAL and value is not None for key, value in model.items()}
    intervals = {key: metrics.interval(drawn[key]) if known[key] else None for key in model}
    return Measured(count, model, intervals, drawn)


def check_table(table: Table) -> None:
    """Refuses a table that cannot be measured.

    Raises:
        ValueError: for no predictions, missing labels, columns of unequal length and values that are not finite or out
            of range.
    """
    if not {PREDICTED_AGE, P_FEMALE} & set(table):
        raise ValueError(f"A table must hold {PREDICTED_AGE!r} or {P_FEMALE!r}. Received columns: {sorted(table)}")
    for prediction, label in ((PREDICTED_AGE, AGE), (P_FEMALE, GENDER), (AGE_LOW, AGE_HIGH), (AGE_LOW, AGE)):
        if prediction in table and label not in table:
            raise ValueError(f"{prediction!r} needs {label!r} beside it. Received columns: {sorted(table)}")
    lengths = {key: len(column) for key, column in table.items()}
    if len(set(lengths.values())) != 1 or not min(lengths.values()):
        raise ValueError(f"The columns must hold as many values each, at least one. Received: {lengths}")
    for key in set(table) & set(_RANGES):
        low, high = _RANGES[key]
        wrong = ~((table[key] >= low) & (table[key] <= high))
        if wrong.any():
            raise ValueError(f"{key!r} must be in [{low:g}, {high:g}]. Received: {table[key][wrong][0]}")
    for key in set(table) & {GENDER, RACE}:
        wrong = table[key] % 1 != 0
        if wrong.any():
            raise ValueError(f"{key!r} must hold codes. Received: {table[key][wrong][0]}")


def age_band(ages: NDArray[Any]) -> NDArray[np.str_]:
    """The names of the age bands.

    >>> age_band(np.array([0, 9, 10, 79, 80, 116])).tolist()
    ['0-9', '0-9', '10-19', '70-79', '80+', '80+']
    """
    return np.array(BANDS)[np.minimum(ages // 10, len(BANDS) - 1).astype(int)]


def partition(table: Table) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Which images are in which group, for age band, gender and race and each two of them, as far as recorded.

    >>> parts = partition({"age": np.array([5, 85]), "gender": np.array([0, 1])})
    >>> list(parts), list(parts["age x gender"])
    (['age', 'gender', 'age x gender'], ['0-9, male', '80+, female'])
    """
    single: dict[str, dict[str, NDArray[np.bool_]]] = {}
    if AGE in table:
        bands = age_band(table[AGE])
        single[AGE] = {name: bands == name for name in BANDS}
    for key, names in ((GENDER, GENDERS), (RACE, RACES)):
        if key in table:
            single[key] = {name: table[key] == code for code, name in enumerate(names)}
    crossed = {
        f"{first} x {second}": {
            f"{a}, {b}": rows & others for a, rows in single[first].items() for b, others in single[second].items()
        }
        for first, second in itertools.combinations(single, 2)
    }
    return {
        attribute: {name: rows for name, rows in parts.items() if rows.any()}
        for attribute, parts in (single | crossed).items()
    }


def by_group(table: Table, weights: NDArray[Any]) -> dict[str, dict[str, Measured]]:
    """Measures every group of `partition`."""
    return {
        attribute: {name: measure_some(table, weights, rows) for name, rows in parts.items()}
        for attribute, parts in partition(table).items()
    }


def find_gaps(groups: Mapping[str, Mapping[str, Measured]]) -> dict[str, dict[str, Gap]]:
    """For each attribute, or two, and each measure the gap; none where fewer than two groups are large enough."""
    found: dict[str, dict[str, Gap]] = {}
    for attribute, parts in groups.items():
        large = {name: part for name, part in parts.items() if part.count >= ENOUGH_FOR_A_GAP}
        keys = next(iter(large.values())).model if large else ()
        gaps = {key: _gap(key, large) for key in keys}
        found[attribute] = {key: gap for key, gap in gaps.items() if gap is not None}
    return found


def _gap(key: str, parts: Mapping[str, Measured]) -> Gap | None:
    values = {name: value for name, part in parts.items() if (value := part.model[key]) is not None}
    if len(values) < 2:
        return None
    *_, worst = ranked = sorted(values, key=lambda name: MEASURES[key].badness(values[name]))
    best = ranked[0]
    drawn = parts[worst].drawn[key] - parts[best].drawn[key]
    return Gap(best, worst, values[worst] - values[best], metrics.interval(drawn))
