"""The files of a report: report.json, predictions.csv, plots, and one HTML page made from report.html.jinja."""

import base64
import itertools
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import jinja2
import numpy as np

from agegender.evaluation import groups, metrics
from agegender.evaluation.groups import MEASURES, GroupMetrics, Interval
from agegender.evaluation.plots import draw_plots
from agegender.evaluation.predictions import P_FEMALE, PREDICTED_AGE, Table, write_predictions
from agegender.evaluation.report import Report, format_interval, format_value
from agegender.schema import AGE, FILE_NAME, GENDER, GENDERS

NOT_FOR: Final = (
    "This predicts from appearance, and is often wrong. Gender here is one of two words that somebody, or another "
    "program, wrote down about a photograph, and not how a person identifies; race is a label of the same kind, used "
    "to measure how errors differ between groups and never as an input. Do not use this to decide about people: not "
    "for checking ages at a door, not for hiring, policing, selling or sorting."
)
WARNING: Final = (
    "This page shows images of people. Images of UTKFace may not be published: not the image, not a crop, not a "
    "page or a plot that shows one. Keep it to yourself; the numbers may be passed on."
)
_SINGLE: Final = ("mae", "median_error", "bias", "cs5", "gender_accuracy", "auc", "log_loss")
_CROSSED: Final = ("mae", "bias", "gender_accuracy")
_GAPS: Final = ("mae", "bias", "cs5", "gender_accuracy", "auc")


class Rows(NamedTuple):
    """A table: its header and its lines."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]


class Plot(NamedTuple):
    """A PNG file, and a description of what it shows."""

    name: str
    description: str


class Face(NamedTuple):
    """An encoded image, and the lines of words below it."""

    jpeg: bytes
    caption: Sequence[str]


Block = str | Rows | Plot | list[Face]
Sections = Mapping[str, Sequence[Block]]


def write_report(
    report: Report,
    folder: str | os.PathLike,
    *,
    title: str = "Report",
    images: Mapping[str, bytes] | None = None,
) -> pathlib.Path:
    """Writes report.json, report.html, the plots as PNG, predictions.csv, and with images errors.html.

    Args:
        report: from `evaluate` or `measure`.
        folder: the folder to write to; it is created, and files of an earlier report are overwritten.
        title: of the pages, such as the model and the split.
        images: a JPEG file for each file name, at least for those of `find_largest_errors`. Images of UTKFace may not
            be published, and so may not errors.html.

    Returns:
        The path of report.html, one file that needs nothing else.

    Example:

    >>> import numpy as np
    >>> from agegender import measure
    >>> ages, genders, errors = np.repeat([25, 45], 20), np.arange(40) % 2, np.arange(40) % 7 - 3
    >>> report = measure({"age": ages, "predicted_age": ages + errors, "gender": genders})
    >>> write_report(report, "report").name
    'report.html'
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(report.predictions, folder / "predictions.csv")
    write_json(report.to_dict(), folder / "report.json")
    sections = build_sections(report, draw_plots(report, folder))
    page = folder / "report.html"
    page.write_text(render_page(title, sections, folder=folder), encoding="utf-8")
    if images is not None:
        faces = build_error_sections(report.predictions, images)
        errors = render_page(f"{title}: the largest errors", faces, warning=WARNING)
        (folder / "errors.html").write_text(errors, encoding="utf-8")
    return page


