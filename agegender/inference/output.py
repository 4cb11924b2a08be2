"""Answers of a `Predictor` as text: words, one JSON array, or a CSV table, written while they come."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TextIO

from agegender.inference.drawing import describe_face
from agegender.inference.images import ImageError
from agegender.inference.results import Photograph


def printable(text: str) -> str:
    r"""A name for a line of text: what would break the line, or is no text, is escaped.

    >>> printable("a\nb")
    'a\\nb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


Answers = Iterable[Photograph | ImageError]
COLUMNS: Final = (
    *("image", "face", "left", "top", "right", "bottom", "age", "age_low", "age_high", "gender", "p_female"),
    *("score", "note", "error"),
)


def write_words(answers: Answers, out: TextIO) -> None:
    """A line a photograph and a line a face; nothing for images that could not be used."""
    for answer in answers:
        if isinstance(answer, ImageError):
            continue
        count = f"{len(answer) or 'no'} {'face' if len(answer) == 1 else 'faces'}"
        print(f"{printable(answer.source)}: {count}", file=out, flush=True)
        for face in answer:
            note = f"  ({face.note})" if face.note else ""
            print(f"  {','.join(map(str, face.box))}  {describe_face(face)}{note}", file=out, flush=True)


def write_json(answers: Answers, out: TextIO) -> None:
    """One array, an object a line, each written when it is known; it is closed too where the answers break off."""
    separator = "["
    try:
        for answer in answers:
            # In ASCII: the name of a file may be no text in any encoding.
            print(f"{separator}{json.dumps(answer.to_dict())}", end="", file=out, flush=True)
            separator = ",\n"
    finally:
        print("]" if separator != "[" else "[]", file=out, flush=True)


def write_csv(answers: Answers, out: TextIO) -> None:
    """A row a face; one without a face for a photograph that has none, or that could not be used."""
    table = csv.DictWriter(out, COLUMNS)
    table.writeheader()
    for answer in answers:
        image = _escape_formula(printable(answer.source))
        if isinstance(answer, ImageError):
            table.writerow({"image": image, "error": answer.reason})
            out.flush()
            continue
        if not answer:
            table.writerow({"image": image})
        for number, face in enumerate(answer, 1):
            values: dict[str, Any] = dict(zip(("left", "top", "right", "bottom"), face.box, strict=True))
            low, high = face.age_interval or (None, None)
            values |= {"age": face.age, "age_low": low, "age_high": high, "gender": face.gender}
            values |= {"p_female": face.p_female, "score": face.score, "note": face.note}
            table.writerow({"image": image, "face": number, **values})
        out.flush()


def _escape_formula(text: str) -> str:
    """Text that a spreadsheet does not run as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


WRITERS: Final[Mapping[str, Callable[[Answers, TextIO], None]]] = {
    "words": write_words,
    "json": write_json,
    "csv": write_csv,
}
