"""Finds the archives and folders of UTKFace in the manual directory, and lists the files in each.

Each is read from one end to the other, one file at a time: nothing is unpacked to disk, and only a zip's table of
contents grows with the images.
"""

import contextlib
import errno
import functools
import lzma
import os
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from .labels import Skipped, parse_name

HOMEPAGE: Final = "https://susanqq.github.io/UTKFace/"

_MAX_PATH: Final = 100  # characters of the path of a folder that is not read
_MAX_LISTED: Final = 10  # names in an error
_MAX_BYTES: Final = 100_000_000  # of a file
_MAX_RATIO, _MIN_UNPACKED = 10, 200_000_000  # JPEG files hardly compress: an archive may unpack to ten times its size
_STEP: Final = 4096  # compressed bytes read at a time: as LZMA they may contain 30 MB of zeros
_ZIP_END: Final = 22 + 65_535  # bytes: the last record of a zip, with the longest comment
_TOO_LARGE: Final = f"larger than {_MAX_BYTES // 1_000_000} MB"
_NOT_A_FILE: Final = "a link or a device, not a file"
_FOLDER_LINK: Final = "a link to a folder, which is not followed"
_DAMAGE: Final = (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError, UnicodeDecodeError)

File = tuple[str, Callable[[], bytes]]  # a path inside the source, and its reader, to be called at once or never


class _Layout(NamedTuple):
    """The names that the sources of one configuration have."""

    description: str
    folders: tuple[str, ...]
    archives: tuple[str, ...]
    by_content: bool  # whether any zip with images is a source, and images directly in the directory beside others


def _archives(*stems: str) -> tuple[str, ...]:
    return tuple(stem + suffix for stem in stems for suffix in (".tar.gz", ".tgz", ".tar", ".zip"))


_FACES: Final = ("UTKFace", "crop_part1")
_PARTS: Final = ("part1", "part2", "part3")
_CONFIGS: Final = {
    "aligned_cropped": _Layout(
        "aligned and cropped faces", (*_FACES, "utkface_aligned_cropped"), _archives(*_FACES), by_content=True
    ),
    "in_the_wild": _Layout("in-the-wild images", _PARTS, _archives(*_PARTS), by_content=False),
}


class Source(NamedTuple):
    """An archive or a folder with images."""

    name: str  # for messages: "UTKFace/", "UTKFace.tar.gz" or "images directly in it"
    path: Path
    prefix: str = ""  # of the paths in a folder, so that they equal those in its archive
    excluded: frozenset[str] = frozenset()  # names directly in the folder that belong to other sources

    def files(self) -> Iterator[File]:
        """Yields every file as `(path, read)`, in whatever order the disk or the archive has them.

        A name that occurs twice in an archive is yielded twice. In a folder, links to files are read; links to folders
        are not followed, but yielded with a "/" at their end. `read` raises `Skipped` for anything but a file, for one
        of more than 100 MB, and for a member of a zip that is encrypted, damaged or compressed in an unknown way.

        Raises:
            ValueError: (`read` too) if the archive is damaged, incomplete or empty.
            OSError: (`read` too) if a folder or a file may not be read.
        """
        if self.path.is_dir():
            return _folder_files(self.path, self.prefix, self.excluded)
        return _archive_files(self.path)


