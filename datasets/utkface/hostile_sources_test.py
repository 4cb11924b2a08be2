"""Sources made to harm the builder: bombs, links, broken headers. It skips or refuses each, and keeps the good."""

import io
import os
import pathlib
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from . import collect, sources


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
    "archive-that-is-named-as-a-image": (file(lambda: zipped("a", b"b")), "zip inside, not JPEG"),
    "tar-named-as-a-image-in-a-zip": (
        archive("x.zip", lambda: zipped(NAME, tarred("a", b"b"))),
        "gzip inside, not JPEG",
    ),
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
    "jpeg-that-says-65500-squared": (file(lambda: says(65_500, 65_500)), "more than 100 million pixels"),
    "jpeg-of-a-kilobyte-that-says-13000-squared": (file(lambda: says(13_000, 13_000)), "more than 100 million pixels"),
    "jpeg-one-pixel-beyond-the-limit": (file(lambda: says(10_000, 10_001)), "more than 100 million pixels"),
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


def collect_from(manual_dir: pathlib.Path) -> collect.Collection:
    scratch = manual_dir.with_name("scratch")
    scratch.mkdir(exist_ok=True)
    return collect.collect_images(sources.find_sources(manual_dir, "aligned_cropped"), scratch)


@pytest.mark.parametrize("name", SKIPPED)
def test_the_builder_skips_what_is_hostile_with_a_reason_and_keeps_the_good(
    manual_dir: pathlib.Path, name: str
) -> None:
    make, reason = SKIPPED[name]
    make(manual_dir)
    before = {path: path.stat() for path in manual_dir.parent.rglob("*")}
    collected = collect_from(manual_dir)
    assert sorted(map(os.path.basename, collected.paths)) == sorted(GOOD)
    (refused,) = collected.skipped
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
    "another-source-with-other-faces": (
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
        collect_from(manual_dir)
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1
    assert sorted(manual_dir.rglob("*")) == before
