"""Boxes around faces: how much they overlap, which to keep, what they show."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]  # [n, 4]: left, top, right and bottom in pixels

_ROWS: Final = 64  # boxes that are compared with the others at once: memory is linear in the number of boxes
_OUTSIDE: Final = 127.5  # the grey level beyond the edge of an image: zero, after MTCNN's scaling


def suppress_overlaps(boxes: Boxes, scores: NDArray, threshold: float, *, over: str = "union") -> NDArray[np.intp]:
    """Non-maximum suppression: keeps a box if no box of a higher score overlaps it by more than a threshold.

    As in the `mtcnn` package, a box that is not kept still suppresses others.

    Args:
        boxes: [n, 4], left, top, right and bottom.
        scores: [n].
        threshold: of the intersection, as a share of the union or of the smaller box.
        over: "union" or "smaller".

    Returns:
        The indices of the boxes kept, from the highest score to the lowest.

    Example:

    >>> boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [0, 20, 10, 30]], "float64")
    >>> suppress_overlaps(boxes, np.array([0.7, 0.9, 0.8]), 0.5)  # the first two share 80 of 100 pixels
    array([1, 2])
    """
    by_score = np.argsort(scores)[::-1]  # of equal scores the last first, as there
    rank = np.empty(len(boxes), int)
    rank[by_score] = np.arange(len(boxes))
    # From left to right: boxes that overlap are then near each other, and few are compared.
    order = np.argsort(boxes[:, 0], kind="stable")
    ordered, ranks = boxes[order], rank[order]
    areas = (ordered[:, 2] - ordered[:, 0]) * (ordered[:, 3] - ordered[:, 1])
    widest = np.max(ordered[:, 2] - ordered[:, 0], initial=0)
    kept = np.ones(len(boxes), bool)
    for start in range(0, len(boxes), _ROWS):
        rows = slice(start, start + _ROWS)
        some = ordered[rows]
        first, last = np.searchsorted(ordered[:, 0], (some[0, 0] - widest, np.max(some[:, 2])))
        near = slice(first, last)
        others = ordered[near]
        width = np.minimum(some[:, None, 2], others[:, 2]) - np.maximum(some[:, None, 0], others[:, 0])
        height = np.minimum(some[:, None, 3], others[:, 3]) - np.maximum(some[:, None, 1], others[:, 1])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        pairs = areas[rows, None], areas[near]
        whole = np.minimum(*pairs) if over == "smaller" else pairs[0] + pairs[1] - shared
        better = ranks[near] < ranks[rows, None]
        kept[order[rows]] = ~np.any(better & (shared > threshold * whole), axis=1)
    return by_score[kept[by_score]]


def make_square(boxes: Boxes) -> Boxes:
    """Widens or heightens each box to a square with the same centre.

    >>> make_square(np.array([[0.0, 0.0, 10.0, 6.0]]))
    array([[ 0., -2., 10.,  8.]])
    """
    sizes = boxes[:, 2:] - boxes[:, :2]
    side = np.max(sizes, axis=1, keepdims=True)
    corner = boxes[:, :2] + sizes * 0.5 - side * 0.5
    return np.concatenate([corner, corner + side], axis=1)


def crop_boxes(image: NDArray[np.uint8], boxes: Boxes, side: int) -> NDArray[np.float32]:
    """Cuts boxes out of an image and resizes them, bilinear at single points, as `tf.image.crop_and_resize` does.

    Args:
        image: [height, width, 3].
        boxes: [n, 4]; they may reach beyond the image, where it is grey.
        side: of the result, in pixels.

    Returns:
        float32 [n, side, side, 3].

    Example:

    >>> image = np.arange(9, dtype="uint8").reshape(3, 3, 1).repeat(3, axis=2)
    >>> crop_boxes(image, np.array([[0.0, 0.0, 3.0, 3.0]]), 2)[0, ..., 0]  # the corners
    array([[0., 2.],
           [6., 8.]], dtype=float32)
    """
    top, bottom, down, in_height = _sample_points(boxes[:, 1], boxes[:, 3], image.shape[0], side)
    left, right, across, in_width = _sample_points(boxes[:, 0], boxes[:, 2], image.shape[1], side)

    pixels = image.reshape(-1, 3)
    down, across = down[:, :, None], np.repeat(across, 3, axis=1)[:, None]

    def read(y: NDArray, x: NDArray) -> NDArray[np.float32]:
        places = (y * image.shape[1])[:, :, None] + x[:, None]
        return pixels.take(places, axis=0).reshape(-1, side, 3 * side).astype("float32")

    def read_rows(y: NDArray) -> NDArray[np.float32]:
        return _interpolate(read(y, left), read(y, right), across)

    crops = _interpolate(read_rows(top), read_rows(bottom), down).reshape(-1, side, side, 3)
    crops[~(in_height[:, :, None] & in_width[:, None, :])] = _OUTSIDE
    return crops


def _interpolate(before: NDArray, after: NDArray, place: NDArray) -> NDArray:
    """Interpolates between two arrays, in the memory of both."""
    after -= before
    after *= place
    before += after
    return before


def _sample_points(start: NDArray, stop: NDArray, length: int, count: int) -> tuple[NDArray, ...]:
    """Along one side: the pixels before and after each point, its place between them, and whether it is inside."""
    points = (start[:, None] + (stop - start)[:, None] * (np.arange(count) / (count - 1))) * ((length - 1) / length)
    before = np.clip(np.floor(points), 0, length - 1).astype(int)
    after = np.minimum(before + 1, length - 1)
    return before, after, (points - before).astype("float32"), (points >= 0) & (points <= length - 1)
