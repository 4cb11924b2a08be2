"""A image as the page sends it, and the answer as the page shows it."""

import base64
import binascii
import html
import io
from typing import Final

from PIL import Image

from agegender.demo.guard import MAX_BYTES
from agegender.inference.images import ImageError, read_image
from agegender.inference.predictor import Predictor
from agegender.inference.results import Face, Photograph

_SHOWN: Final = 1600  # pixels, the longer side of the photograph that is shown
_NONE: Final = "-"
_NO_FACE: Final = (
    "No face was found. It should look at the camera, upright, and be 20 pixels wide or more. If the image is one "
    "face already, cut as UTKFace cuts them, say so in the box above."
)
_COLUMNS: Final = ("age", "interval", "gender", "probability", "detection", "note")


def decode(image: str | None) -> bytes:
    """The bytes of a image's file.

    Args:
        image: them as base64, alone or behind the head of a data URL, `data:image/jpeg;base64,`.

    Raises:
        ImageError: if there is none, it is no base64, or it is of more than 20 MB.

    >>> decode("data:image/png;base64,iVBORw0KGgo=")[1:4]
    b'PNG'
    """
    if not image:
        raise ImageError("image", "is missing")
    if not isinstance(image, str):
        raise ImageError("image", "must be the bytes of a file as base64")
    text = image.partition(",")[2] if image.startswith("data:") else image
    if len(text) * 3 // 4 > MAX_BYTES:
        raise ImageError("image", f"is too large. The limit is {MAX_BYTES // 1_000_000} MB")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)  # `base64 FILE` breaks its lines
    except (binascii.Error, ValueError):
        raise ImageError("image", "must be the bytes of a file as base64") from None
    if not data:
        raise ImageError("image", "is an empty file")
    return data


def data_url(image: Image.Image) -> str:
    """An image as an address that holds all of it: a JPEG as base64."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def answer(predictor: Predictor, image: str | None, *, aligned: bool = False) -> str:
    """The answer to one image, as HTML: the photograph with its faces marked and a table of them, or what is wrong.

    Args:
        predictor: who guesses.
        image: as `decode` takes it.
        aligned: whether it is one face, cut as UTKFace cuts them.

    Returns:
        HTML without scripts, which names no address but those of its own images.
    """
    try:
        decoded = read_image(decode(image))
        faces = predictor(decoded, aligned=aligned)
    except ImageError as error:
        return _trouble(f"This image cannot be used: it {html.escape(error.reason)}.")
    except ValueError as error:  # about `aligned`, which is not from the page then
        return _trouble(html.escape(str(error)))
    shown = predictor.draw(decoded, faces)
    shown.thumbnail((_SHOWN, _SHOWN))
    words = _table(faces, _promise(predictor)) if faces else _trouble(_NO_FACE)
    return f'<img class="photograph" src="{data_url(shown)}" alt="{_count(faces)}, marked">\n{words}'


def _trouble(words: str) -> str:
    return f'<p class="trouble" role="alert">{words}</p>'


def _count(faces: Photograph) -> str:
    return {0: "no face", 1: "one face"}.get(len(faces), f"{len(faces)} faces")


def _promise(predictor: Predictor) -> str:
    calibration = predictor.calibration
    if calibration is None or calibration.ages is None:
        return "This model has not been calibrated: it gives no intervals, and its probabilities may be too sure."
    return (
        f"The interval holds the recorded age {calibration.coverage:.0%} of the time".replace("%", " %")
        + ", on images like those of UTKFace."
    )


def _table(faces: Photograph, promise: str) -> str:
    heads = "".join(f'<th scope="col">{column}</th>' for column in _COLUMNS)
    rows = "\n".join(f"<tr>{_row(face)}</tr>" for face in faces)
    order = ", from left to right" if len(faces) > 1 else ""
    return (
        f'<table class="faces"><caption>{_count(faces).capitalize()}{order}.</caption>'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table>\n<p>{promise}</p>"
    )


def _row(face: Face) -> str:
    # The label is what a telephone shows instead of the table's head.
    cells = zip(_COLUMNS, _cells(face), strict=True)
    return "".join(f'<td data-label="{column}">{cell}</td>' for column, cell in cells)


def _cells(face: Face) -> list[str]:
    sure = None if face.p_female is None else max(face.p_female, 1 - face.p_female)
    return [
        _NONE if face.age is None else f"{face.age:.0f}",
        _NONE if face.age_interval is None else "{:.0f}-{:.0f}".format(*face.age_interval),
        face.gender or _NONE,
        _NONE if sure is None else f"{100 * sure:.0f} %",
        _NONE if face.score is None else f"{face.score:.2f}",
        html.escape(face.note or _NONE),
    ]
