"""Reads the labels of an image from its file name.

UTKFace has no table of labels, only names: `[age]_[gender]_[race]_[timestamp].jpg`, or `.jpg.chip.jpg` once aligned and
cropped. An image whose name lacks one of the four is skipped.
"""

import re
from typing import Final, NamedTuple

SPLITS: Final = ("train", "validation", "test")
GENDERS: Final = ("male", "female")
RACES: Final = ("White", "Black", "Asian", "Indian", "Others")
MIN_AGE: Final = 0
MAX_AGE: Final = 116

# Some images of the published set have a blank before the first "jpg", or no full stop:
# `24_0_1_20170116220224657 .jpg.chip.jpg`, `55_0_0_20170116232725357jpg.chip.jpg`. Their labels are complete.
_JPEG_NAME: Final = re.compile(r"(?P<stem>.*?) ?\.?jpe?g(\.chip\.jpe?g)?", re.IGNORECASE | re.DOTALL)
_STEM: Final = re.compile(r"([0-9]{1,9})_([0-9]{1,9})_([0-9]{1,9})_([0-9]+)")  # Python reads no number of 5,000 digits


class Skipped(Exception):
    """A file that cannot become an example. The message is the reason, the same for all such files."""


class Labels(NamedTuple):
    """Age in years, indices of gender and race, and the time of collection as written."""

    age: int
    gender: int
    race: int
    timestamp: str

    @property
    def stem(self) -> str:
        """The name without its extensions."""
        return f"{self.age}_{self.gender}_{self.race}_{self.timestamp}"


def parse_name(name: str) -> Labels:
    """Parses the labels in a file name.

    A blank before the extension and a missing full stop before "jpg" are accepted: both occur in the published set.

    Args:
        name: the file's name without its folders.

    Returns:
        Its labels: age 0 to 116 years, gender 0 or 1, race 0 to 4, timestamp of digits.

    Raises:
        Skipped: if the name is not that of a JPEG image with all four labels.

    >>> parse_name("26_1_2_20170116174525125.jpg.chip.jpg")
    Labels(age=26, gender=1, race=2, timestamp='20170116174525125')
    """
    if name.startswith("."):
        raise Skipped("a hidden file")
    jpeg_name = _JPEG_NAME.fullmatch(name)
    if jpeg_name is None:
        raise Skipped("not named .jpg")
    stem = _STEM.fullmatch(jpeg_name["stem"])
    if stem is None:
        raise Skipped("the name is not [age]_[gender]_[race]_[timestamp]")
    age, gender, race = (int(field) for field in stem.groups()[:3])
    _check_codes(age, gender, race)
    return Labels(age, gender, race, stem[4])


def _check_codes(age: int, gender: int, race: int) -> None:
    if not MIN_AGE <= age <= MAX_AGE:
        raise Skipped(f"the age is not in {MIN_AGE} to {MAX_AGE}")
    if gender >= len(GENDERS):
        raise Skipped(f"the gender is not in 0 to {len(GENDERS) - 1}")
    if race >= len(RACES):
        raise Skipped(f"the race is not in 0 to {len(RACES) - 1}")
