"""A photograph with what was guessed of its faces drawn on it."""

from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from agegender.inference.results import Face

_COLOURS: Final = {"female": "#CC79A7", "male": "#56B4E9", None: "#F0E442"}  # distinct to colour-blind eyes too
_DOUBTFUL: Final = "#BBBBBB"
_SMALLEST: Final = 10.0  # pixels of a font


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
        words.append(f"{face.gender} {max(face.p_female, 1 - face.p_female):.0%}".replace("%", " %"))
    return separator.join(words)


def draw_faces(image: Image.Image, faces: Sequence[Face]) -> Image.Image:
    """Draws a box, the guesses and the interval at each face; grey where a note says not to trust them.

    Args:
        image: the photograph.
        faces: those to draw.

    Returns:
        A new image, mode "RGB".
    """
    drawn = image.convert("RGB")
    if drawn is image:
        drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    for face in faces:
        colour = _DOUBTFUL if face.note else _COLOURS[face.gender]
        left, top, right, bottom = face.box
        pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=max(1, round((right - left) / 40)))
        _label(pen, describe_face(face, "\n"), face.box, drawn.size, colour)
    return drawn


def _label(
    pen: ImageDraw.ImageDraw, words: str, box: tuple[int, int, int, int], size: tuple[int, int], colour: str
) -> None:
    """Above the box, below it or, without room, in it; as wide as the box, but never too small to read."""
    font = ImageFont.load_default(_SMALLEST)
    wide = pen.multiline_textbbox((0, 0), words, font=font)[2]
    font = ImageFont.load_default(max(_SMALLEST, min(_SMALLEST * (box[2] - box[0]) / wide, size[1] / 12)))
    _, _, right, bottom = pen.multiline_textbbox((0, 0), words, font=font)
    width, height = right + 4, bottom + 4
    x = max(0, min(box[0], size[0] - width))
    below = box[3] if box[3] + height <= size[1] else box[1]
    y = box[1] - height if box[1] >= height else below
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    pen.multiline_text((x + 2, y + 1), words, fill="black", font=font)
