"""Finds faces and their landmarks with MTCNN (Zhang et al. 2016, arXiv 1604.02878).

PNet proposes boxes at every level of an image pyramid, RNet refines them, and ONet refines those that are left and
adds the landmarks. `experiments/mtcnn_networks.py` writes their ONNX files from the weights of the `mtcnn` package.
"""

import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agegender.inference.boxes import Boxes, crop_boxes, make_square, suppress_overlaps
from agegender.inference.pyramid import Level, build_pyramid
from agegender.inference.runtime import OnnxModel

MIN_FACE: Final = 40  # pixels, by default: the model has seen no smaller face
SMALLEST_MIN_FACE: Final = 20  # pixels: what MTCNN was trained to find
MAX_FACES: Final = 1_000  # of one photograph, those with the highest scores
_MAX_BOXES: Final = 10_000  # of one level, and of all levels together, those with the highest scores
_BATCH: Final = 16  # boxes that RNet and ONet see at once; their activations stay in the cache
_THREADS: Final = min(2, os.cpu_count() or 1)

# PNet is convolutional: it sees windows of 12 x 12 pixels, 2 pixels apart.
_WINDOW, _STRIDE = 12, 2
_FACTOR: Final = 0.709  # from one level of the pyramid to the next
_TILE: Final = 131_072  # pixels of a level that PNet sees at once
_PNET_SCORE, _RNET_SCORE, _ONET_SCORE = 0.6, 0.7, 0.8
_LEVEL_OVERLAP, _OVERLAP = 0.5, 0.7

_NETWORKS: Final = pathlib.Path(__file__).parent / "mtcnn"


class Detection(NamedTuple):
    """One face that was found.

    Attributes:
        box: left, top, right and bottom in pixels, within the photograph.
        landmarks: x and y in pixels of the eye on the left of the image, the one on the right, the nose, and the left
            and the right end of the mouth.
        score: the detector's confidence that this is a face, 0 to 1.
    """

    box: tuple[int, int, int, int]
    landmarks: tuple[tuple[float, float], ...]
    score: float


