"""Results: a photograph and its faces, each with predictions and notes."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from agegender.schema import GENDERS


@dataclasses.dataclass(frozen=True)
class Face:
    """One face and its predictions.

    Attributes:
        box: left, top, right and bottom of the face in the photograph, in pixels.
        age: years, 0 to 116; None if the model has no age head.
        p_female: the probability of female, 0 to 1, calibrated if the model is; None if it has no gender head.
        age_interval: years, lowest and highest, with the nominal coverage of the model's calibration; None if the
            model has no age head or no calibration.
        landmarks: x and y in pixels of the eyes, nose and ends of the mouth, as in `detection.Detection`; None for an
            aligned image.
        score: the detector's confidence that this is a face, 0 to 1; None likewise.
        note: why the prediction should not be trusted; None if there is no such reason.

    Example:

    >>> face = Face((48, 32, 147, 155), age=31.4, p_female=0.2, age_interval=(22.0, 43.5))
    >>> face.gender, face.to_dict()["age"]
    ('male', 31.4)
    """

    box: tuple[int, int, int, int]
    age: float | None
    p_female: float | None
    age_interval: tuple[float, float] | None = None
    landmarks: tuple[tuple[float, float], ...] | None = None
    score: float | None = None
    note: str | None = None

    @property
    def gender(self) -> str | None:
        """The more probable of "male" and "female"."""
        return None if self.p_female is None else GENDERS[int(self.p_female >= 0.5)]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: all attributes and the gender."""
        return {**dataclasses.asdict(self), "gender": self.gender}


class Photograph(list[Face]):
    """The faces of one photograph, from left to right: a list, empty without faces.

    Args:
        faces: of it, from left to right.

    Attributes:
        source: its path, or what else it was, in words.
        size: width and height in pixels, after turning it upright.

    Example:

    >>> face = Face((8, 8, 56, 56), age=31.4, p_female=0.2)
    >>> photograph = Photograph([face], source="party.jpg", size=(64, 48))
    >>> len(photograph), photograph[0].age, photograph.to_dict()["width"]
    (1, 31.4, 64)
    """

    def __init__(self, faces: Iterable[Face] = (), *, source: str = "", size: tuple[int, int] = (0, 0)) -> None:
        super().__init__(faces)
        self.source, self.size = source, size

    def to_dict(self) -> dict[str, Any]:
        """For JSON: "image", its source, "width" and "height" in pixels, and "faces", a dict each."""
        return {
            "image": self.source,
            "width": self.size[0],
            "height": self.size[1],
            "faces": [face.to_dict() for face in self],
        }
