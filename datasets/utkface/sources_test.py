"""Archives and folders of every kind, made of a few bytes under UTKFace names; nothing here decodes them."""

# mypy: allow-untyped-defs

import io
import os
import random
import re
import stat
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from . import sources
from .labels import Skipped

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
NAMES = [f"{i}_0_0_2017{i}.jpg.chip.jpg" for i in range(6)]
FACES = {name: random.Random(name).randbytes(700) for name in NAMES}
NOT_A_FILE = "a link or a device, not a file"
DAMAGED = r"is damaged or was not downloaded to its end.*susanqq\.github\.io"


def inside(folder: str, files: dict[str, bytes] = FACES) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def write_folder(folder: Path, files: dict[str, bytes] = FACES) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        write_tar(path, [(tarfile.TarInfo(name), content) for name, content in files.items()])
    return path


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def source_names(manual_dir: Path, config: str = "aligned_cropped") -> list[str]:
    return [source.name for source in sources.find_sources(manual_dir, config)]


def only_source(manual_dir: Path, config: str = "aligned_cropped") -> sources.Source:
    [source] = sources.find_sources(manual_dir, config)
    return source


def contents(source: sources.Source) -> dict[str, bytes | str]:
    """The content of each file of a source, or why it is skipped."""
    listed = [(path, content_or_reason(read)) for path, read in source.files()]
    assert len(listed) == len(dict(listed)), "a file was listed twice"
    return dict(listed)


def content_or_reason(read) -> bytes | str:
    try:
        return read()
    except Skipped as reason:
        return str(reason)


FOLDERS = [
    *[("aligned_cropped", name) for name in ("UTKFace", "crop_part1", "utkface_aligned_cropped")],
    *[("in_the_wild", name) for name in ("part1", "part2", "part3")],
]
ARCHIVES = [
    *[("aligned_cropped", stem, suffix) for stem in ("UTKFace", "crop_part1") for suffix in ARCHIVE_SUFFIXES],
    *[("in_the_wild", stem, suffix) for stem in ("part1", "part2", "part3") for suffix in ARCHIVE_SUFFIXES],
]


@pytest.mark.parametrize(("config", "name"), FOLDERS)
def test_folder_is_found(tmp_path, config, name):
    write_folder(tmp_path / name, FACES | inside("deeper/still"))
    source = only_source(tmp_path, config)
    assert (source.name, source.path) == (f"{name}/", tmp_path / name)
    assert contents(source) == inside(name) | inside(f"{name}/deeper/still")


@pytest.mark.parametrize(("config", "stem", "suffix"), ARCHIVES)
def test_archive_reads_like_the_folder_in_it(tmp_path, config, stem, suffix):
    path = write_archive(tmp_path / f"{stem}{suffix}", inside(stem))
    source = only_source(tmp_path, config)
    assert (source.name, source.path) == (path.name, path)
    write_folder(tmp_path / "extracted" / stem)
    assert contents(source) == contents(only_source(tmp_path / "extracted", config)) == inside(stem)


def test_kaggle_archive_is_found(tmp_path):
    files = inside("UTKFace") | inside("crop_part1") | inside("utkface_aligned_cropped/UTKFace")
    write_archive(tmp_path / "archive.zip", files)
    assert contents(only_source(tmp_path)) == files


@pytest.mark.parametrize("name", ["my own.zip", "UTKFACE.ZIP"])
def test_zip_of_any_name_with_an_image_is_found(tmp_path, name):
    files = {"read me.txt": b"hello", "any/26_1_2_20170116174525125.jpg": b"image"}
    write_archive(tmp_path / "own.zip", files).rename(tmp_path / name)
    assert contents(only_source(tmp_path)) == files


@pytest.mark.parametrize(
    "member", ["holiday.jpg", "UTKFace/notes.txt", "1_0_0_1.jpg/x.txt", "__MACOSX/._1_0_0_1.jpg", "1_0_9_1.jpg"]
)
def test_zip_without_an_image_is_ignored(tmp_path, member):
    write_archive(tmp_path / "archive.zip", {member: b"?"})
    write_folder(tmp_path / "UTKFace")
    assert source_names(tmp_path) == ["UTKFace/"]


