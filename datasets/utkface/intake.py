"""Takes in every file of the source once: kept with its bytes and its thumbnail, or skipped for a stated reason.

The bytes and the thumbnails go to scratch files, so that memory holds little more than the names, an archive is read
once, and shards can be written in any order.
"""

import contextlib
import hashlib
import posixpath
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow_datasets.core.utils import tqdm_utils

from . import near_duplicates
from .labels import Labels, Skipped, parse_name
from .sources import File, Form

MAX_PIXELS: Final = 100_000_000  # 300 MB decoded
_LARGE_FILE: Final = 250_000  # bytes; a whole JPEG with more than MAX_PIXELS has more
MAX_SCANS: Final = 100  # a progressive JPEG has about ten; each takes a pass over all pixels and may be tiny
_SCAN: Final = b"\xff\xda"
_OTHER_FORMATS: Final = {b"\x89PNG": "PNG", b"RIFF": "WebP", b"GIF8": "GIF", b"BM": "BMP"}
_TOLD: Final = 3  # how many files an error names


class Refused(NamedTuple):
    """A file that is not kept: its path, the reason, and, where it is a copy, the path of the one that is kept."""

    file: str
    reason: str
    copy_of: str | None = None


class Intake(NamedTuple):
    """What the source holds.

    Attributes:
        paths: of the images that are kept, sorted.
        skipped: the other files, sorted by path.
        spans: int64 [images, 2], where each of the kept begins and ends in `images`.
        images: the file with their bytes.
        thumbnails: uint8 [images, 32, 32], on the disk.
        size: height and width of every image, in pixels; None if they differ.
    """

    paths: list[str]
    skipped: list[Refused]
    spans: NDArray[np.int64]
    images: Path
    thumbnails: NDArray[np.uint8]
    size: tuple[int, int] | None

    def labels(self) -> Iterator[Labels]:
        return (parse_name(file_name(path)) for path in self.paths)


class _Entry(NamedTuple):
    path: str
    form: int
    content: int


def file_name(path: str) -> str:
    """Returns the name of a file without its folders."""
    return posixpath.basename(path)


def take_in(forms: Sequence[Form], scratch: Path, *, parts: bool = False) -> Intake:
    """Reads every file of every form once.

    Args:
        forms: of the data set, as found.
        scratch: a folder for files that together are about as large as the source.
        parts: whether the forms are parts of a whole. If not, one form must hold all the images of the others.

    Returns:
        What is there. Paths begin with the archive's name where there are several forms.

    Raises:
        ValueError: if two forms contradict each other.
    """
    entries, skipped = [], []
    with contextlib.closing(_Contents(scratch)) as contents:
        for form, (path, read) in tqdm_utils.tqdm(_files(forms), desc="Reading", unit=" files", leave=False):
            try:
                if not path.endswith("/"):  # a link to a folder, whose reading says why it is skipped
                    parse_name(file_name(path))
                entries.append(_Entry(path, form, contents.add(read())))
            except Skipped as reason:
                skipped.append(Refused(path, str(reason)))
    kept, copies = _one_for_each_name(entries, forms, parts=parts)
    if not parts:
        _check_one_holds_all(entries, forms)
    order = [entry.content for entry in kept]
    return Intake(
        [entry.path for entry in kept],
        sorted(skipped + copies),
        contents.spans()[order],
        contents.images,
        contents.thumbnails_in(order),
        contents.sizes.pop() if len(contents.sizes) == 1 else None,
    )


def _files(forms: Sequence[Form]) -> Iterator[tuple[int, File]]:
    for index, form in enumerate(forms):
        prefix = f"{form.path.name}/" if len(forms) > 1 and form.path.is_file() else ""
        for path, read in form.files():
            yield index, (prefix + path, read)


