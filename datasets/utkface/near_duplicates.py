"""Finds images of the same photograph, also if recompressed, resized, mirrored or slightly cropped.

From coarse to fine, without comparing all pairs:

1. Each image becomes a grey thumbnail of 32 x 32 pixels.
2. Its lowest frequencies, of unit length, are projected to 16 numbers that a slight crop hardly changes (a linear
   discriminant analysis of cropped faces in `projection.csv`; `experiments/near_duplicates.py` fits it).
3. Locality-sensitive hashing (Datar et al., SCG 2004) finds candidates: pairs that are close there, one of the two
   mirrored or not.
4. A candidate is a match if the thumbnails correlate at 16 x 16 pixels, or at 32 x 32 after one is registered on the
   other by shift and scale (Lucas and Kanade, IJCAI 1981).

Correlation is Pearson's, so brightness and contrast do not count. README.md explains the thresholds.
"""

import functools
import hashlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Floats = NDArray[np.floating]  # float32 throughout
Pairs = NDArray[np.intp]  # [pairs, 2], indices, the smaller first

SIDE: Final = 32  # pixels of a thumbnail
MIN_CORRELATION: Final = 0.975  # correlation at 16 x 16
MIN_REGISTERED: Final = 0.988  # correlation at 32 x 32
RADIUS: Final = 6.0  # in the projection; its unit is the change that cropping by 4 % makes
_TABLES, _LEADING, _AXES, _CELL = 16, 14, 8, 5.0  # of the hashing: random grids, each over 8 of the 14 leading axes
_MAX_CELL: Final = 256  # images in a cell that are all compared; of more, each only with the next ones
_MIN_COARSE: Final = 0.97  # registered correlation at 16 x 16; lower ones never pass at 32 x 32
_BLUR: Final = 0.6  # pixels; hides differences of resampling
_FREQUENCIES: Final = 8  # in each direction
_MIN_CONTRAST: Final = 1.0  # standard deviation in grey levels; flatter thumbnails are not compared
_CHUNK: Final = 512  # pairs or images at a time: memory does not grow with their number
_STEPS: Final = 3  # of registration
_MIN_SCALE, _MAX_SCALE, _MAX_SHIFT = 0.86, 1.14, 0.08  # of registration; shift in sides


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the grey thumbnail of an RGB image: uint8 [height, width, 3] to [32, 32], each pixel a mean."""
    grey = Image.fromarray(image).convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))


def find_matches(thumbnails: NDArray[np.uint8]) -> Pairs:
    """Returns pairs of images of the same photograph.

    Args:
        thumbnails: uint8 [images, 32, 32], of `thumbnail`.

    Returns:
        Enough pairs to connect each group; images with equal thumbnails are connected to the first only. Time is
        nearly linear: a tenth of a build's time for 20,000 images, a third for 200,000.
    """
    first_with: dict[bytes, int] = {}
    last = [first_with.setdefault(_digest(each), index) for index, each in enumerate(thumbnails)]
    copies = np.array([(first, index) for index, first in enumerate(last) if first != index], np.intp).reshape(-1, 2)
    distinct = np.array([index for index in first_with.values() if thumbnails[index].std() >= _MIN_CONTRAST], np.intp)
    return np.concatenate([copies, np.sort(_match_pairs(thumbnails, distinct), axis=1)])


def _digest(thumbnail: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(thumbnail.tobytes(), digest_size=16).digest()


def _match_pairs(thumbnails: NDArray[np.uint8], distinct: NDArray[np.intp]) -> Pairs:
    """Returns the pairs of the images at `distinct` that pass one of the two comparisons."""
    if len(distinct) < 2:
        return np.empty((0, 2), np.intp)
    pairs, mirrored = find_candidates(thumbnails, distinct)
    passed = np.zeros(len(pairs), bool)
    for chunk in range(0, len(pairs), _CHUNK):
        part = slice(chunk, chunk + _CHUNK)
        first, second = thumbnails[pairs[part, 0]], thumbnails[pairs[part, 1]]
        first = np.where(mirrored[part, None, None], first[:, :, ::-1], first)
        passed[part] = _is_match(first.astype(np.float32), second.astype(np.float32))
    return pairs[passed]


def find_candidates(thumbnails: NDArray[np.uint8], among: NDArray[np.intp]) -> tuple[Pairs, NDArray[np.bool_]]:
    """Returns pairs of images that are close in the projection, and whether the first has to be mirrored."""
    count = len(among)
    points = np.empty((2 * count, len(projection())), np.float32)  # those of the mirrored images after the others
    for chunk in range(0, count, _CHUNK):
        waves = spectrum(thumbnails[among[chunk : chunk + _CHUNK]])
        points[chunk : chunk + len(waves)] = waves @ projection().T
        points[count + chunk : count + chunk + len(waves)] = waves * MIRROR @ projection().T
    random = np.random.default_rng(0)
    found = np.empty(0, np.intp)
    for _ in range(_TABLES):
        first, second = _pairs_in_cells(points, count, random).T
        found = np.union1d(found, first * 2 * count + second)
    first, second = np.divmod(found, 2 * count)
    return among[np.stack([first, second % count], 1)], second >= count


def _pairs_in_cells(points: Floats, count: int, random: np.random.Generator) -> Pairs:
    """Returns the close pairs in the cells of a random grid over some of the leading axes."""
    axes = random.choice(_LEADING, _AXES, replace=False)
    key = np.zeros(len(points), np.int64)
    for axis, offset in zip(axes, random.random(_AXES, np.float32), strict=True):
        cell = np.floor(points[:, axis] / _CELL + offset)
        key = (key << 6) + np.clip(cell + 32, 0, 63).astype(np.int64)
    order = np.argsort(key, kind="stable")
    key = key[order]
    left = np.arange(len(key) - 1)
    found = []
    for step in range(1, min(_MAX_CELL, len(key))):
        left = left[: np.searchsorted(left, len(key) - step)]
        left = left[key[left + step] == key[left]]
        if not len(left):
            break
        first, second = np.sort([order[left], order[left + step]], axis=0)
        wanted = (first < count) & (first < second % count)  # both upright, or the second mirrored; each pair once
        first, second = first[wanted], second[wanted]
        close = ((points[first] - points[second]) ** 2).sum(1) <= RADIUS**2
        found.append(np.stack([first[close], second[close]], 1))
    return np.concatenate(found) if found else np.empty((0, 2), np.intp)


def spectrum(thumbnails: NDArray[np.uint8]) -> Floats:
    """Returns the 63 lowest frequencies (DCT-II) of thumbnails [images, 32, 32], without their mean, of length 1."""
    waves = _cosines()
    frequencies = waves @ thumbnails.astype(np.float32) @ waves.T
    frequencies = frequencies.reshape(len(thumbnails), -1)[:, 1:]
    return frequencies / np.maximum(np.linalg.norm(frequencies, axis=1, keepdims=True), 1e-6)


@functools.cache
def _cosines() -> Floats:
    at, frequency = np.arange(SIDE) + 0.5, np.arange(_FREQUENCIES)[:, None]
    waves = np.cos(np.pi * frequency * at / SIDE)
    return (waves / np.linalg.norm(waves, axis=1, keepdims=True)).astype(np.float32)


MIRROR: Final = np.tile([1, -1], _FREQUENCIES**2 // 2)[1:].astype(np.float32)  # odd waves change sign


@functools.cache
def projection() -> Floats:
    """Returns the 16 rows of 63 numbers."""
    return np.loadtxt(Path(__file__).with_name("projection.csv"), np.float32, delimiter=",")


def _is_match(first: Floats, second: Floats) -> NDArray[np.bool_]:
    """Returns which pairs of thumbnails, float32 [pairs, 32, 32], are the same photograph."""
    first_half, second_half = _halve(first), _halve(second)
    same = _correlation(first_half, second_half) >= MIN_CORRELATION
    rest = np.flatnonzero(~same)
    rest = rest[registered_correlation(first_half[rest], second_half[rest]) >= _MIN_COARSE]
    same[rest] = registered_correlation(first[rest], second[rest]) >= MIN_REGISTERED
    return same


def correlations(first: Floats, second: Floats) -> Floats:
    """Returns both correlations, plain and registered, of pairs of thumbnails: [pairs, 32, 32] to [pairs, 2]."""
    return np.stack([_correlation(_halve(first), _halve(second)), registered_correlation(first, second)], 1)


def _halve(thumbnails: Floats) -> Floats:
    return thumbnails.reshape(len(thumbnails), SIDE // 2, 2, SIDE // 2, 2).mean((2, 4))


def _correlation(first: Floats, second: Floats) -> Floats:
    first, second = (each - each.mean((1, 2), keepdims=True) for each in (first, second))
    return _cosine(first, second)


def _cosine(first: Floats, second: Floats) -> Floats:
    product, first_square, second_square = (
        np.einsum("pyx,pyx->p", *each) for each in ((first, second), (first, first), (second, second))
    )
    return product / (np.sqrt(first_square * second_square) + 1e-6)


def registered_correlation(first: Floats, second: Floats) -> Floats:
    """Returns the better correlation of pairs [pairs, side, side] with one registered on the other."""
    first, second = (ndimage.gaussian_filter(each, (0, _BLUR, _BLUR), mode="nearest") for each in (first, second))
    return np.maximum(_register(first, second), _register(second, first))


def _register(moving: Floats, fixed: Floats) -> Floats:
    """Returns the best correlation in a few Gauss-Newton steps of scale and shift, vertical and horizontal."""
    side = fixed.shape[-1]
    at = np.arange(side, dtype=np.float32) - (side - 1) / 2
    scale, shift = np.ones((len(fixed), 2), np.float32), np.zeros((len(fixed), 2), np.float32)  # down, across
    best = np.full(len(fixed), -1, np.float32)
    for step in range(_STEPS + 1):
        position = at * scale[..., None] + shift[..., None]  # of each fixed row and column in the moving image
        inside = np.abs(position) <= side / 2
        mask = (inside[:, 0, :, None] & inside[:, 1, None, :]).astype(np.float32)
        moved = _interpolation(position[:, 0]) @ moving @ _interpolation(position[:, 1]).transpose(0, 2, 1)
        best = np.maximum(best, _cosine(_subtract_mean(moved, mask), _subtract_mean(fixed, mask)))
        if step < _STEPS:
            change = _gauss_newton(moved, fixed, mask, at)
            scale = np.clip(scale + change[:, :2], _MIN_SCALE, _MAX_SCALE)
            shift = np.clip(shift + change[:, 2:], -_MAX_SHIFT * side, _MAX_SHIFT * side)
    return best


def _interpolation(position: Floats) -> Floats:
    """Returns weights of linear interpolation, [pairs, side, side], at positions relative to the middle."""
    side = position.shape[-1]
    pixel = np.clip(position + (side - 1) / 2, 0, side - 1)
    return np.maximum(0, 1 - np.abs(pixel[:, :, None] - np.arange(side, dtype=np.float32)))


def _gauss_newton(moved: Floats, fixed: Floats, mask: Floats, at: Floats) -> Floats:
    """Returns the change of (scale down, scale across, shift down, shift across) that makes `moved` like `fixed`."""
    down, across = np.gradient(moved, axis=(1, 2))
    slopes = np.stack([down * at[:, None], across * at, down, across], 1)
    moved, fixed = _subtract_mean(moved, mask), _subtract_mean(fixed, mask)
    gain = (moved * fixed).sum((1, 2)) / ((moved**2).sum((1, 2)) + 1e-6)
    left = (fixed - gain[:, None, None] * moved).reshape(len(fixed), at.size**2, 1)
    slopes = (_subtract_mean(slopes, mask[:, None]) * gain[:, None, None, None]).reshape(len(fixed), 4, at.size**2)
    normal = slopes @ slopes.transpose(0, 2, 1)
    damping = 1e-3 * (np.trace(normal, axis1=1, axis2=2) / 4 + 1)
    normal += damping[:, None, None] * np.eye(4, dtype=np.float32)
    return np.linalg.solve(normal, slopes @ left)[:, :, 0]


def _subtract_mean(values: Floats, mask: Floats) -> Floats:
    count = np.broadcast_to(mask, values.shape).sum((-2, -1), keepdims=True)
    return (values - (values * mask).sum((-2, -1), keepdims=True) / count) * mask
