import functools
import os
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from tiny_utkface import prepare

from agegender import load_utkface
from agegender.data import pipeline
from agegender.data.prepared import find_prepared, read_encoded, stored_size

SIZE = 24


def load(prepared: pathlib.Path, split: str = "train", **options) -> tf.data.Dataset:
    return load_utkface(split, **{"batch_size": 16, "image_size": SIZE, "data_dir": prepared, **options})


def batches(dataset: tf.data.Dataset, count: int) -> list[np.ndarray]:
    return [images for images, _ in dataset.take(count).as_numpy_iterator()]


def test_a_batch_keeps_the_contract(prepared: pathlib.Path) -> None:
    images, targets = next(iter(load(prepared)))
    assert images.dtype == tf.uint8 and images.shape == (16, SIZE, SIZE, 3)
    assert {key: (value.dtype, tuple(value.shape)) for key, value in targets.items()} == {
        "age": (tf.float32, (16, 1)),
        "gender": (tf.float32, (16, 1)),
    }
    assert set(np.unique(targets["gender"])) == {0.0, 1.0}
    assert np.min(targets["age"]) >= 0 and np.max(targets["age"]) <= 116
    assert np.std(images) > 20


def test_the_image_heads_know_their_static_shape(prepared: pathlib.Path) -> None:
    assert load(prepared).element_spec[0].shape == (None, SIZE, SIZE, 3)
    assert load(prepared, training=True).element_spec[0].shape == (16, SIZE, SIZE, 3)


