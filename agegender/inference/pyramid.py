"""The image pyramid of a face detector: an image at falling sizes, each pixel the mean of the area that it covers."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MAX_RATIO: Final = 256  # rows of the image to a row of a level: as many values of 255 fit into 16 bits
_REDUCTION: Final = 16
_BLOCK: Final = 16  # rows or columns that are computed together
# OpenBLAS computes products of up to so many multiplications in one thread; its threads cost more than they save here.
_PRODUCT: Final = 4 * 65_536


class Level:
    """One level of a pyramid, computed row by row as it is read.

    Args:
        image: [height, width, channels].
        sums: of all rows above each row of the image, as from `_sum_rows`.
        size: height and width of the level in pixels.

    Example:

    >>> image = np.array([[[0], [3], [6]]], "uint8")
    >>> Level(image, _sum_rows(image), (1, 2)).read(0, 1)  # each new pixel covers one and a half
    array([[[1., 5.]]], dtype=float32)
    """

    def __init__(self, image: NDArray[np.uint8], sums: NDArray[np.uint16], size: tuple[int, int]) -> None:
        self.height, self.width = size
        self._image, self._sums = image, sums

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """The rows from `start` to `stop`: float32 [channels, stop - start, width]."""
        _, columns, channels = self._image.shape
        rows = self._average_rows(start, stop).reshape(stop - start, columns, channels)
        planes = np.ascontiguousarray(rows.transpose(2, 0, 1)).reshape(-1, columns)
        return _average_columns(planes, self.width).reshape(channels, stop - start, self.width)

    def _average_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Means of the image's rows: sums of whole rows, plus the part covered of the last, less that of the first."""
        pixels = self._image.reshape(len(self._image), -1)
        means = np.empty((stop - start, pixels.shape[1]), "float32")
        for top in range(start, stop, _BLOCK):
            part = means[top - start : top - start + _BLOCK]
            edges, ratio = _area_edges(len(pixels), self.height, top, top + len(part))
            whole = np.minimum(edges.astype(int), len(pixels) - 1)
            covered = np.multiply(pixels[whole], ((edges - whole) / ratio)[:, None], dtype="float32")
            np.multiply(np.diff(self._sums[whole], axis=0), 1 / ratio, out=part, dtype="float32")
            part += covered[1:]
            part -= covered[:-1]
        return means


def build_pyramid(image: NDArray[np.uint8], sizes: Sequence[tuple[int, int]]) -> Iterator[Level]:
    """Reduces an image to several sizes; each new pixel is the mean of the area it covers, parts of pixels included.

    PNet's scores depend on that: with Pillow's BOX filter, which counts a pixel whole or not at all, one box in three
    is another. Means over twice reduced pixels, 4 or more to a new one, are faster and change one box in five.

    Args:
        image: [height, width, channels].
        sizes: height and width of each level in pixels, falling.

    Yields:
        A `Level` for each size.
    """
    sums = _sum_rows(image)
    for size in sizes:
        if len(image) > _MAX_RATIO * size[0]:  # of so many pixels a part more or less makes no difference
            smaller = (image.shape[1] // _REDUCTION, image.shape[0] // _REDUCTION)
            image = np.asarray(Image.fromarray(image).resize(smaller, Image.Resampling.BOX))
            sums = _sum_rows(image)
        yield Level(image, sums, size)


def _sum_rows(image: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """For each row the sum of those above it, modulo 65,536: differences over up to 256 rows are exact."""
    pixels = image.reshape(len(image), -1)
    sums = np.zeros(pixels.shape, "uint16")
    for row in range(1, len(pixels)):
        np.add(sums[row - 1], pixels[row - 1], out=sums[row])
    return sums


def _average_columns(rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Reduces rows to `count` columns."""
    means = np.empty((len(rows), count), "float32")
    for left in range(0, count, _BLOCK):
        part = means[:, left : left + _BLOCK]
        first, weights = _area_weights(rows.shape[1], count, left, left + part.shape[1])
        pixels = rows[:, first : first + len(weights)]
        step = max(1, _PRODUCT // weights.size)
        for top in range(0, len(rows), step):
            np.matmul(pixels[top : top + step], weights, out=part[top : top + step])
    return means


def _area_weights(length: int, count: int, start: int, stop: int) -> tuple[int, NDArray[np.float32]]:
    """For new pixels `start` to `stop` of `count`: the first old pixel in them, and the share of each old one."""
    edges, ratio = _area_edges(length, count, start, stop)
    pixels = np.arange(int(edges[0]), min(length, int(np.ceil(edges[-1]))))[:, None]
    covered = np.minimum(pixels + 1, edges[1:]) - np.maximum(pixels, edges[:-1])
    return int(pixels[0, 0]), (np.maximum(covered, 0) / ratio).astype("float32")


def _area_edges(length: int, count: int, start: int, stop: int) -> tuple[NDArray[np.float32], np.float32]:
    """Where new pixels `start` to `stop` of `count` begin and end among the old ones, and the size of each."""
    ratio = np.float32(length) / np.float32(count)
    return np.arange(start, stop + 1, dtype="float32") * ratio, ratio  # as TensorFlow does, not quite exact
