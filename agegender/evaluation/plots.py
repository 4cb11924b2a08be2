"""The plots of a report, narrow enough for a phone, in the colour-blind safe palette of Okabe and Ito.

Source of the palette: https://jfly.uni-koeln.de/color/
"""

import pathlib
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agegender.evaluation.groups import AGE_BANDS, MEASURES, GroupMetrics
from agegender.evaluation.predictions import P_FEMALE, PREDICTED_AGE, Table
from agegender.evaluation.report import Report
from agegender.schema import AGE, GENDER, GENDERS

BLUE, ORANGE, VERMILION = "#0072B2", "#E69F00", "#D55E00"
_STYLES: Final = {"male": (BLUE, "o"), "female": (ORANGE, "s"), "all": (BLUE, "o")}
_WIDTH: Final = 6.0  # inches, at 150 dots per inch


def draw_plots(report: Report, folder: pathlib.Path) -> dict[str, str]:
    """Writes each plot that there are numbers for as a PNG file.

    Returns:
        A description of each file.
    """
    plots: dict[str, tuple[str, Figure]] = {}
    if PREDICTED_AGE in report.predictions:
        plots["ages.png"] = ("Predicted against recorded age", _draw_ages(report))
        plots["curve.png"] = ("The share of images within k years, for k of 0 to 20", _draw_curve(report))
        plots["errors.png"] = ("MAE and bias of each age band, by gender where known", _draw_errors(report))
    if report.calibration is not None:
        figure = _draw_reliability(report.calibration)
        plots["reliability.png"] = ("Probability of female against the share that is", figure)
    for name, (_, figure) in plots.items():
        figure.savefig(folder / name, dpi=150)
    return {name: words for name, (words, _) in plots.items()}


def draw_predictions(images: np.ndarray, table: Table) -> Figure:
    """Draws the first 24 images, each with its prediction above its label.

    Args:
        images: uint8 RGB [n, height, width, 3].
        table: of predictions; its first n rows are those of the images.
    """
    figure = Figure(figsize=(12, 6), layout="constrained")
    for axes in figure.subplots(3, 8).flat:
        axes.axis("off")
    for row, (axes, image) in enumerate(zip(figure.axes, images, strict=False)):
        axes.imshow(image)
        predicted, recorded = [], []
        if PREDICTED_AGE in table:
            predicted.append(f"{table[PREDICTED_AGE][row]:.0f}")
            recorded.append(f"{table[AGE][row]:.0f}")
        if P_FEMALE in table:
            p_female = table[P_FEMALE][row]
            predicted.append(f"{GENDERS[int(p_female >= 0.5)]} {max(p_female, 1 - p_female):.0%}")
            recorded.append(GENDERS[int(table[GENDER][row])])
        axes.set_title(f"{' '.join(predicted)}\nrecorded: {' '.join(recorded)}", fontsize=8)
    return figure


