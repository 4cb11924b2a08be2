"""The plots: one idea a figure, narrow enough for a telephone, in colours that everybody can tell apart.

Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), and never colour alone: lines differ in their dashes, bars
stand in the order of the legend.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from agegender.evaluation.plots import BLUE, GREEN, ORANGE, VERMILION, new_figure
from agegender.schema import AGE, FOLD, GENDER, GENDERS, MAX_AGE, RACES, SPLITS
from experiments.exploring.numbers import Groups
from experiments.exploring.table import SPLIT, Table

PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#555555"
GENDER_COLOURS: Final = {"male": BLUE, "female": ORANGE}
LINES: Final = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (PURPLE, ":"), (GREY, (0, (1, 1, 4, 1))))
_BIN: Final = 5  # years


def draw_plots(table: Table, groups: Groups, numbers: Mapping[str, Any], folder: pathlib.Path) -> dict[str, str]:
    """Writes every plot as a PNG file.

    Returns:
        For each file's name, what it shows, in words for those who do not see it.
    """
    splits = [(name, table[SPLIT] == name) for name in SPLITS if name in numbers["splits"]]
    folds = [(f"fold {name}", table[FOLD] == int(name)) for name in numbers["folds"]]
    figures = {
        "ages.png": ("How many images of each age, by gender", _ages(table)),
        "labels.png": ("How many images of each gender and race", _labels(numbers)),
        "crossing.png": ("How many images of each race and gender together", _crossing(numbers)),
        "splits.png": ("Ages, genders and races in each split", _portions(table, splits, numbers["splits"])),
        "folds.png": ("Ages, genders and races in each fold", _portions(table, folds, numbers["folds"])),
        "groups.png": ("How many photograph groups of each size", _groups(numbers)),
        "conflicts.png": ("Years between the labels of one photograph", _conflicts(groups)),
    }
    for name, (_, figure) in figures.items():
        figure.savefig(folder / name, dpi=150)
    return {name: words for name, (words, _) in figures.items()}


def _ages(table: Table) -> Figure:
    figure, (axes,) = new_figure(3.6)
    below = np.zeros(MAX_AGE + 1, int)
    for code, gender in enumerate(GENDERS):
        counts = np.bincount(table[AGE][table[GENDER] == code], minlength=MAX_AGE + 1)
        label = f"{gender} ({counts.sum():,})"
        axes.bar(np.arange(MAX_AGE + 1), counts, 1.0, bottom=below, color=GENDER_COLOURS[gender], label=label)
        below += counts
    median = float(np.median(table[AGE]))
    axes.axvline(median, color="black", linestyle="--", linewidth=1, label=f"median: {median:g} years")
    axes.set(xlabel="age, years", ylabel="images", xticks=range(0, MAX_AGE + 1, 10), xlim=(-1, MAX_AGE + 1))
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.legend(frameon=False)
    return figure


def _labels(numbers: Mapping[str, Any]) -> Figure:
    figure, panels = new_figure(3.8, 2, height_ratios=[len(GENDERS), len(RACES)])
    races = {race: sum(counts.values()) for race, counts in numbers["crossing"].items()}
    colours = [GENDER_COLOURS[gender] for gender in GENDERS]
    for axes, counts, colour in zip(panels, (numbers["all"]["genders"], races), (colours, SKY), strict=True):
        bars = axes.barh(list(counts), list(counts.values()), color=colour)
        whole = sum(counts.values())
        axes.bar_label(bars, [f"{n:,} ({n / whole:.1%})" for n in counts.values()], padding=3)
        axes.invert_yaxis()
        axes.set(xlim=(0, 1.25 * max(counts.values())), xticks=[])
        axes.spines["bottom"].set_visible(False)
    panels[-1].set_xlabel("images (and their share)")
    return figure


def _crossing(numbers: Mapping[str, Any]) -> Figure:
    figure, (axes,) = new_figure(3.6)
    counts = np.array([[numbers["crossing"][race][gender] for gender in GENDERS] for race in RACES])
    axes.imshow(counts, cmap="Blues", vmin=0, vmax=1.2 * counts.max(), aspect="auto")
    for (row, column), value in np.ndenumerate(counts):
        dark = value > 0.6 * counts.max()
        text = f"{value:,}\n{value / counts.sum():.1%}"
        axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(range(len(GENDERS)), GENDERS)
    axes.set_yticks(range(len(RACES)), RACES)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _portions(table: Table, parts: list[tuple[str, NDArray[np.bool_]]], numbers: Mapping[str, Any]) -> Figure:
    """Densities of age over one another; below, the share of women and of each race side by side."""
    figure, (ages, shares) = new_figure(6.0, 2)
    edges = np.arange(0, MAX_AGE + 1 + _BIN, _BIN)
    names = ["female", *RACES]
    width = 0.8 / len(parts)
    for index, ((name, rows), (colour, dashes)) in enumerate(zip(parts, LINES, strict=False)):
        density, _ = np.histogram(table[AGE][rows], edges, density=True)
        ages.stairs(100 * density, edges, color=colour, linestyle=dashes, linewidth=1.6, label=name)
        part = numbers[name.removeprefix("fold ")]
        values = [100 * value for value in (part["female_share"], *part["race_shares"].values())]
        at = np.arange(len(names)) + (index - (len(parts) - 1) / 2) * width
        bars = shares.bar(at, values, 0.92 * width, color=colour, label=name)
        if len(parts) <= len(SPLITS):
            shares.bar_label(bars, [f"{value:.0f}" for value in values], fontsize=8, padding=1)
    ages.set(xlabel="age, years", ylabel="% of the images, per year", xticks=range(0, MAX_AGE + 1, 10))
    shares.set(ylabel="% of the images")
    shares.set_xticks(range(len(names)), names)
    ages.legend(frameon=False)
    return figure


def _groups(numbers: Mapping[str, Any]) -> Figure:
    figure, (axes,) = new_figure(3.2)
    by_size = {size: n for size, n in numbers["groups"]["by_size"].items() if size != "1"}
    axes.set(xlabel="images in the group", ylabel="groups")
    if not by_size:
        return _nothing(figure, axes, "Every image is alone in its group.")
    bars = axes.bar(list(by_size), list(by_size.values()), 0.6, color=GREEN)
    axes.bar_label(bars, [f"{n:,}" for n in by_size.values()], padding=2)
    axes.margins(y=0.12)
    return figure


def _conflicts(groups: Groups) -> Figure:
    figure, (axes,) = new_figure(3.2)
    spreads = groups.spreads[groups.spreads > 0]
    axes.set(xlabel="years between the youngest and the oldest label of a group", ylabel="groups")
    if not len(spreads):
        return _nothing(figure, axes, "No group carries several ages.")
    top = int(spreads.max())
    step = max(1, top // 40)
    counts, edges = np.histogram(spreads, np.arange(0.5, top + step + 0.5, step))
    axes.bar(edges[:-1], counts, step, align="edge", color=VERMILION)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    median = float(np.median(spreads))
    axes.axvline(median, color="black", linestyle="--", linewidth=1, label=f"median: {median:g} years")
    axes.legend(frameon=False)
    return figure


def _nothing(figure: Figure, axes: Axes, words: str) -> Figure:
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])
    return figure
