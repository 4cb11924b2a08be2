import numpy as np
import pytest
from PIL import Image

from agegender.inference.alignment import CROP, TEMPLATE, align_face, similarity, yaw_ratio

PLACES = np.array(TEMPLATE)


def moved(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    """The template turned, scaled and shifted: landmarks of a face in a photograph."""
    turned = scale * np.exp(1j * np.radians(angle)) * (PLACES @ (1, 1j)) + complex(*shift)
    return np.column_stack([turned.real, turned.imag])


@pytest.mark.parametrize("angle", [0, 30, -90, 180])
@pytest.mark.parametrize("scale", [0.3, 1, 7])
def test_similarity_inverts_rotation_scale_and_shift(angle: float, scale: float) -> None:
    landmarks = moved(angle, scale, (40, -3))
    matrix = similarity(landmarks)
    np.testing.assert_allclose(landmarks @ matrix[:, :2].T + matrix[:, 2], PLACES, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(matrix[:, :2]), scale**-2)


def test_no_other_similarity_is_closer() -> None:
    random = np.random.default_rng(0)
    landmarks = PLACES + random.normal(scale=5, size=PLACES.shape)

    def error(matrix: np.ndarray) -> float:
        return float(((landmarks @ matrix[:, :2].T + matrix[:, 2] - PLACES) ** 2).sum())

    best = similarity(landmarks)
    for _ in range(50):
        a, b, x, y = random.normal(scale=(0.01, 0.01, 1, 1))
        assert error(best + np.array([[a, -b, x], [b, a, y]])) >= error(best)


def test_a_mirrored_face_is_not_mirrored_back() -> None:
    matrix = similarity(PLACES * (-1, 1))
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize("landmarks", [np.ones((5, 2)), np.full((5, 2), np.nan), np.full((5, 2), np.inf)])
def test_points_that_give_no_transform_are_refused(landmarks: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"`landmarks` must be finite and not all the same\. Received"):
        similarity(landmarks)


def dots(landmarks: np.ndarray, size: tuple[int, int], radius: float) -> Image.Image:
    """White spots at the landmarks, centred on them."""
    y, x = np.mgrid[: size[1], : size[0]]
    near = [(x - left) ** 2 + (y - top) ** 2 <= radius**2 for left, top in landmarks]
    return Image.fromarray(np.repeat(np.where(np.any(near, axis=0), 255, 0)[..., None], 3, axis=2).astype("uint8"))


@pytest.mark.parametrize(
    ("angle", "scale", "shift", "size"),
    [
        (0, 1, (0, 0), (200, 200)),
        (25, 0.8, (100, 50), (400, 300)),
        (-60, 2.5, (200, 500), (900, 900)),
        (10, 9, (300, 100), (2400, 2400)),
    ],
)
def test_aligned_face_has_landmarks_of_the_template(
    angle: float, scale: float, shift: tuple[float, float], size: tuple[int, int]
) -> None:
    landmarks = moved(angle, scale, shift)
    face = np.asarray(align_face(dots(landmarks, size, 6 * scale), landmarks), "float64")[..., 0]
    assert face.shape == (CROP, CROP)
    for x, y in PLACES.astype(int):
        spot = face[y - 10 : y + 11, x - 10 : x + 11]
        rows, columns = np.mgrid[-10:11, -10:11]
        centre = (spot * columns).sum() / spot.sum(), (spot * rows).sum() / spot.sum()
        np.testing.assert_allclose(centre, (0, 0), atol=0.2)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 20])
def test_a_crop_is_the_mean_of_the_pixels_under_it(scale: int) -> None:
    side = CROP * scale
    noise = Image.fromarray(np.random.default_rng(2).integers(0, 256, (side, side, 3), dtype="uint8"))
    landmarks = (PLACES + 0.5) * scale - 0.5  # centres of pixels
    face = np.asarray(align_face(noise, landmarks), "int64")
    assert np.abs(face - np.asarray(noise.reduce(scale), "int64")).max() <= 1


def test_a_large_face_of_any_size_is_averaged() -> None:
    noise = np.random.default_rng(2).integers(0, 2, (350, 350, 1), dtype="uint8") * np.full(3, 255, "uint8")
    face = np.asarray(align_face(Image.fromarray(noise), PLACES * 1.75), "float64")
    assert abs(face.mean() - 127.5) < 2 and face.std() < 60  # single pixels would have 127.5


def test_a_small_face_is_enlarged_smoothly() -> None:
    edge = np.zeros((50, 50, 3), "uint8")
    edge[:, 25:] = 200
    row = np.asarray(align_face(Image.fromarray(edge), PLACES / 4), "int64")[100, 20:180, 0]
    assert row.min() == 0 and row.max() == 200 and np.abs(np.diff(row)).max() < 100


def test_landmark_template_of_the_released_model() -> None:
    assert CROP == 200 and TEMPLATE == ((59, 58), (137, 59), (98, 104), (63, 136), (133, 137))


def test_outside_the_photograph_is_black() -> None:
    white = Image.new("RGB", (200, 200), "white")
    face = np.asarray(align_face(white, PLACES - (100, 0)))  # the left half of the face is outside
    assert face[100, :98].max() == 0 and face[100, 102:].min() == 255


def test_yaw_ratio() -> None:
    landmarks = PLACES.copy()
    assert yaw_ratio(landmarks) == 0
    landmarks[2, 0] -= 39  # half the distance of the eyes
    assert yaw_ratio(landmarks) == pytest.approx(-0.5, rel=1e-3)
    assert yaw_ratio(landmarks @ [[0, 1], [-1, 0]] * 3 + 7) == pytest.approx(
        -0.5, rel=1e-3
    )  # whatever its place, size and tilt