@pytest.mark.parametrize("content", [b"", b"not a zip", "cut short"])
def test_broken_zip_of_another_name_is_ignored(tmp_path, content):
    archive = write_archive(tmp_path / "archive.zip", inside("UTKFace"))
    archive.write_bytes(archive.read_bytes()[:-30] if content == "cut short" else content)
    with pytest.raises(FileNotFoundError, match=r"Found there: archive\.zip\..*any other undamaged \.zip"):
        sources.find_sources(tmp_path, "aligned_cropped")
    write_folder(tmp_path / "UTKFace")
    assert source_names(tmp_path) == ["UTKFace/"]


@pytest.mark.parametrize("name", ["1_0_0_1.jpg", "1_0_0_1.JPG", "1_0_0_1.jpeg", "1_0_0_1.JpEg", "any name.jpg"])
def test_images_directly_in_the_manual_dir_are_found(tmp_path, name):
    files = {name: b"image", "sub/2_0_0_2.jpg": b"another", "notes.txt": b"notes"}
    source = only_source(write_folder(tmp_path, files))
    assert (source.name, source.path) == ("images directly in it", tmp_path)
    assert contents(source) == files


@pytest.mark.parametrize("name", ["1_0_0_1.png", "jpg", "._1_0_0_1.jpg", "deeper/1_0_0_1.jpg"])
def test_manual_dir_without_images_is_refused(tmp_path, name):
    write_folder(tmp_path, {name: b"?"})
    with pytest.raises(FileNotFoundError):
        sources.find_sources(tmp_path, "aligned_cropped")


def test_direct_images_exclude_other_sources(tmp_path):
    direct = FACES | {"sub/UTKFace/1_0_0_1.jpg": b"deeper", "sub/part1/1_0_0_1.jpg": b"deeper", "photos.zip": b"?"}
    write_folder(tmp_path, direct)
    for _, name in FOLDERS:
        write_folder(tmp_path / name)
    for _, stem, suffix in ARCHIVES:
        write_archive(tmp_path / f"{stem}{suffix}", inside(stem))
    write_archive(tmp_path / "archive.zip", inside("UTKFace"))
    found_sources = {source.name: source for source in sources.find_sources(tmp_path, "aligned_cropped")}
    assert contents(found_sources["images directly in it"]) == direct
    assert "archive.zip" in found_sources and "UTKFace/" in found_sources


def test_sources_are_sorted_by_name(tmp_path):
    for name in ("utkface_aligned_cropped", "crop_part1", "UTKFace", "part1"):
        write_folder(tmp_path / name)
    for name in ("crop_part1.zip", "archive.zip", "UTKFace.tar.gz", "UTKFace.tgz", "part2.zip"):
        write_archive(tmp_path / name, inside("UTKFace"))
    write_folder(tmp_path)
    expected = ["UTKFace.tar.gz", "UTKFace.tgz", "UTKFace/", "archive.zip", "crop_part1.zip", "crop_part1/"]
    assert source_names(tmp_path) == [*expected, "images directly in it", "utkface_aligned_cropped/"]
    assert source_names(tmp_path, "in_the_wild") == ["part1/", "part2.zip"]


def test_in_the_wild_reads_direct_images_only_without_parts(tmp_path):
    write_folder(tmp_path)
    write_folder(tmp_path / "UTKFace")
    (tmp_path / "part1").mkdir()
    write_archive(tmp_path / "archive.zip", inside("part1"))
    source = only_source(tmp_path, "in_the_wild")
    assert source.name == "images directly in it"
    assert set(contents(source)) == {*FACES, "archive.zip"}
    write_folder(tmp_path / "part1")
    assert source_names(tmp_path, "in_the_wild") == ["part1/"]


def test_unknown_config_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"aligned_cropped, in_the_wild\. Received: config='wild'"):
        sources.find_sources(tmp_path, "wild")


