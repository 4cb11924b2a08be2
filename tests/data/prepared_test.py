"""Prepared data sets that were damaged, moved or built in another format: read, or refused with the file's name."""

import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tiny_utkface import make_image, prepare

from agegender import load_utkface
from agegender.data.prepared import find_prepared, known_labels, name_undecodable_image, read_encoded, read_labels

SHARD = "utkface-train.tfrecord-00000-of-00001"
INFO, FEATURES, METADATA = "dataset_info.json", "features.json", "metadata.json"
Change = Callable[[pathlib.Path], Any]


def load(data_dir: Any, split: Any = "train", **options: Any) -> tf.data.Dataset:
    return load_utkface(split, **{"batch_size": 8, "image_size": 24, "data_dir": data_dir, **options})


def count(dataset: tf.data.Dataset) -> int:
    return sum(len(images) for images, _ in dataset)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return prepare(tmp_path_factory.mktemp("whole"), {"train": [{"age": age} for age in range(30)], "test": [{}]})


@pytest.fixture
def data(whole: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy that a test may damage."""
    return shutil.copytree(whole, tmp_path / "data")


def version_folder(data: pathlib.Path) -> pathlib.Path:
    (info,) = data.rglob(INFO)
    return info.parent


def write(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text)


def replace(name: str, old: str, new: str) -> Change:
    def change(folder: pathlib.Path) -> None:
        before = (folder / name).read_text()
        assert old in before
        (folder / name).write_text(before.replace(old, new, 1))

    return change


def update_info(**fields: Any) -> Change:
    return lambda folder: (folder / INFO).write_text(json.dumps(json.loads((folder / INFO).read_text()) | fields))


DAMAGED = "is damaged: "
METADATA_CHANGES: dict[str, tuple[Change, str]] = {
    "info-not-json": (write(INFO, "{"), DAMAGED),
    "info-empty": (write(INFO, ""), DAMAGED),
    "info-a-list": (write(INFO, "[]"), DAMAGED),
    "info-a-web-page": (write(INFO, "<html>404</html>"), DAMAGED),
    "info-missing": (lambda folder: (folder / INFO).unlink(), DAMAGED),
    "version-not-a-number": (replace(INFO, '"9.9.9"', '"a.b.c"'), DAMAGED),
    "no-splits": (update_info(splits=[]), f"{DAMAGED}ValueError: it has no splits. Build it again, with --overwrite"),
    "count-not-a-number": (replace(INFO, '"30"', '"many"'), DAMAGED),
    "count-negative": (replace(INFO, '"30"', '"-5"'), "`split` must have at least one image"),
    "count-too-high": (replace(INFO, '"30"', '"31"'), f"the file {SHARD} has 30 of 31 expected images"),
    "features-not-json": (write(FEATURES, "{"), DAMAGED),
    "features-without-age": (replace(FEATURES, '"age"', '"years"'), "`heads` needs ['age']"),
    "features-without-image": (replace(FEATURES, '"image": {', '"sound": {'), "`heads` needs ['image']"),
    "metadata-not-json": (write(METADATA, "{"), DAMAGED),
    "metadata-a-list": (write(METADATA, "[1]"), DAMAGED),
    "size-a-word": (write(METADATA, '{"size": "large"}'), "must be two integers. Received: 'large'"),
    "size-of-three": (write(METADATA, '{"size": [24, 24, 3]}'), "must be two integers. Received: [24, 24, 3]"),
    "version-renamed": (lambda folder: folder.rename(folder.with_name("x.y")), "No prepared data set 'utkface'"),
}


@pytest.mark.parametrize("name", METADATA_CHANGES)
def test_damaged_metadata_are_refused_in_one_line(data: pathlib.Path, name: str) -> None:
    change, words = METADATA_CHANGES[name]
    change(version_folder(data))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load(data)
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1


def flip_a_bit(shard: pathlib.Path) -> None:
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


def make_folder(shard: pathlib.Path) -> None:
    shard.unlink()
    shard.mkdir()


def link_to_nothing(shard: pathlib.Path) -> None:
    shard.unlink()
    shard.symlink_to("gone")


def write_empty_examples(shard: pathlib.Path) -> None:
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for _ in range(30):
            writer.write(tf.train.Example().SerializeToString())


SHARD_CHANGES: dict[str, tuple[Change, str]] = {
    "missing": (lambda shard: shard.unlink(), "is missing"),
    "a-folder": (make_folder, "is missing"),
    "a-link-to-nothing": (link_to_nothing, "is missing"),
    "cut-in-a-record": (
        lambda shard: os.truncate(shard, shard.stat().st_size - 50),
        "cannot be read (truncated record",
    ),
    "cut-to-nothing": (lambda shard: os.truncate(shard, 0), "has 0 of 30 expected images"),
    "a-bit-flipped": (flip_a_bit, "cannot be read (corrupted record"),
    "a-web-page": (lambda shard: shard.write_text("<html>404</html>" * 99), "cannot be read (corrupted record"),
    "other-records": (write_empty_examples, "cannot be read ("),
}


@pytest.mark.parametrize("name", SHARD_CHANGES)
def test_damaged_shard_is_named(data: pathlib.Path, name: str) -> None:
    change, words = SHARD_CHANGES[name]
    change(version_folder(data) / SHARD)
    with pytest.raises(ValueError) as error:
        load(data, training="cut" in name)  # in either form the shards are read first
    assert f"the file {SHARD} {words}" in str(error.value)
    assert "tfds build utkface --overwrite" in str(error.value) and len(str(error.value).splitlines()) == 1
    assert count(load(data, "test")) == 1


def set_label(shard: pathlib.Path, index: int, key: str, value: int) -> str:
    """Changes a label of one example, and returns its file name."""
    examples = [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(shard))]
    examples[index].features.feature[key].int64_list.value[0] = value
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for example in examples:
            writer.write(example.SerializeToString())
    return examples[index].features.feature["file_name"].bytes_list.value[0].decode()


def test_damaged_shard_is_named_among_several(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    data = shutil.copytree(prepared, tmp_path / "data")
    _, second, *_ = sorted(version_folder(data).glob("*train*"))
    name = set_label(second, 0, "age", 117)  # the image after the last one of the first shard
    with pytest.raises(ValueError, match=f"but is 117 for {name} in the file {second.name}"):
        load(data)
    flip_a_bit(second)
    with pytest.raises(ValueError, match=f"the file {second.name} cannot be read"):
        load(data)


@pytest.mark.parametrize(
    ("key", "value", "low", "high"),
    [("age", 2**32 + 30, 0, 116), ("age", 117, 0, 116), ("age", -1, 0, 116), ("gender", 2, 0, 1), ("gender", -1, 0, 1),
     ("race", 5, 0, 4), ("fold", 5, 0, 4), ("fold", -1, 0, 4)],
)  # fmt: skip
def test_label_out_of_range_is_named(data: pathlib.Path, key: str, value: int, low: int, high: int) -> None:
    name = set_label(version_folder(data) / SHARD, 17, key, value)
    with pytest.raises(ValueError) as error:
        load(data)
    assert f"`{key}` must be in {low}..{high}, but is {value} for {name} in the file {SHARD}" in str(error.value)
    set_label(version_folder(data) / SHARD, 17, key, high)
    assert count(load(data)) == 30


@pytest.mark.parametrize("sizes", [[24, 24], None])
def test_too_large_image_is_named(tmp_path: pathlib.Path, sizes: list[int] | None) -> None:
    wide = bytearray(make_image(0))
    start = wide.index(b"\xff\xc0") + 5
    wide[start : start + 4] = (13_000).to_bytes(2, "big") * 2  # the header's height and width
    data = prepare(tmp_path, {"train": [{"age": 1}, {"age": 2, "image": bytes(wide)}]})
    (version_folder(data) / METADATA).write_text(json.dumps({"size": sizes}))
    must = "be 24 x 24 pixels as all others" if sizes else "have at most 100,000,000 pixels"
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"(?s)must {must}.*2_0_0_train1\.jpg"):
        next(iter(load(data)))


def test_undecodable_image_is_named_with_its_shard(tmp_path: pathlib.Path) -> None:
    cut = make_image(0)[:300]
    data = prepare(tmp_path, {"test": [{"age": 1}], "train": [{"age": 1}, {"age": 2, "image": cut}]})
    words = rf"damaged: 2_0_0_train1\.jpg\.chip\.jpg in the file {SHARD} is not a JPEG image that decodes"
    with pytest.raises(ValueError, match=words) as error, name_undecodable_image(data, "test", "train"):
        try:
            next(iter(load(data)))
        except tf.errors.InvalidArgumentError as decoding:
            decoding.add_note("the last checkpoint")
            raise
    assert error.value.__notes__ == ["the last checkpoint"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="another"), name_undecodable_image(data, "test"):
        raise tf.errors.InvalidArgumentError(None, None, "another")


@pytest.mark.parametrize("folder", ["data/utkface", "data/utkface/aligned_cropped", "."])
def test_data_dir_that_is_one_folder_off_says_what_to_pass(
    data: pathlib.Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    with pytest.raises(FileNotFoundError, match=rf"there is one near it: pass data_dir='{data}'"):
        find_prepared(data.parent / folder)
    monkeypatch.chdir(data.parent / "data/utkface")
    with pytest.raises(FileNotFoundError, match=rf"there is one near it: pass data_dir='{data}'"):
        find_prepared(".")


@pytest.mark.parametrize("split", ["train[:", "train[200%:]", "train[:-99]", "train[a:b]", "train[::2]", "",
    "train+", "train+" * 3000, "../train", "train\0", "train[0:99999999999999999999]", "all[:5]+nosuch", None, 5,
    ["train"]])  # fmt: skip
def test_bad_split_is_refused_with_the_existing_ones(whole: pathlib.Path, split: Any) -> None:
    with pytest.raises(ValueError, match=r"`split` must be one of \('train', 'test'\).*Received: split="):
        load(whole, split)


@pytest.mark.parametrize("place", [5, b"bytes", "a\0b", "", object()], ids=lambda place: repr(place)[:9])
def test_bad_data_dir_is_refused(place: Any) -> None:
    with pytest.raises(ValueError, match=r"`data_dir` must be the path of a folder, or None\. Received: data_dir="):
        load(place)


@pytest.mark.parametrize("place", ["x" * 5000, "/dev/null"], ids=["long", "device"])
def test_data_dir_without_data_is_refused(place: str) -> None:
    with pytest.raises(FileNotFoundError, match="No prepared data set"):
        load(place)


def test_missing_data_set_says_how_to_build_it(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="tfds build utkface --manual_dir"):
        load(tmp_path)


@pytest.mark.parametrize("file_format", ["array_record", "parquet", "riegeli"])
def test_other_file_format_names_the_flag_to_build_with(data: pathlib.Path, file_format: str) -> None:
    update_info(fileFormat=file_format)(version_folder(data))
    with pytest.raises(ValueError, match=f"is stored as {file_format}.*tfds build utkface --file_format=tfrecord"):
        load(data)


def test_moved_and_read_only_data_set_loads(data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    moved = data.rename(tmp_path / "elsewhere")
    for path in (*moved.rglob("*"), moved):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in moved.rglob("*")}
    assert count(load(moved)) == count(load(version_folder(moved))) == 30
    assert {path: path.stat().st_mtime_ns for path in moved.rglob("*")} == before


def test_home_folder_is_expanded(whole: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(whole.parent))
    assert count(load(f"~/{whole.name}")) == 30


def test_data_set_loads_without_the_builder(whole: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", lambda name, *_: pytest.fail(f"imports {name}"))
    assert find_prepared(whole).info.splits["train"].num_examples == 30


def test_encoded_examples_equal_those_of_tfds(whole: pathlib.Path) -> None:
    builder = find_prepared(whole)
    decoders = {"image": tfds.decode.SkipDecoding()}
    expected = {e["file_name"]: e for e in tfds.as_numpy(builder.as_dataset("train", decoders=decoders))}
    examples = list(read_encoded(builder, "train", tuple(builder.info.features)).as_numpy_iterator())
    assert len(examples) == len(expected) == 30
    for example in examples:
        for key, value in example.items():
            assert value == expected[example["file_name"]][key], key
            assert np.asarray(value).dtype == np.asarray(expected[example["file_name"]][key]).dtype, key


def test_labels_of_a_slice_are_in_stored_order(whole: pathlib.Path) -> None:
    builder = find_prepared(whole)
    all_ages, some = (read_labels(builder, split, ["age"])["age"].tolist() for split in ("train", "train[3:7]"))
    assert sorted(all_ages) == list(range(30)) and some == all_ages[3:7]


def test_features_missing_from_an_older_builder_are_named(tmp_path: pathlib.Path) -> None:
    new = ("race", "group", "fold", "age_conflict", "gender_conflict")
    older = prepare(tmp_path, {"train": [{"age": age} for age in range(8)]}, without=new)
    assert known_labels(older) == ("file_name",)
    assert count(load(older, ages=(2, 3), genders=["male"])) == 2
    for option, missing in (
        ({"folds": [0]}, "`folds` needs ['fold']"),
        ({"conflicts": False}, "`conflicts` needs ['age_conflict', 'gender_conflict']"),
        ({"labels": ["group"]}, "`labels` needs ['group']"),
    ):
        with pytest.raises(ValueError) as error:
            load(older, **option)
        assert missing in str(error.value) and "Build it again, with --overwrite" in str(error.value)
