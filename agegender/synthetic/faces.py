"""Draws synthetic faces that depend on age, gender and race, as a stand-in for UTKFace in tests and demonstrations.

As in people, the labels show on average and with overlap: small children hardly show their gender, some women have
short hair, some sixty-year-olds look fifty. Eyes, nose and mouth are about where UTKFace's aligned crops have them.
`python -m agegender.synthetic --out=DIR` writes a folder of faces.
"""

import argparse
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agegender import schema
from agegender.synthetic.portrait import render_face

MIN_SIZE: Final = 16
MAX_SIZE: Final = 1024
MAX_SEED: Final = 2**63 - 1
RACE_CYCLE: Final = (0, 1, 2, 3, 4, 0, 1, 3, 0, 2)  # any ten in a row have every race
FIRST_SHOT: Final = datetime(2017, 1, 9, 8, 30)


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"`{name}` must be in [{low}, {high}]. Received: {name}={value}")


def draw_face(age: int, gender: int, race: int, *, seed: int, size: int = schema.IMAGE_SIZE) -> NDArray[np.uint8]:
    """Draws one face.

    The image depends on the arguments alone; the same seed at another size is the same person.

    Args:
        age: years, in [0, 116].
        gender: 0 male, 1 female.
        race: 0 White, 1 Black, 2 Asian, 3 Indian, 4 Others.
        seed: selects a person of that age, gender and race; 0 or more.
        size: pixels a side, in [16, 1024].

    Returns:
        uint8 RGB [size, size, 3].

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> draw_face(26, 1, 2, seed=0, size=64).shape
        (64, 64, 3)
    """
    _check_range("age", age, schema.MIN_AGE, schema.MAX_AGE)
    _check_range("gender", gender, 0, len(schema.GENDERS) - 1)
    _check_range("race", race, 0, len(schema.RACES) - 1)
    _check_range("seed", seed, 0, MAX_SEED)
    _check_range("size", size, MIN_SIZE, MAX_SIZE)
    return render_face(age, gender, race, seed, size)


def draw_people(people: Sequence[tuple[int, int, int, int]], *, size: int = 120) -> NDArray[np.uint8]:
    """Draws faces side by side, with the margin that a face detector needs.

    Args:
        people: age, gender, race and seed of each, as for `draw_face`.
        size: of a face, pixels a side, 1 or more.

    Returns:
        uint8 RGB [size + 2 gap, gap + n (size + gap), 3], grey around the faces; the gap is a third of the size.

    >>> draw_people([(23, 1, 4, 39), (47, 0, 3, 36)]).shape
    (200, 360, 3)
    """
    gap = size // 3
    image = np.full((size + 2 * gap, gap + len(people) * (size + gap), 3), 128, "uint8")
    for number, (age, gender, race, seed) in enumerate(people):
        left = gap + number * (size + gap)
        image[gap : gap + size, left : left + size] = draw_face(age, gender, race, seed=seed, size=size)
    return image


def _age_frequencies() -> NDArray[np.float64]:
    """Returns the frequency of each age in 1..100, about as in UTKFace: many infants, a peak at 26, few old people."""
    age = np.arange(1, 101)
    infants = 6.5 * np.exp(-(age - 1) / 1.8) + 0.7
    young = 3.6 * np.exp(-(((age - 26) / 5) ** 2)) + 8.5 * (age == 26)
    grown = 2.6 * np.exp(-(((age - 34) / 11) ** 2)) + 0.9 * np.exp(-(((age - 54) / 11) ** 2))
    frequencies = (infants + young + grown) / (1 + np.exp((age - 88) / 4))
    normalised: NDArray[np.float64] = frequencies / frequencies.sum()
    return normalised


def write_faces(folder: str | Path, count: int, *, size: int = schema.IMAGE_SIZE, seed: int = 0) -> list[Path]:
    """Writes faces as JPEG files, named as in UTKFace.

    A file depends on its index, the size and the seed alone: a larger count only adds files. Ages are distributed
    roughly as in UTKFace, genders are balanced, and any ten files in a row have every race.

    Args:
        folder: created if missing. Files of the same name are overwritten.
        count: number of faces, 1 or more.
        size: pixels a side, in [16, 1024].
        seed: 0 or more.

    Returns:
        The paths `[age]_[gender]_[race]_[yyyymmddHHMMSSmmm].jpg.chip.jpg`, in the order of their index.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> paths = write_faces("faces", 3, size=64, seed=1)
        >>> [path.name.count("_") for path in paths]
        [3, 3, 3]
    """
    if count < 1:
        raise ValueError(f"`count` must be 1 or more. Received: count={count}")
    _check_range("size", size, MIN_SIZE, MAX_SIZE)
    _check_range("seed", seed, 0, MAX_SEED)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [_write_face(folder, index, size, seed) for index in range(count)]


def _write_face(folder: Path, index: int, size: int, seed: int) -> Path:
    rng = np.random.default_rng([seed, index])
    age = int(rng.choice(np.arange(1, 101), p=_age_frequencies()))
    gender, race = (index + index // 10) % 2, RACE_CYCLE[index % 10]
    # Steps of 97,531 ms exceed the 60,000 ms of scatter, so no two files have one time.
    shot = FIRST_SHOT + timedelta(milliseconds=97_531 * index + int(rng.integers(60_000)))
    path = folder / f"{age}_{gender}_{race}_{shot:%Y%m%d%H%M%S}{shot.microsecond // 1000:03d}.jpg.chip.jpg"
    face = draw_face(age, gender, race, seed=int(rng.integers(2**31)), size=size)
    Image.fromarray(face).save(path, "JPEG", quality=int(rng.integers(60, 96)))
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes a folder of faces from the command line. `arguments` are those of the shell by default."""
    parser = argparse.ArgumentParser(
        prog="python -m agegender.synthetic",
        description="Draw synthetic faces that depend on age, gender and race, named as in UTKFace.",
        epilog="Example: python -m agegender.synthetic --out=/tmp/faces --count=1500 --size=64",
    )
    parser.add_argument("--out", required=True, type=Path, help="output folder; created if missing")
    parser.add_argument("--count", type=int, default=100, help="number of faces, 1 or more (default: %(default)s)")
    parser.add_argument("--size", type=int, default=200, help="pixels a side, 16 to 1024 (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed writes the same bytes (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        paths = write_faces(options.out, options.count, size=options.size, seed=options.seed)
    except ValueError as error:
        parser.error(str(error))
    print(f"Wrote {len(paths)} faces to {options.out}")
