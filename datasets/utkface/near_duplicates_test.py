"""Near-duplicates on images made here: smooth random fields, which have the coarse structure that faces have."""

# mypy: allow-untyped-defs

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, optimize, spatial

from . import near_duplicates as nd


def field(seed: int, side: int = 200) -> Image.Image:
    random = np.random.default_rng(seed)
    layers = [random.normal(0, 1 / cells, (cells, cells)) for cells in (3, 5, 9, 17, 33)]
    large = [Image.fromarray(layer).resize((side, side), Image.Resampling.BICUBIC) for layer in layers]
    grey = np.sum([np.asarray(layer) for layer in large], axis=0)
    grey = 128 + 50 * (grey - grey.mean()) / grey.std()
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")


def recompressed(image: Image.Image, quality: int = 40) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round(width - right * width), round(height - bottom * height))
    )


ALTERED = {
    "recompressed": recompressed,
    "reduced to a third": lambda image: image.resize((66, 66)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "darker": lambda image: image.point(lambda value: round(value * 0.7)),
    "cropped by 2 % of each side": lambda image: cropped(image, 0.02, 0.02, 0.02, 0.02),
    "cropped on two sides": lambda image: cropped(image, 0.02, 0, 0, 0.02),
    "cropped, scaled back, mirrored and recompressed": lambda image: recompressed(
        cropped(image, 0.01, 0.02, 0.02, 0.01).resize((200, 200)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    ),
}


def thumbnails(images):
    return np.stack([nd.thumbnail(np.asarray(image)) for image in images])


def pairs(images):
    return sorted(tuple(map(int, pair)) for pair in nd.find_matches(thumbnails(images)))


@pytest.mark.parametrize("alteration", ALTERED.values(), ids=ALTERED)
def test_altered_copies_are_found_and_nothing_else(alteration):
    images = [field(seed) for seed in range(60)]
    found = pairs(images + [alteration(image) for image in images])
    right = {(index, index + 60) for index in range(60)}
    assert set(found) <= right
    assert len(found) >= 58


def test_order_of_a_pair_does_not_matter():
    first, second = field(1), cropped(field(1), 0.02, 0.02, 0, 0)
    assert pairs([first, second]) == pairs([second, first]) == [(0, 1)]


def test_chunk_size_changes_no_pair(monkeypatch):
    images = [field(seed) for seed in range(20)]
    together = [*images, *map(recompressed, images)]
    found = pairs(together)
    monkeypatch.setattr(nd, "_CHUNK", 7)
    assert pairs(together) == found == [(index, index + 20) for index in range(20)]


def test_plain_correlation_is_pearsons_of_halved_thumbnails():
    first, second = np.random.default_rng(0).integers(0, 256, (2, 5, 32, 32)).astype(np.float32)
    halved = [[each.reshape(16, 2, 16, 2).mean((1, 3)).ravel() for each in side] for side in (first, second)]
    expected = [np.corrcoef(one, other)[0, 1] for one, other in zip(*halved, strict=True)]
    np.testing.assert_allclose(nd.correlations(first, second)[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize(("correlation", "matches"), [(0.976, True), (0.974, False)])
def test_threshold_of_the_plain_correlation(correlation, matches):
    """Two orthogonal unit patterns of 16 x 16 blocks, mixed to an exact correlation."""
    base, other = np.linalg.qr(np.random.default_rng(1).normal(size=(256, 3)) - [[1, 0, 0]])[0].T[:2]
    base, other = base - base.mean(), other - other.mean()
    base /= np.linalg.norm(base)
    other -= base * (base @ other)
    other /= np.linalg.norm(other)
    mixture = correlation * base + (1 - correlation**2) ** 0.5 * other
    assert np.corrcoef(base, mixture)[0, 1] == pytest.approx(correlation)
    thumbnails = [(128 + 500 * each).reshape(16, 16).repeat(2, 0).repeat(2, 1) for each in (base, mixture)]
    first, second = np.array(thumbnails, np.float32)[:, None]
    assert nd._is_match(first, second).tolist() == [matches]


def mixed(seed, share, shift):
    """Returns thumbnails of an image and of a mixture with another that is shifted by `shift` of 200 pixels."""
    first, second = (np.asarray(field(each, 220).convert("L"), float) - 128 for each in (seed, seed + 1000))
    second -= first * (first * second).mean() / first.var()
    second = share * first / first.std() + (1 - share**2) ** 0.5 * second / second.std()
    grey = [np.clip(128 + 40 * each, 0, 255).astype(np.uint8) for each in (first / first.std(), second)]
    moved = grey[0][:200, :200], grey[1][shift : 200 + shift, shift : 200 + shift]
    return [nd.thumbnail(np.stack([each] * 3, 2)) for each in moved]


def test_match_passes_one_of_two_thresholds():
    cases = [(share, shift) for share in np.linspace(0.955, 0.995, 41) for shift in (0, 3, 8)]
    first, second = np.array([mixed(5, *case) for case in cases], np.float32).swapaxes(0, 1)
    as_they_lie, registered = nd.correlations(first, second).T
    same = nd._is_match(first, second)
    np.testing.assert_array_equal(same, (as_they_lie >= 0.975) | (registered >= 0.988))
    assert as_they_lie[~same].max() > 0.974 and registered[~same].max() > 0.987
    assert registered[same & (as_they_lie < 0.975)].min() < 0.989


def test_equal_flat_thumbnails_match():
    black, white = Image.new("RGB", (50, 50)), Image.new("RGB", (50, 50), (255, 255, 255))
    assert pairs([black, white, black, field(1), black]) == [(0, 2), (0, 4)]


def test_flat_thumbnails_are_not_compared():
    slope = np.linspace(0, 1, 32) * np.linspace(0, 1, 32)[:, None]
    levels = [np.round(level + contrast * slope).astype(np.uint8) for level in (50, 150) for contrast in (1, 6)]
    assert [each.std() < 1 for each in levels] == [True, False, True, False]
    assert nd.find_matches(np.stack(levels)).tolist() == [[1, 3]]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_have_no_pairs(count):
    assert nd.find_matches(thumbnails([field(1)])[:count]).shape == (0, 2)


def test_equal_images_make_a_linear_number_of_pairs():
    many = np.repeat(thumbnails([field(1), field(2)]), 5_000, axis=0)
    assert len(nd.find_matches(many)) == 9_998


def test_many_near_copies_stay_connected():
    random = np.random.default_rng(0)
    crowd = np.clip(thumbnails([field(1)]).astype(int) + random.integers(-3, 4, (300, 32, 32)), 0, 255).astype(np.uint8)
    linked = {0}
    for first, second in sorted(map(tuple, nd.find_matches(crowd).tolist())):
        if linked & {first, second}:
            linked |= {first, second}
    assert len(linked) == 300


def test_thumbnail_averages_grey_areas():
    image = np.zeros((64, 96, 3), np.uint8)
    image[:2, :3] = (10, 20, 30)
    image[2:, 3:] = 200
    thumbnail = nd.thumbnail(image)
    assert thumbnail.shape == (32, 32) and thumbnail.dtype == np.uint8
    assert thumbnail[0, 0] == round(0.299 * 10 + 0.587 * 20 + 0.114 * 30)
    assert thumbnail[1, 1] == 200 and thumbnail[0, 1] == 0


@pytest.mark.parametrize("shape", [(1, 1), (7, 500), (33, 31), (3000, 2000)])
def test_thumbnail_keeps_the_mean_of_any_size(shape):
    image = np.broadcast_to(np.linspace(0, 255, shape[1]).astype(np.uint8)[None, :, None], (*shape, 3))
    assert nd.thumbnail(image).mean() == pytest.approx(image.mean(), abs=1)


def test_mirroring_negates_odd_waves():
    upright = thumbnails([field(3)])
    mirrored = nd.spectrum(np.ascontiguousarray(upright[:, :, ::-1]))
    np.testing.assert_allclose(nd.spectrum(upright) * nd.MIRROR, mirrored, atol=1e-5)


def best_correlation(moving: np.ndarray, fixed: np.ndarray) -> float:
    """The highest correlation over shifts and scales within the limits, by a general optimiser."""
    at = np.arange(32) - 15.5

    def loss(changes: np.ndarray) -> float:
        if np.any(np.abs(changes[:2]) > 0.14) or np.any(np.abs(changes[2:]) > 0.08 * 32):
            return 0.0
        places = [at * (1 + scale) + shift for scale, shift in zip(changes[:2], changes[2:], strict=True)]
        moved = ndimage.map_coordinates(moving, np.meshgrid(*(each + 15.5 for each in places), indexing="ij"), order=1,
                                        mode="nearest")  # fmt: skip
        inside = np.ix_(*(np.abs(each) <= 16 for each in places))
        return -np.corrcoef(moved[inside].ravel(), fixed[inside].ravel())[0, 1]

    simplex = np.vstack([np.zeros(4), np.diag([0.05, 0.05, 1, 1])])
    return -optimize.minimize(loss, np.zeros(4), method="Nelder-Mead", options={"initial_simplex": simplex}).fun


def test_registration_finds_the_best_shift_and_scale() -> None:
    cuts = [(0.05, 0, 0.05, 0.05), (0, 0.06, 0.03, 0)]
    first = thumbnails([field(seed) for seed in range(2)]).astype(np.float32)
    second = thumbnails([cropped(field(seed), *cut) for seed, cut in enumerate(cuts)]).astype(np.float32)
    blurred = [[ndimage.gaussian_filter(each, 0.6, mode="nearest") for each in side] for side in (first, second)]
    expected = [max(best_correlation(*pair), best_correlation(*pair[::-1])) for pair in zip(*blurred, strict=True)]
    assert [np.corrcoef(*pair)[0, 1] < 0.97 for pair in zip(first[:, 10], second[:, 10], strict=True)]
    np.testing.assert_allclose(nd.registered_correlation(first, second), expected, atol=1e-4)
    np.testing.assert_array_equal(nd.registered_correlation(second, first), nd.registered_correlation(first, second))


def test_candidates_are_all_pairs_within_the_radius() -> None:
    images = [field(seed) for seed in range(60)]
    cuts = [cropped(image, *[0.03 + 0.0005 * number] * 4) for number, image in enumerate(images)]
    small = thumbnails([*images, *cuts[:30], *map(ALTERED["mirrored"], cuts[30:])])
    upright, mirrored = (nd.spectrum(each) @ nd.projection().T for each in (small, small[:, :, ::-1]))
    found, flips = nd.find_candidates(small, np.arange(len(small)))
    for flip, other in ((False, upright), (True, mirrored)):
        within = np.triu(spatial.distance.cdist(upright, other) <= 6, 1)
        expected, given = set(np.flatnonzero(within)), set(found[flips == flip] @ (len(small), 1))
        assert given <= expected and len(given) >= 0.8 * len(expected) > 15  # hashing overlooks some of the farthest
