"""Where the pictures lie: the one form of UTKFace in the manual directory, and the files in it.

Reading goes through the source from one end to the other and holds one file at a time, so that a tar.gz is never
unpacked to the disk and memory does not grow with the number of pictures.
"""

import contextlib
import functools
import gzip
import os
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from .labels import Skipped

HOMEPAGE: Final = "https://susanqq.github.io/UTKFace/"
FOLDERS: Final = ("UTKFace", "crop_part1")
ARCHIVES: Final = ("UTKFace.tar.gz", "crop_part1.tar.gz")

File = tuple[str, Callable[[], bytes]]  # a path inside the source, and what reads it, to be called at once or never


class Source(NamedTuple):
    """One form of the data set on the disk.

    Attributes:
        path: the folder or the archive.
        root: the folder that the paths of an extracted folder are told from, so that they read as in the archive.
    """

    path: Path
    root: Path

    def files(self) -> Iterator[File]:
        """Yields every file as `(path, read)`, in whatever order the disk or the archive has them."""
        return _folder_files(self.path, self.root) if self.path.is_dir() else _archive_files(self.path)


def find_source(manual_dir: Path) -> Source:
    """Returns the form of UTKFace that lies in the manual directory.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if there are several, for which of them is meant would be a guess.
    """
    found = [manual_dir / name for name in (*FOLDERS, *ARCHIVES) if (manual_dir / name).exists()]
    if any(entry.suffix.lower() in (".jpg", ".jpeg") for entry in manual_dir.iterdir() if entry.is_file()):
        found.append(manual_dir)
    if not found:
        raise FileNotFoundError(
            f"No UTKFace in {manual_dir}. Looked for {', '.join(f'{folder}/' for folder in FOLDERS)}, "
            f"{', '.join(ARCHIVES)} and for .jpg files directly in it. "
            f"Get the aligned and cropped faces from {HOMEPAGE} and put them there, or say another --manual_dir."
        )
    if len(found) > 1:
        listed = ", ".join("pictures directly in it" if path == manual_dir else path.name for path in found)
        raise ValueError(f"More than one form of UTKFace in {manual_dir}: {listed}. Leave the one that is meant there.")
    return Source(found[0], manual_dir)


def _folder_files(folder: Path, root: Path) -> Iterator[File]:
    for directory, _, names in os.walk(folder, onerror=_raise):
        for name in names:
            path = Path(directory, name)
            yield path.relative_to(root).as_posix(), path.read_bytes


def _raise(error: OSError) -> None:
    """Makes `os.walk` tell of a folder that it cannot read; by itself it would pass over it in silence."""
    raise error


def _archive_files(path: Path) -> Iterator[File]:
    with _damage_told(path), tarfile.open(path) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile remembers each, a kilobyte a picture
            if not member.isdir():
                yield posixpath.normpath(member.name), functools.partial(_read_member, archive, member, path)


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    if not member.isreg():
        raise Skipped("a link or a device, not a file")
    with _damage_told(path):
        content = archive.extractfile(member)
        return content.read() if content else b""


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, tarfile.TarError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is damaged or was not downloaded to its end: {error}. Get it again from {HOMEPAGE}."
        ) from error
