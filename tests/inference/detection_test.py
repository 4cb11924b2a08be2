from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from agegender.inference import detection
from agegender.inference.alignment import TEMPLATE
from agegender.inference.detection import FaceDetector
from agegender.synthetic.faces import draw_people

PEOPLE = [(20 + 7 * n, n % 2, n % 5, n) for n in range(8)]


@pytest.fixture(scope="module")
def mtcnn() -> Any:
    mtcnn = pytest.importorskip("mtcnn")
    return mtcnn.MTCNN()


def crowd(columns: int, rows: int, size: int) -> np.ndarray:
    """A photograph full of drawn faces."""
    couple = draw_people(PEOPLE[:2], size=size)
    return np.tile(couple, (rows, columns, 1))


# With blur and noise, a tenth more or less in any threshold of the cascade finds other faces.
@pytest.mark.parametrize(
    ("people", "size", "blur", "noise"),
    [(2, 120, 0, 0), (4, 123, 0, 0), *((8, *rest) for rest in ((90, 4, 0), (120, 4, 0), (110, 0, 20)))],
)
def test_boxes_and_landmarks_are_those_of_mtcnn(mtcnn: Any, people: int, size: int, blur: int, noise: int) -> None:
    drawn = Image.fromarray(draw_people(PEOPLE[:people], size=size)).filter(ImageFilter.GaussianBlur(blur))
    noisy = np.asarray(drawn) + np.random.default_rng(0).normal(0, noise, np.shape(drawn))
    image = np.clip(noisy, 0, 255).astype("uint8")
    points = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
    expected = sorted(mtcnn.detect_faces(image), key=lambda face: face["box"])
    found = FaceDetector(min_face=20)(image)
    assert len(found) == len(expected) > 1
    for face, other in zip(found, expected, strict=True):
        left, top, width, height = other["box"]
        assert np.abs(np.subtract(face.box, (left, top, left + width, top + height))).max() <= 1
        assert np.abs(np.subtract(face.landmarks, [other["keypoints"][point] for point in points])).max() <= 1
        assert face.score == pytest.approx(other["confidence"], abs=1e-3)


def test_faces_are_ordered_left_to_right(couple: np.ndarray) -> None:
    found = FaceDetector()(couple)
    assert len(found) == 2
    for face, left in zip(found, (40, 200), strict=True):
        drawn = np.array(TEMPLATE) * 120 / 200 + (left, 40)  # the drawings are aligned as UTKFace is
        assert np.abs(np.array(face.landmarks) - drawn).max() < 12
        assert 0.8 < face.score <= 1
        x = (face.box[0] + face.box[2]) / 2
        assert left + 40 < x < left + 80 and 0 <= face.box[1] < face.box[3] <= 200
    wide = FaceDetector()(np.concatenate([couple, couple[:, ::-1]], axis=1))
    assert len(wide) == 4 and wide == sorted(wide, key=lambda face: face.box[0])


def test_photographs_of_different_sizes_in_one_call(couple: np.ndarray) -> None:
    one, wall = couple[:, :180], np.full_like(couple, 128)
    images = [couple, wall, one, couple[:, ::-1], np.zeros((5, 5, 3), "uint8"), Image.fromarray(couple)]
    find = FaceDetector()
    together = find.find(images)
    assert [len(faces) for faces in together] == [2, 0, 1, 2, 0, 2]
    assert together == [find(image) for image in images] and together[0] == together[-1]
    assert find.find([couple] * 30) == [together[0]] * 30 and find.find([]) == []


def test_boxes_and_min_face_are_in_pixels_of_the_full_photograph(couple: np.ndarray) -> None:
    for min_face, count in ((40, 2), (200, 2), (250, 0)):
        expected = FaceDetector(min_face=min_face)(couple)
        found = FaceDetector(min_face=2 * min_face)(couple, scale=2.0)
        assert len(expected) == len(found) == count
        assert [np.ravel(face.landmarks).tolist() for face in found] == [
            (2 * np.ravel(face.landmarks)).tolist() for face in expected
        ]
        assert [face.box for face in found] == [tuple(2 * side for side in face.box) for face in expected]


