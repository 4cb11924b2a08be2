"""Cases that are nearly good, and what is expected of every case: for `experiments.fuzz` and the quick tests.

A change knows the structures of its format as far as it takes to get behind the checks at the beginning: PNG's chunks
with their checksums and packed pixels, the segments of JPEG and the fields of all the others.
"""

import contextlib
import io
import pathlib
import random
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

MAX_PIXELS: Final = 4_000_000  # of a case, so that many can be tried; the limit is checked the same way
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_NUMBERS: Final = (0, 1, 2, 7, 8, 9, 127, 128, 255, 256, 32_767, 32_768, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
_WORDS: Final = ("_", ".jpg", ".chip.jpg", "jpeg", ".", " ", "\0", "\n", "-1", "0", "116", "117", "9" * 5000, "\u0661")
Mutate = Callable[[bytes], bytes]


# ---- images


def image_seeds() -> list[bytes]:
    """Drawn images of 16 pixels in every format and most of the modes that are read, some with EXIF, some moving."""
    from PIL import Image

    from agegender.inference.images import known_formats

    base = Image.radial_gradient("L").resize((16, 16))
    colour = Image.merge("RGB", (base, base.rotate(90), base.transpose(Image.Transpose.FLIP_TOP_BOTTOM)))
    exif = colour.getexif()
    exif[0x0112], exif[0x010E] = 6, "drawn"
    seeds: list[tuple[Image.Image, str, dict]] = [(colour, kind, {}) for kind in known_formats()]
    seeds += [(colour.convert(mode), "PNG", {}) for mode in ("1", "L", "P", "LA", "RGBA", "I;16")]
    seeds += [(colour.convert(mode), "TIFF", {}) for mode in ("1", "L", "P", "CMYK", "LAB", "F", "YCbCr")]
    seeds += [(colour, "TIFF", {"compression": name}) for name in ("tiff_lzw", "jpeg", "packbits", "tiff_deflate")]
    seeds += [(colour, kind, {"exif": exif}) for kind in ("JPEG", "PNG", "WEBP", "TIFF")]
    seeds += [
        (colour, kind, {"save_all": True, "append_images": [colour.rotate(9)]}) for kind in ("GIF", "WEBP", "PNG")
    ]
    seeds += [(colour.convert(mode), "JPEG", {"progressive": True}) for mode in ("L", "RGB", "CMYK")]
    seeds += [(colour.convert("P"), kind, {"transparency": 3}) for kind in ("GIF", "PNG")]
    return [_encode(image, kind, options) for image, kind, options in seeds]


def _encode(image: Any, kind: str, options: dict) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def check_image() -> Callable[[bytes], bool]:
    """A function that says whether bytes are answered as a image, and raises if anything else happens than may."""
    from PIL import Image

    from agegender.inference.images import ImageError, read_image

    Image.init()  # loads the readers of all formats, now that what is loaded is watched

    def check(data: bytes) -> bool:
        with warnings.catch_warnings(action="ignore"):
            try:
                image = read_image(data, max_pixels=MAX_PIXELS)
            except ImageError as error:
                _expect(error.reason.isprintable() and 0 < len(error.reason) < 500, repr(error.reason))
                return False
        _expect(image.mode == "RGB" and 0 < image.width * image.height <= MAX_PIXELS, f"{image.mode} {image.size}")
        _expect(len(image.tobytes()) == 3 * image.width * image.height, "pixels are missing")
        return True

    return check


def mutate_image(data: bytes, seed: int, mutate: Mutate | None = None) -> bytes:
    """The data with one to four changes.

    Args:
        data: of a image's file, or of what was made of one.
        seed: the same gives the same changes.
        mutate: changes bytes in its own way, and is asked about half of the times; by default a byte is changed.
    """
    draw = random.Random(seed)
    change_bytes = mutate or (lambda part: _flip(part, draw))
    for _ in range(draw.choice((1, 1, 2, 4))):
        structured = {_PNG: _change_png, b"\xff\xd8": _change_jpeg}
        change = next((made for head, made in structured.items() if data.startswith(head)), _change_field)
        data = draw.choice((change, change, _change_field, _change_bytes))(data, draw, change_bytes)
    return data


def _flip(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data) or 1)
    return data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :]


def _change_bytes(data: bytes, draw: random.Random, mutate: Mutate) -> bytes:
    start = draw.randrange(len(data) or 1)
    end = start + draw.choice((1, 4, 16, len(data)))
    return data[:start] + draw.choice((mutate(data[start:end]), b"", data[start:end] * 2)) + data[end:]


