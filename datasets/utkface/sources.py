"""Where the images lie: every form of UTKFace in the manual directory, and the files in each.

Whether several forms say the same is for whoever reads them. Reading goes through a form from one end to the other and
holds one file at a time: nothing is unpacked to the disk, and only a zip's table of contents grows with the images.
"""

import contextlib
import functools
import lzma
import os
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from gzip import BadGzipFile
from pathlib import Path
from typing import Final, NamedTuple

from .labels import Skipped, parse_name

HOMEPAGE: Final = "https://susanqq.github.io/UTKFace/"

_MOST_TOLD: Final = 10  # how many names of what lies in a manual directory without UTKFace an error lists
_MAX_BYTES: Final = 100_000_000  # of a image; an archive of a kilobyte may hold any number of zeros
_TOO_LARGE: Final = f"larger than {_MAX_BYTES // 1_000_000} MB"
_NOT_A_FILE: Final = "a link or a device, not a file"
_FOLDER_LINK: Final = "a link to a folder, which is not followed"
_BAD_TAR: Final = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, BadGzipFile)
_BAD_ZIP: Final = (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError, UnicodeDecodeError)

File = tuple[str, Callable[[], bytes]]  # a path inside the form, and what reads it, to be called at once or never


class _Names(NamedTuple):
    """What one configuration is handed around as."""

    meaning: str
    folders: tuple[str, ...]
    archives: tuple[str, ...]
    by_content: bool  # whether a zip of any other name counts if it holds images, and images beside another form


def _archives(*stems: str) -> tuple[str, ...]:
    return tuple(stem + suffix for stem in stems for suffix in (".tar.gz", ".tgz", ".tar", ".zip"))


_FACES: Final = ("UTKFace", "crop_part1")
_PARTS: Final = ("part1", "part2", "part3")
_CONFIGS: Final = {
    "aligned_cropped": _Names(
        "aligned and cropped faces", (*_FACES, "utkface_aligned_cropped"), _archives(*_FACES), by_content=True
    ),
    "in_the_wild": _Names("in-the-wild images", _PARTS, _archives(*_PARTS), by_content=False),
}


class Form(NamedTuple):
    """One form of the data set on the disk."""

    name: str  # as people are told: "UTKFace/", "UTKFace.tar.gz" or "images directly in it"
    path: Path  # the folder or the archive
    prefix: str = ""  # what the paths in a folder begin with, so that they read as in the archive that it came from
    left_out: frozenset[str] = frozenset()  # names of entries directly in the folder that belong to other forms

    def files(self) -> Iterator[File]:
        """Yields every file as `(path, read)`, in whatever order the disk or the archive has them.

        A name that an archive holds twice comes twice. In a folder, a link to a file is read as that file; a link to a
        folder is not followed, but comes as a file that is none. `read` raises `Skipped` for what is not a file, and
        for a member of a zip that is encrypted, damaged or of a compression that Python does not know.

        Raises:
            ValueError: (`read` too) if the archive is damaged, was cut short or holds no file.
            OSError: (`read` too) if a folder or a file may not be read, for leaving it out would pass in silence.
        """
        if self.path.is_dir():
            return _folder_files(self.path, self.prefix, self.left_out)
        return _archive_files(self.path)


def find_forms(manual_dir: Path, config: str) -> list[Form]:
    """Returns every form of UTKFace that lies in the manual directory, sorted by name; at least one.

    An empty folder is no form. Archives are not read yet, but for the table of contents of a zip of another name.

    Args:
        manual_dir: the folder to look in.
        config: "aligned_cropped" or "in_the_wild"; neither looks at what bears the names of the other.

    Raises:
        FileNotFoundError: if there is no form, or no manual directory.
        OSError: if something there may not be read, so that nobody knows what it is.
        ValueError: if there is no such configuration.
    """
    if config not in _CONFIGS:
        raise ValueError(f"`config` must be one of {', '.join(_CONFIGS)}. Received: config={config!r}")
    names = _CONFIGS[config]
    if not manual_dir.is_dir():
        raise _nothing_found(manual_dir, names, "It is not a folder." if manual_dir.exists() else "It does not exist.")
    others = [other for other in _CONFIGS.values() if other is not names]
    foreign = frozenset(name for other in others for name in other.folders + other.archives)
    entries = [path for path in manual_dir.iterdir() if path.name not in foreign]
    paths = [path for path in entries if path.name in names.folders and path.is_dir()]
    folders = [Form(f"{path.name}/", path, prefix=path.name) for path in paths]
    forms = [folder for folder in folders if any(folder.files())]
    forms += [Form(path.name, path) for path in entries if _is_archive(path, names)]
    if (names.by_content or not forms) and any(map(_is_image, entries)):
        left_out = foreign.union(form.path.name for form in forms)
        forms.append(Form("images directly in it", manual_dir, left_out=left_out))
    if not forms:
        empty = "".join(f" {folder.name} is empty." for folder in folders)
        raise _nothing_found(manual_dir, names, f"Found there: {_listing(manual_dir)}.{empty}")
    return sorted(forms, key=lambda form: form.name)


