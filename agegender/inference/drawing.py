"""Draws faces and their predictions on a photograph."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agegender.inference.results import Face

_COLOURS: Final = {"female": "#CC79A7", "male": "#56B4E9", None: "#F0E442"}  # distinct to colour-blind eyes too
_DOUBTFUL: Final = "#BBBBBB"
_SMALLEST: Final = 10.0  # pixels of a font
_CELLS: Final = 256  # along the longer side of an image, in which free places are looked for
_Box = tuple[int, int, int, int]


def describe_face(face: Face, separator: str = " ") -> str:
    """A `Face` in a few words, with a separator between age and gender.

    >>> describe_face(Face((0, 0, 9, 9), 31.4, 0.9, (22.0, 41.6)))
    '31 (22-42) female 90 %'
    """
    words = []
    if face.age is not None:
        interval = "" if face.age_interval is None else " ({:.0f}-{:.0f})".format(*face.age_interval)
        words.append(f"{face.age:.0f}{interval}")
    if face.p_female is not None:
        percent = f"{100 * max(face.p_female, 1 - face.p_female):.0f}"
        words.append(f"{face.gender} {'>99' if percent == '100' else percent} %")
    return separator.join(words)


def draw_faces(image: Image.Image, faces: Sequence[Face]) -> Image.Image:
    """Draws a box, the prediction and the interval at each face; grey where a note says not to trust them.

    A label lies beside its box, where it covers no face and no other label; in a crowd it moves to free space nearby,
    with a line to its box.

    Args:
        image: the photograph.
        faces: those to draw.

    Returns:
        A new image, mode "RGB".

    Raises:
        ValueError: if `faces` holds anything but faces.
    """
    if not all(isinstance(face, Face) for face in faces):
        raise ValueError(f"`faces` must be the faces of one photograph. Received: {faces!r}")
    drawn = image.convert("RGB")
    if drawn is image:
        drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    colours = [_DOUBTFUL if face.note else _COLOURS[face.gender] for face in faces]
    for face, colour in zip(faces, colours, strict=True):
        left, top, right, bottom = face.box
        pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=max(1, round((right - left) / 40)))
    taken = [face.box for face in faces]
    for face, colour in zip(faces, colours, strict=True):
        words = describe_face(face, "\n")
        font, width, height = _fit_font(pen, words, face.box, drawn.size)
        label = _place_label(face.box, (width, height), drawn.size, taken)
        taken.append(label)
        if not _touch(label, face.box):
            pen.line([_centre(label), (face.box[0], face.box[1])], fill=colour, width=2)
        pen.rectangle(label, fill=colour)
        pen.multiline_text((label[0] + 2, label[1] + 1), words, fill="black", font=font)
    return drawn


def _fit_font(pen: ImageDraw.ImageDraw, words: str, box: _Box, size: tuple[int, int]) -> tuple[Any, int, int]:
    """A font with which a label is as wide as the box, but never too small to read; width and height of the label."""
    wide = pen.multiline_textbbox((0, 0), words, font=ImageFont.load_default(_SMALLEST))[2]
    font = ImageFont.load_default(max(_SMALLEST, min(_SMALLEST * (box[2] - box[0]) / wide, size[1] / 12)))
    _, _, right, bottom = pen.multiline_textbbox((0, 0), words, font=font)
    return font, int(right) + 4, int(bottom) + 4


def _place_label(box: _Box, label: tuple[int, int], size: tuple[int, int], taken: Sequence[_Box]) -> _Box:
    """The free place nearest to a box; on top of it where no place is free."""
    width, height = label
    left, top, right, bottom = box
    for x, y in ((left, top - height - 1), (left, bottom + 1), (right + 1, top), (left - width - 1, top)):
        place = (x, y, x + width, y + height)
        inside = x >= 0 and y >= 0 and place[2] <= size[0] and place[3] <= size[1]
        if inside and not any(_overlap(place, other) for other in taken):
            return place
    on_top = max(0, min(left, size[0] - width)), max(0, min(top, size[1] - height))
    x, y = _find_free(label, size, taken, near=(left, top)) or on_top
    return x, y, x + width, y + height


def _find_free(
    label: tuple[int, int], size: tuple[int, int], taken: Sequence[_Box], *, near: tuple[int, int]
) -> tuple[int, int] | None:
    """The free place nearest to a point, in cells of a few pixels."""
    cell = max(1, max(size) // _CELLS)
    used = np.zeros((size[1] // cell, size[0] // cell), int)
    for left, top, right, bottom in np.maximum(taken, 0).tolist():
        used[top // cell : -(-bottom // cell), left // cell : -(-right // cell)] = 1
    sums = np.pad(used.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    columns, rows = (-(-side // cell) for side in label)
    y, x = np.nonzero(  # cells from which a label would cover no used cell
        sums[rows:, columns:] == sums[:-rows, columns:] + sums[rows:, :-columns] - sums[:-rows, :-columns]
    )
    if not len(x):
        return None
    nearest = np.argmin(np.hypot(x * cell - near[0], y * cell - near[1]))
    return int(x[nearest]) * cell, int(y[nearest]) * cell


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _touch(one: _Box, other: _Box) -> bool:
    return _overlap((one[0] - 2, one[1] - 2, one[2] + 2, one[3] + 2), other)


def _centre(box: _Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
