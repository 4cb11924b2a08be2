import numpy as np
import pytest

from agegender.inference import boxes
from agegender.inference.boxes import crop_boxes, make_square, suppress_overlaps


def suppress_with_loops(rectangles: np.ndarray, scores: np.ndarray, threshold: float, over: str) -> list[int]:
    """The same, pair by pair."""
    kept = []
    for i, (left, top, right, bottom) in enumerate(rectangles):
        for j, (x0, y0, x1, y1) in enumerate(rectangles):
            shared = max(0.0, min(right, x1) - max(left, x0)) * max(0.0, min(bottom, y1) - max(top, y0))
            areas = (right - left) * (bottom - top), (x1 - x0) * (y1 - y0)
            whole = min(areas) if over == "smaller" else sum(areas) - shared
            if scores[j] > scores[i] and shared / whole > threshold:
                break
        else:
            kept.append(i)
    return sorted(kept, key=lambda i: -scores[i])


@pytest.mark.parametrize("over", ["union", "smaller"])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7])
def test_overlaps_are_suppressed_as_pair_by_pair(over: str, threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "_ROWS", 16)  # several parts
    random = np.random.default_rng(0)
    corners = random.uniform(0, 60, (150, 2))
    rectangles = np.concatenate([corners, corners + random.uniform(1, 30, (150, 2))], axis=1)
    scores = random.permutation(150) / 150
    kept = suppress_overlaps(rectangles, scores, threshold, over=over)
    assert kept.tolist() == suppress_with_loops(rectangles, scores, threshold, over)
    assert 5 < len(kept) < 150


@pytest.mark.parametrize(("threshold", "over", "kept"), [
    # 10 x 10 and 5 x 10 inside it share 50: 50 / 100 of the union, all of the smaller.
    (0.49, "union", [0]), (0.5, "union", [0, 1]), (0.99, "smaller", [0]), (1.0, "smaller", [0, 1]),
])  # fmt: skip
def test_only_overlaps_above_the_threshold_are_suppressed(threshold: float, over: str, kept: list[int]) -> None:
    rectangles = np.array([[0.0, 0, 10, 10], [0, 0, 5, 10]])
    assert suppress_overlaps(rectangles, np.array([0.9, 0.8]), threshold, over=over).tolist() == kept


def test_a_suppressed_box_suppresses_others() -> None:
    chain = np.array([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])  # neighbours share 60 of 140
    assert suppress_overlaps(chain, np.array([0.9, 0.8, 0.7]), 0.4).tolist() == [0]


def test_memory_for_overlaps_is_linear() -> None:
    import tracemalloc

    random = np.random.default_rng(0)
    peaks = []
    for count in (2_000, 8_000):
        corners = random.uniform(0, 4_000, (count, 2))
        rectangles = np.concatenate([corners, corners + 40], axis=1)
        tracemalloc.start()
        suppress_overlaps(rectangles, random.random(count), 0.5)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 6 * peaks[0]  # 16 times with all pairs at once


def test_no_boxes_are_no_boxes() -> None:
    assert suppress_overlaps(np.empty((0, 4)), np.empty(0), 0.5).tolist() == []
    assert make_square(np.empty((0, 4))).shape == (0, 4)
    assert crop_boxes(np.zeros((5, 5, 3), "uint8"), np.empty((0, 4)), 24).shape == (0, 24, 24, 3)


def test_square_around_a_box() -> None:
    squares = make_square(np.array([[2.0, 3, 6, 13], [0, 0, 7, 7], [1, 1, 9, 4]]))
    np.testing.assert_allclose(squares, [[-1, 3, 9, 13], [0, 0, 7, 7], [1, -1.5, 9, 6.5]])


def test_crops_are_those_of_tensorflow() -> None:
    import tensorflow as tf

    random = np.random.default_rng(0)
    image = random.integers(0, 256, (40, 70, 3), "uint8")
    rectangles = np.concatenate([random.uniform(-20, 50, (30, 2)), random.uniform(20, 90, (30, 2))], axis=1)
    ends = rectangles[:, [1, 0, 3, 2]] / (40, 70, 40, 70)
    # Its value outside is one number: zero, of images that MTCNN has scaled.
    scaled = tf.image.crop_and_resize((image[None] - 127.5) / 128, ends, [0] * 30, (24, 24))
    np.testing.assert_allclose(crop_boxes(image, rectangles, 24), scaled.numpy() * 128 + 127.5, atol=1e-2)


def test_a_crop_is_grey_outside_and_bilinear_inside() -> None:
    image = np.zeros((3, 3, 3), "uint8")
    image[:, 1], image[:, 2] = 60, 120
    # Columns at -1, 0.5 and 2 of 0..2: the box from -1.5 to 3 in pixels of 3, times 2 / 3.
    (crop,) = crop_boxes(image, np.array([[-1.5, 0.0, 3.0, 3.0]]), 3)
    np.testing.assert_allclose(crop[..., 0], [[127.5, 30, 120]] * 3)
