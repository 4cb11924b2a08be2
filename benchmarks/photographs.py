r"""What finding and cutting faces costs in accuracy: aligned images, put into photographs and found there again.

    python -m benchmarks.photographs --workdir=... --data_dir=... --split=test

Each photograph shows six images of the split, at random places, sizes and tilts. The errors on the faces that are cut
out of it again are compared with those on the same images as they were; in pairs, with 95 % intervals.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from PIL import Image

from agegender.environment import set_environment

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run, or a .keras file.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_SPLIT = flags.DEFINE_string("split", "test", "Of which images.")
_IMAGES = flags.DEFINE_integer("images", 600, "How many of them, six a photograph.", lower_bound=6)
_SMALLEST = flags.DEFINE_integer("smallest", 60, "Pixels a side of the smallest; the face in it is 0.8 of that.")
_LARGEST = flags.DEFINE_integer("largest", 300, "Pixels a side of the largest.")
_TILT = flags.DEFINE_float("tilt", 20.0, "Degrees, at most, either way.")

COLUMNS, ROWS = 3, 2


class Composed(NamedTuple):
    """A photograph, and the centre and half the side of each image in it."""

    pixels: np.ndarray
    places: np.ndarray


def compose(images: list[np.ndarray], random: np.random.Generator, sides: tuple[int, int], tilt: float) -> Composed:
    """Puts images into the cells of one photograph."""
    cell = round(1.45 * sides[1])  # the largest image fits when rotated
    photograph = Image.new("RGB", (COLUMNS * cell, ROWS * cell), (120, 120, 110))
    places = []
    for number, pixels in enumerate(images):
        side = int(np.exp(random.uniform(*np.log(sides))))
        image = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS).convert("RGBA")
        image = image.rotate(random.uniform(-tilt, tilt), Image.Resampling.BICUBIC, expand=True)
        left, top = (int(random.integers(0, cell - image.width + 1)) for _ in "xy")
        corner = number % COLUMNS * cell + left, number // COLUMNS * cell + top
        photograph.paste(image, corner, image)
        places.append((corner[0] + image.width / 2, corner[1] + image.height / 2, side / 2))
    return Composed(np.asarray(photograph), np.array(places))


def matches(faces: Any, places: np.ndarray) -> Iterator[Any]:
    """For each place the face whose landmarks are nearest, within a quarter of the side; None if none is that near."""
    centres = [np.mean(face.landmarks, axis=0) for face in faces]
    for x, y, half in places:
        near = [float(np.hypot(*(centre - (x, y)))) for centre in centres]
        best = int(np.argmin(near)) if near else -1
        yield faces[best] if near and near[best] < half / 2 else None


def main(_argv: list[str]) -> None:
    set_environment()
    import agegender as ag
    from agegender.inference.alignment import CROP, TEMPLATE, align_face

    predictor, random = ag.Predictor(_WORKDIR.value), np.random.default_rng(0)
    batches = ag.load_utkface(_SPLIT.value, batch_size=1, image_size=CROP, data_dir=_DATA_DIR.value)
    rows = [(np.asarray(p[0]), float(t["age"][0, 0]), float(t["gender"][0, 0]))
            for p, t in itertools.islice(batches, _IMAGES.value)]  # fmt: skip
    originals: list[Any] = list(predictor([row[0] for row in rows], aligned=True))
    pairs: list[list[list[float]]] = []
    eyes: list[np.ndarray] = []
    lost: list[int] = []
    extra = 0
    for start in range(0, len(rows) - COLUMNS * ROWS + 1, COLUMNS * ROWS):
        part = slice(start, start + COLUMNS * ROWS)
        composed = compose([row[0] for row in rows[part]], random, (_SMALLEST.value, _LARGEST.value), _TILT.value)
        faces = predictor(composed.pixels)
        found = list(matches(faces, composed.places))
        extra += len(faces) - sum(face is not None for face in found)
        for (_, age, gender), original, face, place in zip(
            rows[part], originals[part], found, composed.places, strict=True
        ):
            if face is None:
                lost.append(round(2 * place[2]))
                continue
            pairs.append([[abs(each.age - age), (each.p_female >= 0.5) != gender] for each in (original[0], face)])
            recut = predictor.detector(np.asarray(align_face(Image.fromarray(composed.pixels), face.landmarks)))
            eyes += [np.linalg.norm(np.subtract(each.landmarks[:2], TEMPLATE[:2]), axis=1) for each in recut[:1]]
    print(f"{len(pairs)} of {len(rows)} faces found, {extra} others; sides of those not found: {sorted(lost)}")
    print(f"eyes of the cut faces, median from the template: {np.median(eyes, axis=0).round(1)} px of {CROP}")
    _compare(*np.array(pairs, "float64").swapaxes(0, 1))


def _compare(aligned: np.ndarray, recut: np.ndarray) -> None:
    from agegender.evaluation.metrics import resample

    weights = resample(range(len(recut)))
    for name, before, after in zip(("age MAE, years", "gender error"), aligned.T, recut.T, strict=True):
        low, high = np.percentile((weights @ after) / (weights @ before), [2.5, 97.5])
        print(f"{name}: aligned {before.mean():.3f}, cut again {after.mean():.3f}, "
              f"ratio {after.mean() / before.mean():.3f} ({low:.3f} to {high:.3f})")  # fmt: skip


if __name__ == "__main__":
    app.run(main)