def find_sources(manual_dir: Path, config: str) -> list[Source]:
    """Returns the sources in the manual directory, sorted by name; at least one.

    Empty folders are ignored. Of archives, only the table of contents of a zip of another name is read.

    Args:
        manual_dir: the folder to look in.
        config: "aligned_cropped" or "in_the_wild"; each ignores the names of the other.

    Raises:
        FileNotFoundError: if there is no source, or no manual directory.
        OSError: if a file or folder there may not be read.
        ValueError: if there is no such configuration.
    """
    if config not in _CONFIGS:
        raise ValueError(f"`config` must be one of {', '.join(_CONFIGS)}. Received: config={config!r}")
    layout = _CONFIGS[config]
    if not manual_dir.is_dir():
        raise _not_found_error(
            manual_dir, layout, "It is not a folder." if manual_dir.exists() else "It does not exist."
        )
    others = [other for other in _CONFIGS.values() if other is not layout]
    foreign = frozenset(name for other in others for name in other.folders + other.archives)
    entries = [path for path in manual_dir.iterdir() if path.name not in foreign]
    paths = [path for path in entries if path.name in layout.folders and path.is_dir()]
    folders = [Source(f"{path.name}/", path, prefix=path.name) for path in paths]
    sources = [folder for folder in folders if any(folder.files())]
    sources += [Source(path.name, path) for path in entries if _is_archive(path, layout)]
    if (layout.by_content or not sources) and any(map(_is_image, entries)):
        excluded = foreign.union(source.path.name for source in sources)
        sources.append(Source("images directly in it", manual_dir, excluded=excluded))
    if not sources:
        empty = "".join(f" {folder.name} is empty." for folder in folders)
        raise _not_found_error(manual_dir, layout, f"Found there: {_list_folder(manual_dir)}.{empty}")
    return sorted(sources, key=lambda source: source.name)


def _is_archive(path: Path, layout: _Layout) -> bool:
    if path.name in layout.archives:
        return path.is_file()
    return layout.by_content and path.suffix.lower() == ".zip" and path.is_file() and _has_images(path)


def _has_images(path: Path) -> bool:
    """Returns whether a zip has a member named as in UTKFace; False if it is damaged."""
    with contextlib.suppress(*_DAMAGE), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with contextlib.suppress(Skipped):
                parse_name(posixpath.basename(_clean_path(name.replace("\\", "/"))))
                return True
    return False


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg") and not path.name.startswith(".") and path.is_file()


def _not_found_error(manual_dir: Path, layout: _Layout, found: str) -> FileNotFoundError:
    looked_for = [f"{folder}/" for folder in layout.folders] + list(layout.archives)
    looked_for += ["any other undamaged .zip with such images"] if layout.by_content else []
    return FileNotFoundError(
        f"No UTKFace in {manual_dir}. {found} Looked for {', '.join(looked_for)} and for .jpg files directly in it. "
        f"Get the {layout.description} from {HOMEPAGE} and put them there, or pass another --manual_dir."
    )


def _list_folder(folder: Path) -> str:
    paths = sorted(folder.iterdir())
    names = [path.name + ("/" if path.is_dir() else "") for path in paths[:_MAX_LISTED]]
    more = [f"{len(paths) - _MAX_LISTED} more"] if len(paths) > _MAX_LISTED else []
    return ", ".join(names + more) or "nothing"


def _folder_files(folder: Path | str, prefix: str, excluded: frozenset[str] = frozenset()) -> Iterator[File]:
    folders = [(str(folder), prefix)]  # not a recursion, which ends a thousand folders deep
    while folders:
        folder, prefix = folders.pop()
        try:
            entries = os.scandir(folder)  # not os.walk, which passes over links to folders and unreadable ones
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            yield f"{prefix[:_MAX_PATH]}.../", functools.partial(_skip, "a folder that is nested too deep")
            continue
        with entries:
            for entry in entries:
                path = posixpath.join(prefix, entry.name)
                if entry.name in excluded:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, path))
                else:  # a link to a folder keeps the "/" that says what it is
                    yield path + "/" * os.path.isdir(entry.path), functools.partial(_read_file, Path(entry.path))
        excluded = frozenset()


def _skip(reason: str) -> bytes:
    raise Skipped(reason)


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
    with _explain_damage(path):
        if (first := next(files, None)) is None:
            raise tarfile.ReadError("there is no file in it")
        yield first
        yield from files


def _tar_files(path: Path) -> Iterator[File]:
    options: dict[str, Any] = {"max_unpacked": _max_unpacked(path)}
    with path.open("rb") as file, _BoundedTar.open(fileobj=file, **options) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # or tarfile keeps a kilobyte for each
            if not member.isdir():
                yield _clean_path(member.name), functools.partial(_read_tar_member, archive, member, path)
        _check_end(archive)


