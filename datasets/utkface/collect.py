"""Collects the images of all sources: keeps each file with its bytes and thumbnail, or skips it for a stated reason.

Bytes and thumbnails go to scratch files. So memory contains little more than the names, an archive is read once, and
shards can be written in any order.
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
from .sources import File, Source

MAX_PIXELS: Final = 100_000_000  # 300 MB decoded
MAX_SCANS: Final = 100  # a progressive JPEG has about ten; each takes a pass over all pixels and may be tiny
_MAX_SCANNED_PIXELS: Final = 1_000_000_000  # pixels times scans, 3 seconds' work
_MAX_PIXELS_PER_BYTE: Final = 512  # a block of 8 x 8 pixels takes at least a bit
_SCAN: Final = b"\xff\xda"
_OTHER_FORMATS: Final = {
    b"\x89PNG": "PNG", b"RIFF": "WebP", b"GIF8": "GIF", b"BM": "BMP", b"PK\3\4": "zip", b"\x1f\x8b": "gzip",
}  # fmt: skip
_MAX_LISTED: Final = 3  # files in an error


class SkippedFile(NamedTuple):
    """A file that is not kept: its path, the reason and, for a copy, the path of the kept one."""

    file: str
    reason: str
    copy_of: str | None = None


class Collection(NamedTuple):
    """The images of all sources.

    Attributes:
        paths: of the kept images, sorted.
        skipped: the other files, sorted by path.
        spans: int64 [images, 2], start and end of each kept image in `data_file`.
        data_file: the bytes of the images.
        thumbnails: uint8 [images, 32, 32], on disk.
        size: height and width of every image in pixels, or None if they differ.
    """

    paths: list[str]
    skipped: list[SkippedFile]
    spans: NDArray[np.int64]
    data_file: Path
    thumbnails: NDArray[np.uint8]
    size: tuple[int, int] | None

    def labels(self) -> Iterator[Labels]:
        return (parse_name(posixpath.basename(path)) for path in self.paths)


class _Entry(NamedTuple):
    """A file whose name and bytes are good: its path and the indices of its source and of its bytes."""

    path: str
    source: int
    content: int

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)


def collect_images(sources: Sequence[Source], scratch: Path, *, parts: bool = False) -> Collection:
    """Reads every file of every source once.

    Args:
        sources: archives and folders, as found.
        scratch: a folder for files that together are about as large as the sources.
        parts: whether the sources are parts of a whole. If not, one of them must contain all images of the others.

    Returns:
        The images. Paths begin with the archive's name if there are several sources.

    Raises:
        ValueError: if two sources contradict each other.
    """
    entries, skipped = [], []
    with contextlib.closing(_ContentStore(scratch)) as store:
        for source, (path, read) in tqdm_utils.tqdm(_list_files(sources), desc="Reading", unit=" files", leave=False):
            try:
                if not path.endswith("/"):  # a link to a folder: reading it says why it is skipped
                    parse_name(posixpath.basename(path))
                entries.append(_Entry(path, source, store.add(read())))
            except Skipped as reason:
                skipped.append(SkippedFile(path, str(reason)))
    kept, copies = _select_one_per_name(entries, sources, parts=parts)
    if not parts:
        _check_one_source_is_complete(entries, sources)
    order = [entry.content for entry in kept]
    return Collection(
        [entry.path for entry in kept],
        sorted(skipped + copies),
        store.spans()[order],
        store.data_file,
        store.sort_thumbnails(order),
        store.sizes.pop() if len(store.sizes) == 1 else None,
    )


def _list_files(sources: Sequence[Source]) -> Iterator[tuple[int, File]]:
    for index, source in enumerate(sources):
        prefix = f"{source.path.name}/" if len(sources) > 1 and source.path.is_file() else ""
        for path, read in source.files():
            yield index, (prefix + path, read)


class _ContentStore:
    """Writes each distinct image and its thumbnail to scratch files, in the order in which they are added."""

    def __init__(self, scratch: Path) -> None:
        self.data_file = scratch / "images"
        self.sizes: set[tuple[int, int]] = set()
        self._index: dict[bytes, int] = {}
        self._ends = array("q", [0])
        self._scratch = scratch
        self._images = self.data_file.open("wb")
        self._thumbnails = (scratch / "thumbnails").open("wb")

    def add(self, content: bytes) -> int:
        """Returns the index of a file's bytes; equal bytes have one index.

        Raises:
            Skipped: if they are not a JPEG image that decodes.
        """
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if digest not in self._index:
            image = decode_jpeg(content)
            self.sizes.add(image.shape[:2])
            self._images.write(content)
            self._thumbnails.write(near_duplicates.thumbnail(image).tobytes())
            self._ends.append(self._ends[-1] + len(content))
            self._index[digest] = len(self._index)
        return self._index[digest]

    def close(self) -> None:
        self._images.close()
        self._thumbnails.close()
        self._index.clear()

    def spans(self) -> NDArray[np.int64]:
        ends = np.frombuffer(self._ends, np.int64)
        return np.stack([ends[:-1], ends[1:]], 1)

    def sort_thumbnails(self, order: Sequence[int]) -> NDArray[np.uint8]:
        """Returns the thumbnails in the given order, still on disk."""
        shape = (near_duplicates.SIDE, near_duplicates.SIDE)
        path = self._scratch / "sorted_thumbnails"
        if not order:
            return np.empty((0, *shape), np.uint8)
        as_read = np.memmap(self._scratch / "thumbnails", np.uint8, "r").reshape(-1, *shape)
        with path.open("wb") as file:
            file.writelines(as_read[index].tobytes() for index in order)
        (self._scratch / "thumbnails").unlink()
        return np.memmap(path, np.uint8, "r").reshape(-1, *shape)


def decode_jpeg(content: bytes) -> NDArray[np.uint8]:
    """Decodes an image as training does: uint8 RGB [height, width, 3]; grey and CMYK become RGB.

    Raises:
        Skipped: if the bytes are not a JPEG image that decodes, or it is too large.
    """
    if not content:
        raise Skipped("an empty file")
    if not content.startswith(b"\xff\xd8\xff"):
        found = [name for magic, name in _OTHER_FORMATS.items() if content.startswith(magic)]
        raise Skipped(f"{found[0]} inside, not JPEG" if found else "not JPEG inside")
    if content.count(_SCAN) > MAX_SCANS:
        raise Skipped(f"more than {MAX_SCANS} scans")
    try:
        height, width, _ = tf.io.extract_jpeg_shape(content).numpy().tolist()
        if height * width > MAX_PIXELS:
            raise Skipped(f"more than {MAX_PIXELS // 1_000_000} million pixels")
        if height * width > _MAX_PIXELS_PER_BYTE * len(content):
            raise Skipped("a JPEG with too few bytes for its pixels")
        if content.count(_SCAN) * height * width > _MAX_SCANNED_PIXELS:
            raise Skipped("a JPEG with too many scans for its pixels")
        return tf.io.decode_jpeg(content, channels=3).numpy()
    except tf.errors.InvalidArgumentError:
        raise Skipped("a JPEG that does not decode, damaged or cut short") from None


def _select_one_per_name(
    entries: Sequence[_Entry], sources: Sequence[Source], *, parts: bool
) -> tuple[list[_Entry], list[SkippedFile]]:
    """Returns for each file name the entry with the first path, and the others as skipped."""
    kept: list[_Entry] = []
    skipped: list[SkippedFile] = []
    for entry in sorted(entries, key=lambda entry: (entry.name, entry.path)):
        first = kept[-1] if kept else entry
        if entry is first or entry.name != first.name:
            kept.append(entry)
        elif first.content == entry.content:
            skipped.append(SkippedFile(entry.path, "a copy of an image that is kept", first.path))
        elif first.source == entry.source or parts:
            skipped.append(SkippedFile(entry.path, "the file name of another image that is kept", first.path))
        else:
            raise _contradiction(f"{first.path} and {entry.path} are different images", sources)
    return sorted(kept), skipped


def _check_one_source_is_complete(entries: Sequence[_Entry], sources: Sequence[Source]) -> None:
    """Raises ValueError unless the largest source contains all images of the others."""
    names = [{entry.name for entry in entries if entry.source == index} for index in range(len(sources))]
    largest = max(range(len(sources)), key=lambda index: len(names[index]))
    for source, of_source in zip(sources, names, strict=True):
        missing = sorted(of_source - names[largest])
        if missing:
            listed = ", ".join(missing[:_MAX_LISTED]) + (", ..." if len(missing) > _MAX_LISTED else "")
            raise _contradiction(
                f"{source.name} has {len(missing):,} images that {sources[largest].name} does not have: {listed}",
                sources,
            )


def _contradiction(reason: str, sources: Sequence[Source]) -> ValueError:
    return ValueError(
        f"The sources of UTKFace contradict each other: {reason}. Keep only the one to build from. "
        f"Received: {', '.join(source.name for source in sources)}"
    )
