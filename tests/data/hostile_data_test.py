"""Hostile sources for the builder, prepared data for the loader, and configs: named, and what is good is still there.

The builder's own tests, beside it, have what is damaged; here is what was made to harm, and what only looks prepared.
"""

import dataclasses
import io
import json
import os
import pathlib
import shutil
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, make_tiny_trunk
from PIL import Image
from tiny_utkface import prepare

import agegender as ag
from agegender import cli, load_utkface
from experiments import config as configs
from experiments.one_run import train_and_evaluate

sys.path.insert(0, str(ROOT / "datasets"))
from utkface import intake, sources


def jpeg(seed: int, *, side: int = 16, mode: str = "RGB", kind: str = "JPEG", **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), "uint8")
    Image.fromarray(pixels).convert(mode).save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


GOOD = {f"{age}_0_0_2017{age}.jpg": jpeg(age) for age in (3, 30, 60)}
NAME = "20_1_2_2017.jpg"  # of the hostile one, where its name is good
DAMAGED = "is damaged or was not downloaded to its end"


def scans() -> bytes:
    whole = jpeg(0, side=64, progressive=True)
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * 500 + whole[-2:]


def says(width: int, height: int) -> bytes:
    whole = jpeg(0)
    place = whole.index(b"\xff\xc0") + 5
    return whole[:place] + struct.pack(">HH", height, width) + whole[place + 4 :]


def written(folder: pathlib.Path, name: str, data: bytes) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(data)


def file(data: bytes | Callable[[], bytes], name: str = NAME) -> Callable[[pathlib.Path], None]:
    return lambda at: written(at / "UTKFace", name, data if isinstance(data, bytes) else data())


def sparse(at: pathlib.Path) -> None:
    written(at / "UTKFace", NAME, b"\xff\xd8\xff")
    os.truncate(at / "UTKFace" / NAME, 50_000_000_000)


