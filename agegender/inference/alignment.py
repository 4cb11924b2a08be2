"""From five landmarks to the crop that the model was trained on.

UTKFace cuts its faces so that eyes, nose and mouth come to lie nearly at the same places. The similarity transform
(turn, scale, shift; no mirror image) that brings the landmarks of a face closest to those places, in the mean square
(Umeyama 1991, IEEE TPAMI 13(4)), cuts a photograph in the same way.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from agegender.schema import IMAGE_SIZE

CROP: Final = IMAGE_SIZE  # pixels a side, as UTKFace ships its crops
# Medians of mtcnn's landmarks on UTKFace's own crops (`python -m experiments.face_template`): x and y in pixels of the
# crop, of the eye on the left of the image, the one on the right, the nose, the left and the right end of the mouth.
TEMPLATE: Final = ((59.0, 58.0), (137.0, 59.0), (98.0, 104.0), (63.0, 136.0), (133.0, 137.0))
_SMOOTH: Final = 4  # times the size, at most, at which a large face is cut


def similarity(landmarks: ArrayLike, template: ArrayLike = TEMPLATE) -> np.ndarray:
    """The similarity transform that brings landmarks closest to a template, in the mean square.

    Args:
        landmarks: [n, 2], x and y in pixels, 2 or more different points.
        template: [n, 2], where they are to come.

    Returns:
        float64 [2, 3], a matrix M so that `M @ (x, y, 1)` is the new place.

    Raises:
        ValueError: if the points are all the same or not finite.

    >>> similarity([[0, 0], [0, 1]], [[5, 5], [7, 5]]).round(6).tolist()  # a quarter turn, twice as large
    [[0.0, 2.0, 5.0], [-2.0, 0.0, 5.0]]
    """
    # As complex numbers a similarity without a mirror image is z -> a z + b: a least-squares fit in one line.
    points = np.asarray(landmarks, "float64")
    if not np.all(np.isfinite(points)) or np.all(points == points[0]):
        raise ValueError(f"`landmarks` must be finite and not all the same. Received: {points.tolist()}")
    before, after = points @ (1, 1j), np.asarray(template, "float64") @ (1, 1j)
    centred = before - before.mean()
    a = np.vdot(centred, after - after.mean()) / np.vdot(centred, centred).real
    b = after.mean() - a * before.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align_face(image: Image.Image, landmarks: ArrayLike) -> Image.Image:
    """Cuts one face from a photograph as UTKFace cuts them.

    Args:
        image: the photograph, mode "RGB".
        landmarks: [5, 2], x and y in its pixels, in the order of `TEMPLATE`.

    Returns:
        Image of 200 x 200 pixels, black where the photograph ends.

    Raises:
        ValueError: as `similarity`.
    """
    matrix = similarity(landmarks)
    matrix[:, 2] += 0.5 - matrix[:, :2] @ (0.5, 0.5)  # from the centres of pixels to their corners, as Pillow counts
    reduction = 1 / float(np.hypot(*matrix[:, 0]))
    if (first := int(reduction / _SMOOTH)) > 1:
        image = image.reduce(first)
        matrix[:, :2] *= first
    # Pillow's transform looks at 2 x 2 pixels, however many there are to a pixel of the crop: so a large face is cut
    # at a multiple of the size, and that is averaged.
    times = min(_SMOOTH, max(1, round(reduction)))
    inverse = np.linalg.inv(np.vstack([matrix * times, [0, 0, 1]]))[:2]
    size = (CROP * times, CROP * times)
    large = image.transform(size, Image.Transform.AFFINE, inverse.ravel().tolist(), Image.Resampling.BILINEAR)
    return large.reduce(times) if times > 1 else large


def yaw_ratio(landmarks: ArrayLike) -> float:
    """How far a face is turned from the camera, as its landmarks show it.

    Args:
        landmarks: [5, 2], in the order of `TEMPLATE`.

    Returns:
        0 for a face as frontal as the template, negative where the nose is nearer to the eye on the left: the place
        of the nose between the eyes, along the line through them, in distances of the eyes.

    >>> round(yaw_ratio(TEMPLATE), 9)
    0.0
    """
    return _nose(landmarks) - _nose(TEMPLATE)


def _nose(landmarks: ArrayLike) -> float:
    left, right, nose, *_ = np.asarray(landmarks, "float64")
    eyes = right - left
    return float((nose - left) @ eyes / (eyes @ eyes))
