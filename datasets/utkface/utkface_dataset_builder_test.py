"""The builder on faces that are not: a few drawn images with UTKFace names, in a folder that the test makes."""

# mypy: allow-untyped-defs

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import app
from PIL import Image

from . import collect, labels, near_duplicates, sources, splits, utkface_dataset_builder

FOLDER = Path(__file__).parent
SPLITS = {"train": 33, "validation": 6, "test": 1}  # of the 40 images below, by the hash of their names
GROUPED = {"group", "fold", "age_conflict", "gender_conflict"}


def jpeg(seed: int = 0, *, mode: str = "RGB", side: int = 16, file_format: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format=file_format)
    return buffer.getvalue()


def faces(count: int = 40, *, side: int = 16) -> dict[str, bytes]:
    names = [f"{i % 117}_{i % 2}_{i % 5}_20170101{i:09d}.jpg.chip.jpg" for i in range(count)]
    return {name: jpeg(i, side=side) for i, name in enumerate(names)}


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{path.name.removesuffix('.tar.gz')}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def build(manual_dir: Path, data_dir: Path, *, name=None, **config) -> utkface_dataset_builder.Builder:
    builder = utkface_dataset_builder.Builder(data_dir=data_dir, config=name)
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, **config)
    builder.download_and_prepare(download_config=config)
    return builder


def encoded_examples(builder) -> list[dict]:
    decoders = {"image": tfds.decode.SkipDecoding()}
    splits = builder.info.splits
    return [example for split in splits for example in tfds.as_numpy(builder.as_dataset(split, decoders=decoders))]