def zipped(name: str, data: bytes) -> bytes:
    with zipfile.ZipFile(packed := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in (GOOD | {name: data}).items():
            archive.writestr(each, content)
    return packed.getvalue()


def tarred(name: str, data: bytes, *, size: int | None = None, mode: str = "w:gz") -> bytes:
    with tarfile.open(fileobj=(packed := io.BytesIO()), mode=mode) as archive:  # type: ignore[call-overload]
        for each, content in (GOOD | {name: data}).items():
            member = tarfile.TarInfo(each)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def negative(at: pathlib.Path) -> None:
    whole = bytearray(tarred(NAME, b"x", mode="w"))
    whole[124:136] = b"\xff" * 11 + b"\x00"  # the size of the first member, in base 256
    whole[148:156] = b" " * 8
    whole[148:156] = b"%06o\0 " % sum(whole[:512])
    written(at, "UTKFace.tar", bytes(whole))


def moved(packed: bytes) -> bytes:
    """A zip that says its table of contents begins a hundred bytes later."""
    place = packed.rindex(b"PK\5\6") + 16
    return packed[:place] + struct.pack("<I", struct.unpack_from("<I", packed, place)[0] + 100) + packed[place + 4 :]


def instead(make: Callable[[pathlib.Path], Any]) -> Callable[[pathlib.Path], None]:
    """In the place of the good folder."""

    def change(at: pathlib.Path) -> None:
        shutil.rmtree(at / "UTKFace")
        make(at)

    return change


def archive(name: str, make: Callable[[], bytes]) -> Callable[[pathlib.Path], None]:
    return instead(lambda at: written(at, name, make()))


BOMB = bytes(110_000_000)
SKIPPED: dict[str, tuple[Callable[[pathlib.Path], None], str]] = {
    "member-of-a-zip-that-inflates": (archive("UTKFace.zip", lambda: zipped(NAME, BOMB)), "larger than 100 MB"),
    "member-of-a-tar-that-inflates": (archive("UTKFace.tar.gz", lambda: tarred(NAME, BOMB)), "larger than 100 MB"),
    "file-of-fifty-gigabytes-of-nothing": (sparse, "larger than 100 MB"),
    "archive-in-an-archive": (archive("UTKFace.zip", lambda: zipped("more.zip", zipped(NAME, b"x"))), "not named .jpg"),
    "archive-that-is-named-as-a-image": (file(lambda: zipped("a", b"b")), "not JPEG inside"),
    "tar-named-as-a-image-in-a-zip": (archive("x.zip", lambda: zipped(NAME, tarred("a", b"b"))), "not JPEG inside"),
    "age-of-five-thousand-digits": (
        archive("UTKFace.zip", lambda: zipped("9" * 5000 + "_0_0_1.jpg", jpeg(9))),
        "the name is not [age]_[gender]_[race]_[timestamp]",
    ),
    "age-999": (file(jpeg(9), "999_0_0_1.jpg"), "the age is not in 0 to 116"),
    "digits-of-another-script": (file(jpeg(9), "\u0662\u0660_0_0_1.jpg"), "the name is not"),
    "name-with-a-line-break": (file(jpeg(9), "20_0_0_1\n.jpg"), "the name is not"),
    "name-that-moves-the-cursor": (file(jpeg(9), "\x1b[2J20_0_0_1.jpg"), "the name is not"),
    "name-written-backwards": (file(jpeg(9), "20_0_0_1\u202egpj.exe"), "not named .jpg"),
    "name-that-is-no-text": (file(jpeg(9), os.fsdecode(b"\xff\xfe.jpg")), "the name is not"),
    "jpeg-of-five-hundred-scans": (file(scans), "more than 100 scans"),
    "jpeg-that-says-65500-squared": (file(lambda: says(65_500, 65_500)), "does not decode"),
    "jpeg-of-no-width": (file(lambda: says(0, 16)), "does not decode"),
    "gif-with-a-script": (file(jpeg(9, kind="GIF") + b"*/alert(1)"), "GIF inside, not JPEG"),
    "svg": (file(b"<svg><script>alert(1)</script></svg>"), "not JPEG inside"),
    "pdf-with-a-jpeg": (file(b"%PDF-1.4\n" + jpeg(9)), "not JPEG inside"),
    "head-of-a-jpeg": (file(b"\xff\xd8\xff\xe0"), "does not decode"),
    "link-to-a-device": (lambda at: (at / "UTKFace" / NAME).symlink_to("/dev/zero"), "a link or a device"),
    "pipe": (lambda at: os.mkfifo(at / "UTKFace" / NAME), "a link or a device"),
    "folder-that-links-to-itself": (lambda at: (at / "UTKFace" / "me").symlink_to("."), "not followed"),
    "folder-named-as-a-image": (
        lambda at: written(at / "UTKFace" / NAME, "a.txt", b"x"),
        "not named .jpg",
    ),
}


@pytest.fixture
def manual_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    for name, data in GOOD.items():
        written(tmp_path / "manual" / "UTKFace", name, data)
    return tmp_path / "manual"


def take_in(manual_dir: pathlib.Path) -> intake.Intake:
    scratch = manual_dir.with_name("scratch")
    scratch.mkdir(exist_ok=True)
    return intake.take_in(sources.find_forms(manual_dir, "aligned_cropped"), scratch)


@pytest.mark.parametrize("name", SKIPPED)
def test_the_builder_skips_what_is_hostile_with_a_reason_and_keeps_the_good(
    manual_dir: pathlib.Path, name: str
) -> None:
    make, reason = SKIPPED[name]
    make(manual_dir)
    before = {path: path.stat() for path in manual_dir.parent.rglob("*")}
    taken = take_in(manual_dir)
    assert sorted(map(intake.file_name, taken.paths)) == sorted(GOOD)
    (refused,) = taken.skipped
    assert reason in refused.reason and refused.reason.isprintable()
    assert {path for path in manual_dir.parent.rglob("*") if "scratch" not in path.parts} == set(before)


REFUSED: dict[str, tuple[Callable[[pathlib.Path], None], str]] = {
    "tar-with-a-size-below-zero": (instead(negative), DAMAGED),
    "tar-that-is-a-bomb-of-another-packer-cut-short": (
        archive("UTKFace.tar", lambda: tarred(NAME, bytes(2_000_000), mode="w:xz")[:300]),
        DAMAGED,
    ),
    "zip-whose-table-is-elsewhere": (archive("UTKFace.zip", lambda: moved(zipped(NAME, b"x"))), DAMAGED),
    "archive-of-nothing": (archive("UTKFace.zip", lambda: b"PK\5\6" + bytes(18)), "there is no file in it"),
    "folder-that-is-a-pipe": (
        instead(lambda at: os.mkfifo(at / "UTKFace")),
        "Found there: UTKFace. Looked for",
    ),
    "archive-that-is-a-pipe": (
        instead(lambda at: os.mkfifo(at / "UTKFace.tar.gz")),
        "Found there: UTKFace.tar.gz. Looked for",
    ),
    "folder-that-is-a-link-to-itself": (
        instead(lambda at: (at / "UTKFace").symlink_to("UTKFace")),
        "Found there: UTKFace. Looked for",
    ),
    "another-form-with-other-faces": (
        lambda at: written(at, "crop_part1.zip", zipped("3_0_0_20173.jpg", jpeg(99))),
        "are different images",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_builder_refuses_a_hostile_source_and_leaves_it_as_it_was(manual_dir: pathlib.Path, name: str) -> None:
    make, words = REFUSED[name]
    make(manual_dir)
    before = sorted(manual_dir.rglob("*"))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        take_in(manual_dir)
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1
    assert sorted(manual_dir.rglob("*")) == before


# ---- the loader


def load(data_dir: Any, split: Any = "train", **options: Any) -> Any:
    return load_utkface(split, **{"batch_size": 8, "image_size": 24, "data_dir": data_dir, **options})


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return prepare(tmp_path_factory.mktemp("good"), {"train": [{"age": age} for age in range(30)], "test": [{}]})


@pytest.fixture(autouse=True)
def the_good_still_loads(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "good" in request.fixturenames:
        assert sum(len(images) for images, _ in load(request.getfixturevalue("good"))) == 30


def of(folder: pathlib.Path, name: str) -> pathlib.Path:
    (path,) = [each for each in folder.rglob(f"*{name}*") if each.is_file() and ".config" not in each.parts]
    return path


def text(name: str, content: str) -> Callable[[pathlib.Path], None]:
    def change(data: pathlib.Path) -> None:
        of(data, name).write_text(content)

    return change


def replaced(name: str, old: str, new: str) -> Callable[[pathlib.Path], None]:
    def change(data: pathlib.Path) -> None:
        before = of(data, name).read_text()
        assert old in before
        of(data, name).write_text(before.replace(old, new))

    return change


def a_folder_instead(data: pathlib.Path) -> None:
    shard = of(data, "train.tfrecord")
    shard.unlink()
    shard.mkdir()


def a_link_instead(data: pathlib.Path) -> None:
    shard = of(data, "train.tfrecord")
    shard.unlink()
    shard.symlink_to("gone")


INFO, FEATURES, METADATA, SHARD = "dataset_info.json", "features.json", "metadata.json", "train.tfrecord"
IS_DAMAGED = "is damaged: "
PREPARED: dict[str, tuple[Callable[[pathlib.Path], Any], str]] = {
    "info-is-no-json": (text(INFO, "{"), IS_DAMAGED),
    "info-is-empty": (text(INFO, ""), IS_DAMAGED),
    "info-is-a-list": (text(INFO, "[]"), IS_DAMAGED),
    "info-is-a-web-page": (text(INFO, "<html>404</html>"), IS_DAMAGED),
    "info-is-missing": (lambda data: of(data, INFO).unlink(), IS_DAMAGED),
    "info-of-another-version": (replaced(INFO, '"9.9.9"', '"a.b.c"'), IS_DAMAGED),
    "info-without-splits": (lambda data: _info(data, splits=[]), "it must hold splits as TFRecord"),
    "info-of-another-format": (lambda data: _info(data, fileFormat="array_record"), "it must hold splits as TFRecord"),
    "info-that-counts-in-letters": (replaced(INFO, '"30"', '"many"'), IS_DAMAGED),
    "info-that-counts-below-zero": (replaced(INFO, '"30"', '"-5"'), "`split` must hold at least one image"),
    "features-are-no-json": (text(FEATURES, "{"), IS_DAMAGED),
    "features-of-another-data-set": (replaced(FEATURES, '"age"', '"years"'), "`heads` needs ['age']"),
    "features-without-images": (replaced(FEATURES, '"image"', '"sound"'), "`heads` needs ['image']"),
    "metadata-are-no-json": (text(METADATA, "{"), IS_DAMAGED),
    "metadata-are-a-list": (text(METADATA, "[1]"), IS_DAMAGED),
    "metadata-of-a-size-in-words": (text(METADATA, '{"size": "large"}'), "must be two numbers. Received: 'large'"),
    "metadata-of-three-sizes": (text(METADATA, '{"size": [24, 24, 3]}'), "must be two numbers"),
    "a-shard-is-missing": (lambda data: of(data, SHARD).unlink(), "00000-of-00001 is missing"),
    "a-shard-is-a-folder": (a_folder_instead, "00000-of-00001 is missing"),
    "a-shard-is-a-link-to-nothing": (
        a_link_instead,
        "00000-of-00001 is missing",
    ),
    "the-version-has-another-name": (
        lambda data: of(data, INFO).parent.rename(of(data, INFO).parent.with_name("x.y")),
        "No prepared data set 'utkface'",
    ),
}


def _info(data: pathlib.Path, **change: Any) -> None:
    of(data, INFO).write_text(json.dumps({**json.loads(of(data, INFO).read_text()), **change}))


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_data_that_were_tampered_with_are_named(good: pathlib.Path, tmp_path: pathlib.Path, name: str) -> None:
    change, words = PREPARED[name]
    data = shutil.copytree(good, tmp_path / "data")
    change(data)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load(data)
    said = str(error.value)
    assert words in said and ("tfds build" in said or "split" in said) and len(said.splitlines()) == 1


SHARDS: dict[str, tuple[Callable[[pathlib.Path], Any], str]] = {
    "cut-in-a-record": (lambda path: os.truncate(path, path.stat().st_size - 50), "DataLossError: truncated record"),
    "cut-to-nothing": (lambda path: os.truncate(path, 0), "expected to contain"),
    "a-bit-is-flipped": (lambda path: _flip(path), "DataLossError: corrupted record"),
    "a-web-page": (lambda path: path.write_text("<html>404</html>" * 99), "DataLossError: corrupted record"),
    "records-of-another-data-set": (lambda path: _foreign(path), "InvalidArgumentError: "),
}


def _flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _foreign(path: pathlib.Path) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for _ in range(30):
            writer.write(tf.train.Example().SerializeToString())


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_that_was_tampered_with_ends_the_command_in_one_line_and_an_earlier_report_stays(
    good: pathlib.Path, model: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, words = SHARDS[name]
    data = shutil.copytree(good, tmp_path / "data")
    change(of(data, SHARD))
    written(tmp_path / "report", "report.html", b"earlier")
    arguments = ["evaluate", str(model), "--data-dir", str(data), "--split", "train", "--out", str(tmp_path / "report")]
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("agegender evaluate: ") and words in line and "{{" not in line
    assert [path.read_bytes() for path in (tmp_path / "report").iterdir()] == [b"earlier"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:

    path = tmp_path_factory.mktemp("model") / "best.keras"
    ag.build_model(make_tiny_trunk(), units=(4,), age_dropout=(0,), gender_dropout=(0,)).save(path)
    return path


SPLITS = [
    "train[:",
    "train[200%:]",
    "train[:-99]",
    "train[a:b]",
    "train[::2]",
    "",
    "train+",
    "../train",
]
SPLITS += ["train\0", "train[0:99999999999999999999]", "all[:5]+nosuch"]
PLACES = [5, b"bytes", "a\0b", "x" * 5000, "/dev/null", "", object()]


@pytest.mark.parametrize("split", [*SPLITS, None, 5, ["train"]])
def test_a_hostile_split_is_named_with_those_that_there_are(good: pathlib.Path, split: Any) -> None:
    with pytest.raises(ValueError, match=r"`split` must be one of \('train', 'test'\).*Received: split="):
        load(good, split)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: repr(place)[:9])
def test_a_hostile_place_of_the_data_is_named(good: pathlib.Path, place: Any) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=r"`data_dir` must be|No prepared data set"):
        load(place)


# ---- configs: what a run is started with


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "no-head": ({"heads": ""}, "`heads`"),
    "a-head-that-is-not-there": ({"heads": "age,race"}, "`heads`"),
    "a-head-twice": ({"heads": "age,age"}, "`heads`"),
    "an-architecture-that-is-not-there": ({"architecture": "../vgg16"}, "`architecture`"),
    "weights-that-are-not-there": ({"weights": "/etc/passwd/x"}, "`weights`"),
    "weights-that-are-no-weights": ({"weights": "/etc/passwd"}, "must be a complete HDF5 file"),
    "trainable-by-an-unknown-name": ({"trainable": "last"}, "`trainable`"),
    "a-width-that-is-no-number": ({"width": float("nan")}, "`width`"),
    "a-dtype-that-is-not-there": ({"dtype": "float17"}, "float17"),
    "no-images-a-batch": ({"batch_size": 0}, "`batch_size`"),
    "epochs-below-zero": ({"epochs": -3}, "`epochs`"),
    "images-of-no-size": ({"image_size": 0}, "`image_size`"),
    "a-rate-that-is-no-number": ({"learning_rate": float("nan")}, "`learning_rate`"),
    "a-rate-without-end": ({"learning_rate": float("inf")}, "`learning_rate`"),
    "a-rate-below-zero": ({"learning_rate": -1.0}, "`learning_rate`"),
    "a-warmup-longer-than-the-run": ({"warmup": 2.0}, "`warmup`"),
    "a-decay-that-is-no-number": ({"weight_decay": float("nan")}, "`weight_decay`"),
    "a-clip-below-zero": ({"clipnorm": -1.0}, "`clipnorm`"),
    "a-weight-that-is-no-number": ({"age_weight": float("nan")}, "`loss_weights`"),
    "a-weight-below-zero": ({"gender_weight": -1.0}, "`loss_weights`"),
    "an-age-head-that-is-not-there": ({"age_head": "oracle"}, "`age_head`"),
    "sizes-in-words": ({"sizes": "8 epochs of 32"}, "`sizes`"),
    "sizes-below-zero": ({"sizes": "-1x32"}, "`sizes`"),
    "a-limit-of-nothing": ({"limit": 0}, "`limit`"),
    "a-cache-below-zero": ({"cache_trunk": -1}, "`cache_trunk`"),
    "a-seed-below-zero": ({"seed": -1}, "`seed`"),
    "a-start-that-is-not-there": ({"start": "/nowhere"}, "no trained model at"),
    "a-start-that-is-no-model": ({"start": "/etc"}, "no trained model at"),
    "epochs-in-words": ({"epochs": "three"}, "`epochs` must be a whole number. Received: epochs='three'"),
    "a-batch-of-half-a-image": ({"batch_size": 0.5}, "`batch_size` must be a whole number"),
    "a-yes-in-words": ({"flip": "yes"}, "`flip` must be True or False"),
    "heads-in-a-list": ({"heads": ["age"]}, "`heads` must be text"),
    "a-rotation-in-words": ({"augmentation": {"rotation": "a lot"}}, "`rotation` must be a number"),
    "a-turn-that-is-no-number": ({"augmentation": {"rotation": float("nan")}}, "`rotation`"),
    "an-erasing-of-more-than-all": ({"augmentation": {"erasing": 7.0}}, "`erasing`"),
}


@pytest.fixture(scope="module")
def trainable_data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    rows = [{"age": age % 100, "gender": age % 2} for age in range(40)]
    return prepare(tmp_path_factory.mktemp("rows"), dict.fromkeys(("train", "validation", "test"), rows))


@pytest.fixture(autouse=True)
def policy_as_it_was() -> Iterator[None]:
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


def config_of(change: dict[str, Any]) -> configs.Config:
    config = configs.Config(
        weights="none", width=1 / 64, image_size=48, batch_size=8, epochs=1, steps_per_epoch=1, dtype="float32",
        trainable="all",
    )  # fmt: skip
    augmentation = dataclasses.replace(config.augmentation, **change.get("augmentation", {}))
    return dataclasses.replace(config, **{**change, "augmentation": augmentation})


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_config_is_refused_before_anything_is_written(
    trainable_data: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    change, words = CONFIGS[name]
    if "width" not in change and ({"weights", "architecture"} & set(change)):
        change = {**change, "width": 1.0}
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "notes.txt").write_text("mine")
    with pytest.raises((ValueError, OSError), match=words) as error:
        train_and_evaluate(config_of(change), workdir, str(trainable_data))
    assert len(str(error.value).splitlines()) == 1
    assert [path.name for path in workdir.iterdir()] == ["notes.txt"]
    assert (workdir / "notes.txt").read_text() == "mine"


WORKDIRS: dict[str, tuple[str, str]] = {
    "below-a-file": ("file/run", "Not a directory"),
    "a-name-too-long": ("x" * 5000, "File name too long"),
    "a-link-to-nothing-below-nothing": ("gone", "exists|No such file"),
    "where-nobody-may-write": ("/proc/run", "No such file"),
}


@pytest.mark.parametrize("name", WORKDIRS)
def test_a_folder_that_cannot_be_a_run_is_named(
    trainable_data: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    place, words = WORKDIRS[name]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "gone").symlink_to("nowhere/at/all")
    with pytest.raises((ValueError, OSError), match=words):
        train_and_evaluate(config_of({}), tmp_path / place, str(trainable_data))
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "gone"]