@pytest.mark.parametrize(
    ("config", "kind", "more"),
    [
        ("aligned_cropped", "aligned and cropped faces", ["any other undamaged .zip with such images"]),
        ("in_the_wild", "in-the-wild images", []),
    ],
)
def test_not_found_lists_the_names_it_looked_for(tmp_path, config, kind, more):
    with pytest.raises(FileNotFoundError) as error:
        sources.find_sources(tmp_path, config)
    names = [f"{name}/" for of_config, name in FOLDERS if of_config == config]
    names += [stem + suffix for of_config, stem, suffix in ARCHIVES if of_config == config]
    assert str(error.value) == (
        f"No UTKFace in {tmp_path}. Found there: nothing. Looked for {', '.join(names + more)} and for .jpg files "
        f"directly in it. Get the {kind} from https://susanqq.github.io/UTKFace/ and put them there, or pass another "
        "--manual_dir."
    )


def test_not_found_lists_what_is_there(tmp_path):
    (tmp_path / "UTKface").mkdir()
    (tmp_path / "UTKFace.tar.xz").touch()
    (tmp_path / "UTKFace.zip").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Found there: UTKFace\.tar\.xz, UTKFace\.zip/, UTKface/\. Looked"):
        sources.find_sources(tmp_path, "aligned_cropped")


def test_wrong_kinds_of_files_are_ignored(tmp_path):
    (tmp_path / "UTKFace").write_bytes(b"?")
    write_folder(tmp_path / "UTKFace.zip")
    write_folder(tmp_path / "archive.zip")
    write_folder(tmp_path / "crop_part1")
    assert source_names(tmp_path) == ["crop_part1/"]


def test_not_found_lists_ten_names(tmp_path):
    for i in range(13):
        (tmp_path / f"file{i:02d}").touch()
    with pytest.raises(FileNotFoundError, match=r"Found there: file00, .*, file09, 3 more\. Looked"):
        sources.find_sources(tmp_path, "aligned_cropped")


def test_missing_manual_dir_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\. It does not exist\..*susanqq.*another --manual_dir"):
        sources.find_sources(tmp_path / "missing", "aligned_cropped")
    archive = write_archive(tmp_path / "UTKFace.zip", FACES)
    with pytest.raises(FileNotFoundError, match=r"UTKFace\.zip\. It is not a folder\..*another --manual_dir"):
        sources.find_sources(archive, "aligned_cropped")


def test_empty_folder_is_ignored(tmp_path):
    (tmp_path / "UTKFace" / "empty too").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"UTKFace/ is empty\."):
        sources.find_sources(tmp_path, "aligned_cropped")
    write_folder(tmp_path / "crop_part1")
    assert source_names(tmp_path) == ["crop_part1/"]


@pytest.mark.parametrize("name", ["UTKFace", "UTKFace.tar.gz", "archive.zip"])
def test_source_may_be_a_link(tmp_path, name):
    write_folder(tmp_path / "elsewhere" / "UTKFace")
    write_archive(tmp_path / "elsewhere" / "UTKFace.tar.gz", inside("UTKFace"))
    write_archive(tmp_path / "elsewhere" / "archive.zip", inside("UTKFace"))
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert contents(only_source(tmp_path / "manual")) == inside("UTKFace")


def test_links_to_files_are_read_and_pipes_skipped(tmp_path):
    folder = write_folder(tmp_path / "UTKFace")
    (folder / "linked.jpg").symlink_to(folder / NAMES[0])
    (folder / "broken.jpg").symlink_to(folder / "missing.jpg")
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    (folder / "null.jpg").symlink_to("/dev/null")
    os.mkfifo(folder / "pipe.jpg")
    listed = contents(only_source(tmp_path))
    assert listed.pop("UTKFace/linked.jpg") == FACES[NAMES[0]]
    assert [listed.pop(f"UTKFace/{name}.jpg") for name in ("broken", "itself", "null", "pipe")] == [NOT_A_FILE] * 4
    assert listed == inside("UTKFace")


