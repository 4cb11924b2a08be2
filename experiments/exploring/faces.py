"""Sheets of faces with what is recorded about each, as images for files and as parts of a page."""

import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Final

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from agegender.schema import AGE, FILE_NAME, GENDER, GENDERS, RACE, RACES
from experiments.exploring.numbers import Groups
from experiments.exploring.table import SPLIT, Table
from experiments.exploring.where import Where

COLUMNS: Final = 8
GROUPS: Final = 12  # shown
GROUP_COLUMNS: Final = 6  # images shown of one group
_CELL: Final = 168  # pixels across, and of a face
_LINE: Final = 15  # pixels from one line of words to the next
_CELL_HEIGHT: Final = _CELL + 4 * _LINE
_SMALL: Final = 10  # pixels high
_LARGE: Final = 13
_INK: Final = "#222222"


@dataclasses.dataclass(frozen=True)
class Row:
    """Images that belong together, by their row in the table, and a line of words about them."""

    words: str
    images: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Sheet:
    """What is drawn together: the file's name, a title, a sentence about it, rows of images and faces a line."""

    file: str
    title: str
    words: str
    rows: tuple[Row, ...]
    columns: int = COLUMNS

    @property
    def images(self) -> list[int]:
        return [image for row in self.rows for image in row.images]


def choose_sheets(table: Table, groups: Groups, wheres: Sequence[Where], count: int, seed: int) -> list[Sheet]:
    """Chooses the faces of each sheet: at random from all, from each condition, and from groups in conflict.

    Args:
        table: the labels.
        groups: of `find_groups`.
        wheres: the conditions.
        count: faces a sheet, at most.
        seed: of the choice.
    """
    chosen = choose(np.arange(len(table)), count, seed)
    sheets = [Sheet("random.png", "Faces at random", f"{len(chosen)} of {len(table):,}.", (Row("", chosen),))]
    for number, where in enumerate(wheres, 1):
        found = np.flatnonzero(where.matches(table.columns))
        chosen = choose(found, count, seed)
        words = f"{len(chosen)} of {len(found):,}." if len(found) else "No image satisfies this condition."
        rows = (Row("", chosen),) if chosen else ()
        sheets.append(Sheet(f"where_{number}.png", f"Faces where: {where.words}", words, rows))
    conflicting = tuple(conflicting_groups(table, groups, GROUPS, seed))
    words = (
        "Each line is one photograph, found several times with labels that contradict each other: the widest spreads "
        "of age, then some with both genders, at random."
        if conflicting
        else "No photograph group carries labels that contradict each other."
    )
    return [
        *sheets,
        Sheet("conflicting_groups.png", "One photograph, several labels", words, conflicting, GROUP_COLUMNS),
    ]


def choose(rows: NDArray[np.intp], count: int, seed: int) -> tuple[int, ...]:
    """Chooses `count` of the rows at random, or all if there are fewer; in their order."""
    chosen = np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False)
    return tuple(int(row) for row in np.sort(chosen))


def conflicting_groups(table: Table, groups: Groups, count: int, seed: int) -> list[Row]:
    """Chooses groups whose labels differ: the widest spreads of ages, then at random some that carry both genders.

    Half of `count` is for each; where one kind has fewer, there are fewer rows.
    """
    widest = [int(group) for group in np.argsort(-groups.spreads, kind="stable")[: count // 2] if groups.spreads[group]]
    both = np.setdiff1d(np.flatnonzero(groups.genders > 1), widest)
    chosen = [*widest, *choose(both, count - count // 2, seed)]
    return [_row(table, groups, group) for group in chosen]


def _row(table: Table, groups: Groups, group: int) -> Row:
    rows = np.flatnonzero(groups.of == group)
    ages, genders = table[AGE][rows], np.unique(table[GENDER][rows])
    age = f"{ages.min()} years" if ages.min() == ages.max() else f"{ages.min()} to {ages.max()} years"
    more = f", {len(rows) - GROUP_COLUMNS} more not shown" if len(rows) > GROUP_COLUMNS else ""
    words = f"{len(rows)} images{more}: {age}, {' and '.join(GENDERS[code] for code in genders)}"
    return Row(words, tuple(int(row) for row in rows[:GROUP_COLUMNS]))


def caption(table: Table, row: int) -> tuple[str, str, str]:
    """What is recorded about a image: file name without its endings; age and gender; race and split."""
    stem = str(table[FILE_NAME][row]).split(".")[0].strip()
    people = f"{table[AGE][row]}, {GENDERS[table[GENDER][row]]}"
    return stem, people, f"{RACES[table[RACE][row]]}, {table[SPLIT][row]}"


def draw_sheet(table: Table, images: Mapping[int, bytes], sheet: Sheet) -> Image.Image:
    """Draws the faces of a sheet with their captions; each `Row` begins a new line, under its words if it has any.

    Args:
        table: the labels.
        images: the encoded images, at least those of the sheet.
        sheet: what to draw: one face or more.
    """
    heads, cells, bottom = _lay_out(sheet)
    letters = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    small, large = (ImageFont.truetype(letters, size) for size in (_SMALL, _LARGE))
    right = max(left + _CELL for left, _, _ in cells)
    width = max([right, *(12 + int(large.getlength(words)) for _, words in heads)])
    decoded = Image.new("RGB", (width, bottom), "white")
    draw = ImageDraw.Draw(decoded)
    for top, words in heads:
        draw.text((6, top + 8), words, _INK, large)
    for left, top, image in cells:
        decoded.paste(_face(images[image], _CELL - 8), (left + 4, top + 4))
        name, people, more = caption(table, image)
        for line, (words, font) in enumerate(((people, large), (more, small), (name, small))):
            at = (left + _CELL // 2, top + _CELL + line * _LINE)
            draw.text(at, _fit(words, font, _CELL - 6), _INK, font, anchor="ma")
    return decoded


def _lay_out(sheet: Sheet) -> tuple[list[tuple[int, str]], list[tuple[int, int, int]], int]:
    """Where everything goes, in pixels: (top, words) of the rows, (left, top, image) of the faces, and the bottom."""
    heads, cells, bottom = [], [], 0
    for row in sheet.rows:
        if row.words:
            heads.append((bottom, row.words))
            bottom += 2 * _LINE
        for index, image in enumerate(row.images):
            down, across = divmod(index, sheet.columns)
            cells.append((across * _CELL, bottom + down * _CELL_HEIGHT, image))
        bottom += -(-len(row.images) // sheet.columns) * _CELL_HEIGHT
    return heads, cells, bottom


def _face(encoded: bytes, side: int) -> Image.Image:
    with Image.open(io.BytesIO(encoded)) as image:
        return image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def _fit(words: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The words, or as many letters of them as fit."""
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + "\u2026") > width:
        words = words[:-1]
    return words + "\u2026"
