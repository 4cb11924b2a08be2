"""Where the faces of a photograph are: mtcnn (Zhang et al. 2016, arXiv 1604.02878), asked kindly."""

import importlib.resources
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import keras
import numpy as np
from PIL import Image

MIN_FACE: Final = 20  # pixels: the smallest face that mtcnn looks for
_MANY_PIXELS: Final = 12_000_000  # larger photographs are reduced to this, for the memory that detection takes
_TOGETHER: Final = 2_000_000  # pixels that are looked at in one step, where photographs are small and of one size
_POINTS: Final = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


class Detection(NamedTuple):
    """One face that was found.

    Attributes:
        box: left, top, right and bottom in pixels, within the photograph.
        landmarks: x and y in pixels of the eye on the left of the image, the one on the right, the nose, and the left
            and the right end of the mouth.
        score: how sure the detector is that this is a face, 0 to 1.
    """

    box: tuple[int, int, int, int]
    landmarks: tuple[tuple[float, float], ...]
    score: float


class FaceDetector:
    """Finds faces and their landmarks.

    Args:
        min_face: pixels, the side of the smallest face that is looked for, 20 or more; the time it takes falls with its
            square. In photographs of more than 12 million pixels it is larger, by the root of how many times more.

    Raises:
        ValueError: for a smaller one.

    Example: `FaceDetector()(pixels)[0].box`
    """

    def __init__(self, *, min_face: int = MIN_FACE) -> None:
        if not isinstance(min_face, int) or min_face < MIN_FACE:
            raise ValueError(f"`min_face` must be pixels, {MIN_FACE} or more. Received: min_face={min_face!r}")
        self.min_face = min_face
        self._mtcnn: Any = None
        self._lock = threading.Lock()

    def __call__(self, pixels: np.ndarray) -> list[Detection]:
        """Finds the faces of one photograph.

        Args:
            pixels: uint8 RGB [height, width, 3].

        Returns:
            Its faces, from left to right.
        """
        return self.find([pixels])[0]

    def find(self, photographs: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Finds the faces of several photographs; of small ones of one size three times as fast as one by one.

        Args:
            photographs: each as above, of any sizes.

        Returns:
            The faces of each, in the same order.
        """
        reduced = [self._reduce(pixels) for pixels in photographs]
        faces: list[list[Detection]] = [[] for _ in photographs]
        for together in _batches(reduced):
            with self._lock:  # the demo asks from several threads
                found = self._load().detect_faces([reduced[index] for index in together])
            for index, of_one in zip(together, found, strict=True):
                height, width = photographs[index].shape[:2]
                scale = width / reduced[index].shape[1], height / reduced[index].shape[0]
                detections = (_detection(face, scale, (width, height)) for face in of_one)
                faces[index] = sorted(filter(None, detections), key=lambda face: face.box)
        return faces

    def _reduce(self, pixels: np.ndarray) -> np.ndarray:
        # mtcnn has an argument for the smallest face, with which it finds nothing at all in many a small photograph.
        height, width = pixels.shape[:2]
        reduction = max(1.0, self.min_face / MIN_FACE, (height * width / _MANY_PIXELS) ** 0.5)
        if reduction == 1:
            return pixels
        size = max(1, round(width / reduction)), max(1, round(height / reduction))
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))

    def _load(self) -> Any:
        if self._mtcnn is None:
            policy = keras.config.dtype_policy()
            keras.config.set_dtype_policy("float32")  # its three small networks were not made for less
            try:
                self._mtcnn = _load_mtcnn()
            finally:
                keras.config.set_dtype_policy(policy)
        return self._mtcnn


def _batches(photographs: Sequence[np.ndarray]) -> Iterator[list[int]]:
    """Which photographs to look at together: of one size, and not too many pixels. mtcnn fails on the smallest."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for index, pixels in enumerate(photographs):
        if min(pixels.shape[:2]) >= MIN_FACE:
            sizes.setdefault(pixels.shape, []).append(index)
    for (height, width, _), indices in sizes.items():
        count = max(1, _TOGETHER // (height * width))
        yield from (indices[start : start + count] for start in range(0, len(indices), count))


def _load_mtcnn() -> Any:
    from mtcnn import MTCNN, stages

    # By the bare names of its files mtcnn would first look for them in the current folder, and they are pickles.
    weights = importlib.resources.files("mtcnn.assets.weights")
    kinds = {"pnet": stages.StagePNet, "rnet": stages.StageRNet, "onet": stages.StageONet}
    return MTCNN([kind(weights=str(weights / f"{name}.lz4")) for name, kind in kinds.items()])


def _detection(face: dict[str, Any], scale: tuple[float, float], size: tuple[int, int]) -> Detection | None:
    left, top, wide, high = face["box"]
    corners = zip((left, top, left + wide, top + high), scale * 2, size * 2, strict=True)
    box = tuple(int(min(max(round(side * by), 0), limit)) for side, by, limit in corners)
    points = (face["keypoints"][point] for point in _POINTS)
    landmarks = tuple((float(x * scale[0]), float(y * scale[1])) for x, y in points)
    if box[0] >= box[2] or box[1] >= box[3] or len(set(landmarks)) < 2:
        return None
    return Detection((box[0], box[1], box[2], box[3]), landmarks, float(face["confidence"]))