def test_link_to_a_folder_is_skipped(tmp_path):
    folder = write_folder(tmp_path / "UTKFace")
    (folder / "loop").symlink_to(tmp_path)
    assert contents(only_source(tmp_path)) == inside("UTKFace") | {
        "UTKFace/loop/": "a link to a folder, which is not followed"
    }


def test_vanished_file_is_an_error(tmp_path):
    folder = write_folder(tmp_path / "UTKFace", {NAMES[0]: b"image"})
    [(_, read)] = only_source(tmp_path).files()
    (folder / NAMES[0]).unlink()
    with pytest.raises(FileNotFoundError):
        read()


@pytest.mark.parametrize("unreadable", ["deeper", "deeper/1_0_0_1.jpg"])
def test_unreadable_file_is_an_error(tmp_path, monkeypatch, unreadable):
    folder = write_folder(tmp_path / "UTKFace", FACES | {"deeper/1_0_0_1.jpg": b"image"})
    forbid(monkeypatch, folder / unreadable)
    with pytest.raises(PermissionError):
        contents(only_source(tmp_path))


def forbid(monkeypatch, path: Path) -> None:
    """Takes the rights from a path; by hand where the tests run as root, who may read everything."""
    path.chmod(0)
    if os.access(path, os.R_OK):
        scandir, read_bytes = os.scandir, Path.read_bytes
        monkeypatch.setattr(os, "scandir", lambda folder: refuse() if Path(folder) == path else scandir(folder))
        monkeypatch.setattr(Path, "read_bytes", lambda file: refuse() if file == path else read_bytes(file))


def refuse():
    raise PermissionError("not yours")


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("./UTKFace//1_0_0_1.jpg", "UTKFace/1_0_0_1.jpg"),
        ("/etc/1_0_0_1.jpg", "etc/1_0_0_1.jpg"),
        ("//etc/1_0_0_1.jpg", "etc/1_0_0_1.jpg"),
        ("../../UTKFace/../1_0_0_1.jpg", "1_0_0_1.jpg"),
    ],
)
def test_archive_paths_stay_inside(tmp_path, suffix, member, expected):
    write_archive(tmp_path / f"UTKFace{suffix}", {member: b"image"})
    assert contents(only_source(tmp_path)) == {expected: b"image"}


def test_backslashes_become_slashes(tmp_path):
    files = {"UTKFace\\": b"", f"UTKFace\\{NAMES[0]}": b"image"}
    write_archive(tmp_path / "archive.zip", files)
    assert contents(only_source(tmp_path)) == {f"UTKFace/{NAMES[0]}": b"image"}


def test_directories_in_an_archive_are_ignored(tmp_path):
    write_archive(tmp_path / "UTKFace.zip", {"UTKFace/": b""} | inside("UTKFace"))
    directory = tarfile.TarInfo("UTKFace")
    directory.type = tarfile.DIRTYPE
    write_tar(tmp_path / "UTKFace.tar", [(directory, b""), (tarfile.TarInfo("UTKFace/1_0_0_1.jpg"), b"image")])
    tar, zipped = sources.find_sources(tmp_path, "aligned_cropped")
    assert contents(tar) == {"UTKFace/1_0_0_1.jpg": b"image"}
    assert contents(zipped) == inside("UTKFace")


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_repeated_member_is_read_twice(tmp_path, suffix):
    path = tmp_path / f"UTKFace{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(NAMES[0], b"first")
            archive.writestr(NAMES[0], b"second")
    else:
        write_tar(path, [(tarfile.TarInfo(NAMES[0]), b"first"), (tarfile.TarInfo(NAMES[0]), b"second")])
    listed = [(name, read()) for name, read in only_source(tmp_path).files()]
    assert listed == [(NAMES[0], b"first"), (NAMES[0], b"second")]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_special_tar_member_is_skipped(tmp_path, kind):
    link = tarfile.TarInfo("UTKFace/link.jpg")
    link.type, link.linkname = kind, "UTKFace/1_0_0_1.jpg"
    write_tar(tmp_path / "UTKFace.tar.gz", [(tarfile.TarInfo("UTKFace/1_0_0_1.jpg"), b"image"), (link, b"")])
    assert contents(only_source(tmp_path)) == {"UTKFace/1_0_0_1.jpg": b"image", "UTKFace/link.jpg": NOT_A_FILE}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO])