def test_evaluation_sees_every_image_once_in_the_same_order(prepared: pathlib.Path) -> None:
    first, second = (np.concatenate(batches(load(prepared, "validation"), -1)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(first) == len(np.unique(first.reshape(len(first), -1), axis=0))


def test_the_three_splits_share_no_image_and_hold_all(prepared: pathlib.Path) -> None:
    splits = [np.concatenate(batches(load(prepared, s), -1)) for s in ("train", "validation", "test")]
    together = np.concatenate(splits)
    assert len(together) == 240 == len(np.unique(together.reshape(len(together), -1), axis=0))


def test_the_seed_alone_decides_the_order(prepared: pathlib.Path) -> None:
    first, again, other = (batches(load(prepared, training=True, seed=s), 3) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_each_pass_has_another_order_of_the_same_images(prepared: pathlib.Path) -> None:
    dataset = load(prepared, "validation", training=True, batch_size=1)
    one_pass = dataset.steps_per_epoch
    stream = np.concatenate(batches(dataset, 2 * one_pass))
    first, second = stream[:one_pass], stream[one_pass:]
    assert not np.array_equal(first, second)
    for each in (first, second):
        assert len(np.unique(each.reshape(one_pass, -1), axis=0)) == one_pass


@pytest.mark.parametrize("cache", ["bytes", "pixels", None])
def test_skipping_goes_on_where_a_run_stopped(prepared: pathlib.Path, cache: str | None) -> None:
    options = {"training": True, "seed": 5, "cache": cache}
    whole = batches(load(prepared, **options), 30)  # more than two passes
    np.testing.assert_array_equal(whole[25:], batches(load(prepared, skip=25, **options), 5))


@pytest.mark.parametrize("cache", ["pixels", None])
def test_the_cache_changes_nothing_that_is_seen(prepared: pathlib.Path, cache: str | None) -> None:
    expected, got = (batches(load(prepared, training=True, cache=c), 20) for c in ("bytes", cache))
    np.testing.assert_array_equal(expected, got)


def test_training_batches_are_full_and_evaluation_keeps_the_rest(prepared: pathlib.Path) -> None:
    dataset = load(prepared, training=True, batch_size=50)
    assert [len(batch) for batch in batches(dataset, 2 * dataset.steps_per_epoch)] == [50] * (
        2 * dataset.steps_per_epoch
    )
    sizes = [len(batch) for batch in batches(load(prepared, batch_size=50), -1)]
    assert sizes[:-1] == [50] * dataset.steps_per_epoch and 0 < sizes[-1] < 50


def test_images_of_another_size_are_resized(prepared: pathlib.Path) -> None:
    native, larger = (np.concatenate(batches(load(prepared, "test", image_size=s), -1)) for s in (SIZE, 2 * SIZE))
    assert larger.shape[1:] == (2 * SIZE, 2 * SIZE, 3)
    shrunk = larger.reshape(len(larger), SIZE, 2, SIZE, 2, 3).mean((2, 4))
    assert np.mean(np.abs(shrunk - native)) < 5


def test_images_are_made_smaller_as_pillow_makes_them_smaller(labelled: pathlib.Path) -> None:
    native, smaller = (next(iter(load(labelled, batch_size=30, image_size=size)))[0] for size in (SIZE, 6))
    pillow = [Image.fromarray(one).resize((6, 6), Image.Resampling.BILINEAR) for one in native.numpy()]
    difference = smaller.numpy() - np.stack([np.asarray(one, "float32") for one in pillow])
    assert np.abs(difference).max() <= 1 and abs(difference.mean()) < 0.1


def test_what_the_builder_says_of_the_size_changes_nothing_but_the_time(
    prepared: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for image_size in (SIZE, SIZE // 2):
        options = {"split": "validation", "batch_size": 7, "image_size": image_size}  # the last batch is short
        known = batches(load(prepared, **options), -1)
        assert stored_size(find_prepared(prepared)) == (SIZE, SIZE)
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "stored_size", lambda _: None)
            unknown = batches(load(prepared, **options), -1)
        for a, b in zip(known, unknown, strict=True):
            np.testing.assert_array_equal(a, b)


def test_images_of_several_sizes_come_in_one_size(tmp_path: pathlib.Path) -> None:
    images = [
        np.full((height, width, 3), 50 * i, np.uint8) for i, (height, width) in enumerate([(24, 24), (30, 12), (9, 9)])
    ]
    rows = [{"age": i, "image": tf.io.encode_jpeg(image).numpy()} for i, image in enumerate(images)]
    mixed = prepare(tmp_path, {"train": rows})
    (got, targets) = next(iter(load(mixed)))
    assert got.shape == (3, SIZE, SIZE, 3)
    for image, (age,) in zip(got.numpy(), targets["age"].numpy(), strict=True):
        np.testing.assert_allclose(image, 50 * age, atol=2)


def test_encoded_examples_are_those_that_tfds_reads(labelled: pathlib.Path) -> None:
    builder = find_prepared(labelled)
    decoders = {"image": tfds.decode.SkipDecoding()}
    expected = {e["file_name"]: e for e in tfds.as_numpy(builder.as_dataset("train", decoders=decoders))}
    keys = tuple(builder.info.features)
    got = list(read_encoded(builder, "train", keys).as_numpy_iterator())
    assert len(got) == len(expected) == 30
    for example in got:
        for key, value in example.items():
            assert value == expected[example["file_name"]][key], key
            assert np.asarray(value).dtype == np.asarray(expected[example["file_name"]][key]).dtype, key


def test_without_a_cache_the_memory_holds_a_window_of_images(prepared: pathlib.Path, monkeypatch) -> None:
    monkeypatch.setattr(pipeline, "_SHUFFLED", 20)
    dataset = load(prepared, training=True, batch_size=1, cache=None)
    one_pass = dataset.steps_per_epoch
    stream = np.concatenate(batches(dataset, one_pass))
    assert len(np.unique(stream.reshape(one_pass, -1), axis=0)) == one_pass  # still every image once
    in_order = np.concatenate(batches(load(prepared, batch_size=1), 10))
    first = {image.tobytes() for image in np.concatenate(batches(load(prepared, batch_size=1), 29))}
    assert all(image.tobytes() in first for image in stream[:10]) and not np.array_equal(stream[:10], in_order)


def test_one_head_gives_one_target(prepared: pathlib.Path) -> None:
    assert set(load(prepared, heads=["age"]).element_spec[1]) == {"age"}


def test_further_labels_come_beside_the_targets(labelled: pathlib.Path) -> None:
    _, targets = next(iter(load(labelled, batch_size=30, labels=("race", "file_name", "group"))))
    assert {key: (value.dtype, tuple(value.shape)) for key, value in targets.items()} == {
        **dict.fromkeys(("age", "gender", "race"), (tf.float32, (30, 1))),
        **dict.fromkeys(("file_name", "group"), (tf.string, (30, 1))),
    }
    for age, race, name in zip(*(targets[key].numpy()[:, 0] for key in ("age", "race", "file_name")), strict=True):
        assert race == age // 2 % 5 and name.decode().startswith(f"{age:.0f}_{age % 2:.0f}_{race:.0f}_train")


def test_a_label_that_an_older_builder_did_not_prepare_is_named(tmp_path: pathlib.Path) -> None:
    older = prepare(tmp_path, {"train": [{"age": age} for age in range(8)]}, without=["group"])
    with pytest.raises(ValueError, match=r"`labels` needs \['group'\].*Build it again, with --overwrite"):
        load(older, labels=["group"])


def test_a_slice_of_a_split_is_a_split(prepared: pathlib.Path) -> None:
    whole, half = (sum(map(len, batches(load(prepared, s), -1))) for s in ("train", "train[:50%]"))
    assert half == pytest.approx(whole / 2, abs=1)


def test_two_slices_of_a_split_are_all_of_it(labelled: pathlib.Path) -> None:
    first, second = (ages(load(labelled, split)) for split in ("train[:30%]", "train[30%:]"))
    assert len(first) == 9 and first + second == ages(load(labelled))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "`batch_size` must be a whole number, 1 or more. Received: batch_size=0"),
        ({"batch_size": 2.5}, "`batch_size`"),
        ({"skip": -1}, "`skip`"),
        ({"image_size": 0}, "`image_size`"),
        ({"seed": None}, "`seed`"),
        ({"cache": "disk"}, "`cache` must be 'bytes', 'pixels' or None"),
        ({"heads": ["race"]}, "`heads`"),
        ({"heads": "age"}, "`heads`"),
        ({"labels": ["fold"]}, "`labels` must hold some of ('race', 'file_name', 'group'), or nothing"),
        ({"labels": "race"}, "`labels`"),
        ({"split": "training"}, "`split` must be one of"),
        ({"batch_size": 1000, "training": True}, "at most the split's"),
        ({"ages": (60, 21)}, "`ages` must be the youngest and the oldest"),
        ({"genders": "male"}, "`genders` must be a sequence"),
        ({"races": ["Martian"]}, "'Indian', 'Others'). Received: races=['Martian']"),
        ({"folds": [5]}, "`folds` must hold one or more of (0, 1, 2, 3, 4)"),
        ({"conflicts": None}, "`conflicts` must be True or False"),
    ],
)
def test_what_cannot_be_loaded_is_named(prepared: pathlib.Path, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        load(prepared, **options)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Thirty images to train on, aged 0 to 29 and otherwise labelled by their age, and six to test on."""
    train = [{"age": i, "gender": i % 2, "race": i // 2 % 5, "fold": i % 5} for i in range(30)]
    for age, conflict in ((10, "age_conflict"), (11, "age_conflict"), (20, "gender_conflict")):
        train[age][conflict] = True
    test = [{"age": 100 + i, "fold": 4} for i in range(6)]
    return prepare(tmp_path_factory.mktemp("labelled"), {"train": train, "test": test})


def ages(dataset: tf.data.Dataset, count: int = -1) -> list[int]:
    return [int(age) for _, targets in dataset.take(count) for (age,) in targets["age"].numpy()]


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
def test_what_is_loaded_satisfies_the_conditions_and_nothing_else_is_left_out(
    labelled: pathlib.Path, options: dict, expected: set[int]
) -> None:
    dataset = load(labelled, batch_size=5, **options)
    assert sorted(ages(dataset)) == sorted(expected)
    assert len(dataset) == -(-len(expected) // 5)  # Keras draws its progress bar by it


@pytest.mark.parametrize("cache", ["bytes", "pixels", None])
def test_every_cache_holds_what_satisfies_the_conditions(labelled: pathlib.Path, cache: str | None) -> None:
    dataset = load(labelled, cache=cache, ages=(5, 25), conflicts=False)
    assert ages(dataset) == ages(dataset)  # read, then cached
    assert sorted(ages(dataset)) == sorted(set(range(5, 26)) - {10, 11, 20})


def test_four_folds_and_the_fifth_share_no_image_and_are_all(labelled: pathlib.Path) -> None:
    train, test = (ages(load(labelled, "all", folds=folds)) for folds in ((0, 1, 3, 4), (2,)))
    assert sorted(train + test) == [*range(30), *range(100, 106)]


def test_a_training_pass_is_over_the_images_that_satisfy_the_conditions(labelled: pathlib.Path) -> None:
    dataset = load(labelled, training=True, batch_size=2, ages=(0, 9))
    assert dataset.steps_per_epoch == 5
    seen = ages(dataset, 10)
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]
    again = ages(load(labelled, training=True, batch_size=2, ages=(0, 9), skip=7), 3)
    assert again == seen[14:]


def test_a_batch_larger_than_what_satisfies_the_conditions_is_an_error(labelled: pathlib.Path) -> None:
    words = "the split's 4 images with ages=(5, 8). Received: batch_size=5"
    with pytest.raises(ValueError, match=re.escape(words)):
        load(labelled, training=True, batch_size=5, ages=(5, 8))


def test_conditions_that_no_image_satisfies_are_an_error(labelled: pathlib.Path) -> None:
    words = "No image satisfies all of the conditions. Received: split='test', ages=(5, 8), conflicts=False"
    with pytest.raises(ValueError, match=re.escape(words)):
        load(labelled, "test", ages=(5, 8), conflicts=False)


def test_what_an_older_builder_prepared_loads_until_a_condition_needs_more(tmp_path: pathlib.Path) -> None:
    new = ("group", "fold", "age_conflict", "gender_conflict")
    older = prepare(tmp_path, {"train": [{"age": age} for age in range(8)]}, without=new)
    assert len(ages(load(older))) == 8
    assert sorted(ages(load(older, ages=(2, 3), genders=["male"]))) == [2, 3]
    with pytest.raises(ValueError, match=r"`folds` needs \['fold'\].*Build it again, with --overwrite"):
        load(older, folds=[0])
    with pytest.raises(ValueError, match=r"`conflicts` needs \['age_conflict', 'gender_conflict'\]"):
        load(older, conflicts=False)


def test_conditions_count_without_decoding_a_image(labelled: pathlib.Path, monkeypatch) -> None:
    def decode(*_: object, **__: object) -> None:
        raise AssertionError("a image was decoded")

    monkeypatch.setattr(tf.io, "decode_jpeg", decode)
    with pytest.raises(ValueError, match="No image satisfies"):
        load(labelled, ages=(90, 99))


def test_a_missing_data_set_says_how_to_build_it(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="tfds build utkface --manual_dir"):
        load(tmp_path)


def test_prepared_data_loads_without_the_builder(prepared: pathlib.Path, monkeypatch, tmp_path: pathlib.Path) -> None:
    # The folder of the builder is neither where we are nor on the path: nothing but the shards is read.
    monkeypatch.chdir(tmp_path)
    assert not any(os.path.exists(os.path.join(p, "utkface")) for p in (os.getcwd(),))
    assert len(batches(load(prepared, "test"), 1)[0])


def together(batch: tuple, other: tuple) -> tuple:
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts), batch, other)


@pytest.mark.parametrize("options", [{}, {"cache": "pixels"}, {"skip": 3}])
def test_the_shares_of_a_training_batch_are_the_batch(prepared: pathlib.Path, options: dict) -> None:
    share = functools.partial(load, prepared, training=True, seed=3, **options)
    parts = [share(shard=(k, 2)).take(9).as_numpy_iterator() for k in range(2)]  # a pass is of 12 batches or fewer
    for whole, *both in zip(share().take(9).as_numpy_iterator(), *parts, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, whole, together(*both))
        assert len(both[0][0]) == 8


@pytest.mark.parametrize("skip", [0, 1])
def test_shares_for_evaluation_hold_each_image_once_and_fill_up_with_what_weighs_nothing(
    prepared: pathlib.Path, skip: int
) -> None:
    plain = list(load(prepared, "validation", batch_size=10, skip=skip).as_numpy_iterator())
    parts = [load(prepared, "validation", batch_size=10, skip=skip, shard=(k, 2)).as_numpy_iterator() for k in (0, 1)]
    shared = [together(*both) for both in zip(*parts, strict=True)]
    images, targets, weights = tf.nest.map_structure(lambda *batches: np.concatenate(batches), *shared)
    count = sum(len(batch) for batch, _ in plain)
    assert 0 < len(images) - count < 10 and len(images) % 10 == 0
    np.testing.assert_array_equal(images[:count], np.concatenate([batch for batch, _ in plain]))
    np.testing.assert_array_equal(targets["age"][:count], np.concatenate([given["age"] for _, given in plain]))
    assert (weights[:count] == weights[0]).all() and not weights[count:].any()
    if not skip:
        assert weights.mean() == pytest.approx(1)


@pytest.mark.parametrize("share", [(2, 2), (-1, 2), (0, 3)])
def test_a_share_that_cannot_be_is_refused(prepared: pathlib.Path, share: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"`shard` must be \(k, n\).*divisible"):
        load(prepared, shard=share)
