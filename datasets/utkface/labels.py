"""The labels of a image, read from its file name.

UTKFace has no table of labels: `[age]_[gender]_[race]_[timestamp].jpg`, or `.jpg.chip.jpg` once aligned and cropped, is
all there is. A name that does not say all four is never guessed at; the image is skipped and the reason is told.
"""

import re
from typing import Final, NamedTuple

SPLITS: Final = ("train", "validation", "test")
GENDERS: Final = ("male", "female")
RACES: Final = ("White", "Black", "Asian", "Indian", "Others")
MIN_AGE: Final = 0
MAX_AGE: Final = 116

# Some images of the published set have a blank before, or no full stop in front of, the first "jpg":
# `24_0_1_20170116220224657 .jpg.chip.jpg`, `55_0_0_20170116232725357jpg.chip.jpg`. Their labels are complete.
_JPEG_NAME: Final = re.compile(r"(?P<stem>.*?) ?\.?jpe?g(\.chip\.jpe?g)?", re.IGNORECASE | re.DOTALL)
_STEM: Final = re.compile(r"([0-9]{1,9})_([0-9]{1,9})_([0-9]{1,9})_([0-9]+)")  # Python reads no number of 5,000 digits


class Skipped(Exception):
    """A file that cannot become an example; the message is the reason, worded alike for every such file."""


class Labels(NamedTuple):
    """What a file name says: age in years, the codes of gender and race, and the time of collection as written."""

    age: int
    gender: int
    race: int
    timestamp: str

    @property
    def stem(self) -> str:
        """The name without its extensions: the same in whichever form a image is handed around."""
        return f"{self.age}_{self.gender}_{self.race}_{self.timestamp}"


def parse_name(name: str) -> Labels:
    """Returns the labels that a file name carries.

    A blank before the extension and a missing full stop before "jpg" are forgiven, for both occur in the published set
    beside complete labels.

    Args:
        name: the file's name without its folders.

    Returns:
        Its labels: age 0 to 116 years, gender 0 or 1, race 0 to 4, timestamp of digits.

    Raises:
        Skipped: if the name is not that of a JPEG image or does not carry all four labels.

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
