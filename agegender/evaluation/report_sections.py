"""What a report says, in its order, before it is written as Markdown or HTML."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from agegender.evaluation import groups, metrics
from agegender.evaluation.groups import MEASURES, Interval, Measured
from agegender.evaluation.report import Report, show, show_interval
from agegender.schema import AGE, RACE

NOT_FOR: Final = (
    "This guesses from looks, and is often wrong. Gender here is one of two words that somebody, or another program, "
    "wrote down about a photograph, and not how a person identifies; race is a label of the same kind, used to measure "
    "how errors differ between groups and never as an input. Do not use this to decide about people: not for checking "
    "ages at a door, not for hiring, policing, selling or sorting."
)
_SINGLE: Final = ("mae", "median_error", "bias", "cs5", "gender_accuracy", "auc", "log_loss")
_CROSSED: Final = ("mae", "bias", "gender_accuracy")
_GAPS: Final = ("mae", "bias", "cs5", "gender_accuracy", "auc")
_SHOWN_YEARS: Final = (1, 2, 3, 5, 7, 10, 15, 20)


class Rows(NamedTuple):
    """A table: its head and its lines."""

    head: Sequence[str]
    lines: Sequence[Sequence[str]]


class Plot(NamedTuple):
    """A PNG file, and what it shows in words for those who do not see it."""

    name: str
    words: str


Block = str | Rows | Plot
Sections = Mapping[str, Sequence[Block]]


def tell(report: Report, plots: Mapping[str, str]) -> Sections:
    """The sections of a report, each a title and what stands below it.

    Args:
        report: of which.
        plots: for each file that was drawn, what it shows.
    """
    drawn: dict[str, list[Block]] = {name: [Plot(name, words)] for name, words in plots.items()}
    above = {f"By {AGE}": ("errors.png",), f"By {AGE} x {RACE}": ("age_error.png", "accuracy.png")}
    sections: dict[str, list[Block]] = {
        "All images": [_opening(report), _whole(report)],
        "Gaps between groups": _gaps(report),
        "Predicted and recorded age": drawn.get("ages.png", []),
        "Share of images within k years": [*drawn.get("curve.png", []), *_curve(report)],
    }
    for attribute, parts in report.groups.items():
        title = f"By {attribute}"
        plotted = [block for name in above.get(title, ()) for block in drawn.get(name, [])]
        sections[title] = [*plotted, *_groups(parts, attribute)]
    sections |= {
        "Calibration of the gender": [*_calibration(report), *drawn.get("reliability.png", [])],
        "Coverage of the age intervals": [*_coverage(report), *drawn.get("coverage.png", [])],
        "The words": definitions(),
        "What this is not for": [NOT_FOR],
    }
    return {title: blocks for title, blocks in sections.items() if blocks}


def definitions() -> list[Block]:
    """What the words mean: the lists at the top of `metrics` and `groups`."""
    items = [
        words
        for room in (metrics, groups)
        for words in re.findall(r"^- ((?:.+\n)(?:  .+\n)*)", room.__doc__ or "", re.MULTILINE)
    ]
    return [" ".join(words.split()).replace("`", "") for words in items]


def _opening(report: Report) -> str:
    how = report.bootstrap
    return (
        f"{report.count:,} images. The 95 % intervals come from {how['repetitions']:,} bootstraps over "
        f"{how['units']:,} {how['resampled']}: they say how much the numbers would change with other images of the "
        "same kind, not with another training and not with other labels."
    )


def _whole(report: Report) -> Rows:
    lines = [
        [MEASURES[key].label, show(key, value), show_interval(key, report.intervals[key]), show(key, constant)]
        for (key, value), constant in zip(report.model.items(), report.constant.values(), strict=True)
    ]
    return Rows(["", "model", "95 % interval", "always the median age and the share of women"], lines)


def _gaps(report: Report) -> list[Block]:
    lines = []
    for key, (attribute, found) in itertools.product(_GAPS, report.gaps.items()):
        if gap := found.get(key):
            parts = report.groups[attribute]
            ends = [f"{name}: {show(key, parts[name].model[key])}" for name in (gap.best, gap.worst)]
            lines.append([MEASURES[key].label, attribute, *ends, show_difference(key, gap.difference, gap.interval)])
    head = ["measure", "between groups of", "best", "worst", "difference (95 % interval)"]
    return [Rows(head, lines)] if lines else []


def _groups(parts: Mapping[str, Measured], attribute: str) -> list[Block]:
    wanted = _CROSSED if " x " in attribute else _SINGLE
    keys = [key for key in wanted if any(part.model.get(key) is not None for part in parts.values())]
    lines = [
        [name, f"{part.count:,}", *(show_with_interval(key, part.model[key], part.intervals[key]) for key in keys)]
        for name, part in parts.items()
    ]
    return [Rows([attribute, "images", *(MEASURES[key].label for key in keys)], lines)]


def _curve(report: Report) -> list[Block]:
    points = [point for point in report.curve if point["years"] in _SHOWN_YEARS]
    lines = [[f"CS@{point['years']}", show_with_interval("cs5", point["value"], point["interval"])] for point in points]
    return [Rows(["", "share (95 % interval)"], lines)] if lines else []


def _calibration(report: Report) -> list[Block]:
    measured = report.calibration
    if measured is None:
        return []
    stages = [stage for stage in ("before", "after") if stage in measured]
    lines = [
        [
            label,
            *(
                show_with_interval("auc", measured[stage][key]["value"], measured[stage][key]["interval"])
                for stage in stages
            ),
        ]
        for key, label in (("log_loss", "log loss, nats"), ("ece", "ECE"))
    ]
    temperature = measured["temperature"]
    after = f"after, temperature {temperature:.3f}" if temperature is not None else "after temperature scaling"
    return [Rows(["", *({"before": "as the model gives it", "after": after}[stage] for stage in stages)], lines)]


def _coverage(report: Report) -> list[Block]:
    measured = report.coverage
    if measured is None:
        return []
    parts = {"all": measured["all"]}
    for attribute, of_attribute in measured["groups"].items():
        parts |= of_attribute if " x " not in attribute else {}
    lines = [
        [
            name,
            f"{part['count']:,}",
            show_with_interval("cs5", part["value"], part["interval"]),
            f"{part['mean_width']:.1f}",
        ]
        for name, part in parts.items()
    ]
    promised = measured["promised"]
    words = [] if promised is None else [f"The intervals promise to hold {promised:.0%} of all recorded ages."]
    return [*words, Rows(["", "images", "coverage (95 % interval)", "mean width, years"], lines)]


def show_with_interval(key: str, value: float | None, interval: Interval) -> str:
    """A value with its interval behind it, as a table shows it.

    >>> show_with_interval("mae", 5.0, (4.5, 5.5))
    '5.00 (4.50 to 5.50)'
    """
    return show(key, value) if value is None else f"{show(key, value)} ({show_interval(key, interval)})"


def show_difference(key: str, value: float, interval: Interval) -> str:
    """A difference, always with its sign; of shares in percentage points.

    >>> show_difference("cs5", 0.015, (-0.001, 0.03))
    '+1.5 points (-0.1 to +3.0)'
    """
    percent = "%" in MEASURES[key].form
    form = "{:+.1f}" if percent else "{:+.3f}" if key in ("auc", "log_loss") else "{:+.2f}"
    numbers = [form.format(100 * number if percent else number) for number in (value, *(interval or ()))]
    between = f" ({numbers[1]} to {numbers[2]})" if interval else " (no interval)"
    return numbers[0] + (" points" if percent else "") + between
