"""What the page says, in its order."""

from collections.abc import Mapping, Sequence
from typing import Any

from agegender.schema import GENDERS
from experiments.exploring import page
from experiments.exploring.faces import Sheet
from experiments.exploring.table import Table

Plots = Mapping[str, tuple[bytes, str]]  # at the name of a PNG file its content and what it shows


def tell(
    split: str,
    table: Table,
    numbers: Mapping[str, Any],
    plots: Plots,
    sheets: Sequence[Sheet],
    images: Mapping[int, bytes],
) -> str:
    """Writes the page.

    Args:
        split: what was looked at.
        table: the labels.
        numbers: of `count`.
        plots: PNG files and what they show.
        sheets: of faces.
        images: the encoded images that the sheets show.

    Returns:
        The page as HTML.
    """
    decoded = {name: page.plot(content, words) for name, (content, words) in plots.items()}
    faces = {sheet.title: page.sheet(table, images, sheet) for sheet in sheets}
    *asked, conflicting = faces.items()
    every, folds = numbers["all"], {f"fold {name}": part for name, part in numbers["folds"].items()}
    opening = page.paragraph(
        f"{every['count']:,} images ({'all splits' if split == 'all' else split}): ages {every['youngest']} to "
        f"{every['oldest']}, {every['mean_age']:.1f} years on average, {every['female_share']:.1%} recorded as female."
    )
    sections = {
        **dict(asked[1:]),  # what was asked for comes first
        "Ages": decoded["ages.png"],
        "Genders and races": decoded["labels.png"] + decoded["crossing.png"] + _crossing(numbers),
        "Splits": page.portions({**numbers["splits"], "together": every}) + decoded["splits.png"],
        "Folds": page.portions({**folds, "together": every}) + decoded["folds.png"],
        "Photograph groups": _groups(numbers) + decoded["groups.png"],
        "Conflicts": _conflicts(numbers) + decoded["conflicts.png"],
        **dict([conflicting, asked[0]]),
        "Sizes": _sizes(numbers),
        "Left out when the data was built": _build(numbers["build"]),
    }
    return page.page("A look at the data", opening, sections)


def _crossing(numbers: Mapping[str, Any]) -> str:
    crossing = numbers["crossing"]
    rows = [[race, *counts.values(), sum(counts.values())] for race, counts in crossing.items()]
    columns = [sum(counts[gender] for counts in crossing.values()) for gender in GENDERS]
    return page.table(["", *GENDERS, "together"], [*rows, ["together", *columns, sum(columns)]])


def _groups(numbers: Mapping[str, Any]) -> str:
    groups = numbers["groups"]
    across = max(groups["in_several_splits"], groups["in_several_folds"])
    words = page.paragraph(
        f"Near-identical images form a group. {groups['images_not_alone']:,} images are not alone in theirs. "
        + (
            f"{groups['in_several_splits']:,} groups are in several splits and {groups['in_several_folds']:,} in "
            "several folds: what is measured on one side has leaked from the other."
            if across
            else "No group is in several splits, and none in several folds."
        )
    )
    rows = [[size, count, int(size) * count] for size, count in groups["by_size"].items()]
    total = [["together", groups["count"], numbers["all"]["count"]]]
    return words + page.table(["images in the group", "groups", "images"], rows + total)


def _conflicts(numbers: Mapping[str, Any]) -> str:
    conflicts = numbers["conflicts"]
    rows = [
        [words, conflicts[key]["images"], f"{conflicts[key]['share']:.1%}", conflicts[key]["groups"]]
        for key, words in (("age", "different ages"), ("gender", "different genders"), ("either", "either"))
    ]
    spread = conflicts["age_spread"]
    outside = (
        " Some copies lie outside of what is looked at here: the table counts their labels too, all the rest does not."
        if conflicts["age"]["groups"] > spread["groups"]
        else ""
    )
    words = (
        f"Of {spread['groups']:,} groups with different ages, the youngest and the oldest label are "
        f"{spread['median']:g} years apart in the median, {spread['largest']:,} at most."
        if spread["groups"]
        else "No group carries different ages."
    )
    return page.table(["the group carries", "images", "share", "groups"], rows) + page.paragraph(words + outside)


def _sizes(numbers: Mapping[str, Any]) -> str:
    sizes = list(numbers["sizes"].items())
    rows: list[list[object]] = [[size, count] for size, count in sizes[:12]]
    if len(sizes) > 12:
        rows.append([f"{len(sizes) - 12:,} other sizes", sum(count for _, count in sizes[12:])])
    words = page.paragraph(f"Encoded, a image takes {numbers['mean_bytes'] / 1000:.1f} kB on average.")
    return page.table(["height x width x channels", "images"], rows) + words


def _build(build: Mapping[str, Any]) -> str:
    if not build:
        return page.paragraph("The data set does not say.")
    words = f"{build['seen']:,} files were seen, {build['kept']:,} kept, {build['skipped']:,} left out."
    reasons = [[reason, count] for reason, count in build["skipped_by_reason"].items()]
    return page.paragraph(words) + (page.table(["reason", "files"], reasons) if reasons else "")