def _new_figure(height: float, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Makes a figure of the common width and `height` inches, with `rows` panels one below the other."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    panels = figure.subplots(rows, 1, squeeze=False, **options)[:, 0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _draw_ages(report: Report) -> Figure:
    figure, (axes,) = _new_figure(5.4)
    ages, predicted = report.predictions[AGE], report.predictions[PREDICTED_AGE]
    visible = min(0.5, 400 / len(ages) + 0.05)
    axes.scatter(ages, predicted, s=8, color=BLUE, alpha=visible, linewidths=0, label="an image")
    end = max(100, float(np.max(ages)), float(np.max(predicted)))
    axes.plot([0, end], [0, end], color="black", linewidth=1, linestyle="--", label="correct")
    bands = np.minimum(ages // 10, len(AGE_BANDS) - 1)
    means = [(np.mean(ages[bands == band]), np.mean(predicted[bands == band])) for band in np.unique(bands)]
    axes.plot(*zip(*means, strict=True), color=VERMILION, marker="D", markersize=5, label="mean of an age band")
    axes.set(xlabel="recorded age, years", ylabel="predicted age, years", aspect="equal")
    axes.legend(frameon=False, loc="upper left")
    return figure


def _draw_curve(report: Report) -> Figure:
    figure, (axes,) = _new_figure(3.6)
    years, shares = ([point[key] for point in report.curve] for key in ("years", "value"))
    axes.plot(years, shares, color=BLUE, marker="o", markersize=4)
    known = [(point["years"], *point["interval"]) for point in report.curve if point["interval"]]
    if known:
        axes.fill_between(*zip(*known, strict=True), color=BLUE, alpha=0.25, linewidth=0, label="95 % interval")
        axes.legend(frameon=False, loc="lower right")
    axes.set(xlabel="k, years", ylabel="images within k years", ylim=(0, 1), xticks=range(0, 21, 2))
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.grid(alpha=0.3)
    return figure


def _draw_errors(report: Report) -> Figure:
    """Draws MAE above bias, the genders side by side if they are recorded."""
    figure, panels = _new_figure(6.0, 2, sharex=True)
    crossed = report.groups.get(f"{AGE} x {GENDER}", {})
    series = (
        {
            gender: {band: crossed[f"{band}, {gender}"] for band in AGE_BANDS if f"{band}, {gender}" in crossed}
            for gender in GENDERS
        }
        if crossed
        else {"all": report.groups[AGE]}
    )
    for axes, key in zip(panels, ("mae", "bias"), strict=True):
        for index, (name, parts) in enumerate(series.items()):
            _draw_series(axes, parts, key, name, (index - (len(series) - 1) / 2) * 0.2)
        axes.set(ylabel=MEASURES[key].label)
        axes.grid(alpha=0.3, axis="y")
    panels[0].set_ylim(bottom=0)
    panels[1].axhline(0, color="black", linewidth=1)
    panels[1].set_xticks(range(len(AGE_BANDS)), AGE_BANDS)
    panels[1].set_xlabel("recorded age, years")
    if panels[0].get_legend_handles_labels()[1]:
        panels[0].legend(frameon=False)
    return figure


def _draw_series(axes: Axes, parts: dict[str, GroupMetrics], key: str, name: str, shift: float) -> None:
    """Draws points with error bars, hollow points where there are too few images for an interval."""
    colour, marker = _STYLES[name]
    for enough in (True, False):
        some = {band: part for band, part in parts.items() if (part.intervals[key] is not None) == enough}
        at = [AGE_BANDS.index(band) + shift for band in some]
        values = np.array([part.metrics[key] for part in some.values()], float)
        bars = None
        if enough and some:
            low, high = np.array([part.intervals[key] for part in some.values()]).T
            bars = np.maximum([values - low, high - values], 0)
        face = colour if enough else "none"
        label = name if enough and name != "all" else None
        axes.errorbar(at, values, bars, color=colour, fmt=marker, mfc=face, capsize=3, markersize=5, label=label)


def _draw_reliability(calibration: dict[str, Any]) -> Figure:
    figure, (axes, counts) = _new_figure(5.6, 2, height_ratios=[3, 1], sharex=True)
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", label="perfectly calibrated")
    styles = {"before": (BLUE, "o", "-"), "after": (VERMILION, "s", "-.")}
    for stage, (colour, marker, dashes) in styles.items():
        if stage in calibration:
            bins = calibration[stage]["reliability"]
            x, y, n = ([each[key] for each in bins] for key in ("predicted", "observed", "count"))
            named = f"{stage} temperature scaling" if "after" in calibration else "the model"
            label = f"{named}: ECE {calibration[stage]['ece']['value']:.3f}"
            axes.plot(x, y, color=colour, marker=marker, linestyle=dashes, markersize=5, label=label)
            edges = [each["low"] for each in bins]
            shift = 0.03 if stage == "before" else 0.07
            counts.bar(np.array(edges) + shift, n, 0.035, color=colour)
    axes.set(ylabel="share recorded as female", ylim=(-0.02, 1.02))
    counts.set(xlabel="probability of female", ylabel="images", xlim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    return figure
