"""The report: a table of predictions, measured beside answering the same for everybody.

A `Report` depends on nothing but the table, which `write_report` dumps as predictions.csv: whoever has such a table,
of any model, can measure it.
"""

import dataclasses
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agegender.evaluation import metrics
from agegender.evaluation.groups import (
    ENOUGH_FOR_AN_INTERVAL,
    MEASURES,
    P_CALIBRATED,
    P_FEMALE,
    PREDICTED_AGE,
    Gap,
    Interval,
    Measured,
    Table,
    by_group,
    check_table,
    compute,
    find_gaps,
    measure_some,
    partition,
)
from agegender.schema import AGE, AGE_HIGH, AGE_LOW, GENDER, GROUP, RACE

YEARS: Final = range(21)  # of the CS@k curve


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured; `print(report)` shows a table. The words are defined in `metrics` and `groups`.

    Attributes:
        count: number of images.
        model: `{"mae", "rmse", "median_error", "bias"}` in years, `{"cs5", "gender_accuracy", "auc"}` between 0 and 1,
            "log_loss" in nats; those that there are predictions for, None where there is no value.
        constant: the same for always answering these images' own median age and share of women.
        intervals: for each of `model`, the 95 % interval.
        curve: CS@k and its intervals for k of 0 to 20 years.
        groups: the same measures at age bands, genders, races and each two of them, for each group.
        gaps: between the best and the worst group, at the same names, for each measure.
        calibration: of the gender: log loss, ECE and reliability, before and after temperature scaling.
        coverage: of the age intervals, promised and measured, for all and for each group.
        bootstrap: how the intervals came about.
        predictions: the table that all of this was measured on, a column [images] at each name.

    Example:

    >>> import numpy as np
    >>> report = measure({"age": np.arange(20, 40), "predicted_age": np.full(20, 30.0)})
    >>> report.count, report.model["mae"], report.constant["mae"]
    (20, 5.0, 5.0)
    """

    count: int
    model: dict[str, float | None]
    constant: dict[str, float | None]
    intervals: dict[str, Interval]
    curve: list[dict[str, Any]]
    groups: dict[str, dict[str, Measured]]
    gaps: dict[str, dict[str, Gap]]
    calibration: dict[str, Any] | None
    coverage: dict[str, Any] | None
    bootstrap: dict[str, Any]
    predictions: Table = dataclasses.field(repr=False, compare=False)

    def __str__(self) -> str:
        head = f"{f'{self.count:,} images':<24}"
        lines = [f"{head} {'model':>8} {'95 % interval':>19} {'always the median or majority':>31}"]
        for key, value in self.model.items():
            label, between = MEASURES[key].label, show_interval(key, self.intervals[key])
            lines.append(f"{label:<24} {show(key, value):>8} {between:>19} {show(key, self.constant[key]):>31}")
        return "\n".join([*lines, *self._bands(), *self._gaps()])

    def to_dict(self) -> dict[str, Any]:
        """The report without the predictions as plain Python values, ready for JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "predictions"}
        groups = {name: {k: part.to_dict() for k, part in parts.items()} for name, parts in self.groups.items()}
        gaps = {name: {k: dataclasses.asdict(gap) for k, gap in found.items()} for name, found in self.gaps.items()}
        return fields | {"groups": groups, "gaps": gaps}

    def _bands(self) -> list[str]:
        keys = [key for key in ("mae", "bias", "gender_accuracy") if key in self.model]
        if AGE not in self.groups:
            return []
        labels = [MEASURES[key].label for key in keys]
        rows = [f"\n{'age':<7} {'images':>8} " + " ".join(f"{label:>16}" for label in labels)]
        for name, part in self.groups[AGE].items():
            rows.append(f"{name:<7} {part.count:>8,} " + " ".join(f"{show(key, part.model[key]):>16}" for key in keys))
        return rows

    def _gaps(self) -> list[str]:
        rows = []
        for attribute, key in ((a, k) for k in ("mae", "gender_accuracy") for a in (AGE, GENDER, RACE)):
            if gap := self.gaps.get(attribute, {}).get(key):
                ends = [
                    f"{show(key, self.groups[attribute][name].model[key])} ({name})" for name in (gap.best, gap.worst)
                ]
                rows.append(f"{MEASURES[key].label} by {attribute}: {' to '.join(ends)}")
        return ["\nfrom the best group to the worst, of those with 30 images or more", *rows] if rows else []


def show(key: str, value: float | None) -> str:
    """A value as a table shows it.

    >>> show("cs5", 0.5), show("auc", None)
    ('50.0%', 'none')
    """
    return "none" if value is None else MEASURES[key].form.format(value)


def show_interval(key: str, interval: Interval) -> str:
    """An interval as a table shows it.

    >>> show_interval("mae", (6.5, 7.0))
    '6.50 to 7.00'
    """
    return "no interval" if interval is None else " to ".join(MEASURES[key].form.format(end) for end in interval)