@pytest.mark.parametrize("crop", [(65, 0, 180, 200), (0, 60, 180, 200), (0, 0, 135, 140)])
def test_boxes_end_at_the_edges(couple: np.ndarray, crop: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = crop
    whole, cut = FaceDetector()(couple)[0].box, FaceDetector()(couple[top:bottom, left:right])[0].box
    expected = np.clip(np.subtract(whole, [left, top] * 2), 0, [right - left, bottom - top] * 2)
    assert np.abs(cut - expected).max() < 8
    outside = expected != np.subtract(whole, [left, top] * 2)
    assert outside.any() and np.array_equal(np.array(cut)[outside], expected[outside])


@pytest.mark.parametrize(("size", "min_face", "scales"), [
    # 12 / 20 = 0.6, times 0.709 each time. 100 pixels: log(100 / 12) / log(1 / 0.709) - 1 = 5.17 levels.
    ((100, 300), 20, [0.6, 0.4254, 0.3016, 0.2138, 0.1516]),
    # The largest level whose windows, 12 / 0.3016 = 39.8 pixels, show 40 pixels or fewer.
    ((100, 300), 40, [0.3016, 0.2138, 0.1516]),
    ((100, 300), 39, [0.4254, 0.3016, 0.2138, 0.1516]),
    # 7.50 levels: an eighth of 12.05 pixels would fit, but is not searched.
    ((223, 300), 20, [0.6, 0.4254, 0.3016, 0.2138, 0.1516, 0.1075, 0.0762]),
    ((300, 11), 20, []),
])  # fmt: skip
def test_the_pyramid_is_that_of_mtcnn_from_min_face_on(
    size: tuple[int, int], min_face: float, scales: list[float]
) -> None:
    assert detection._pyramid_scales(*size, min_face) == pytest.approx(scales, abs=1e-4)


@pytest.mark.parametrize("tile", [4_000, 20_000, 10**9])
def test_tiles_have_no_effect(couple: np.ndarray, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = FaceDetector(min_face=20)(couple)
    monkeypatch.setattr(detection, "_TILE", tile)
    for face, other in zip(FaceDetector(min_face=20)(couple), expected, strict=True):
        np.testing.assert_allclose(face.landmarks, other.landmarks, atol=1)
        assert face.score == pytest.approx(other.score, abs=1e-3)


def test_a_crowd_is_found_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    image = crowd(5, 8, 60)
    faces = FaceDetector()(image)
    assert len(faces) == 80 and detection.MAX_FACES == 1_000  # as documented
    monkeypatch.setattr(detection, "MAX_FACES", 30)
    best = FaceDetector()(image)
    assert len(best) == 30 and best == sorted(best, key=lambda face: face.box)
    assert min(face.score for face in best) >= sorted(face.score for face in faces)[50] - 1e-6


def test_rnet_keeps_boxes_that_are_faces_with_seven_in_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.log([0.69 / 0.31, 0.71 / 0.29, 0.1 / 0.9])
    output = np.column_stack([np.zeros((3, 4)), logits])  # no offsets
    monkeypatch.setattr(detection, "_run_on_crops", lambda *_: output)
    boxes = np.array([[0.0, 0, 10, 10], [20, 0, 30, 12], [40, 0, 50, 10]])
    assert FaceDetector()._refine(np.zeros((9, 9, 3), "uint8"), boxes).tolist() == [[19, 0, 31, 12]]


def test_of_a_face_and_a_larger_box_around_it_one_is_left(couple: np.ndarray) -> None:
    detector = FaceDetector()
    box, larger = (
        [35.5, 31, 159.5, 155],
        [35.5, 18.6, 184.3, 167.4],
    )  # share most of the smaller
    (face,) = detector._find_landmarks(couple, np.array([box, larger]), 1.0, [360, 200] * 2)
    assert np.abs(np.subtract(face.box, (48, 31, 147, 155))).max() < 20


def test_of_too_many_boxes_the_best_are_kept() -> None:
    rectangles, scores = np.arange(20.0).reshape(5, 4), np.array([0.3, 0.9, 0.1, 0.8, 0.5])
    kept, best = detection._keep_best(rectangles, scores, 3)
    assert sorted(best.tolist()) == [0.5, 0.8, 0.9] and sorted(kept[:, 0].tolist()) == [4, 12, 16]


@pytest.mark.parametrize("shape", [(1, 1), (12, 300), (19, 19), (20, 20), (25, 400)])
@pytest.mark.parametrize("value", [0, 255])
def test_small_and_empty_images_have_no_faces(shape: tuple[int, int], value: int) -> None:
    assert FaceDetector(min_face=20)(np.full((*shape, 3), value, "uint8")) == []


@pytest.mark.parametrize("min_face", [19, 0, 40.5, True, "40"])
def test_a_min_face_below_what_the_networks_see_is_refused(min_face: Any) -> None:
    with pytest.raises(
        ValueError, match=r"`min_face` must be an integer of at least 20 \(pixels\)\. Received: min_face="
    ):
        FaceDetector(min_face=min_face)


def test_offsets_move_the_sides_of_a_box() -> None:
    moved = detection._move_boxes(np.array([[10.0, 20, 19, 39]]), np.array([[0.1, -0.1, 0.0, 0.5]], "float32"))
    np.testing.assert_allclose(moved, [[11, 18, 19, 49]])  # of 10 x 20 pixels, both ends counted
