"""Measures by group of people, and the gaps between groups.

- Group: the images with one recorded value of age band, gender or race, or of two of these. A group of fewer than 10
  images has no intervals.
- Gap: the measure of the worst group minus that of the best, among groups of 30 images or more. The best bias is the
  one nearest to zero. Both groups are chosen by the measured values, so a gap is on average too large, and more so
  among many groups; its interval is that of the difference of these two groups.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agegender.evaluation import metrics
from agegender.evaluation.predictions import P_FEMALE, PREDICTED_AGE, Table
from agegender.schema import AGE, GENDER, GENDERS, RACE, RACES

AGE_BANDS: Final = (*(f"{first}-{first + 9}" for first in range(0, 80, 10)), "80+")  # years
MIN_INTERVAL_IMAGES: Final = 10
MIN_GAP_IMAGES: Final = 30

Interval = tuple[float, float] | None


class Measure(NamedTuple):
    """Label and number format of a measure; the best group has the smallest `sort_key`."""

    label: str
    number_format: str
    sort_key: Callable[[float], float]


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
class GroupMetrics:
    """The measures of a group of images.

    Attributes:
        count: number of images.
        metrics: the value of each of `MEASURES` that there are predictions for; None for the AUC of one gender.
        intervals: their 95 % intervals; None for fewer than 10 images, and where `metrics.interval` has none.
        samples: the values over the bootstrap samples, [repetitions] each.
    """

    count: int
    metrics: dict[str, float | None]
    intervals: dict[str, Interval]
    samples: dict[str, NDArray[Any]] = dataclasses.field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """All but the samples, as plain Python values."""
        return {"count": self.count, "metrics": self.metrics, "intervals": self.intervals}


@dataclasses.dataclass(frozen=True)
class Gap:
    """The best and the worst group of 30 images or more; the best bias is the one nearest to zero.

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


def compute_metrics(table: Table, weights: NDArray[Any] | None = None) -> dict[str, Any]:
    """Computes each of `MEASURES` that there are predictions for: a float, or with weights an array [samples]."""
    values = {}
    if PREDICTED_AGE in table:
        ages = (table[AGE], table[PREDICTED_AGE])
        values["mae"] = metrics.mean_absolute_error(*ages, weights=weights)
        values["rmse"] = metrics.root_mean_squared_error(*ages, weights=weights)
        values["median_error"] = metrics.median_absolute_error(*ages, weights=weights)
        values["bias"] = metrics.bias(*ages, weights=weights)
        values["cs5"] = metrics.cumulative_score(*ages, years=5, weights=weights)
    if P_FEMALE in table:
        genders = (table[GENDER], table[P_FEMALE])
        values["gender_accuracy"] = metrics.gender_accuracy(*genders, weights=weights)
        values["auc"] = metrics.area_under_curve(*genders, weights=weights)
        values["log_loss"] = metrics.log_loss(*genders, weights=weights)
    return values


def measure_rows(table: Table, weights: NDArray[Any], rows: NDArray[np.bool_] | None = None) -> GroupMetrics:
    """Measures the images at `rows`, or all."""
    if rows is not None:
        table, weights = {key: column[rows] for key, column in table.items()}, weights[:, rows]
    count = weights.shape[1]
    samples = compute_metrics(table, weights)
    values = {key: None if np.isnan(value) else value for key, value in compute_metrics(table).items()}
    intervals: dict[str, Interval] = dict.fromkeys(values)
    if count >= MIN_INTERVAL_IMAGES:
        intervals |= {key: metrics.interval(samples[key]) for key, value in values.items() if value is not None}
    return GroupMetrics(count, values, intervals, samples)


def assign_age_bands(ages: NDArray[Any]) -> NDArray[np.str_]:
    """The name of the age band of each age.

    >>> assign_age_bands(np.array([0, 9, 10, 79, 80, 116])).tolist()
    ['0-9', '0-9', '10-19', '70-79', '80+', '80+']
    """
    return np.array(AGE_BANDS)[np.minimum(ages // 10, len(AGE_BANDS) - 1).astype(int)]


def find_groups(table: Table) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Finds the rows of each group, by age band, gender, race and each two of them, as far as recorded.

    >>> groups = find_groups({"age": np.array([5, 85]), "gender": np.array([0, 1])})
    >>> list(groups), list(groups["age x gender"])
    (['age', 'gender', 'age x gender'], ['0-9, male', '80+, female'])
    """
    single: dict[str, dict[str, NDArray[np.bool_]]] = {}
    if AGE in table:
        bands = assign_age_bands(table[AGE])
        single[AGE] = {name: bands == name for name in AGE_BANDS}
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
        attribute: {name: rows for name, rows in groups.items() if rows.any()}
        for attribute, groups in (single | crossed).items()
    }


def measure_groups(table: Table, weights: NDArray[Any]) -> dict[str, dict[str, GroupMetrics]]:
    """Measures every group of `find_groups`."""
    return {
        attribute: {name: measure_rows(table, weights, rows) for name, rows in groups.items()}
        for attribute, groups in find_groups(table).items()
    }


def find_gaps(groups: Mapping[str, Mapping[str, GroupMetrics]]) -> dict[str, dict[str, Gap]]:
    """Finds the gap of each measure for each attribute that has two groups of 30 images or more."""
    gaps: dict[str, dict[str, Gap]] = {}
    for attribute, of_attribute in groups.items():
        large = {name: group for name, group in of_attribute.items() if group.count >= MIN_GAP_IMAGES}
        keys = next(iter(large.values())).metrics if large else ()
        found = {key: _find_gap(key, large) for key in keys}
        gaps[attribute] = {key: gap for key, gap in found.items() if gap is not None}
    return gaps


def _find_gap(key: str, groups: Mapping[str, GroupMetrics]) -> Gap | None:
    values = {name: value for name, group in groups.items() if (value := group.metrics[key]) is not None}
    if len(values) < 2:
        return None
    ranked = sorted(values, key=lambda name: MEASURES[key].sort_key(values[name]))
    best, worst = ranked[0], ranked[-1]
    samples = groups[worst].samples[key] - groups[best].samples[key]
    return Gap(best, worst, values[worst] - values[best], metrics.interval(samples))
