"""Sources made to harm the builder: bombs, links, broken headers. It skips or refuses each, and keeps the good."""

import gzip
import io
import os
import pathlib
import shutil
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from . import collect, labels, sources


def jpeg(seed: int, *, side: int = 16, mode: str = "RGB", kind: str = "JPEG", **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), "uint8")
    Image.fromarray(pixels).convert(mode).save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


GOOD = {f"{age}_0_0_2017{age}.jpg": jpeg(age) for age in (3, 30, 60)}
NAME = "20_1_2_2017.jpg"  # of the hostile one, where its name is good
DAMAGED = "is damaged or was not downloaded to its end"


def make_many_scans(count: int) -> bytes:
    whole = jpeg(0, side=64, progressive=True)
    more = count - whole.count(b"\xff\xda")
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * more + whole[-2:]


def claim_size(width: int, height: int) -> bytes:
    whole = jpeg(0)
    place = whole.index(b"\xff\xc0") + 5
    return whole[:place] + struct.pack(">HH", height, width) + whole[place + 4 :]


def write(folder: pathlib.Path, name: str, data: bytes) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(data)


def image(data: bytes | Callable[[], bytes], name: str = NAME) -> Callable[[pathlib.Path], None]:
    return lambda at: write(at / "UTKFace", name, data if isinstance(data, bytes) else data())


def write_sparse(at: pathlib.Path) -> None:
    write(at / "UTKFace", NAME, b"\xff\xd8\xff")
    os.truncate(at / "UTKFace" / NAME, 50_000_000_000)