def test_special_zip_member_is_skipped(tmp_path, kind):
    member = zipfile.ZipInfo("UTKFace/link.jpg")
    member.create_system, member.external_attr = 3, (kind | 0o777) << 16
    file = zipfile.ZipInfo("UTKFace/1_0_0_1.jpg")
    file.create_system, file.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    with zipfile.ZipFile(tmp_path / "UTKFace.zip", "w") as archive:
        archive.writestr(member, "1_0_0_1.jpg")
        archive.writestr(file, b"image")
    assert contents(only_source(tmp_path)) == {"UTKFace/link.jpg": NOT_A_FILE, "UTKFace/1_0_0_1.jpg": b"image"}


def in_directory_of_zip(name: str, *, offset: int, value: int):
    """Returns what overwrites two bytes of a member's entry in the table of contents, where 46 bytes precede a name."""

    def change(archive: bytes) -> bytes:
        start = archive.rindex(name.encode()) - 46 + offset
        return archive[:start] + value.to_bytes(2, "little") + archive[start + 2 :]

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (in_directory_of_zip(NAMES[0], offset=8, value=1), "encrypted"),
        (in_directory_of_zip(NAMES[0], offset=10, value=9), "of a compression that Python does not know"),  # deflate64
        (in_directory_of_zip(NAMES[0], offset=16, value=0), "damaged in the archive"),  # the sum
        (lambda archive: archive.replace(FACES[NAMES[0]][:99], bytes(99)), "damaged in the archive"),
        (lambda archive: b"XX" + archive[2:], "damaged in the archive"),  # the local header
    ],
)
def test_unreadable_zip_member_is_skipped(tmp_path, change, reason):
    archive = write_archive(tmp_path / "UTKFace.zip", FACES)
    archive.write_bytes(change(archive.read_bytes()))
    assert contents(only_source(tmp_path)) == FACES | {NAMES[0]: reason}


@pytest.mark.parametrize("name", ["UTKFace/", *(f"UTKFace{suffix}" for suffix in ARCHIVE_SUFFIXES)])
def test_files_of_the_largest_size_are_read_and_larger_ones_skipped(tmp_path, monkeypatch, name):
    files = {NAMES[0]: bytes(1_100_000)}
    write_folder(tmp_path / name, files) if name == "UTKFace/" else write_archive(tmp_path / name, files)
    for limit, expected in ((1_100_000, bytes(1_100_000)), (1_099_999, "larger than 100 MB")):
        monkeypatch.setattr(sources, "_MAX_BYTES", limit)
        assert list(contents(only_source(tmp_path)).values()) == [expected]


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
def test_random_damage_is_explained_and_changes_no_image(tmp_path, suffix):
    files = inside("UTKFace") | {"UTKFace/1_0_0_1.jpg": b"".join(b"%d" % number for number in range(40_000))}
    archive = write_archive(tmp_path / f"UTKFace{suffix}", files)
    whole, causes = archive.read_bytes(), set()
    for seed in range(150):
        draw = random.Random(seed)
        start = draw.choice((draw.randrange(len(whole)), -draw.randrange(1, 1000)))  # a zip lists its files at the end
        damage = draw.randbytes(draw.choice((1, 4, 40)))
        archive.write_bytes((whole[:start] + damage + whole[start:][len(damage) :])[: len(whole)])
        try:
            read = [content_or_reason(reader) for _, reader in only_source(tmp_path).files()]
        except ValueError as error:
            assert re.search(DAMAGED, str(error)), error
            causes.add(type(error.__cause__).__name__)
        else:
            assert len(read) == len(files)
            # The files of a tar have no checksum; the builder decodes them.
            assert suffix == ".tar" or not [each for each in read if each not in files.values() and type(each) is bytes]
    assert causes >= {".zip": {"BadZipFile"}, ".tar": {"ReadError"}}.get(suffix, {"error", "ReadError"})  # zlib's


