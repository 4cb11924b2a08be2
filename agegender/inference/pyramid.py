"""The image pyramid of a face detector: an image at falling sizes, each pixel the mean of the area that it covers."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 8  # rows that are computed together
_FINE: Final = 16  # rows of the source to a row of a level, at least, where the source is a reduced one
# OpenBLAS computes products of up to so many multiplications in one thread; its threads cost more than they save here.
_PRODUCT: Final = 4 * 65_536


class Level:
    """One level of a pyramid, computed row by row as it is read.

    Args:
        source: [rows, columns, channels], the image or one with fewer rows, each the mean of some.
        size: height and width of the level in pixels.

    Example:

    >>> Level(np.array([[[0], [3], [6]]], "uint8"), (1, 2)).read(0, 1)  # each new pixel covers one and a half
    array([[[1., 5.]]], dtype=float32)
    """

    def __init__(self, source: NDArray, size: tuple[int, int]) -> None:
        self.height, self.width = size
        self._source = source

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """The rows from `start` to `stop`: float32 [channels, stop - start, width]."""
        _, columns, channels = self._source.shape
        rows = _average_rows(self._source.reshape(-1, columns * channels), self.height, start, stop)
        turned = rows.reshape(stop - start, columns, channels).transpose(1, 2, 0).reshape(columns, -1)
        means = _average_rows(turned, self.width, 0, self.width).reshape(self.width, channels, stop - start)
        return np.ascontiguousarray(means.transpose(1, 2, 0))


def build_pyramid(image: NDArray[np.uint8], sizes: Sequence[tuple[int, int]]) -> Iterator[Level]:
    """Reduces an image to several sizes; each new pixel is the mean of the area it covers, parts of pixels included.

    PNet's scores depend on that: with Pillow's BOX filter, which counts a pixel whole or not at all, one box in three
    is another. For the smaller sizes pairs of rows are averaged first, which costs some hundredths of a grey level.

    Args:
        image: [height, width, channels].
        sizes: height and width of each level in pixels, falling.

    Yields:
        A `Level` for each size.
    """
    rows: NDArray = image
    for size in sizes:
        while len(rows) >= 2 * _FINE * size[0] and len(rows) % 2 == 0:
            rows = np.add(rows[0::2], rows[1::2], dtype="float32") * np.float32(0.5)
        yield Level(rows, size)


def _average_rows(source: NDArray, count: int, start: int, stop: int) -> NDArray[np.float32]:
    """Of the `count` rows that the source is reduced to those from `start` to `stop`."""
    means = np.empty((stop - start, source.shape[1]), "float32")
    for top in range(0, len(means), _BLOCK):
        part = means[top : top + _BLOCK]
        first, weights = _area_weights(len(source), count, start + top, start + top + len(part))
        pixels = source[first : first + weights.shape[1]].astype("float32", copy=False)
        step = max(1, _PRODUCT // weights.size)
        for left in range(0, part.shape[1], step):
            np.matmul(weights, pixels[:, left : left + step], out=part[:, left : left + step])
    return means


def _area_weights(length: int, count: int, start: int, stop: int) -> tuple[int, NDArray[np.float32]]:
    """Of `count` new rows those from `start` to `stop`: the first old row in them, and the share of each old one."""
    ratio = np.float32(length) / np.float32(count)
    edges = np.arange(start, stop + 1, dtype="float32") * ratio  # as TensorFlow does, whose edges are not quite exact
    rows = np.arange(int(edges[0]), min(length, int(np.ceil(edges[-1]))))
    covered = np.minimum(rows + 1, edges[1:, None]) - np.maximum(rows, edges[:-1, None])
    return int(rows[0]), (np.maximum(covered, 0) / ratio).astype("float32")