class _Contents:
    """The different contents of files, in the order in which they came."""

    def __init__(self, scratch: Path) -> None:
        self.images = scratch / "images"
        self.sizes: set[tuple[int, int]] = set()
        self._index: dict[bytes, int] = {}
        self._ends = array("q", [0])
        self._scratch = scratch
        self._images_file = self.images.open("wb")
        self._thumbnails_file = (scratch / "thumbnails").open("wb")

    def add(self, content: bytes) -> int:
        """Returns the index of a file's content, the same for the same bytes.

        Raises:
            Skipped: if it is not a JPEG image that decodes.
        """
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if digest not in self._index:
            image = decode(content)
            thumbnail = near_duplicates.thumbnail(image)
            self.sizes.add(image.shape[:2])
            self._images_file.write(content)
            self._thumbnails_file.write(thumbnail.tobytes())
            self._ends.append(self._ends[-1] + len(content))
            self._index[digest] = len(self._index)
        return self._index[digest]

    def close(self) -> None:
        self._images_file.close()
        self._thumbnails_file.close()
        self._index.clear()

    def spans(self) -> NDArray[np.int64]:
        ends = np.frombuffer(self._ends, np.int64)
        return np.stack([ends[:-1], ends[1:]], 1)

    def thumbnails_in(self, order: Sequence[int]) -> NDArray[np.uint8]:
        """Returns the thumbnails in an order that does not depend on that of the files, still on the disk."""
        shape = (near_duplicates.SIDE, near_duplicates.SIDE)
        path = self._scratch / "sorted_thumbnails"
        if not order:
            return np.empty((0, *shape), np.uint8)
        as_read = np.memmap(self._scratch / "thumbnails", np.uint8, "r").reshape(-1, *shape)
        with path.open("wb") as file:
            file.writelines(as_read[index].tobytes() for index in order)
        (self._scratch / "thumbnails").unlink()
        return np.memmap(path, np.uint8, "r").reshape(-1, *shape)


def decode(content: bytes) -> NDArray[np.uint8]:
    """Returns a image, uint8 RGB [height, width, 3]; grey and CMYK become RGB.

    It decodes with what training decodes with, so that no image can stop an epoch.

    Raises:
        Skipped: if the bytes are not a JPEG image that decodes.
    """
    if not content:
        raise Skipped("an empty file")
    if not content.startswith(b"\xff\xd8\xff"):
        found = [name for magic, name in _OTHER_FORMATS.items() if content.startswith(magic)]
        raise Skipped(f"{found[0]} inside, not JPEG" if found else "not JPEG inside")
    try:
        if content.count(_SCAN) > MAX_SCANS:
            raise Skipped(f"more than {MAX_SCANS} scans")
        if len(content) > _LARGE_FILE and np.prod(tf.io.extract_jpeg_shape(content)[:2]) > MAX_PIXELS:
            raise Skipped(f"more than {MAX_PIXELS // 1_000_000} million pixels")
        return tf.io.decode_jpeg(content, channels=3).numpy()
    except tf.errors.InvalidArgumentError:
        raise Skipped("a JPEG that does not decode, damaged or cut short") from None


def _one_for_each_name(
    entries: Sequence[_Entry], forms: Sequence[Form], *, parts: bool
) -> tuple[list[_Entry], list[Refused]]:
    """Returns the entry with the least path for each file name, and the others."""
    kept: list[_Entry] = []
    refused: list[Refused] = []
    for entry in sorted(entries, key=lambda entry: (file_name(entry.path), entry.path)):
        first = kept[-1] if kept else entry
        if entry is first or file_name(entry.path) != file_name(first.path):
            kept.append(entry)
        elif first.content == entry.content:
            refused.append(Refused(entry.path, "a copy of a image that is kept", first.path))
        elif first.form == entry.form or parts:
            refused.append(Refused(entry.path, "the file name of another image that is kept", first.path))
        else:
            raise _contradiction(f"{first.path} and {entry.path} are different images", forms)
    return sorted(kept), refused


def _check_one_holds_all(entries: Sequence[_Entry], forms: Sequence[Form]) -> None:
    """Raises ValueError unless the largest form holds all images of the others."""
    if len(forms) == 1:
        return
    names = [{file_name(entry.path) for entry in entries if entry.form == form} for form in range(len(forms))]
    largest = max(range(len(forms)), key=lambda form: len(names[form]))
    for form, held in enumerate(names):
        missing = sorted(held - names[largest])
        if missing:
            told = ", ".join(missing[:_TOLD]) + (", ..." if len(missing) > _TOLD else "")
            what = f"{forms[form].name} holds {len(missing):,} images that {forms[largest].name} does not: {told}"
            raise _contradiction(what, forms)


def _contradiction(what: str, forms: Sequence[Form]) -> ValueError:
    return ValueError(
        f"The forms of UTKFace contradict each other: {what}. "
        f"Leave the one that is meant. Received: {', '.join(form.name for form in forms)}"
    )
