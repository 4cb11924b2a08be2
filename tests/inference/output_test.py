"""The answers as words, JSON and CSV, character by character."""

import io
import json
from collections.abc import Iterator

import pytest

from agegender.inference import output
from agegender.inference.images import ImageError
from agegender.inference.results import Face, Photograph

EYES = ((1.0, 2.0), (3.0, 2.0), (2.0, 3.0), (1.0, 4.0), (3.0, 4.0))
ANSWERS = [
    Photograph(
        [
            Face((1, 2, 31, 42), 31.4, 0.75, (22.0, 41.6), EYES, 0.9, "small: 30 pixels, below 40"),
            Face((50, 2, 90, 62), 7.0, None),
        ],
        source="two\nlines.png",
        size=(100, 80),
    ),
    Photograph(source="wall.png", size=(80, 60)),
    ImageError("text.jpg", "is empty"),
    Photograph([Face((0, 0, 9, 9), None, 0.2)], source="=cmd.jpg", size=(9, 9)),
    ImageError("\x1b[2J.jpg", "is empty"),
]


def write(form: str) -> str:
    out = io.StringIO(newline="")
    output.WRITERS[form](ANSWERS, out)
    return out.getvalue()


def test_words() -> None:
    assert write("words").splitlines() == [
        r"two\nlines.png: 2 faces",
        "  1,2,31,42  31 (22-42) female 75 %  (small: 30 pixels, below 40)",
        "  50,2,90,62  7",
        "wall.png: no faces",
        "=cmd.jpg: 1 face",
        "  0,0,9,9  male 80 %",
    ]


def test_csv_is_printable_and_runs_no_formula() -> None:
    assert write("csv").split("\r\n") == [
        "image,face,left,top,right,bottom,age,age_low,age_high,gender,p_female,score,note,error",
        r'two\nlines.png,1,1,2,31,42,31.4,22.0,41.6,female,0.75,0.9,"small: 30 pixels, below 40",',
        r"two\nlines.png,2,50,2,90,62,7.0,,,,,,,",
        "wall.png,,,,,,,,,,,,,",
        "text.jpg,,,,,,,,,,,,,is empty",
        "'=cmd.jpg,1,0,0,9,9,,,,male,0.2,,,",
        r"\x1b[2J.jpg,,,,,,,,,,,,,is empty",
        "",
    ]


def test_json_has_every_field() -> None:
    first, wall, text, *_ = json.loads(write("json"))
    assert first == {
        **{"image": "two\nlines.png", "width": 100, "height": 80},
        "faces": [
            {
                **{"box": [1, 2, 31, 42], "age": 31.4, "p_female": 0.75, "age_interval": [22.0, 41.6]},
                **{"landmarks": [list(place) for place in EYES], "score": 0.9, "gender": "female"},
                "note": "small: 30 pixels, below 40",
            },
            {
                **{"box": [50, 2, 90, 62], "age": 7.0, "p_female": None, "age_interval": None},
                **{"landmarks": None, "score": None, "note": None, "gender": None},
            },
        ],
    }
    assert wall == {"image": "wall.png", "width": 80, "height": 60, "faces": []}
    assert text == {"image": "text.jpg", "error": "is empty"}


def test_array_that_breaks_off_is_closed() -> None:
    def answer() -> Iterator[Photograph]:
        yield Photograph(source="one.jpg")
        raise KeyboardInterrupt

    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        output.write_json(answer(), out)
    assert len(json.loads(out.getvalue())) == 1
    output.write_json([], empty := io.StringIO())
    assert empty.getvalue() == "[]\n"
