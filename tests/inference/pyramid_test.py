import numpy as np
import pytest

from agegender.inference import pyramid
from agegender.inference.pyramid import build_pyramid


def average_with_loops(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each new pixel, from the old ones that it covers, one by one."""
    means = np.zeros((image.shape[2], height, width))
    down, across = image.shape[0] / height, image.shape[1] / width
    for row in range(height):
        for column in range(width):
            for y in range(int(row * down), min(image.shape[0], int((row + 1) * down) + 1)):
                for x in range(int(column * across), min(image.shape[1], int((column + 1) * across) + 1)):
                    share = min(y + 1, (row + 1) * down) - max(y, row * down)
                    share *= min(x + 1, (column + 1) * across) - max(x, column * across)
                    means[:, row, column] += max(0, share) * image[y, x]
    return means / (down * across)


def read_level(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    (level,) = build_pyramid(image, [size])
    return level.read(0, size[0])


@pytest.mark.parametrize("size", [(31, 47), (30, 20), (13, 29), (1, 1)])
def test_each_pixel_is_the_mean_of_the_area_that_it_covers(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (31, 47, 3), "uint8")
    means = read_level(image, size)
    assert means.dtype == np.float32 and means.flags.c_contiguous
    np.testing.assert_allclose(means, average_with_loops(image, *size), atol=0.001)


def test_rows_that_are_read_apart_are_those_read_together() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 50, 3), "uint8")
    (level,) = build_pyramid(image, [(41, 22)])
    parts = [level.read(start, stop) for start, stop in ((0, 5), (5, 30), (30, 41))]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), level.read(0, 41), atol=1e-4)


def test_products_are_split_without_an_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 80, 3), "uint8")
    expected = read_level(image, (20, 30))
    monkeypatch.setattr(pyramid, "_PRODUCT", 1_000)
    np.testing.assert_allclose(read_level(image, (20, 30)), expected, atol=1e-4)


def test_a_level_that_is_hundreds_of_times_smaller_is_the_mean_too() -> None:
    ramp = np.linspace(0, 255, 3200).astype("uint8")[:, None, None]
    image = np.broadcast_to(ramp, (3200, 16, 3)).copy()
    first, second = build_pyramid(image, [(50, 5), (12, 1)])
    np.testing.assert_allclose(first.read(0, 50), average_with_loops(image, 50, 5), atol=0.01)
    np.testing.assert_allclose(second.read(0, 12), average_with_loops(image, 12, 1), atol=1)
