import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from agegender.inference import detection
from agegender.inference.alignment import TEMPLATE, similarity
from agegender.inference.detection import FaceDetector


def test_the_faces_of_a_photograph_are_found_from_left_to_right_with_their_landmarks(couple: np.ndarray) -> None:
    found = FaceDetector()(couple)
    assert len(found) == 2
    for face, left in zip(found, (40, 200), strict=True):
        drawn = np.array(TEMPLATE) * 120 / 200 + (left, 40)  # the drawings are cut as UTKFace is
        assert np.abs(np.array(face.landmarks) - drawn).max() < 12
        assert 0.8 < face.score <= 1
        x = (face.box[0] + face.box[2]) / 2
        assert left + 40 < x < left + 80 and 0 <= face.box[1] < face.box[3] <= 200


def test_photographs_that_are_looked_at_together_have_the_faces_that_they_have_alone(couple: np.ndarray) -> None:
    one, wall = couple[:, :180], np.full_like(couple, 128)
    photographs = [couple, wall, one, couple[:, ::-1], np.zeros((5, 5, 3), "uint8"), couple]
    find = FaceDetector()
    together = find.find(photographs)
    assert [len(of_one) for of_one in together] == [2, 0, 1, 2, 0, 2]
    for of_one, photograph in zip(together, photographs, strict=True):
        for face, alone in zip(of_one, find(np.ascontiguousarray(photograph)), strict=True):
            np.testing.assert_allclose(face.landmarks, alone.landmarks, atol=0.01)
            assert face.score == pytest.approx(alone.score, rel=1e-4)
    assert find.find([]) == [] and find.find([wall, wall]) == [[], []]


def test_a_face_is_found_at_the_size_of_its_image(couple: np.ndarray) -> None:
    (first, _), (large, _) = (
        FaceDetector()(np.asarray(Image.fromarray(couple).resize((360 * times, 200 * times)))) for times in (1, 2)
    )
    scale = np.linalg.det(similarity(first.landmarks)[:, :2]) / np.linalg.det(similarity(large.landmarks)[:, :2])
    assert scale**0.5 == pytest.approx(2, rel=0.05)


def test_a_larger_smallest_face_leaves_small_ones_out_and_places_the_others_right(couple: np.ndarray) -> None:
    large = np.asarray(Image.fromarray(couple).resize((1080, 600)))
    small, precise = FaceDetector(min_face=60)(large), FaceDetector()(large)
    assert len(small) == len(precise) == 2
    for coarse, fine in zip(small, precise, strict=True):
        assert np.abs(np.subtract(coarse.landmarks, fine.landmarks)).max() < 20  # of a face of 360
        assert np.abs(np.subtract(coarse.box, fine.box)).max() < 40
    assert FaceDetector(min_face=200)(couple) == []


def test_a_photograph_of_many_pixels_is_reduced_first(couple: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = FaceDetector(min_face=30)(couple)
    monkeypatch.setattr(detection, "_MANY_PIXELS", couple.shape[0] * couple.shape[1] / 1.5**2)
    assert expected and FaceDetector()(couple) == expected


def test_what_was_found_in_a_reduced_photograph_is_scaled_by_each_side_and_ends_at_the_edges() -> None:
    points = {
        "nose": (15, 25),
        "right_eye": (20, 20),
        "left_eye": (10, 20),
        "mouth_right": (19, 30),
        "mouth_left": (11, 30),
    }
    found = {"box": [-3, 5, 50, 100], "keypoints": points, "confidence": 0.9}
    face = detection._detection(found, (2.0, 3.0), (90, 120))
    assert face is not None and (face.box, face.score) == ((0, 15, 90, 120), 0.9)
    assert face.landmarks == ((20, 60), (40, 60), (30, 75), (22, 90), (38, 90))
    assert detection._detection({**found, "box": [60, 5, 50, 100]}, (2.0, 3.0), (90, 120)) is None  # all of it outside
    assert detection._detection({**found, "keypoints": dict.fromkeys(points, (1, 1))}, (2.0, 3.0), (90, 120)) is None


def test_a_photograph_is_reduced_to_the_mean_of_its_pixels() -> None:
    stripes = np.zeros((120, 90, 3), "uint8")
    stripes[::3] = 240
    reduced = FaceDetector(min_face=60)._reduce(stripes)
    assert reduced.shape == (40, 30, 3) and np.all(reduced == 80)


@pytest.mark.parametrize("shape", [(1, 1), (12, 300), (19, 19), (20, 20), (25, 400)])
@pytest.mark.parametrize("value", [0, 255])
def test_small_and_empty_images_have_no_faces(shape: tuple[int, int], value: int) -> None:
    assert FaceDetector()(np.full((*shape, 3), value, "uint8")) == []


def test_a_smallest_face_below_what_the_networks_see_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`min_face` must be pixels, 20 or more\. Received: min_face=19"):
        FaceDetector(min_face=19)


def test_the_dtype_of_the_model_is_not_that_of_the_detector(couple: np.ndarray) -> None:
    expected = FaceDetector()(couple)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert FaceDetector()(couple) == expected
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")


def test_no_weights_are_taken_from_the_folder_that_a_program_is_run_in(tmp_path: pathlib.Path) -> None:
    for name in ("pnet", "rnet", "onet"):
        (tmp_path / f"{name}.lz4").write_text("these are pickles: whoever loads them runs them")
    code = """
import numpy as np
from agegender.inference import detection
print(detection.FaceDetector()(np.zeros((50, 50, 3), "uint8")))
"""
    root = str(pathlib.Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]", done.stderr[-1000:]