def make_zip(name: str, data: bytes) -> bytes:
    with zipfile.ZipFile(packed := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in (GOOD | {name: data}).items():
            archive.writestr(each, content)
    return packed.getvalue()


def make_tar(name: str, data: bytes, *, size: int | None = None, mode: str = "w:gz") -> bytes:
    with tarfile.open(fileobj=(packed := io.BytesIO()), mode=mode) as archive:  # type: ignore[call-overload]
        for each, content in (GOOD | {name: data}).items():
            member = tarfile.TarInfo(each)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def write_negative_size(at: pathlib.Path) -> None:
    whole = bytearray(make_tar(NAME, b"x", mode="w"))
    whole[124:136] = b"\xff" * 11 + b"\x00"  # the size of the first member, in base 256
    whole[148:156] = b" " * 8
    whole[148:156] = b"%06o\0 " % sum(whole[:512])
    write(at, "UTKFace.tar", bytes(whole))


def shift_directory(packed: bytes) -> bytes:
    """Makes a zip claim that its directory begins a hundred bytes later."""
    place = packed.rindex(b"PK\5\6") + 16
    return packed[:place] + struct.pack("<I", struct.unpack_from("<I", packed, place)[0] + 100) + packed[place + 4 :]


def replace(make: Callable[[pathlib.Path], Any]) -> Callable[[pathlib.Path], None]:
    """Replaces the good folder."""

    def change(at: pathlib.Path) -> None:
        shutil.rmtree(at / "UTKFace")
        make(at)

    return change


def archive(name: str, make: Callable[[], bytes]) -> Callable[[pathlib.Path], None]:
    return replace(lambda at: write(at, name, make()))


def make_lying_zip(compression: int, size: int) -> bytes:
    """Makes a zip that claims 10 bytes for a larger member, in both of its headers."""
    with zipfile.ZipFile(packed := io.BytesIO(), "w", compression) as archive:
        for name, content in (GOOD | {NAME: bytes(size)}).items():
            archive.writestr(name, content)
    return packed.getvalue().replace(struct.pack("<I", size), struct.pack("<I", 10))


def make_long_header(kind: bytes) -> bytes:
    """Makes a tar whose second header claims a name or a comment of 300 MB."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 300_000_000
    good = make_tar(NAME, b"x", mode="w")
    return good[:1536] + header.tobuf() + good[1536:]


def make_huge_member() -> bytes:
    """Makes a tar.gz whose second member claims 3 GB."""
    header = tarfile.TarInfo("x")
    header.size = 3_000_000_000
    return gzip.compress(make_tar(NAME, b"x", mode="w")[:1536] + header.tobuf() + bytes(10_000))


def make_overlapping_zip(count: int) -> bytes:
    """Makes a zip whose members, of 50 MB each, are all the same bytes."""
    packed = make_zip(NAME, bytes(50_000_000))
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        start = archive.start_dir
    last = packed.rindex(b"PK\1\2")
    entries = packed[last : packed.rindex(b"PK\5\6")] * count
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(entries), start, 0)
    return packed[:start] + entries + end


def damage_middle(packed: bytes) -> bytes:
    middle = len(packed) // 2
    return packed[:middle] + bytes(byte ^ 0xFF for byte in packed[middle : middle + 40]) + packed[middle + 40 :]


BOMB = bytes(110_000_000)
SKIPPED: dict[str, tuple[Callable[[pathlib.Path], None], str]] = {
    "member-of-a-zip-that-inflates": (archive("UTKFace.zip", lambda: make_zip(NAME, BOMB)), "larger than 100 MB"),
    "member-of-a-tar-that-inflates": (archive("UTKFace.tar.gz", lambda: make_tar(NAME, BOMB)), "larger than 100 MB"),
    "file-of-fifty-gigabytes-of-nothing": (write_sparse, "larger than 100 MB"),
    "archive-that-is-named-as-a-image": (image(lambda: make_zip("a", b"b")), "zip inside, not JPEG"),
    "tar-named-as-a-image-in-a-zip": (
        archive("x.zip", lambda: make_zip(NAME, make_tar("a", b"b"))),
        "gzip inside, not JPEG",
    ),
    "age-of-five-thousand-digits": (
        archive("UTKFace.zip", lambda: make_zip("9" * 5000 + "_0_0_1.jpg", jpeg(9))),
        "the name is not [age]_[gender]_[race]_[timestamp]",
    ),
    "age-999": (image(jpeg(9), "999_0_0_1.jpg"), "the age is not in 0 to 116"),
    "digits-of-another-script": (image(jpeg(9), "\u0662\u0660_0_0_1.jpg"), "the name is not"),
    "name-with-a-line-break": (image(jpeg(9), "20_0_0_1\n.jpg"), "the name is not"),
    "name-that-moves-the-cursor": (image(jpeg(9), "\x1b[2J20_0_0_1.jpg"), "the name is not"),
    "name-that-is-no-text": (image(jpeg(9), os.fsdecode(b"\xff\xfe.jpg")), "the name is not"),
    "jpeg-of-101-scans": (image(lambda: make_many_scans(101)), "more than 100 scans"),
    "jpeg-that-says-65500-squared": (image(lambda: claim_size(65_500, 65_500)), "more than 100 million pixels"),
    "jpeg-one-pixel-beyond-the-limit": (image(lambda: claim_size(10_000, 10_001)), "more than 100 million pixels"),
    "jpeg-at-the-limit-without-its-pixels": (image(lambda: claim_size(10_000, 10_000)), "too few bytes"),
    "jpeg-of-no-width": (image(lambda: claim_size(0, 16)), "does not decode"),
    "head-of-a-jpeg": (image(b"\xff\xd8\xff\xe0"), "does not decode"),
    "link-to-a-device": (lambda at: (at / "UTKFace" / NAME).symlink_to("/dev/zero"), "a link or a device"),
    "pipe": (lambda at: os.mkfifo(at / "UTKFace" / NAME), "a link or a device"),
    "folder-that-links-to-itself": (lambda at: (at / "UTKFace" / "me").symlink_to("."), "not followed"),
    "folder-named-as-a-image": (
        lambda at: write(at / "UTKFace" / NAME, "a.txt", b"x"),
        "not named .jpg",
    ),
}


@pytest.fixture
def manual_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    for name, data in GOOD.items():
        write(tmp_path / "manual" / "UTKFace", name, data)
    return tmp_path / "manual"


def collect_from(manual_dir: pathlib.Path) -> collect.Collection:
    scratch = manual_dir.with_name("scratch")
    scratch.mkdir(exist_ok=True)
    return collect.collect_images(sources.find_sources(manual_dir, "aligned_cropped"), scratch)


@pytest.mark.parametrize("name", SKIPPED)
def test_hostile_file_is_skipped_and_good_ones_are_kept(manual_dir: pathlib.Path, name: str) -> None:
    make, reason = SKIPPED[name]
    make(manual_dir)
    before = {path: path.stat() for path in manual_dir.parent.rglob("*")}
    collected = collect_from(manual_dir)
    assert sorted(map(os.path.basename, collected.paths)) == sorted(GOOD)
    (skipped,) = collected.skipped
    assert reason in skipped.reason and skipped.reason.isprintable()
    assert {path for path in manual_dir.parent.rglob("*") if "scratch" not in path.parts} == set(before)


def test_folders_nested_too_deep_are_named(manual_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as here:
        here.chdir(manual_dir / "UTKFace")
        for depth in range(1_070):
            name = "f" if depth <= 1_050 else "f" * 200  # first deeper than Python's recursion, then longer than a path
            os.mkdir(name)
            os.chdir(name)
            if depth == 1_050:
                pathlib.Path(NAME).write_bytes(jpeg(9))
    try:
        collected = collect_from(manual_dir)
    finally:
        subprocess.run(["rm", "-r", str(manual_dir / "UTKFace" / "f")], check=True)  # pytest cannot
    assert sorted(map(os.path.basename, collected.paths)) == sorted([*GOOD, NAME])
    (skipped,) = collected.skipped
    assert skipped.reason == "a folder that is nested too deep" and len(skipped.file) < 120


def test_images_at_the_limits_are_decoded() -> None:
    assert collect.decode_jpeg(make_many_scans(100)).shape == (64, 64, 3)
    Image.new("L", (1000, 800), 128).save(flat := io.BytesIO(), "JPEG", optimize=True)
    assert 1000 * 800 / len(flat.getvalue()) > 200  # pixels a byte
    np.testing.assert_array_equal(collect.decode_jpeg(flat.getvalue()), np.full((800, 1000, 3), 128))


def test_scans_are_fewer_where_pixels_are_many() -> None:
    Image.new("L", (5000, 5000), 99).save(flat := io.BytesIO(), "JPEG", progressive=True)
    whole = flat.getvalue()
    assert collect.decode_jpeg(whole).shape == (5000, 5000, 3)
    with pytest.raises(labels.Skipped, match="too many scans for its pixels"):
        collect.decode_jpeg(whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * 40 + whole[-2:])


REFUSED: dict[str, tuple[Callable[[pathlib.Path], None], str]] = {
    "tar-with-a-size-below-zero": (replace(write_negative_size), DAMAGED),
    "tar-that-is-a-bomb-of-another-packer-cut-short": (
        archive("UTKFace.tar", lambda: make_tar(NAME, bytes(2_000_000), mode="w:xz")[:300]),
        DAMAGED,
    ),
    "tar-bz2-damaged-in-the-middle": (
        archive("UTKFace.tar", lambda: damage_middle(make_tar(NAME, b"x", mode="w:bz2"))),
        DAMAGED,
    ),
    "tar-xz-damaged-in-the-middle": (
        archive("UTKFace.tar", lambda: damage_middle(make_tar(NAME, b"x", mode="w:xz"))),
        DAMAGED,
    ),
    "tar-gz-with-rubbish-behind": (archive("UTKFace.tar.gz", lambda: make_tar(NAME, b"x") + b"rubbish" * 99), DAMAGED),
    "tar-with-a-name-of-300-mb": (
        archive("UTKFace.tar", lambda: make_long_header(tarfile.GNUTYPE_LONGNAME)),
        "a header claims 300,000,256 bytes",
    ),
    "tar-with-a-comment-of-300-mb": (
        archive("UTKFace.tar", lambda: make_long_header(tarfile.XHDTYPE)),
        "a header claims 300,000,256 bytes",
    ),
    "tar-gz-with-a-member-of-three-gigabytes": (
        archive("UTKFace.tar.gz", make_huge_member),
        "it unpacks to more than 20",
    ),
    "tar-gz-with-zeros-behind": (
        archive("UTKFace.tar.gz", lambda: gzip.compress(make_tar(NAME, b"x", mode="w") + bytes(210_000_000), 1)),
        "it unpacks to more than 20",
    ),
    "zip-whose-members-overlap": (
        archive("UTKFace.zip", lambda: make_overlapping_zip(1000)),
        "it unpacks to more than 20",
    ),
    "zip-whose-table-is-elsewhere": (archive("UTKFace.zip", lambda: shift_directory(make_zip(NAME, b"x"))), DAMAGED),
    "archive-of-nothing": (archive("UTKFace.zip", lambda: b"PK\5\6" + bytes(18)), "there is no file in it"),
    "archive-that-is-a-pipe": (
        replace(lambda at: os.mkfifo(at / "UTKFace.tar.gz")),
        "Found there: UTKFace.tar.gz. Looked for",
    ),
    "another-source-with-other-faces": (
        lambda at: write(at, "crop_part1.zip", make_zip("3_0_0_20173.jpg", jpeg(99))),
        "are different images",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_source_is_refused_and_left_unchanged(manual_dir: pathlib.Path, name: str) -> None:
    make, words = REFUSED[name]
    make(manual_dir)
    before = sorted(manual_dir.rglob("*"))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        collect_from(manual_dir)
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1
    assert sorted(manual_dir.rglob("*")) == before


@pytest.mark.parametrize(
    ("compression", "size", "reason"),
    [
        (zipfile.ZIP_DEFLATED, 300_000_000, "damaged in the archive"),
        (zipfile.ZIP_BZIP2, 1_000_000, "compressed with bzip2, which is not read"),
        pytest.param(zipfile.ZIP_LZMA, 300_000_000, "damaged in the archive", marks=pytest.mark.slow),
    ],
)
def test_zip_member_larger_than_claimed_is_not_loaded(
    manual_dir: pathlib.Path, compression: int, size: int, reason: str
) -> None:
    archive("UTKFace.zip", lambda: make_lying_zip(compression, size))(manual_dir)
    (source,) = sources.find_sources(manual_dir, "aligned_cropped")
    tracemalloc.start()
    try:
        read = {name: content_or_reason(reader) for name, reader in source.files()}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read[NAME] == reason and peak < 100_000_000


def content_or_reason(read: Callable[[], bytes]) -> bytes | str:
    try:
        return read()
    except labels.Skipped as reason:
        return str(reason)
