"""Several models on the same images: one table, and how each differs from the first."""

import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agegender.evaluation import metrics, report_html
from agegender.evaluation.groups import (
    ENOUGH_FOR_AN_INTERVAL,
    MEASURES,
    P_CALIBRATED,
    P_FEMALE,
    PREDICTED_AGE,
    Measured,
    Table,
    measure_some,
    partition,
)
from agegender.evaluation.report import draw_bootstrap
from agegender.evaluation.report_files import write_json
from agegender.evaluation.report_sections import (
    NOT_FOR,
    Rows,
    Sections,
    definitions,
    show_difference,
    show_with_interval,
)
from agegender.schema import AGE, AGE_HIGH, AGE_LOW, FILE_NAME, GENDER, GROUP, RACE

_PREDICTIONS = (PREDICTED_AGE, P_FEMALE, AGE_LOW, AGE_HIGH, P_CALIBRATED)
_GROUPED = ("mae", "bias", "gender_accuracy")  # what the page shows of each group


def compare(tables: Mapping[str, Table], *, repetitions: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Measures several tables of predictions, and their differences to the first on the same resampled images.

    Args:
        tables: at the name of each model its table, as from `read_predictions`; of the same images in any order if
            they have file names, in the same order if not.
        repetitions: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `{"baseline", "count", "bootstrap", "all", "groups"}`: "all", and each group at each attribute of "groups",
        hold at the name of each model "model", "intervals" and, but for the first, "differences" with intervals.

    Raises:
        ValueError: for fewer than two tables, and for tables of other images or with other labels.
    """
    if len(tables) < 2:
        raise ValueError(f"Give two or more models to compare. Received: {list(tables)}")
    baseline, *others = tables
    first = tables[baseline]
    aligned = {baseline: first} | {name: align(first, tables[name], baseline, name) for name in others}
    count = len(first[next(iter(first))])
    weights, how = draw_bootstrap(first, repetitions=repetitions, seed=seed)
    groups = {
        attribute: {name: _measure_all(aligned, weights, rows) for name, rows in parts.items()}
        for attribute, parts in partition(first).items()
        if " x " not in attribute
    }
    return {
        "baseline": baseline,
        "count": count,
        "bootstrap": how,
        "all": _measure_all(aligned, weights, None),
        "groups": groups,
    }


def align(
    first: Table, second: Table, first_name: str = "first", second_name: str = "second"
) -> dict[str, NDArray[Any]]:
    """Brings the second table into the order of the first, by file name, with the labels that both know being equal.

    Raises:
        ValueError: if they are not of the same images.
    """
    both = f"{first_name} and {second_name}"
    table = dict(second)
    if FILE_NAME in first and FILE_NAME in second:
        names, order = np.unique(second[FILE_NAME], return_index=True)
        if len(names) != len(second[FILE_NAME]) or not np.array_equal(names, np.sort(first[FILE_NAME])):
            shared = len(np.intersect1d(first[FILE_NAME], names))
            raise ValueError(
                f"{both} must be of the same images, once each. Received: {len(first[FILE_NAME]):,} and "
                f"{len(second[FILE_NAME]):,} images, {shared:,} of the names in both"
            )
        table = {key: column[order][np.searchsorted(names, first[FILE_NAME])] for key, column in second.items()}
    for key in (AGE, GENDER, RACE):
        if key in first and key in second and not np.array_equal(first[key], table[key]):
            raise ValueError(f"{both} must be of the same images in the same order, but they differ in {key!r}")
    return {key: first[key] for key in (FILE_NAME, GROUP, AGE, GENDER, RACE) if key in first} | table


def join(
    first: Table, second: Table, first_name: str = "first", second_name: str = "second"
) -> dict[str, NDArray[Any]]:
    """Two models as one: the age of the one and the gender of the other, on the same images.

    Raises:
        ValueError: if both predict the same, or other images.
    """
    twice = [key for key in _PREDICTIONS if key in first and key in second]
    if twice:
        raise ValueError(f"{first_name} and {second_name} cannot be joined: both have {twice[0]!r}")
    return dict(first) | align(first, second, first_name, second_name)


def write_comparison(comparison: Mapping[str, Any], folder: pathlib.Path) -> pathlib.Path:
    """Writes comparison.json, comparison.md and comparison.html, one page, and returns the path of that."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(comparison, folder / "comparison.json")
    sections = tell(comparison)
    (folder / "comparison.md").write_text(report_html.markdown("Models compared", sections), encoding="utf-8")
    page = folder / "comparison.html"
    page.write_text(report_html.html_page("Models compared", sections), encoding="utf-8")
    return page


def tell(comparison: Mapping[str, Any]) -> Sections:
    """What the comparison says, section by section."""
    how, baseline = comparison["bootstrap"], comparison["baseline"]
    opening = (
        f"{comparison['count']:,} images, the same for all. Differences are to {baseline}; their 95 % intervals come "
        f"from {how['repetitions']:,} bootstraps over {how['units']:,} {how['resampled']}, the same for both sides. An "
        "interval without zero says that other images would hardly turn the order round; it does not say that other "
        "trainings would not."
    )
    grouped = {f"By {attribute}": [_by_group(parts, attribute)] for attribute, parts in comparison["groups"].items()}
    last: Sections = {"The words": definitions(), "What this is not for": [NOT_FOR]}
    return {"All images": [opening, _table(comparison)], **grouped, **last}


def summary(comparison: Mapping[str, Any]) -> str:
    """The table of all images as plain text."""
    rows = _table(comparison)
    lines = [rows.head, *rows.lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def _measure_all(tables: Mapping[str, Table], weights: NDArray[Any], rows: NDArray[np.bool_] | None) -> dict[str, Any]:
    measured = {name: measure_some(table, weights, rows) for name, table in tables.items()}
    baseline, *others = measured
    told = {name: part.to_dict() for name, part in measured.items()}
    for name in others:
        told[name]["differences"] = _difference(measured[baseline], measured[name])
    return told


def _difference(first: Measured, second: Measured) -> dict[str, Any]:
    told = {}
    for key, value in second.model.items():
        before = first.model.get(key)
        if value is not None and before is not None:
            enough = first.count >= ENOUGH_FOR_AN_INTERVAL
            interval = metrics.interval(second.drawn[key] - first.drawn[key]) if enough else None
            told[key] = {"value": value - before, "interval": interval}
    return told


def _table(comparison: Mapping[str, Any]) -> Rows:
    """A line for each measure and model: long rather than wide, for any number of models and a telephone."""
    lines = []
    for key, (name, part) in itertools.product(MEASURES, comparison["all"].items()):
        if key in part["model"]:
            value = show_with_interval(key, part["model"][key], part["intervals"][key])
            lines.append([MEASURES[key].label, name, value, _shown(part, key)])
    return Rows(["measure", "model", "value (95 % interval)", f"difference to {comparison['baseline']}"], lines)


def _by_group(groups: Mapping[str, Mapping[str, Any]], attribute: str) -> Rows:
    lines = [
        [group, f"{part['count']:,}", name, *(_shown(part, key) for key in _GROUPED)]
        for group, models in groups.items()
        for name, part in models.items()
        if "differences" in part
    ]
    return Rows([attribute, "images", "difference of", *(MEASURES[key].label for key in _GROUPED)], lines)


def _shown(part: Mapping[str, Any], key: str) -> str:
    differences = part.get("differences", {})
    return show_difference(key, **differences[key]) if key in differences else ""
