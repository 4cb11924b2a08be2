"""The report: everything that is measured on a table of predictions, beside a constant baseline."""

import dataclasses
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agegender.evaluation import metrics
from agegender.evaluation.groups import (
    MEASURES,
    MIN_INTERVAL_IMAGES,
    Gap,
    GroupMetrics,
    Interval,
    compute_metrics,
    find_gaps,
    find_groups,
    measure_groups,
    measure_rows,
)
from agegender.evaluation.predictions import P_CALIBRATED, P_FEMALE, PREDICTED_AGE, Table, check_table
from agegender.schema import AGE, AGE_HIGH, AGE_LOW, GENDER, GROUP, RACE

YEARS: Final = range(21)  # k of the CS@k curve


@dataclasses.dataclass(frozen=True)
class Report:
    """The measures of a table of predictions. `print(report)` shows a summary.

    `agegender.evaluation.metrics` and `agegender.evaluation.groups` define the terms.

    Attributes:
        count: number of images.
        metrics: `{"mae", "rmse", "median_error", "bias"}` in years, `{"cs5", "gender_accuracy", "auc"}` between 0 and
            1, "log_loss" in nats; those that there are predictions for, None where there is no value.
        baseline: the same for the constant prediction of these images' median age and share of women.
        intervals: the 95 % interval of each of `metrics`.
        curve: CS@k with its interval for k from 0 to 20 years.
        groups: for age bands, genders, races and each two of them, the `GroupMetrics` of each group.
        gaps: under the same names the `Gap` of each measure.
        calibration: log loss, ECE and reliability of the gender, before and after temperature scaling.
        coverage: nominal and measured coverage of the age intervals, for all images and for each group.
        bootstrap: how the intervals were computed.
        predictions: the table that was measured, a column [images] for each name.

    Example:

    >>> import numpy as np
    >>> report = measure({"age": np.arange(20, 40), "predicted_age": np.full(20, 30.0)})
    >>> report.count, report.metrics["mae"], report.baseline["mae"]
    (20, 5.0, 5.0)
    """

    count: int
    metrics: dict[str, float | None]
    baseline: dict[str, float | None]
    intervals: dict[str, Interval]
    curve: list[dict[str, Any]]
    groups: dict[str, dict[str, GroupMetrics]]
    gaps: dict[str, dict[str, Gap]]
    calibration: dict[str, Any] | None
    coverage: dict[str, Any] | None
    bootstrap: dict[str, Any]
    predictions: Table = dataclasses.field(repr=False, compare=False)

    def __str__(self) -> str:
        header = f"{f'{self.count:,} images':<24}"
        lines = [f"{header} {'model':>8} {'95 % interval':>19} {'constant baseline':>19}"]
        for key, value in self.metrics.items():
            label, between = MEASURES[key].label, format_interval(key, self.intervals[key])
            baseline = format_value(key, self.baseline[key])
            lines.append(f"{label:<24} {format_value(key, value):>8} {between:>19} {baseline:>19}")
        return "\n".join([*lines, *self._list_age_bands(), *self._list_gaps()])

    def to_dict(self) -> dict[str, Any]:
        """The report without the predictions as plain Python values, ready for JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "predictions"}
        groups = {name: {k: group.to_dict() for k, group in parts.items()} for name, parts in self.groups.items()}
        gaps = {name: {k: dataclasses.asdict(gap) for k, gap in found.items()} for name, found in self.gaps.items()}
        return fields | {"groups": groups, "gaps": gaps}

    def _list_age_bands(self) -> list[str]:
        if AGE not in self.groups:
            return []
        keys = [key for key in ("mae", "bias", "gender_accuracy") if key in self.metrics]
        lines = [f"\n{'age':<7} {'images':>8} " + " ".join(f"{MEASURES[key].label:>16}" for key in keys)]
        for name, group in self.groups[AGE].items():
            values = (f"{format_value(key, group.metrics[key]):>16}" for key in keys)
            lines.append(f"{name:<7} {group.count:>8,} {' '.join(values)}")
        return lines

    def _list_gaps(self) -> list[str]:
        lines = []
        for key in ("mae", "gender_accuracy"):
            for attribute in (AGE, GENDER, RACE):
                if gap := self.gaps.get(attribute, {}).get(key):
                    values = {name: self.groups[attribute][name].metrics[key] for name in (gap.best, gap.worst)}
                    ends = " to ".join(f"{format_value(key, value)} ({name})" for name, value in values.items())
                    lines.append(f"{MEASURES[key].label} by {attribute}: {ends}")
        return ["\nfrom the best group to the worst, of those with 30 images or more", *lines] if lines else []


def format_value(key: str, value: float | None) -> str:
    """Formats the value of a measure for a table.

    >>> format_value("cs5", 0.5), format_value("auc", None)
    ('50.0%', 'none')
    """
    return "none" if value is None else MEASURES[key].number_format.format(value)


def format_interval(key: str, interval: Interval) -> str:
    """Formats the interval of a measure for a table.

    >>> format_interval("mae", (6.5, 7.0))
    '6.50 to 7.00'
    """
    return "no interval" if interval is None else " to ".join(format_value(key, end) for end in interval)


def measure(
    predictions: Table,
    *,
    nominal_coverage: float | None = None,
    temperature: float | None = None,
    repetitions: int = 1000,
    seed: int = 0,
) -> Report:
    """Measures a table of predictions of any model.

    Source of the intervals: percentiles of a bootstrap over photographs (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993).

    Args:
        predictions: columns [images]: "predicted_age" with "age", both in years, or "p_female", 0 to 1, with "gender",
            0 = male and 1 = female, or all four. Optionally "race" (a code of `schema.RACES`), "group" (the
            photograph's name), "file_name", and from a calibration "age_low" and "age_high" in years and
            "p_female_calibrated".
        nominal_coverage: the coverage that the age intervals were fitted for, 0 to 1.
        temperature: the temperature of the calibrated probabilities.
        repetitions: number of bootstrap samples.
        seed: of the bootstrap.

    Returns:
        A `Report`.

    Raises:
        ValueError: for missing labels, columns of unequal length, and values that are not finite or out of range.

    Example:

    >>> import numpy as np
    >>> measure({"age": np.array([20, 40]), "predicted_age": np.array([25, 39])}).metrics["mae"]
    3.0
    """
    check_table(predictions)
    weights, bootstrap = draw_bootstrap(predictions, repetitions=repetitions, seed=seed)
    whole, groups = measure_rows(predictions, weights), measure_groups(predictions, weights)
    return Report(
        count=whole.count,
        metrics=whole.metrics,
        baseline=_measure_baseline(predictions),
        intervals=whole.intervals,
        curve=_measure_curve(predictions, weights),
        groups=groups,
        gaps=find_gaps(groups),
        calibration=_measure_calibration(predictions, weights, temperature),
        coverage=_measure_coverage(predictions, weights, nominal_coverage),
        bootstrap=bootstrap,
        predictions=predictions,
    )


def draw_bootstrap(table: Table, *, repetitions: int = 1000, seed: int = 0) -> tuple[NDArray[Any], dict[str, Any]]:
    """Resamples the photographs of a table, or its images if it has no groups.

    Returns:
        How often each sample contains each image, [repetitions, images], and a description.
    """
    units = table.get(GROUP, np.arange(len(next(iter(table.values())))))
    description = {
        "repetitions": repetitions,
        "seed": seed,
        "resampled": "photograph groups" if GROUP in table else "images",
        "units": len(np.unique(units)),
    }
    return metrics.resample(units, repetitions=repetitions, seed=seed), description


def _measure_baseline(table: Table) -> dict[str, float | None]:
    constant = dict(table)
    if PREDICTED_AGE in table:
        constant[PREDICTED_AGE] = np.full(len(table[AGE]), np.median(table[AGE]))
    if P_FEMALE in table:
        constant[P_FEMALE] = np.full(len(table[GENDER]), np.mean(table[GENDER], dtype="float64"))
    return {key: None if np.isnan(value) else value for key, value in compute_metrics(constant).items()}


def _measure_with_interval(
    function: Any, *arrays: NDArray[Any], weights: NDArray[Any], **options: Any
) -> dict[str, Any]:
    samples = function(*arrays, weights=weights, **options) if len(arrays[0]) >= MIN_INTERVAL_IMAGES else []
    return {"value": function(*arrays, **options), "interval": metrics.interval(samples)}


def _measure_curve(table: Table, weights: NDArray[Any]) -> list[dict[str, Any]]:
    if PREDICTED_AGE not in table:
        return []
    ages = table[AGE], table[PREDICTED_AGE]
    return [
        {"years": k, **_measure_with_interval(metrics.cumulative_score, *ages, years=k, weights=weights)} for k in YEARS
    ]


def _measure_calibration(table: Table, weights: NDArray[Any], temperature: float | None) -> dict[str, Any] | None:
    if P_FEMALE not in table:
        return None
    stages = {
        stage: {
            "log_loss": _measure_with_interval(metrics.log_loss, table[GENDER], table[key], weights=weights),
            "ece": _measure_with_interval(metrics.calibration_error, table[GENDER], table[key], weights=weights),
            "reliability": metrics.reliability(table[GENDER], table[key]),
        }
        for stage, key in {"before": P_FEMALE, "after": P_CALIBRATED}.items()
        if key in table
    }
    return {"temperature": temperature, **stages}


def _measure_coverage(table: Table, weights: NDArray[Any], nominal: float | None) -> dict[str, Any] | None:
    if AGE_LOW not in table:
        return None

    def measure_part(rows: NDArray[Any]) -> dict[str, Any]:
        ages, low, high = (table[key][rows] for key in (AGE, AGE_LOW, AGE_HIGH))
        share = _measure_with_interval(metrics.coverage, ages, low, high, weights=weights[:, rows])
        return {"count": len(ages), **share, "mean_width": float(np.mean(high.astype("float64") - low))}

    return {
        "nominal": nominal,
        "all": measure_part(np.ones(len(table[AGE]), bool)),
        "groups": {
            attribute: {name: measure_part(rows) for name, rows in groups.items()}
            for attribute, groups in find_groups(table).items()
        },
    }