def _change_field(data: bytes, draw: random.Random, _: Mutate) -> bytes:
    """Puts a number that programmers do not expect in the place of another."""
    form = draw.choice(("B", "<H", ">H", "<I", ">I"))
    size = struct.calcsize(form)
    number = draw.choice(_NUMBERS) % 256**size
    place = draw.randrange(max(1, min(len(data), draw.choice((64, len(data) or 1)))))
    return data[:place] + struct.pack(form, number) + data[place + size :]


def _change_png(data: bytes, draw: random.Random, mutate: Mutate) -> bytes:
    chunks = list(_png_chunks(data))
    if not chunks:
        return _change_bytes(data, draw, mutate)
    place = draw.randrange(len(chunks))
    kind, content = chunks[place]
    if kind in (b"IDAT", b"fdAT") and draw.random() < 0.5:
        with contextlib.suppress(zlib.error):
            content = zlib.compress(mutate(zlib.decompress(content)))
    changes: list[list[tuple[bytes, bytes]]] = [
        [(kind, _change_field(content, draw, mutate))],
        [(kind, mutate(content))],
        [(draw.choice((b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT")), content)],
        [(kind, content)] * 2,
        [],
        [chunks[0], (kind, content)],
    ]
    chunks[place : place + 1] = draw.choice(changes)
    return _PNG + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in chunks
    )


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(_PNG)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length


def _change_jpeg(data: bytes, draw: random.Random, mutate: Mutate) -> bytes:
    places = [found.start() for found in re.finditer(rb"\xff[\xc0-\xfe]", data)]
    start = draw.choice(places or [0])
    end = next((place for place in places if place > start), len(data))
    segment = data[start:end]
    other = draw.choice(places or [0])
    head, body = segment[:4], segment[4:]
    changed = draw.choice(
        (
            head + mutate(body),
            head + _change_field(body, draw, mutate),
            segment * draw.choice((0, 2, 50)),
            segment[:1] + bytes([draw.randrange(0xC0, 0xFF)]) + segment[2:],
            data[other : other + 200],
        )
    )
    return data[:start] + changed + data[end:]


# ---- names


def name_seeds() -> list[bytes]:
    """Names as in UTKFace, good ones and such as its skipped ones."""
    names = ["26_1_2_20170116174525125.jpg.chip.jpg", "0_0_4_2017.JPEG", "24_0_1_2017 .jpg.chip.jpg", "5_0_0_1jpg.jpg"]
    return [name.encode() for name in (*names, "61_1_20170109.jpg", ".DS_Store", "116_1_0_1.jpg", "117_2_5_1.png")]


def check_name() -> Callable[[bytes], bool]:
    """A function that says whether bytes are a name with labels, and raises if anything else happens than may."""
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "datasets"))
    from utkface.labels import GENDERS, MAX_AGE, RACES, Skipped, parse_name

    def check(data: bytes) -> bool:
        name = data.decode("utf-8", "surrogateescape")  # as the names of files come
        try:
            age, gender, race, timestamp = labels = parse_name(name)
        except Skipped as reason:
            _expect(str(reason).isprintable(), repr(reason))
            return False
        _expect(0 <= age <= MAX_AGE and 0 <= gender < len(GENDERS) and 0 <= race < len(RACES), str(labels))
        _expect(timestamp.isascii() and timestamp.isdigit(), repr(timestamp))
        _expect(parse_name(f"{labels.stem}.jpg") == labels, labels.stem)
        return True

    return check


def mutate_name(data: bytes, seed: int, mutate: Mutate | None = None) -> bytes:
    """The name with one to three changes; the arguments are those of `mutate_image`."""
    draw = random.Random(seed)
    change_bytes = mutate or (lambda part: _flip(part, draw))
    for _ in range(draw.choice((1, 1, 2, 4))):
        start = draw.randrange(len(data) + 1)
        end = start + draw.choice((0, 1, 2, 9))
        word = draw.choice(_WORDS).encode()
        data = draw.choice((change_bytes(data), data[:start] + word + data[end:], _digit(data, draw)))
    return data


def _digit(data: bytes, draw: random.Random) -> bytes:
    places = [found.start() for found in re.finditer(rb"[0-9]", data)]
    place = draw.choice(places or [0])
    return data[:place] + str(draw.randrange(10)).encode() + data[place + 1 :]


def _expect(condition: bool, words: str) -> None:
    if not condition:
        raise AssertionError(words)
