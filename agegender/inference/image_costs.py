"""Bounds the memory and the seconds that an image file can take: Pillow's readers trust what a file says of itself."""

import io
import re
from typing import Any, Final

from PIL import Image

# A progressive JPEG has about ten scans. Each takes a pass over all pixels, and may be a hundred bytes long.
_MAX_SCANS: Final = 100
_MAX_SCANNED_PIXELS: Final = 1_000_000_000  # pixels times scans
_MAX_READS: Final = 6_000  # parts of a file's header: Pillow joins some, in time that grows with their square
_BYTES_PER_READ: Final = 256  # of pixels, at least
_MAX_SLOW_BYTES: Final = 2_000_000  # of a file that Pillow decodes in Python, a second's work
_MAX_TILE: Final = 4_194_304  # pixels of a tile that is larger than the image
_MIN_TILE: Final = 64  # pixels
_MAX_FORMAT_PIXELS: Final = {"JPEG2000": 16_000_000}  # 2 seconds; other formats take a tenth of that

_SCAN: Final = b"\xff\xda"
_END: Final = b"\xff\xd9"
_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # the start of a segment; a scan contains none
_EXIF: Final = b"Exif\x00\x00"
_EXIF_ITEM: Final = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)  # of AVIF and HEIC
_PLAIN: Final = re.compile(rb"P[123]\s")
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF
_ORIENTATION: Final = 0x0112  # in EXIF


class MeteredFile(io.BytesIO):
    """An image file that can be read in so many parts and about twice as a whole.

    A hostile one consists of millions of empty blocks, or of tags that all share one large value.

    Args:
        content: of the file, as from `hide_exif`.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._reads = _MAX_READS
        self._bytes = 2 * len(content) + 1_000_000

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self._reads -= 1
        self._bytes -= len(content)
        if self._reads < 0 or self._bytes < 0:
            raise ValueError("it has too many blocks or tags")
        return content

    def allow_reads(self, count: int) -> None:
        """Allows further reads, for the pixels."""
        self._reads += count


def hide_exif(content: bytes) -> bytes:
    """Renames the EXIF data of JPEG, AVIF and HEIC files, whose tags Pillow would copy while it opens the file.

    Tags may share one large value, so that a megabyte needs gigabytes. `find_orientation` reads the one that counts.
    """
    if content.startswith(b"\xff\xd8"):
        return content.replace(_EXIF, b"exif\x00\x00")
    return _EXIF_ITEM.sub(rb"\1exif", content) if content[4:8] == b"ftyp" else content


def find_orientation(image: Image.Image, content: bytes = b"") -> int | None:
    """Finds the EXIF orientation of an image, 1 to 8, None without; damaged data raise any error.

    Args:
        image: from Pillow, opened or not.
        content: of its file; AVIF and HEIC files are turned by their decoders.
    """
    if content.startswith(b"\xff\xd8") and _EXIF in content:
        return _read_orientation(content[content.index(_EXIF) :][:65_536])
    exif = image.info.get("exif")
    if exif is None and (text := image.info.get("Raw profile type exif")) is not None:
        exif = bytes.fromhex("".join(text.split("\n")[3:]))
    return image.getexif().get(_ORIENTATION) if exif is None else _read_orientation(exif)


def _read_orientation(exif: bytes) -> int | None:
    data = exif.removeprefix(_EXIF)
    order: Any = "little" if data[:2] == b"II" else "big"
    start = int.from_bytes(data[4:8], order)
    for place in range(start + 2, start + 2 + 12 * int.from_bytes(data[start : start + 2], order), 12):
        if int.from_bytes(data[place : place + 2], order) == _ORIENTATION:
            return int.from_bytes(data[place + 8 : place + 10], order)
    return None


def check_text(content: bytes) -> None:
    """Raises ValueError for images in plain text: of comments, Pillow copies the rest of the file each time."""
    if _PLAIN.match(content):
        raise ValueError("its pixels are text: save it as PNG")


def check_costs(image: Image.Image, file: MeteredFile) -> None:
    """Checks an image that is opened and not decoded yet.

    Args:
        image: as Pillow opened it.
        file: that it was opened from.

    Raises:
        ValueError: if it would take much more memory or time than others of its size.
    """
    pixels, content = image.width * image.height, file.getvalue()
    if pixels > (limit := _MAX_FORMAT_PIXELS.get(image.format or "", pixels)):
        raise ValueError(f"it has {pixels:,} pixels, and {limit:,} is the limit for {image.format}")
    if image.format in ("JPEG", "MPO"):  # Pillow makes the second of the first
        _check_scans(content, pixels)
    if image.format == "TIFF":
        _check_tiles(image, pixels)
    if any(tile.codec_name in Image.DECODERS for tile in getattr(image, "tile", ())):
        if len(content) > _MAX_SLOW_BYTES:
            raise ValueError("it is of a rare kind that takes long to decode: save it as PNG")
        file.allow_reads(_MAX_SLOW_BYTES)
    file.allow_reads(len(content) // _BYTES_PER_READ)


def _check_tiles(image: Any, pixels: int) -> None:
    tile = image.tag_v2.get(_TILE_WIDTH, 0) * image.tag_v2.get(_TILE_LENGTH, 0)
    if tile and not _MIN_TILE <= tile <= max(_MAX_TILE, pixels):
        raise ValueError(f"its tiles have {tile:,} pixels each: save it as PNG")


def _check_scans(content: bytes, pixels: int) -> None:
    limit = min(_MAX_SCANS, _MAX_SCANNED_PIXELS // pixels)
    if content.count(_SCAN) > limit and _count_scans(content) > limit:
        raise ValueError(f"it has more than {limit} scans, each as much work as an image")


def _count_scans(content: bytes) -> int:
    """The scans of a JPEG; what comes after its end, such as the film of a telephone, is not looked at."""
    count, place = 0, 2
    while (found := _MARKER.search(content, place)) and found[0] != _END:
        count += found[0] == _SCAN
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2])
    return count
