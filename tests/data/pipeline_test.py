"""Batches of `load_utkface`: which images, in which order, with which pixels and targets."""

import itertools
import pathlib
import re
import shutil
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_utkface import prepare

from agegender import load_utkface
from agegender.data import pipeline
from agegender.data.prepared import find_prepared, stored_size

SIZE = 24


def load(data_dir: pathlib.Path, split: str = "train", **options: Any) -> tf.data.Dataset:
    return load_utkface(split, **{"batch_size": 16, "image_size": SIZE, "data_dir": data_dir, **options})


def read_images(dataset: tf.data.Dataset, count: int = -1) -> list[np.ndarray]:
    return [images for images, *_ in dataset.take(count).as_numpy_iterator()]


def read_ages(dataset: tf.data.Dataset, count: int = -1) -> list[int]:
    return [int(age) for _, targets, *_ in dataset.take(count) for (age,) in targets["age"].numpy()]


def count_distinct(images: np.ndarray) -> int:
    return len(np.unique(images.reshape(len(images), -1), axis=0))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Thirty images to train on, aged 0 to 29, their other labels computed from the age; six to test on."""
    train = [{"age": i, "gender": i % 2, "race": i // 2 % 5, "fold": i % 5} for i in range(30)]
    for age, conflict in ((10, "age_conflict"), (11, "age_conflict"), (20, "gender_conflict")):
        train[age][conflict] = True
    test = [{"age": 100 + i, "fold": 4} for i in range(6)]
    return prepare(tmp_path_factory.mktemp("labelled"), {"train": train, "test": test})


# ---- Contract


def test_batch_has_documented_shapes_and_dtypes(prepared: pathlib.Path) -> None:
    images, targets = next(iter(load(prepared)))
    assert images.dtype == tf.uint8 and images.shape == (16, SIZE, SIZE, 3)
    assert {key: (value.dtype, tuple(value.shape)) for key, value in targets.items()} == {
        "age": (tf.float32, (16, 1)),
        "gender": (tf.float32, (16, 1)),
    }
    assert set(np.unique(targets["gender"])) == {0.0, 1.0}
    assert load(prepared).element_spec[0].shape == (None, SIZE, SIZE, 3)
    assert load(prepared, training=True).element_spec[0].shape == (16, SIZE, SIZE, 3)


def test_targets_are_those_of_the_image(tmp_path: pathlib.Path) -> None:
    rows = [
        {"age": age, "gender": gender, "image": tf.io.encode_jpeg(np.full((24, 24, 3), 2 * age, np.uint8)).numpy()}
        for age, gender in ((5, 0), (60, 1), (116, 1))
    ]
    images, targets = next(iter(load(prepare(tmp_path, {"train": rows}))))
    found = zip(
        images.numpy().mean((1, 2, 3)), targets["age"].numpy()[:, 0], targets["gender"].numpy()[:, 0], strict=True
    )
    assert sorted((round(float(level)), age, gender) for level, age, gender in found) == [
        (10, 5, 0),
        (120, 60, 1),
        (232, 116, 1),
    ]


def test_splits_are_disjoint_and_complete(prepared: pathlib.Path) -> None:
    images = [np.concatenate(read_images(load(prepared, split))) for split in ("train", "validation", "test")]
    assert sum(map(len, images)) == 240 == count_distinct(np.concatenate(images))
    assert len(np.concatenate(read_images(load(prepared, "all")))) == 240


def test_slices_of_a_split_add_up(labelled: pathlib.Path) -> None:
    first, second = (read_ages(load(labelled, split)) for split in ("train[:30%]", "train[30%:]"))
    assert len(first) == 9 and first + second == read_ages(load(labelled))


@pytest.mark.parametrize("head", ["age", "gender"])
def test_one_head_gives_one_target(labelled: pathlib.Path, head: str) -> None:
    assert set(load(labelled, heads=[head]).element_spec[1]) == {head}


def test_further_labels_stand_beside_the_targets(labelled: pathlib.Path) -> None:
    _, targets = next(iter(load(labelled, batch_size=30, labels=("race", "file_name", "group"))))
    assert {key: (value.dtype, tuple(value.shape)) for key, value in targets.items()} == {
        **dict.fromkeys(("age", "gender", "race"), (tf.float32, (30, 1))),
        **dict.fromkeys(("file_name", "group"), (tf.string, (30, 1))),
    }
    for age, race, name in zip(*(targets[key].numpy()[:, 0] for key in ("age", "race", "file_name")), strict=True):
        assert race == age // 2 % 5 and name.decode().startswith(f"{age:.0f}_{age % 2:.0f}_{race:.0f}_train")


def test_arguments_may_be_numpy_values(labelled: pathlib.Path) -> None:
    plain = {"batch_size": 4, "image_size": 12, "folds": (0, 1, 2, 3), "ages": (3, 25), "heads": ("age",)}
    arrays = {"batch_size": np.int64(4), "image_size": np.int32(12)}
    arrays |= {"folds": np.arange(4), "ages": np.array([3, 25]), "heads": np.array(["age"])}
    expected, found = read_images(load(labelled, **plain)), read_images(load(labelled, **arrays))
    np.testing.assert_array_equal(np.concatenate(expected), np.concatenate(found))


# ---- Order: shuffle, repeat, resume, cache


def test_evaluation_gives_each_image_once_in_a_fixed_order(prepared: pathlib.Path) -> None:
    first, second = (np.concatenate(read_images(load(prepared, "validation"))) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(first) == count_distinct(first)


def test_seed_decides_the_order(labelled: pathlib.Path) -> None:
    first, again, other = (read_ages(load(labelled, training=True, batch_size=6, seed=seed), 4) for seed in (0, 0, 1))
    assert first == again == read_ages(load(labelled, training=True, batch_size=6), 4) != other


def test_each_pass_has_the_same_images_in_another_order(labelled: pathlib.Path) -> None:
    dataset = load(labelled, training=True, batch_size=3)
    assert dataset.steps_per_epoch == 10
    ages = read_ages(dataset, 20)
    assert sorted(ages[:30]) == sorted(ages[30:]) == list(range(30)) and ages[:30] != ages[30:] != list(range(30))


def test_batch_sizes(labelled: pathlib.Path) -> None:
    training = load(labelled, training=True, batch_size=8)
    assert training.steps_per_epoch == 3
    assert [len(images) for images in read_images(training, 9)] == [8] * 9
    assert [len(images) for images in read_images(load(labelled, batch_size=8))] == [8, 8, 8, 6]
    assert len(load(labelled, batch_size=8)) == 4  # Keras draws its progress bar by it
    assert [len(images) for images in read_images(load(labelled, batch_size=10**9))] == [30]


@pytest.mark.parametrize("cache", ["bytes", "pixels", None])
def test_from_step_continues_the_stream(labelled: pathlib.Path, cache: Any) -> None:
    options = {"training": True, "seed": 5, "cache": cache, "batch_size": 4}
    whole = read_ages(load(labelled, **options), 30)  # four passes
    dataset = load(labelled, **options)
    assert whole[100:] == read_ages(dataset.from_step(25), 5) == read_ages(dataset.from_step(22).from_step(3), 5)
    with pytest.raises(ValueError, match=r"`step` must be an integer of at least 0\. Received: step=-1"):
        dataset.from_step(-1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cache", ["pixels", None])
def test_cache_changes_no_batch(labelled: pathlib.Path, cache: Any, training: bool) -> None:
    datasets = (load(labelled, training=training, batch_size=8, cache=kind) for kind in ("bytes", cache))
    expected, found = (np.concatenate(read_images(dataset, 12)) for dataset in datasets)
    np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"cache": "bytes"}, {"cache": "pixels"}, {"cache": None}])
def test_cache_avoids_disk_after_the_first_pass(
    labelled: pathlib.Path, tmp_path: pathlib.Path, options: dict, training: bool
) -> None:
    copy = shutil.copytree(labelled, tmp_path / "copy")
    dataset = load(copy, batch_size=10, training=training, **options)
    passes = iter(dataset) if training else itertools.chain.from_iterable(iter(dataset) for _ in itertools.count())
    ages = [int(age) for _, targets in itertools.islice(passes, 3) for (age,) in targets["age"].numpy()]
    shutil.rmtree(copy)
    if "cache" in options and options["cache"] is None:
        with pytest.raises(tf.errors.NotFoundError):
            list(itertools.islice(passes, 99))  # far beyond what is read ahead
    else:
        ages += [int(age) for _, targets in itertools.islice(passes, 9) for (age,) in targets["age"].numpy()]
        assert sorted(ages) == sorted(4 * list(range(30)))


def test_shuffling_reaches_no_further_than_its_window(labelled: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pipeline._SHUFFLE_WINDOW == 8192  # images, as documented
    monkeypatch.setattr(pipeline, "_SHUFFLE_WINDOW", 5)
    stored = read_ages(load(labelled))
    shuffled = read_ages(load(labelled, training=True, batch_size=1, cache=None), 30)
    assert sorted(shuffled) == list(range(30)) and shuffled != stored
    assert all(stored.index(age) < position + 5 for position, age in enumerate(shuffled))


# ---- Pixels: decode, resize


def test_resizing_matches_pillow(labelled: pathlib.Path) -> None:
    native, smaller = (read_images(load(labelled, batch_size=30, image_size=size))[0] for size in (SIZE, 6))
    pillow = [Image.fromarray(image).resize((6, 6), Image.Resampling.BILINEAR) for image in native]
    difference = smaller.astype(float) - np.stack([np.asarray(image, float) for image in pillow])
    assert np.abs(difference).max() <= 1 and abs(difference.mean()) < 0.1


def test_unknown_stored_size_changes_no_pixel(prepared: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for image_size in (SIZE, SIZE // 2):
        options = {"split": "validation", "batch_size": 7, "image_size": image_size}  # the last batch is short
        known = read_images(load(prepared, **options))
        assert stored_size(find_prepared(prepared)) == (SIZE, SIZE)
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "stored_size", lambda _: None)
            patch.setattr(pipeline, "MAX_PIXELS", SIZE * SIZE)
            unknown = read_images(load(prepared, **options))
        np.testing.assert_array_equal(np.concatenate(known), np.concatenate(unknown))


@pytest.mark.parametrize(("height", "width"), [(24, 24), (24, 30), (12, 24), (30, 12), (9, 9)])
def test_images_of_mixed_sizes_are_resized(tmp_path: pathlib.Path, height: int, width: int) -> None:
    ramp = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 50, height)[:, None, None]
    encoded = tf.io.encode_jpeg(np.repeat(ramp, 3, 2).astype(np.uint8)).numpy()
    other = tf.io.encode_jpeg(np.full((50, 40, 3), 99, np.uint8)).numpy()
    data = prepare(tmp_path, {"train": [{"age": 1, "image": encoded}, {"age": 2, "image": other}]})
    images, targets = next(iter(load(data)))
    assert images.shape == (2, SIZE, SIZE, 3)
    found = dict(zip(targets["age"].numpy()[:, 0], images.numpy().astype(float), strict=True))
    resized = Image.fromarray(tf.io.decode_jpeg(encoded).numpy()).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert np.abs(found[1] - np.asarray(resized, float)).max() <= 1 and np.abs(found[2] - 99).max() <= 1


# ---- Filters


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ages": (5, 8)}, {5, 6, 7, 8}),
        ({"genders": ["female"], "ages": (5, 8)}, {5, 7}),
        ({"races": ["Black", "Others"]}, {2, 3, 12, 13, 22, 23, 8, 9, 18, 19, 28, 29}),
        ({"folds": [2], "conflicts": True}, {2, 7, 12, 17, 22, 27}),
        ({"conflicts": False}, set(range(30)) - {10, 11, 20}),
        ({"split": "all", "folds": (4,)}, {4, 9, 14, 19, 24, 29, 100, 101, 102, 103, 104, 105}),
        ({"split": "train+test", "folds": (4,), "ages": (29, 100)}, {29, 100}),
    ],
)
def test_filters_select_the_matching_images(
    labelled: pathlib.Path, monkeypatch: pytest.MonkeyPatch, options: dict, expected: set[int]
) -> None:
    monkeypatch.setattr("agegender.data.prepared._BATCH", 7)  # several batches
    dataset = load(labelled, batch_size=5, **options)
    assert sorted(read_ages(dataset)) == sorted(expected)
    assert len(dataset) == -(-len(expected) // 5)


@pytest.mark.parametrize("cache", ["bytes", "pixels", None])
def test_training_repeats_only_the_matching_images(labelled: pathlib.Path, cache: Any) -> None:
    dataset = load(labelled, training=True, batch_size=2, cache=cache, ages=(0, 9))
    assert dataset.steps_per_epoch == 5
    ages = read_ages(dataset, 10)
    assert sorted(ages[:10]) == sorted(ages[10:]) == list(range(10)) and ages[:10] != ages[10:]


def test_filters_decode_no_image(labelled: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.io, "decode_jpeg", lambda *_, **__: pytest.fail("an image was decoded"))
    with pytest.raises(ValueError, match="No image matches all filters"):
        load(labelled, ages=(90, 99))


# ---- Shards of a batch


def join(batch: tuple, other: tuple) -> tuple:
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts), batch, other)


@pytest.mark.parametrize("options", [{}, {"cache": "pixels"}])
def test_shards_of_a_training_batch_join_to_the_batch(labelled: pathlib.Path, options: dict) -> None:
    def batches(**shard: Any) -> Any:
        return load(labelled, training=True, seed=3, **options, **shard).take(5).as_numpy_iterator()

    for whole, first, second in zip(batches(), batches(shard=(0, 2)), batches(shard=(1, 2)), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, whole, join(first, second))
        assert len(first[0]) == 8


@pytest.mark.parametrize("cache", ["bytes", "pixels"])
@pytest.mark.parametrize(("split", "count", "filled"), [("train", 30, 32), ("test", 6, 16)])
def test_evaluation_shards_cover_each_image_once_and_pad_with_weight_0(
    labelled: pathlib.Path, cache: Any, split: str, count: int, filled: int
) -> None:
    options = {"split": split, "batch_size": 16, "cache": cache}
    shards = [list(load(labelled, shard=(index, 2), **options).as_numpy_iterator()) for index in range(2)]
    joined = [join(first, second) for first, second in zip(*shards, strict=True)]
    images, targets, weights = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *joined)
    np.testing.assert_array_equal(images[:count], np.concatenate(read_images(load(labelled, **options))))
    assert targets["age"][:count, 0].tolist() == read_ages(load(labelled, **options))
    assert len(images) == filled
    np.testing.assert_allclose(weights[:, 0], [filled / count] * count + [0] * (filled - count), rtol=1e-6)


# ---- Errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1. Received: batch_size=0"),
        ({"batch_size": 2.5}, "`batch_size` must be an integer"),
        ({"image_size": 10_001}, "`image_size` must be at most 10000. Received: image_size=10001"),
        ({"heads": None}, "`heads` must be a sequence of values from ('age', 'gender'). Received: heads=None"),
        ({"labels": None}, "`labels` must be a sequence"),
        ({"shard": (0.0, 2.0)}, "`shard` must be (index, num_shards)"),
        ({"shard": "02"}, "`shard` must be (index, num_shards)"),
        ({"batch_size": True}, "`batch_size` must be an integer"),
        ({"image_size": 0}, "`image_size` must be an integer of at least 1"),
        ({"seed": None}, "`seed` must be an integer. Received: seed=None"),
        ({"cache": "disk"}, "`cache` must be 'bytes', 'pixels' or None. Received: cache='disk'"),
        ({"heads": ["race"]}, "`heads` must be a sequence of values from ('age', 'gender')"),
        ({"heads": "age"}, "`heads` must be a sequence"),
        ({"heads": []}, "`heads` must contain one or both"),
        ({"labels": ["fold"]}, "`labels` must be a sequence of values from ('race', 'file_name', 'group')"),
        ({"labels": "race"}, "`labels` must be a sequence"),
        ({"split": "training"}, "`split` must be one of"),
        ({"batch_size": 31, "training": True}, "`batch_size` must be at most the 30 images of the split. Received"),
        ({"batch_size": 5, "training": True, "ages": (5, 8)}, "the 4 images of the split with ages=(5, 8). Received"),
        ({"ages": (60, 21)}, "`ages` must be the lowest and the highest age"),
        ({"genders": "male"}, "`genders` must be a sequence"),
        ({"races": ["Martian"]}, "'Indian', 'Others'). Received: races=['Martian']"),
        ({"folds": [5]}, "`folds` must contain one or more of (0, 1, 2, 3, 4)"),
        ({"conflicts": None}, "`conflicts` must be True or False"),
        *(({"shard": shard}, "`shard` must be (index, num_shards)") for shard in ((2, 2), (-1, 2), (0, 3), 1, (0,))),
    ],
)
def test_bad_argument_is_named(labelled: pathlib.Path, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        load(labelled, **options)