def _is_archive(path: Path, names: _Names) -> bool:
    if path.name in names.archives:
        return path.is_file()
    return names.by_content and path.suffix.lower() == ".zip" and path.is_file() and _holds_images(path)


def _holds_images(path: Path) -> bool:
    """Whether a zip is one with images named as in UTKFace; one that is damaged may be anything, so it is not."""
    with contextlib.suppress(*_BAD_ZIP), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with contextlib.suppress(Skipped):
                parse_name(posixpath.basename(_tame(name.replace("\\", "/"))))
                return True
    return False


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg") and not path.name.startswith(".") and path.is_file()


def _nothing_found(manual_dir: Path, names: _Names, instead: str) -> FileNotFoundError:
    looked_for = [f"{folder}/" for folder in names.folders] + list(names.archives)
    looked_for += ["any other undamaged .zip with such images"] if names.by_content else []
    return FileNotFoundError(
        f"No UTKFace in {manual_dir}. {instead} Looked for {', '.join(looked_for)} and for .jpg files directly in it. "
        f"Get the {names.meaning} from {HOMEPAGE} and put them there, or say another --manual_dir."
    )


def _listing(folder: Path) -> str:
    paths = sorted(folder.iterdir())
    told = [path.name + ("/" if path.is_dir() else "") for path in paths[:_MOST_TOLD]]
    more = [f"{len(paths) - _MOST_TOLD} more"] if len(paths) > _MOST_TOLD else []
    return ", ".join(told + more) or "nothing"


def _folder_files(folder: Path | str, prefix: str, left_out: frozenset[str] = frozenset()) -> Iterator[File]:
    with os.scandir(folder) as entries:  # not os.walk, which passes over links to folders and unreadable ones
        for entry in entries:
            path = posixpath.join(prefix, entry.name)
            if entry.name in left_out:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _folder_files(entry.path, path)
            else:  # a link to a folder keeps the "/" that says what it is
                yield path + "/" * os.path.isdir(entry.path), functools.partial(_read_file, Path(entry.path))


def _read_file(path: Path) -> bytes:
    if path.is_dir():
        raise Skipped(_FOLDER_LINK)
    if not path.is_file() and os.path.lexists(path):  # reading a pipe would wait forever
        raise Skipped(_NOT_A_FILE)
    _check_size(path.stat().st_size)
    return path.read_bytes()


def _check_size(size: int) -> None:
    if size > _MAX_BYTES:
        raise Skipped(_TOO_LARGE)


def _archive_files(path: Path) -> Iterator[File]:
    files = (_zip_files if path.suffix.lower() == ".zip" else _tar_files)(path)
    with _damage_told(path):
        if (first := next(files, None)) is None:
            raise tarfile.ReadError("there is no file in it")
        yield first
        yield from files


def _tar_files(path: Path) -> Iterator[File]:
    with tarfile.open(path) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile remembers each, a kilobyte a image
            if not member.isdir():
                yield _tame(member.name), functools.partial(_read_tar_member, archive, member, path)
        _check_end(archive)


def _check_end(archive: tarfile.TarFile) -> None:
    """Makes sure that the archive ends where tarfile stopped, which also stops at a damaged header without a word."""
    rest = archive.fileobj
    rest.seek(archive.offset)
    end = rest.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("its end is missing")
    while end:  # to the last byte, for gzip compares its checksum there
        if end.strip(b"\0"):
            raise tarfile.ReadError(f"it cannot be read on from byte {archive.offset}")
        end = rest.read(1 << 20)


def _read_tar_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    if not member.isreg():
        raise Skipped(_NOT_A_FILE)
    _check_size(member.size)
    with _damage_told(path):
        content = archive.extractfile(member)
        return content.read() if content else b""


def _zip_files(path: Path) -> Iterator[File]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.header_offset < 0:
                raise zipfile.BadZipFile("its beginning is missing")
            name = member.filename.replace("\\", "/")  # some programs of Windows write the one for the other
            if not name.endswith("/"):
                yield _tame(name), functools.partial(_read_zip_member, archive, member)


def _read_zip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):  # 0 where it was not packed under Unix
        raise Skipped(_NOT_A_FILE)
    _check_size(member.file_size)
    if member.flag_bits & 1:
        raise Skipped("encrypted")
    try:
        return archive.read(member)
    except NotImplementedError:
        raise Skipped("of a compression that Python does not know") from None
    except _BAD_ZIP:
        raise Skipped("damaged in the archive") from None


def _tame(name: str) -> str:
    """Returns the path of a member without `./`, and without a root or `..` that would lead out of the archive."""
    return posixpath.normpath(f"/{name}").lstrip("/")


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (*_BAD_TAR, *_BAD_ZIP) as error:
        reason = str(error).partition(":\n")[0]  # without tarfile's list of all the compressions that it tried
        what = f"{path} is damaged or was not downloaded to its end: {reason}"
        raise ValueError(f"{what}. Get it again from {HOMEPAGE}.") from error