def measure(
    predictions: Table,
    *,
    promised: float | None = None,
    temperature: float | None = None,
    repetitions: int = 1000,
    seed: int = 0,
) -> Report:
    """Measures a table of predictions, whoever made them.

    The measures are those of `agegender.evaluation.metrics`; the intervals are percentiles of a bootstrap over
    photographs (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).

    Args:
        predictions: columns [images]: at "predicted_age" with "age", both in years, or at "p_female", 0 to 1, with
            "gender", 0 = male and 1 = female, or all four; where there are any, "race" (a code of `schema.RACES`),
            "group" (the photograph's name), "file_name", and of a calibration "age_low" and "age_high" in years and
            "p_female_calibrated".
        promised: the coverage of its intervals, 0 to 1, if anybody promised one.
        temperature: of its calibrated probabilities, if known.
        repetitions: of the bootstrap, for every measure.
        seed: of the bootstrap.

    Returns:
        A `Report`.

    Raises:
        ValueError: for missing labels, columns of unequal length, and values that are not finite or out of range.

    Example:

    >>> import numpy as np
    >>> measure({"age": np.array([20, 40]), "predicted_age": np.array([25, 39])}).model["mae"]
    3.0
    """
    check_table(predictions)
    count = len(next(iter(predictions.values())))
    weights, how = draw_bootstrap(predictions, repetitions=repetitions, seed=seed)
    whole, groups = measure_some(predictions, weights), by_group(predictions, weights)
    return Report(
        count=count,
        model=whole.model,
        constant=_constant(predictions),
        intervals=whole.intervals,
        curve=_curve(predictions, weights),
        groups=groups,
        gaps=find_gaps(groups),
        calibration=_calibration(predictions, weights, temperature),
        coverage=_coverage(predictions, weights, promised),
        bootstrap=how,
        predictions=predictions,
    )


def draw_bootstrap(table: Table, *, repetitions: int, seed: int) -> tuple[NDArray[Any], dict[str, Any]]:
    """Resamples the photographs of a table, or its images where nobody knows which share a photograph.

    Args:
        table: of predictions.
        repetitions: how often.
        seed: of the draw.

    Returns:
        How often each image counts, [repetitions, images], and in words and numbers how that came about.
    """
    units = table.get(GROUP, np.arange(len(next(iter(table.values())))))
    how = {
        "repetitions": repetitions,
        "seed": seed,
        "resampled": "photograph groups" if GROUP in table else "images",
        "units": len(np.unique(units)),
    }
    return metrics.resample(units, repetitions=repetitions, seed=seed), how


def _constant(table: Table) -> dict[str, float | None]:
    answers = dict(table)
    if PREDICTED_AGE in table:
        answers[PREDICTED_AGE] = np.full(len(table[AGE]), np.median(table[AGE]))
    if P_FEMALE in table:
        answers[P_FEMALE] = np.full(len(table[GENDER]), np.mean(table[GENDER], dtype="float64"))
    return {key: None if np.isnan(value) else value for key, value in compute(answers).items()}


def _with_interval(function: Any, *arrays: NDArray[Any], weights: NDArray[Any], **options: Any) -> dict[str, Any]:
    """One measure outside of `MEASURES`, with its interval."""
    drawn = function(*arrays, weights=weights, **options) if len(arrays[0]) >= ENOUGH_FOR_AN_INTERVAL else []
    return {"value": function(*arrays, **options), "interval": metrics.interval(drawn)}


def _curve(table: Table, weights: NDArray[Any]) -> list[dict[str, Any]]:
    if PREDICTED_AGE not in table:
        return []
    ages = table[AGE], table[PREDICTED_AGE]
    return [{"years": k, **_with_interval(metrics.cumulative_score, *ages, years=k, weights=weights)} for k in YEARS]


def _calibration(table: Table, weights: NDArray[Any], temperature: float | None) -> dict[str, Any] | None:
    if P_FEMALE not in table:
        return None
    stages = {"before": P_FEMALE, "after": P_CALIBRATED}
    measured = {
        stage: {
            "log_loss": _with_interval(metrics.log_loss, table[GENDER], table[key], weights=weights),
            "ece": _with_interval(metrics.calibration_error, table[GENDER], table[key], weights=weights),
            "reliability": metrics.reliability(table[GENDER], table[key]),
        }
        for stage, key in stages.items()
        if key in table
    }
    return {"temperature": temperature, **measured}


def _coverage(table: Table, weights: NDArray[Any], promised: float | None) -> dict[str, Any] | None:
    if AGE_LOW not in table:
        return None

    def measured(rows: NDArray[Any]) -> dict[str, Any]:
        ages, low, high = (table[key][rows] for key in (AGE, AGE_LOW, AGE_HIGH))
        share = _with_interval(metrics.coverage, ages, low, high, weights=weights[:, rows])
        return {"count": len(ages), **share, "mean_width": float(np.mean(high.astype("float64") - low))}

    groups = {name: {k: measured(rows) for k, rows in parts.items()} for name, parts in partition(table).items()}
    return {"promised": promised, "all": measured(np.ones(len(table[AGE]), bool)), "groups": groups}