def write_json(content: Any, path: pathlib.Path) -> None:
    """Writes strict JSON, in which NaN is an error."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def render_page(title: str, sections: Sections, *, folder: pathlib.Path | None = None, warning: str = "") -> str:
    """Renders sections as one HTML file.

    Args:
        title: of the page.
        sections: a list of blocks for each title.
        folder: where the PNG files of the plots are; the page embeds them.
        warning: shown at the top.
    """
    loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.tests |= {"rows": lambda block: isinstance(block, Rows), "plot": lambda block: isinstance(block, Plot)}
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    environment.filters["read"] = lambda plot: ((folder or pathlib.Path()) / plot.name).read_bytes()
    return environment.get_template("report.html.jinja").render(title=title, sections=sections, warning=warning)


def find_largest_errors(table: Table, count: int = 48) -> dict[str, list[int]]:
    """Finds the images with the largest errors.

    Returns:
        The rows with the largest age errors, and those with a wrong gender of the highest probability; at most
        `count` each, the worst first.
    """
    found = {}
    if PREDICTED_AGE in table:
        errors = np.abs(table[PREDICTED_AGE] - table[AGE])
        found["The largest age errors"] = np.argsort(-errors, kind="stable")[:count].tolist()
    if P_FEMALE in table:
        p_recorded = np.where(table[GENDER] >= 0.5, table[P_FEMALE], 1 - table[P_FEMALE])
        wrong = (table[P_FEMALE] >= 0.5) != (table[GENDER] >= 0.5)
        order = np.argsort(p_recorded, kind="stable")
        found["The most certain of the wrong genders"] = order[wrong[order]][:count].tolist()
    return {title: rows for title, rows in found.items() if rows}


def build_error_sections(table: Table, images: Mapping[str, bytes]) -> Sections:
    """Builds the sections of errors.html: the images of `find_largest_errors` with prediction and label."""
    sections: dict[str, list[Block]] = {}
    for title, rows in find_largest_errors(table).items():
        faces = [Face(images[table[FILE_NAME][row]], _caption_row(table, row)) for row in rows]
        sections[title] = ["What looks like an error of the model may be an error of the label.", faces]
    return sections


def build_sections(report: Report, plots: Mapping[str, str]) -> Sections:
    """Builds the sections of a report, a list of blocks for each title.

    Args:
        report: the report.
        plots: the description of each PNG file.
    """
    drawn: dict[str, list[Block]] = {name: [Plot(name, description)] for name, description in plots.items()}
    sections: dict[str, list[Block]] = {
        "All images": [_describe_bootstrap(report), _tabulate_metrics(report)],
        "Gaps between groups": _tabulate_gaps(report),
        "Predicted and recorded age": drawn.get("ages.png", []),
        "Share of images within k years": drawn.get("curve.png", []),
    }
    for attribute, parts in report.groups.items():
        plotted = drawn.get("errors.png", []) if attribute == AGE else []
        sections[f"By {attribute}"] = [*plotted, _tabulate_groups(parts, attribute)]
    sections |= {
        "Calibration of the gender": [*_tabulate_calibration(report), *drawn.get("reliability.png", [])],
        "Coverage of the age intervals": _tabulate_coverage(report),
        "Definitions": list_definitions(),
        "What this is not for": [NOT_FOR],
    }
    return {title: blocks for title, blocks in sections.items() if blocks}


def list_definitions() -> list[Block]:
    """The definitions at the top of `metrics` and `groups`."""
    docstrings = (metrics.__doc__ or "") + "\n" + (groups.__doc__ or "")
    items = re.findall(r"^- ((?:.+\n)(?:  .+\n)*)", docstrings, re.MULTILINE)
    return [" ".join(item.split()).replace("`", "") for item in items]


def format_with_interval(key: str, value: float | None, interval: Interval) -> str:
    """Formats a value with its interval.

    >>> format_with_interval("mae", 5.0, (4.5, 5.5))
    '5.00 (4.50 to 5.50)'
    """
    return (
        format_value(key, value) if value is None else f"{format_value(key, value)} ({format_interval(key, interval)})"
    )


def format_difference(key: str, value: float, interval: Interval) -> str:
    """Formats a difference with its sign; that of shares in percentage points.

    >>> format_difference("cs5", 0.015, (-0.001, 0.03))
    '+1.5 points (-0.1 to +3.0)'
    """
    is_share = "%" in MEASURES[key].number_format
    number_format = "{:+.1f}" if is_share else "{:+.3f}" if key in ("auc", "log_loss") else "{:+.2f}"
    numbers = [number_format.format(100 * number if is_share else number) for number in (value, *(interval or ()))]
    between = f" ({numbers[1]} to {numbers[2]})" if interval else " (no interval)"
    return numbers[0] + (" points" if is_share else "") + between


def _describe_bootstrap(report: Report) -> str:
    bootstrap = report.bootstrap
    return (
        f"{report.count:,} images. The 95 % intervals come from {bootstrap['repetitions']:,} bootstrap samples of "
        f"{bootstrap['units']:,} {bootstrap['resampled']}: they say how much the numbers would change with other "
        "images of the same kind, not with another training and not with other labels."
    )


def _tabulate_metrics(report: Report) -> Rows:
    lines = [
        [
            MEASURES[key].label,
            format_value(key, value),
            format_interval(key, report.intervals[key]),
            format_value(key, report.baseline[key]),
        ]
        for key, value in report.metrics.items()
    ]
    return Rows(["", "model", "95 % interval", "constant baseline"], lines)


def _tabulate_gaps(report: Report) -> list[Block]:
    lines = []
    for key, (attribute, found) in itertools.product(_GAPS, report.gaps.items()):
        if gap := found.get(key):
            parts = report.groups[attribute]
            ends = [f"{name}: {format_value(key, parts[name].metrics[key])}" for name in (gap.best, gap.worst)]
            lines.append([MEASURES[key].label, attribute, *ends, format_difference(key, gap.difference, gap.interval)])
    header = ["measure", "between groups of", "best", "worst", "difference (95 % interval)"]
    return [Rows(header, lines)] if lines else []


def _tabulate_groups(parts: Mapping[str, GroupMetrics], attribute: str) -> Rows:
    candidates = _CROSSED if " x " in attribute else _SINGLE
    keys = [key for key in candidates if any(part.metrics.get(key) is not None for part in parts.values())]
    lines = [
        [name, f"{part.count:,}", *(format_with_interval(key, part.metrics[key], part.intervals[key]) for key in keys)]
        for name, part in parts.items()
    ]
    return Rows([attribute, "images", *(MEASURES[key].label for key in keys)], lines)


def _tabulate_calibration(report: Report) -> list[Block]:
    if report.calibration is None:
        return []
    temperature = report.calibration["temperature"]
    headers = {
        "before": "before calibration",
        "after": "after temperature scaling" + (f", temperature {temperature:.3f}" if temperature is not None else ""),
    }
    stages = [report.calibration[stage] for stage in headers if stage in report.calibration]
    lines = [
        [label, *(format_with_interval("auc", stage[key]["value"], stage[key]["interval"]) for stage in stages)]
        for key, label in (("log_loss", "log loss, nats"), ("ece", "ECE"))
    ]
    return [Rows(["", *(headers[stage] for stage in headers if stage in report.calibration)], lines)]


def _tabulate_coverage(report: Report) -> list[Block]:
    if report.coverage is None:
        return []
    parts = {"all": report.coverage["all"]}
    for attribute, of_attribute in report.coverage["groups"].items():
        parts |= of_attribute if " x " not in attribute else {}
    lines = [
        [
            name,
            f"{part['count']:,}",
            format_with_interval("cs5", part["value"], part["interval"]),
            f"{part['mean_width']:.1f}",
        ]
        for name, part in parts.items()
    ]
    nominal = report.coverage["nominal"]
    words = [] if nominal is None else [f"The nominal coverage is {nominal:.0%}."]
    return [*words, Rows(["", "images", "coverage (95 % interval)", "mean width, years"], lines)]


def _caption_row(table: Table, row: int) -> list[str]:
    recorded, predicted = [], []
    if PREDICTED_AGE in table:
        recorded.append(f"{table[AGE][row]:.0f} years")
        predicted.append(f"{table[PREDICTED_AGE][row]:.1f} years")
    if P_FEMALE in table:
        p_female = table[P_FEMALE][row]
        recorded.append(GENDERS[int(table[GENDER][row])])
        predicted.append(f"{GENDERS[int(p_female >= 0.5)]} {max(p_female, 1 - p_female):.1%}")
    return [f"predicted {', '.join(predicted)}", f"recorded {', '.join(recorded)}", str(table[FILE_NAME][row])]