def test_zip_with_names_that_are_no_text_is_refused_or_ignored(tmp_path):
    archive = write_archive(tmp_path / "UTKFace.zip", {"\xff\xfe.jpg": b"image"})
    archive.write_bytes(archive.read_bytes().replace("\xff\xfe.jpg".encode(), b"\xff\xfe\xff\xfe.jpg"))
    with pytest.raises(ValueError, match=DAMAGED):
        contents(only_source(tmp_path))
    archive.rename(tmp_path / "own.zip")
    with pytest.raises(FileNotFoundError):
        sources.find_sources(tmp_path, "aligned_cropped")


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>", bytes(20480)])
def test_file_that_is_no_archive_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"UTKFace{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=DAMAGED) as error:
        contents(only_source(tmp_path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
@pytest.mark.parametrize("read_the_files", [True, False])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_archive_is_refused(tmp_path, suffix, read_the_files, kept):
    archive = write_archive(tmp_path / f"UTKFace{suffix}", inside("UTKFace"))
    files_end = 6 * (512 + 1024)  # of a tar; zeros follow, and nothing is lost if some of them are
    whole = archive.read_bytes()[: files_end if suffix == ".tar" else None]
    archive.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ValueError, match=DAMAGED):
        for _, read in only_source(tmp_path).files():
            read() if read_the_files else None


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        # Cut between two members.
        *((lambda whole, end=images * 1536: whole[:end], "its end is missing") for images in (1, 5, 6)),
        *(
            (lambda whole, header=header: whole[:1536] + header + whole[2048:], "it cannot be read on from byte 1536")
            for header in (bytes(512), b"?" * 512)
        ),
    ],
)
def test_tar_that_is_cut_or_has_a_damaged_header_is_refused(tmp_path, damage, reason):
    archive = write_archive(tmp_path / "UTKFace.tar", inside("UTKFace"))
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(ValueError, match=f"downloaded to its end: {reason}\\. Get it again"):
        contents(only_source(tmp_path))


def test_wrong_gzip_checksum_is_refused(tmp_path):
    archive = write_archive(tmp_path / "UTKFace.tar.gz", inside("UTKFace"))
    whole = archive.read_bytes()
    for damaged in (whole[:-1], whole[:-8], whole[:-8] + bytes(4) + whole[-4:]):
        archive.write_bytes(damaged)
        with pytest.raises(ValueError, match=DAMAGED):
            contents(only_source(tmp_path))


def test_zip_without_its_beginning_is_refused(tmp_path):
    archive = write_archive(tmp_path / "UTKFace.zip", inside("UTKFace"))
    archive.write_bytes(archive.read_bytes()[100:])
    with pytest.raises(ValueError, match=DAMAGED):
        contents(only_source(tmp_path))


def test_uncompressed_tar_gz_is_read(tmp_path):
    write_archive(tmp_path / "UTKFace.tar", inside("UTKFace")).rename(tmp_path / "UTKFace.tar.gz")
    assert contents(only_source(tmp_path)) == inside("UTKFace")


@pytest.mark.parametrize("name", ["UTKFace/", "UTKFace.tar.gz"])
def test_memory_does_not_grow_with_the_number_of_files(tmp_path, name):
    peaks = []
    for count in (100, 1000):
        files = {f"1_0_0_{i}.jpg": b"image" for i in range(count)}
        manual_dir = tmp_path / str(count)
        manual_dir.mkdir()
        write_folder(manual_dir / name, files) if name == "UTKFace/" else write_archive(manual_dir / name, files)
        peaks.append(peak_of_reading(only_source(manual_dir)))
    assert peaks[1] - peaks[0] < 900 * 40  # bytes; less than the name alone of every file would take


def peak_of_reading(source: sources.Source) -> int:
    for _, read in source.files():  # once before, for what the first reading caches
        read()
    tracemalloc.start()
    try:
        for _, read in source.files():
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