def _max_unpacked(path: Path) -> int:
    return _MAX_RATIO * path.stat().st_size + _MIN_UNPACKED


class _BoundedTar(tarfile.TarFile):
    """A tar whose headers are not trusted.

    One may claim a name of gigabytes, which tarfile would read at once, or a member of gigabytes, which it would unpack
    to skip it.
    """

    def __init__(self, name: Any, mode: Any, fileobj: Any, *, max_unpacked: int, **options: Any) -> None:
        super().__init__(name, mode, _BoundedFile(fileobj, max_unpacked), **options)


class _BoundedFile:
    def __init__(self, file: Any, max_unpacked: int) -> None:
        self._file = file
        self._max_unpacked = max_unpacked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_BYTES + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        content: bytes = self._file.read(size)
        self._check_place(self._file.tell())
        return content

    def seek(self, place: int) -> int:
        self._check_place(place)
        return int(self._file.seek(place))

    def _check_place(self, place: int) -> None:
        if place > self._max_unpacked:
            raise tarfile.ReadError(f"it unpacks to more than {self._max_unpacked:,} bytes")


def _check_end(archive: tarfile.TarFile) -> None:
    """Raises ReadError unless the archive ends where tarfile stopped: it also stops at a damaged header."""
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
    with _explain_damage(path):
        content = archive.extractfile(member)
        return content.read() if content else b""


def _zip_files(path: Path) -> Iterator[File]:
    with zipfile.ZipFile(path) as archive:
        members, limit = archive.infolist(), _max_unpacked(path)
        _check_count(path, len(members))
        if sum(member.file_size for member in members) > limit:  # zipfile reads no more of each
            raise zipfile.BadZipFile(f"it unpacks to more than {limit:,} bytes")
        for member in members:
            if member.header_offset < 0:
                raise zipfile.BadZipFile("its beginning is missing")
            name = member.filename.replace("\\", "/")  # some programs of Windows write the one for the other
            if not name.endswith("/"):
                yield _clean_path(name), functools.partial(_read_zip_member, archive, member)


def _check_count(path: Path, count: int) -> None:
    """Raises BadZipFile if the table of contents lost members: a damaged length hides those behind it."""
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, _ZIP_END), os.SEEK_END)
        end = file.read()
    place = end.rindex(b"PK\5\6") + 10
    claimed = int.from_bytes(end[place : place + 2], "little")
    if claimed not in (count % 65_536, 65_535):  # the second of more than fit into 16 bits
        raise zipfile.BadZipFile(f"it lists {count:,} files and has {claimed:,}")


def _read_zip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):  # 0 where it was not packed under Unix
        raise Skipped(_NOT_A_FILE)
    _check_size(member.file_size)
    if member.flag_bits & 1:
        raise Skipped("encrypted")
    if member.compress_type == zipfile.ZIP_BZIP2:  # zipfile decompresses it without a limit
        raise Skipped("compressed with bzip2, which is not read")
    try:
        with archive.open(member) as file:
            content = bytearray()
            while chunk := file.read(_STEP):
                content += chunk
                _check_size(len(content))
            return bytes(content)
    except NotImplementedError:
        raise Skipped("of a compression that Python does not know") from None
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not bzip2
            raise
        raise Skipped("damaged in the archive") from None


def _clean_path(name: str) -> str:
    """Returns the path of a member without `./`, a root, or a `..` that leads out of the archive."""
    return posixpath.normpath(f"/{name}").lstrip("/")


@contextlib.contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, *_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not gzip or bzip2
            raise
        reason = str(error).partition(":\n")[0]  # without tarfile's list of all the compressions that it tried
        raise ValueError(
            f"{path} is damaged or was not downloaded to its end: {reason}. Get it again from {HOMEPAGE}."
        ) from error
