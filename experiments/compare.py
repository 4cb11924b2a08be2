"""Compares the predictions of several models for the same images: one table, and the differences to the first."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agegender.evaluation import metrics
from agegender.evaluation.groups import MEASURES, MIN_INTERVAL_IMAGES, GroupMetrics, find_groups, measure_rows
from agegender.evaluation.predictions import Table, align, join
from agegender.evaluation.report import draw_bootstrap
from agegender.evaluation.report_page import (
    Rows,
    Sections,
    format_difference,
    format_with_interval,
    list_definitions,
    render_page,
    write_json,
)

_BY_GROUP = ("mae", "bias", "gender_accuracy")  # the measures shown for each group


def report_or_compare(
    runs: Sequence[str], files: Sequence[str], out: pathlib.Path | None, measure_run: Callable[..., Any]
) -> str:
    """Writes the report of one model, or the comparison of several.

    Args:
        runs: folders or .keras files; "A+B" joins two that have one head each.
        files: of predictions; "A+B" joins two.
        out: folder to write to.
        measure_run: `evaluate_run` with all but the run and `out`.

    Returns:
        What to print.
    """
    from agegender import measure, read_predictions, write_report

    if not runs and not files:
        raise ValueError("Give --workdir or --predictions; --help says more")
    if len(runs) == 1 and not files and len(_split_pair(runs[0])) == 1:
        measure_run(pathlib.Path(runs[0]), out=out)
        return ""
    if out is None and (not runs or len(runs) + len(files) == 1):
        raise ValueError("--out must name a folder: this report belongs to no single run")
    tables = {name: _load(name, read_predictions) for name in files}  # before the slow part
    tables = {name: _load(name, lambda path: measure_run(path).predictions) for name in runs} | tables
    folder = out or folder_of(pathlib.Path(_split_pair(runs[0])[0])) / "comparison"
    if len(tables) == 1:
        ((name, table),) = tables.items()
        report = measure(table)
        return f"\n{report}\n\nReport: {write_report(report, folder, title=name)}"
    comparison = compare(tables)
    return f"\n{format_comparison(comparison)}\n\nComparison: {write_comparison(comparison, folder)}"


def folder_of(model: pathlib.Path) -> pathlib.Path:
    """The folder of a run, given its folder or a model file in it."""
    return model.parent if model.suffix == ".keras" else model


def compare(tables: Mapping[str, Table]) -> dict[str, Any]:
    """Measures several tables of predictions, and their differences to the first on the same bootstrap samples.

    Args:
        tables: for each model's name its table, as from `read_predictions`, of the same images: in any order if they
            have file names, in the same order otherwise.

    Returns:
        `{"baseline", "count", "bootstrap", "all", "groups"}`. "all", and each group at each attribute of "groups", have
        "metrics", "intervals" and, but for the first model, "differences" with intervals under each model's name.

    Raises:
        ValueError: for fewer than two tables, and for tables of other images or with other labels.
    """
    if len(tables) < 2:
        raise ValueError(f"Give two or more models to compare. Received: {list(tables)}")
    baseline, *others = tables
    first = tables[baseline]
    aligned = {baseline: first} | {name: align(first, tables[name], baseline, name) for name in others}
    weights, bootstrap = draw_bootstrap(first)
    groups = {
        attribute: {name: _measure_models(aligned, weights, rows) for name, rows in parts.items()}
        for attribute, parts in find_groups(first).items()
        if " x " not in attribute
    }
    return {
        "baseline": baseline,
        "count": weights.shape[1],
        "bootstrap": bootstrap,
        "all": _measure_models(aligned, weights, None),
        "groups": groups,
    }


def write_comparison(comparison: Mapping[str, Any], folder: pathlib.Path) -> pathlib.Path:
    """Writes comparison.json and comparison.html, and returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(comparison, folder / "comparison.json")
    page = folder / "comparison.html"
    page.write_text(render_page("Models compared", build_sections(comparison)), encoding="utf-8")
    return page


def build_sections(comparison: Mapping[str, Any]) -> Sections:
    """Builds the sections of comparison.html."""
    bootstrap = comparison["bootstrap"]
    opening = (
        f"{comparison['count']:,} images, the same for all models. Differences are to {comparison['baseline']}; their "
        f"95 % intervals come from {bootstrap['repetitions']:,} bootstrap samples of {bootstrap['units']:,} "
        f"{bootstrap['resampled']}, the same for both models. They say nothing about other trainings."
    )
    by_group = {f"By {name}": [_tabulate_groups(parts, name)] for name, parts in comparison["groups"].items()}
    return {"All images": [opening, _tabulate_models(comparison)], **by_group, "Definitions": list_definitions()}


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """Formats the table of all images as plain text."""
    header, body = _tabulate_models(comparison)
    lines = [header, *body]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def _split_pair(name: str) -> list[str]:
    return [name] if pathlib.Path(name).exists() else name.split("+")


def _load(name: str, load: Callable[[pathlib.Path], Any]) -> Any:
    first, *others = _split_pair(name)
    table = load(pathlib.Path(first))
    for other in others:
        table = join(table, load(pathlib.Path(other)), first, other)
    return table


def _measure_models(
    tables: Mapping[str, Table], weights: NDArray[Any], rows: NDArray[np.bool_] | None
) -> dict[str, Any]:
    measured = {name: measure_rows(table, weights, rows) for name, table in tables.items()}
    baseline, *others = measured
    results = {name: part.to_dict() for name, part in measured.items()}
    for name in others:
        results[name]["differences"] = _subtract(measured[name], measured[baseline])
    return results


def _subtract(model: GroupMetrics, baseline: GroupMetrics) -> dict[str, Any]:
    differences = {}
    for key, value in model.metrics.items():
        before = baseline.metrics.get(key)
        if value is not None and before is not None:
            samples = model.samples[key] - baseline.samples[key] if model.count >= MIN_INTERVAL_IMAGES else []
            differences[key] = {"value": value - before, "interval": metrics.interval(samples)}
    return differences


def _tabulate_models(comparison: Mapping[str, Any]) -> Rows:
    lines = []
    for key, measure in MEASURES.items():
        for name, part in comparison["all"].items():
            if key in part["metrics"]:
                value = format_with_interval(key, part["metrics"][key], part["intervals"][key])
                lines.append([measure.label, name, value, _format_difference(part, key)])
    return Rows(["measure", "model", "value (95 % interval)", f"difference to {comparison['baseline']}"], lines)


def _tabulate_groups(groups: Mapping[str, Mapping[str, Any]], attribute: str) -> Rows:
    lines = [
        [group, f"{part['count']:,}", name, *(_format_difference(part, key) for key in _BY_GROUP)]
        for group, models in groups.items()
        for name, part in models.items()
        if "differences" in part
    ]
    return Rows([attribute, "images", "difference of", *(MEASURES[key].label for key in _BY_GROUP)], lines)


def _format_difference(part: Mapping[str, Any], key: str) -> str:
    differences = part.get("differences", {})
    return format_difference(key, **differences[key]) if key in differences else ""