class FaceDetector:
    """Finds faces and their landmarks.

    Args:
        min_face: side in pixels of the smallest face to look for, 20 or more. Time falls with its square.

    Raises:
        ValueError: for a smaller one.

    Example:

    >>> from agegender import read_image
    >>> [len(faces) for faces in FaceDetector().find([read_image("party.jpg"), np.zeros((90, 60, 3), "uint8")])]
    [2, 0]
    """

    def __init__(self, *, min_face: int = MIN_FACE) -> None:
        if isinstance(min_face, bool) or not isinstance(min_face, int) or min_face < SMALLEST_MIN_FACE:
            raise ValueError(
                f"`min_face` must be an integer of at least {SMALLEST_MIN_FACE} (pixels). "
                f"Received: min_face={min_face!r}"
            )
        self.min_face = min_face
        self._pnet, self._rnet, self._onet = (
            OnnxModel(_NETWORKS / f"{name}.onnx") for name in ("pnet", "rnet", "onet")
        )

    def __call__(self, image: NDArray[np.uint8] | Image.Image, *, scale: float = 1.0) -> list[Detection]:
        """Finds the faces of one photograph.

        Args:
            image: uint8 RGB [height, width, 3], or a Pillow image of mode "RGB".
            scale: pixels of the photograph to a pixel of the image, where the image is a reduced copy. Boxes,
                landmarks and `min_face` are in pixels of the photograph.

        Returns:
            Its faces from left to right, 1,000 at most.
        """
        pixels = np.asarray(image)
        boxes = self._refine(pixels, self._propose(pixels, self.min_face / scale))
        height, width = pixels.shape[:2]
        limits = [round(width * scale), round(height * scale)] * 2
        return sorted(self._find_landmarks(pixels, boxes, scale, limits), key=lambda face: face.box)

    def find(self, images: Iterable[NDArray[np.uint8] | Image.Image]) -> list[list[Detection]]:
        """Finds the faces of several photographs, of any sizes; a list for each, in order."""
        return [self(image) for image in images]

    def _propose(self, pixels: NDArray[np.uint8], min_face: float) -> Boxes:
        """PNet at every level of the pyramid."""
        scales = _pyramid_scales(pixels.shape[0], pixels.shape[1], min_face)
        sizes = [(int(pixels.shape[0] * scale), int(pixels.shape[1] * scale)) for scale in scales]
        boxes, scores = [np.empty((0, 4))], [np.empty(0)]
        # The first level is half of the work, so that two threads suffice.
        for scale, (found, confidence) in zip(
            scales, _map_in_threads(self._search_level, build_pyramid(pixels, sizes)), strict=True
        ):
            best = suppress_overlaps(found, confidence, _LEVEL_OVERLAP)
            boxes.append(found[best] / scale)
            scores.append(confidence[best])
        every, confidence = _keep_best(np.concatenate(boxes), np.concatenate(scores), _MAX_BOXES)
        return make_square(every[suppress_overlaps(every, confidence, _OVERLAP)])

    def _search_level(self, level: Level) -> tuple[Boxes, NDArray]:
        """PNet on one level, in tiles of its rows: the boxes in pixels of the level, and their scores."""
        boxes, scores = [], []
        outputs = max(1, _TILE // level.width // _STRIDE)  # rows of PNet's output in a tile
        for start in range(0, max(1, (level.height - _WINDOW) // _STRIDE + 1), outputs):
            top = start * _STRIDE
            stop = min(level.height, (start + outputs - 1) * _STRIDE + _WINDOW)
            (output,) = self._pnet.run(level.read(top, stop)[None])
            *offsets, logits = output[0, :, :outputs]
            y, x = np.nonzero(logits > _logit(_PNET_SCORE))
            corner = np.column_stack([x, y]) * _STRIDE + (1, 1 + top)
            side = _WINDOW - 1
            windows = np.concatenate([corner, corner + side], axis=1)
            boxes.append(windows + np.stack(offsets)[:, y, x].T.astype("float64") * side)
            scores.append(_sigmoid(logits[y, x]))
        return _keep_best(np.concatenate(boxes), np.concatenate(scores), _MAX_BOXES)

    def _refine(self, pixels: NDArray[np.uint8], boxes: Boxes) -> Boxes:
        """RNet on every box."""
        output = _run_on_crops(self._rnet, pixels, boxes, 24)
        scores = _sigmoid(output[:, 4])
        faces = scores > _RNET_SCORE
        boxes, scores = _move_boxes(boxes, output[:, :4])[faces], scores[faces]
        return make_square(boxes[suppress_overlaps(boxes, scores, _OVERLAP)])

    def _find_landmarks(
        self, pixels: NDArray[np.uint8], boxes: Boxes, scale: float, limits: list[int]
    ) -> Iterator[Detection]:
        """ONet on every box that is left."""
        output = _run_on_crops(self._onet, pixels, boxes, 48)
        scores = _sigmoid(output[:, 14])
        sizes = boxes[:, 2:] - boxes[:, :2] + 1
        # Five x, then five y, as shares of the box.
        points = output[:, 4:14].reshape(-1, 2, 5).transpose(0, 2, 1) * sizes[:, None] + boxes[:, None, :2] - 1
        faces = np.flatnonzero(scores > _ONET_SCORE)
        moved = _move_boxes(boxes, output[:, :4])
        best = faces[suppress_overlaps(moved[faces], scores[faces], _OVERLAP, over="smaller")][:MAX_FACES]
        for box, landmarks, score in zip(moved[best], points[best], scores[best], strict=True):
            # Whole pixels of the image that was searched, as the `mtcnn` package gives them.
            left, top, right, bottom = np.clip(np.round(np.round(box) * scale), 0, limits).astype(int).tolist()
            if left < right and top < bottom:
                places = np.round(landmarks) * scale
                yield Detection((left, top, right, bottom), tuple(map(tuple, places.tolist())), float(score))


def _pyramid_scales(height: int, width: int, min_face: float) -> list[float]:
    """The levels of MTCNN's pyramid whose windows show `min_face` pixels or more, as shares of the image's size."""
    largest = _WINDOW / SMALLEST_MIN_FACE
    shortest = min(height, width)
    if shortest < _WINDOW:
        return []
    count = round(math.log(shortest / _WINDOW) / -math.log(_FACTOR) - 1)
    first = max(0, math.floor(math.log(SMALLEST_MIN_FACE / min_face) / math.log(_FACTOR)))
    scales = (largest * _FACTOR**level for level in range(first, count))
    return [scale for scale in scales if int(shortest * scale) >= _WINDOW]


def _run_on_crops(network: OnnxModel, pixels: NDArray[np.uint8], boxes: Boxes, side: int) -> NDArray[np.float32]:
    parts = (boxes[start : start + _BATCH] for start in range(0, max(1, len(boxes)), _BATCH))
    return np.concatenate(_map_in_threads(lambda part: network.run(crop_boxes(pixels, part, side))[0], parts))


def _map_in_threads(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    with ThreadPoolExecutor(_THREADS) as threads:  # new each time: threads do not survive a fork
        return list(threads.map(function, items))


def _move_boxes(boxes: Boxes, offsets: NDArray[np.float32]) -> Boxes:
    """Moves the sides of boxes by offsets in sizes of the box."""
    return boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)


def _keep_best(boxes: Boxes, scores: NDArray, count: int) -> tuple[Boxes, NDArray]:
    if len(boxes) <= count:
        return boxes, scores
    best = np.argpartition(-scores, count)[:count]
    return boxes[best], scores[best]


def _sigmoid(logits: Any) -> Any:
    return (1 / (1 + np.exp(-logits))).astype("float64")


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