def shards_of(builder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(builder.data_dir).glob("*.tfrecord*")}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A build of forty good images and of one file for every reason to skip one."""
    folder = tmp_path_factory.mktemp("manual")
    write_folder(folder / "UTKFace", faces() | {name: content for name, (content, _) in DEFECTS.items()})
    return build(folder, tmp_path_factory.mktemp("data"))


FIRST = next(iter(faces()))
MALFORMED = "the name is not [age]_[gender]_[race]_[timestamp]"
DEFECTS = {
    "61_1_20170109142408075.jpg.chip.jpg": (jpeg(), MALFORMED),
    "53__0_20170116184028385.jpg": (jpeg(), MALFORMED),
    "117_0_0_20170116184028385.jpg": (jpeg(), "the age is not in 0 to 116"),
    "20_2_0_20170116184028385.jpg": (jpeg(), "the gender is not in 0 to 1"),
    "20_0_5_20170116184028385.jpg": (jpeg(), "the race is not in 0 to 4"),
    "Thumbs.db": (b"thumbs", "not named .jpg"),
    "desktop.ini": (b"[desktop]", "not named .jpg"),
    ".DS_Store": (b"store", "a hidden file"),
    "._20_0_0_20170116184028385.jpg": (b"fork", "a hidden file"),
    "20_0_0_1.jpg": (b"", "an empty file"),
    "20_0_0_2.jpg": (jpeg(file_format="PNG"), "PNG inside, not JPEG"),
    "20_0_0_4.jpg": (jpeg(file_format="WebP"), "WebP inside, not JPEG"),
    "20_0_0_5.jpg": (b"<html>", "not JPEG inside"),
    "20_0_0_3.jpg": (jpeg()[:-40], "a JPEG that does not decode, damaged or cut short"),
    f"again/{FIRST}": (jpeg(99), "the file name of another image that is kept"),
    f"copy/{FIRST}": (faces()[FIRST], "a copy of an image that is kept"),
}


class UTKFaceTest(tfds.testing.DatasetBuilderTestCase):
    """The tests that TFDS has for every data set."""

    DATASET_CLASS = utkface_dataset_builder.Builder
    SPLITS = SPLITS

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        manual_dir = tempfile.TemporaryDirectory()
        cls.addClassCleanup(manual_dir.cleanup)
        write_archive(Path(manual_dir.name) / "UTKFace.tar.gz", faces())
        cls.EXAMPLE_DIR = manual_dir.name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("100_1_2_20170105174847679.jpg.chip.jpg", (100, 1, 2, "20170105174847679")),
        ("0_0_4_20170105174847679.jpg", (0, 0, 4, "20170105174847679")),
        ("116_0_0_1.JPEG", (116, 0, 0, "1")),
        ("14_0_0_2017011022340900.jpg.chip.jpg", (14, 0, 0, "2017011022340900")),
        ("24_0_1_20170116220224657 .jpg.chip.jpg", (24, 0, 1, "20170116220224657")),
        ("55_0_0_20170116232725357jpg.chip.jpg", (55, 0, 0, "20170116232725357")),
    ],
)
def test_odd_endings_are_parsed(name, expected):
    assert labels.parse_name(name) == expected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, MALFORMED) for name in ("61_1_20170109142408075.jpg", "53__0_20170116184028385.jpg", "1_0_0_.jpg")),
        *((name, MALFORMED) for name in ("1_0_0_1_2.jpg", "-1_0_0_1.jpg", "1.5_0_0_1.jpg", "\u0661_0_0_1.jpg")),
        *((name, MALFORMED) for name in ("1_0_0_1\n.jpg", "1_0_0_1  .jpg", "1_0_0_1..jpg", "1234567890_0_0_1.jpg")),
        *((name, "the age is not in 0 to 116") for name in ("117_0_0_1.jpg", "123456789_0_0_1.jpg")),
        ("1_2_0_1.jpg", "the gender is not in 0 to 1"),
        ("1_0_5_1.jpg", "the race is not in 0 to 4"),
        *((name, "not named .jpg") for name in ("1_0_0_1.png", "1_0_0_1", "1_0_0_1.jpg.png", "1_0_0_1.jpg.chip")),
        (".jpg", "a hidden file"),
    ],
)
def test_incomplete_names_are_skipped(name, reason):
    with pytest.raises(labels.Skipped) as error:
        labels.parse_name(name)
    assert str(error.value) == reason


def test_every_skipped_file_is_listed_with_its_reason(built):
    report = built.info.metadata
    listed = {skipped["file"]: skipped["reason"] for skipped in report["skipped_files"]}
    assert listed == {f"UTKFace/{name}": reason for name, (_, reason) in DEFECTS.items()}
    copies = {skipped["file"]: skipped["copy_of"] for skipped in report["skipped_files"] if "copy_of" in skipped}
    assert set(copies) == {f"UTKFace/again/{FIRST}", f"UTKFace/copy/{FIRST}"}
    assert set(copies.values()) == {f"UTKFace/{FIRST}"}
    assert (report["seen"], report["kept"], report["skipped"]) == (40 + len(DEFECTS), 40, len(DEFECTS))
    assert sum(report["skipped_by_reason"].values()) == len(DEFECTS)
    assert report["skipped_by_reason"][MALFORMED] == 2 and report["size"] == (16, 16)


def test_common_size_is_in_the_metadata(tmp_path, built):
    assert list(built.info.metadata["size"]) == [16, 16]
    write_folder(tmp_path / "UTKFace", faces() | {"20_0_0_7.jpg": jpeg(7, side=18)})
    assert build(tmp_path, tmp_path / "data").info.metadata["size"] is None


def collect_from(manual_dir: Path, scratch: Path, config: str, **options) -> collect.Collection:
    scratch.mkdir()
    return collect.collect_images(sources.find_sources(manual_dir, config), scratch, **options)


def test_size_is_height_and_width(tmp_path):
    Image.new("RGB", (24, 16)).save(wide := io.BytesIO(), "JPEG")
    write_folder(tmp_path / "manual", {"1_0_0_1.jpg": wide.getvalue(), "2_0_0_1.jpg": wide.getvalue()})
    assert collect_from(tmp_path / "manual", tmp_path / "scratch", "aligned_cropped").size == (16, 24)


def test_collection_is_sorted_with_bytes_and_thumbnails(tmp_path):
    files = {
        f"UTKFace/{folder}/{age}_0_0_1.jpg": jpeg(age) for age, folder in ((9, "b"), (8, "c"), (7, "d"), (60, "a"))
    }
    write_folder(tmp_path / "manual", files)
    collected = collect_from(tmp_path / "manual", tmp_path / "scratch", "aligned_cropped")
    assert collected.paths == sorted(files)
    whole = collected.data_file.read_bytes()
    for path, (start, end), thumbnail in zip(collected.paths, collected.spans, collected.thumbnails, strict=True):
        assert whole[start:end] == files[path]
        np.testing.assert_array_equal(thumbnail, near_duplicates.thumbnail(collect.decode_jpeg(files[path])))


def test_first_of_two_images_with_one_name_is_kept(tmp_path):
    for part, image in (("part1", jpeg(1)), ("part2", jpeg(2)), ("part3", jpeg(1))):
        write_folder(tmp_path / "manual" / part, {"1_0_0_1.jpg": image})
    collected = collect_from(tmp_path / "manual", tmp_path / "scratch", "in_the_wild", parts=True)
    assert collected.paths == ["part1/1_0_0_1.jpg"]
    assert collected.data_file.read_bytes()[slice(*collected.spans[0])] == jpeg(1)
    assert collected.skipped == [
        ("part2/1_0_0_1.jpg", "the file name of another image that is kept", "part1/1_0_0_1.jpg"),
        ("part3/1_0_0_1.jpg", "a copy of an image that is kept", "part1/1_0_0_1.jpg"),
    ]


def test_skipped_json_lists_the_skipped_files(built):
    written = json.loads((Path(built.data_dir) / "skipped.json").read_text())
    assert written == built.info.metadata["skipped_files"]


def test_report_ends_with_the_skipped_files(built):
    assert "56 files seen, 40 kept, 16 skipped" in repr(built.info)
    assert "  2 not named .jpg: 'UTKFace/Thumbs.db', 'UTKFace/desktop.ini'\n" in repr(built.info)


def test_report_lists_five_files_per_reason(tmp_path):
    reports = []
    for letters in ("abcde", "abcdef"):
        files = {"1_0_0_1.jpg": jpeg()} | {f"{letter}.txt": b"" for letter in letters}
        reports.append(repr(build(write_folder(tmp_path / letters, files), tmp_path / f"data of {letters}").info))
    assert (
        "5 not named .jpg: 'a.txt', 'b.txt', 'c.txt', 'd.txt', 'e.txt'" in reports[0]
        and "all of them" not in reports[0]
    )
    assert "6 not named .jpg: 'a.txt', 'b.txt', 'c.txt', 'd.txt', 'e.txt', ..." in reports[1]
    assert re.search(r"\n  all of them: .*/skipped\.json$", reports[1])


def test_examples_are_in_hash_order(built):
    names = [example["file_name"].decode() for example in tfds.as_numpy(built.as_dataset("train"))]
    assert names == sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def test_examples_keep_bytes_and_labels(built):
    images = faces()
    examples = encoded_examples(built)
    assert len(examples) == len(images)
    for example in examples:
        name = example["file_name"].decode()
        assert example["image"] == images[name]
        assert (example["age"], example["gender"], example["race"]) == labels.parse_name(name)[:3]
        assert example["timestamp"].decode() == labels.parse_name(name).timestamp


def test_tfds_tools_show_supervised_examples(built, monkeypatch):
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    dataset = built.as_dataset("test", as_supervised=True)
    [(image, gender)] = tfds.as_numpy(dataset)
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8 and gender in (0, 1)
    frame = tfds.as_dataframe(dataset, built.info)
    assert frame["gender"].tolist() == [gender] and "<img" in frame._repr_html_()
    figure = tfds.show_examples(dataset, built.info)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), image)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_images_decode_to_rgb(tmp_path, mode):
    images = {name: jpeg(i, mode=mode) for i, name in enumerate(faces())}
    builder = build(write_folder(tmp_path / "manual", images), tmp_path / "data")
    assert builder.info.metadata["kept"] == 40
    assert {example["image"].shape for example in tfds.as_numpy(builder.as_dataset("train"))} == {(16, 16, 3)}


def test_archive_and_folder_give_equal_shards(tmp_path):
    files = faces() | {name: content for name, (content, _) in DEFECTS.items()}
    write_folder(tmp_path / "folder" / "crop_part1", files)
    write_archive(tmp_path / "tar" / "crop_part1.tar.gz", dict(reversed(files.items())))
    from_folder = build(tmp_path / "folder", tmp_path / "data1")
    from_archive = build(tmp_path / "tar", tmp_path / "data2")
    assert shards_of(from_folder) == shards_of(from_archive)
    assert from_folder.info.metadata.pop("sources") == ["crop_part1/"]
    assert from_archive.info.metadata.pop("sources") == ["crop_part1.tar.gz"]
    assert dict(from_folder.info.metadata) == dict(from_archive.info.metadata)


def test_two_builds_give_equal_shards(tmp_path):
    manual_dir = write_folder(tmp_path / "manual", faces(200, side=64))
    builder = build(manual_dir, tmp_path / "data1")
    assert builder.info.file_format == tfds.core.FileFormat.TFRECORD
    assert builder.info.splits["train"].num_shards == 8
    assert shards_of(builder) == shards_of(build(manual_dir, tmp_path / "data2"))


@pytest.mark.parametrize(
    ("size", "images", "config", "shards"),
    [
        (40 << 20, 7_000, {}, 8),  # crop_part1
        (300 << 10, 400, {}, 4),  # below 64 KiB a shard is tiny
        (1_000, 3, {}, 1),
        (20 << 30, 200_000, {}, 321),  # no shard above 64 MiB
        (40 << 20, 7_000, {"num_shards": 3}, 3),
        (40 << 20, 2, {"num_shards": 3}, 2),
        (40 << 20, 7_000, {"max_shard_size": 4 << 20}, 11),
        (40 << 20, 7_000, {"min_shard_size": 10 << 20}, 4),
    ],
)
def test_number_of_shards(size, images, config, shards):
    config = utkface_dataset_builder._ShardConfig(**config)
    assert config.get_number_shards(size, images) == shards


def test_truncated_archive_leaves_no_data_set(tmp_path):
    archive = write_archive(tmp_path / "manual" / "UTKFace.tar.gz", faces())
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="damaged or was not downloaded to its end"):
        build(archive.parent, tmp_path / "data")
    assert not utkface_dataset_builder.Builder(data_dir=tmp_path / "data").is_prepared()


def test_error_of_the_builder_is_one_message_under_absl(tmp_path, monkeypatch, capsys):
    (handler,) = (each for each in app.EXCEPTION_HANDLERS if type(each).__module__ == utkface_dataset_builder.__name__)
    write_folder(tmp_path / "manual", {"UTKFace.tar.gz": b"<html>404"})
    with pytest.raises(ValueError, match="is damaged") as error:
        build(tmp_path / "manual", tmp_path / "data")
    assert handler.wants(error.value) and not handler.wants(ValueError("of another builder"))
    with pytest.raises(FileNotFoundError, match=f"Manual directory {tmp_path}/none does not exist") as missing:
        build(tmp_path / "none", tmp_path / "data")
    assert handler.wants(missing.value)
    monkeypatch.setattr(sys, "excepthook", None)
    handler.handle(error.value)
    sys.excepthook(ValueError, error.value, None)
    assert capsys.readouterr().err.splitlines()[-1] == f"tfds build utkface: {error.value}"


@pytest.mark.slow
@pytest.mark.parametrize(("names", "words"), [(["UTKFace.tar.gz"], "is damaged"), ([], "does not exist or is empty")])
def test_tfds_build_fails_with_one_message(tmp_path, names, words):
    manual_dir = write_folder(tmp_path / "manual", dict.fromkeys(names, b"<html>404"))
    arguments = ["build", "utkface", f"--manual_dir={manual_dir}", f"--data_dir={tmp_path / 'data'}"]
    command = [sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", *arguments]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
    assert done.returncode == 1
    assert words in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_one_image_builds_and_reports_empty_splits(tmp_path):
    builder = build(write_folder(tmp_path / "manual", {"1_0_0_1.jpg": jpeg()}), tmp_path / "data")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 1}
    assert "no image falls into 'validation'" in repr(builder.info)


def test_source_without_images_is_refused_with_reasons(tmp_path):
    manual_dir = write_folder(tmp_path / "manual", {"1_0_0_1.jpg": b"", "notes.txt": b"x"})
    with pytest.raises(
        ValueError,
        match=r"(?s)No image of UTKFace in .*images directly in it.*2 files.*1 an empty file: '1_0_0_1.jpg'",
    ):
        build(manual_dir, tmp_path / "data")


@pytest.mark.slow
def test_importing_the_package_registers_the_builder(built, tmp_path):
    program = (
        "import utkface, tensorflow_datasets as tfds\n"
        f"builder = tfds.builder('utkface', data_dir={built.data_dir_root.as_posix()!r})\n"
        "print(type(builder) is utkface.Builder)"
    )
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent)}
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.split("\n")[-2] == "True"


@pytest.mark.slow
def test_prepared_data_load_without_the_builder(built, tmp_path):
    program = (
        "import sys, tensorflow_datasets as tfds\n"
        f"images = tfds.load('utkface', split='train', data_dir={built.data_dir_root.as_posix()!r})\n"
        "assert not [name for name in sys.modules if name.startswith('utkface')]\n"
        "print(len(images), sorted(next(iter(images))))"
    )
    output = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (
        output.stdout.split("\n")[-2]
        == f"33 {sorted(GROUPED | {'age', 'file_name', 'gender', 'image', 'race', 'timestamp'})}"
    )


@pytest.mark.slow
def test_tfds_build_is_deterministic_and_prints_a_report(tmp_path):
    odd = "61_1_20170109142408075.jpg.chip.jpg"
    manual_dir = write_archive(tmp_path / "manual" / "UTKFace.tar.gz", faces() | {odd: jpeg()}).parent
    arguments = ["build", "utkface", f"--manual_dir={manual_dir}", f"--data_dir={tmp_path / 'data'}"]
    command = [sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", *arguments]
    output = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=True).stdout
    assert output.rstrip().split("\n")[-3:] == [
        "UTKFace: 41 files seen, 40 kept, 1 skipped",
        "  read from UTKFace.tar.gz",
        f"  1 {MALFORMED}: 'UTKFace/{odd}'",
    ]
    # Protobuf orders the features of an example anew in every process, so only another process shows it.
    built_there = utkface_dataset_builder.Builder(data_dir=tmp_path / "data")
    assert shards_of(built_there) == shards_of(build(manual_dir, tmp_path / "here"))


def test_copies_share_their_group_and_conflicts(tmp_path):
    image = jpeg(1, side=64)
    mirrored = io.BytesIO()
    Image.open(io.BytesIO(image)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored, "JPEG")
    copies = {"20_0_0_1.jpg": image, "20_0_0_2.jpg": mirrored.getvalue(), "31_0_0_3.jpg": image}
    builder = build(write_folder(tmp_path / "manual", faces(side=64) | copies), tmp_path / "data")
    found = [
        example for example in encoded_examples(builder) if example["file_name"].decode() in {*copies, list(faces())[1]}
    ]
    assert len(found) == 4
    assert {example["group"] for example in found} == {b"1_1_1_20170101000000001"}
    assert {(bool(e["age_conflict"]), bool(e["gender_conflict"])) for e in found} == {(True, True)}
    assert len({example["fold"] for example in found}) == 1
    alone = [example for example in encoded_examples(builder) if example not in found]
    assert not any(example["age_conflict"] or example["gender_conflict"] for example in alone)
    assert builder.info.metadata["groups"] == 40


def test_copies_go_to_the_split_of_their_group(tmp_path):
    first, *others = ("1_0_0_1", "1_0_0_13", "1_0_0_3")
    assert [splits.split_of(name) for name in (first, *others)] == ["train", "validation", "test"]
    files = {f"{name}.jpg": jpeg(1, side=64) for name in (first, *others)}
    builder = build(write_folder(tmp_path / "manual", files), tmp_path / "data")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 3}
    assert {(e["group"].decode(), int(e["fold"])) for e in encoded_examples(builder)} == {
        (first, splits.fold_of(first))
    }


def test_published_image_keeps_its_group_alone(tmp_path):
    stem, group = next((stem, group) for stem, group in splits.read_known_groups().items() if stem != group)
    builder = build(write_folder(tmp_path / "manual", {f"{stem}.jpg.chip.jpg": jpeg(1)}), tmp_path / "data")
    assert [example["group"].decode() for example in encoded_examples(builder)] == [group]


def test_max_examples_per_split(tmp_path):
    builder = build(write_folder(tmp_path / "manual", faces()), tmp_path / "data", max_examples_per_split=2)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 2,
        "validation": 2,
        "test": 1,
    }


@pytest.mark.parametrize(("option", "value"), [("num_shards", -1), ("max_examples_per_split", 0)])
def test_counts_below_one_are_refused(tmp_path, option, value):
    with pytest.raises(ValueError, match=f"`{option}` must be 1 or more. Received: {option}={value}"):
        build(write_folder(tmp_path / "manual", faces()), tmp_path / "data", **{option: value})


def test_missing_image_moves_no_other(tmp_path):
    def splits_of(names):
        builder = build(
            write_folder(tmp_path / f"{len(names)}", {name: faces(90)[name] for name in names}),
            tmp_path / f"d{len(names)}",
        )
        return {
            e["file_name"]: split for split in builder.info.splits for e in tfds.as_numpy(builder.as_dataset(split))
        }

    every = splits_of(list(faces(90)))
    fewer = splits_of(list(faces(90))[7:80])
    assert len(fewer) == 73 and fewer.items() <= every.items()


def test_second_source_gives_copies(tmp_path):
    write_folder(tmp_path / "UTKFace", faces())
    write_archive(tmp_path / "crop_part1.tar.gz", dict(list(faces().items())[:10]))
    report = build(tmp_path, tmp_path / "data").info.metadata
    assert (report["kept"], report["skipped_by_reason"]) == (40, {"a copy of an image that is kept": 10})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({FIRST: jpeg(7)}, f"{FIRST} are different images"),
        ({"9_0_0_9.jpg": jpeg(7)}, r"has 1 images that .* does not have: 9_0_0_9.jpg"),
    ],
)
def test_contradicting_sources_are_refused(tmp_path, other, message):
    write_folder(tmp_path / "UTKFace", faces())
    write_archive(tmp_path / "UTKFace.tar.gz", other)
    with pytest.raises(ValueError, match=rf"(?s)contradict each other.*{message}.*Received: "):
        build(tmp_path, tmp_path / "data")


def test_zip_with_several_copies_gives_each_image_once(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for folder in ("UTKFace", "crop_part1", "utkface_aligned_cropped/UTKFace"):
            for name, content in faces().items():
                archive.writestr(f"{folder}/{name}", content)
    report = build(tmp_path, tmp_path / "data").info.metadata
    assert (report["seen"], report["kept"], report["skipped"]) == (120, 40, 80)
    assert {skipped["copy_of"].split("/")[0] for skipped in report["skipped_files"]} == {"UTKFace"}


def test_in_the_wild_joins_parts(tmp_path):
    first, second = dict(list(faces().items())[:20]), dict(list(faces(side=48).items())[20:])
    write_archive(tmp_path / "part1.tar.gz", first)
    write_archive(tmp_path / "part3.tar.gz", second)
    write_folder(tmp_path / "UTKFace", {"1_0_0_1.jpg": jpeg()})
    builder = build(tmp_path, tmp_path / "data", name="in_the_wild")
    assert builder.info.metadata["kept"] == 40 and builder.info.metadata["size"] is None
    assert {e["image"].shape[0] for e in tfds.as_numpy(builder.as_dataset("train"))} == {16, 48}
    assert builder.data_path == tmp_path / "data" / "utkface" / "in_the_wild" / str(builder.version)


@pytest.mark.slow
def test_killed_build_leaves_no_data_set(tmp_path):
    manual_dir = write_folder(tmp_path / "manual" / "UTKFace", faces(3000)).parent
    arguments = ["build", "utkface", f"--manual_dir={manual_dir}", f"--data_dir={tmp_path / 'data'}"]
    command = [sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", *arguments]
    building = subprocess.Popen(command, cwd=FOLDER.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while building.poll() is None and not list((tmp_path / "data").rglob("images")):
        time.sleep(0.005)
    assert building.poll() is None, "the build was over before it could be killed"
    building.kill()
    building.wait()
    assert not utkface_dataset_builder.Builder(data_dir=tmp_path / "data").is_prepared()
    with pytest.raises(tfds.core.DatasetNotFoundError):
        tfds.core.read_only_builder.builder_from_files("utkface", data_dir=tmp_path / "data")
    assert build(manual_dir, tmp_path / "data").info.metadata["kept"] == 3000
