"""Any image to upright RGB pixels: files, encoded bytes, arrays; whatever the format, the mode or the orientation."""

import base64
import errno
import fnmatch
import functools
import itertools
import os
import pathlib
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from PIL import Image, ImageFile

from agegender.inference.image_costs import MeteredFile, check_costs, check_text, find_orientation, hide_exif

# A telephone of 2026 makes 48 or 50 million. Decoded and converted, this many take 0.4 to 0.6 GB, and 1 GB as WebP, of
# which the decoder holds two copies; a file of a few kilobytes may claim billions, so its header is checked before
# anything is decoded.
MAX_PIXELS: Final = 64_000_000
SUFFIXES: Final = (
    *(".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)
# Of the forty formats that Pillow reads, those of photographs: EPS, for one, is a program, and Pillow hands it to
# Ghostscript.
FORMATS: Final = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_BYTES: Final = 600_000_000  # of a file; four channels of 16 bits, of as many pixels, are fewer
TOO_LONG: Final = f"has more than {MAX_BYTES // 1_000_000} MB, the limit for an image's file"
_OPENED_AS_TEXT: Final = "was opened to read text: open it in mode 'rb'"
_MISSING: Final = "there is no such file or folder"
_URL: Final = "is a URL: give a file or its bytes"
_SCHEME: Final = "://"
_REAL: Final = "uif"  # kinds of numbers
_MAX_BAND: Final = 4_000_000  # pixels that are converted at a time
_LONGEST: Final = 300  # letters of what Pillow says
_GLOB: Final = frozenset("*?[")
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_TO_EIGHT: Final = 257  # 65,535 becomes 255


MAX_SIDE: Final = 65_535  # pixels, as JPEG has; of a row Pillow needs more memory than its pixels
_FIRST_BYTES: Final = 64
_SIGNATURES: Final = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM|II[*+]\x00|MM\x00[*+]|RIFF....WEBP|P[1-6]\s"
    rb"|\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51|....ftyp(?:avi[fs]|mif1|msf1)",
    re.DOTALL,
)
_HEIC_BRANDS: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_URL_SAFE: Final = str.maketrans("-_", "+/")
_DATA_URL: Final = "data:"
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\-\s]+=*\s*")
_SHORTEST_BASE64: Final = 60  # characters: the smallest image has more


class ImageError(ValueError):
    """An image that cannot be used.

    Attributes:
        source: its path, or what else it was, in words.
        reason: what is wrong with it.

    Example:

    >>> try:
    ...     read_image(b"")
    ... except ImageError as error:
    ...     print(error.source, "|", error.reason)
    0 bytes | is empty
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source, self.reason = source, reason

    def __reduce__(self) -> tuple:
        return type(self), (self.source, self.reason)

    def to_dict(self) -> dict[str, str]:
        """For JSON: "image", its source, and "error", the reason."""
        return {"image": self.source, "error": self.reason}


def name_of(image: Any) -> str:
    """What to call an image in an answer: its path, or what it is."""
    if isinstance(image, str) and (_is_data_url(image) or _looks_like_base64(image) or _is_long_text(image)):
        return f"text of {len(image)} characters"
    if isinstance(image, str | os.PathLike):
        return os.fsdecode(image) or "''"
    if isinstance(image, bytes | bytearray | memoryview):
        return f"{len(image)} bytes"
    if hasattr(image, "read"):
        return str(getattr(image, "name", type(image).__name__))
    return f"{type(image).__name__}{getattr(image, 'shape', getattr(image, 'size', ''))}"


def read_image(image: Any, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads one image, as a viewer would show it.

    Turned as its EXIF orientation says; transparent parts are white; of an animation the first frame; 16 bits a channel
    become 8; grey, palette and CMYK become RGB.

    Args:
        image: a path; the bytes of a file, or these in base64 or as a data URL; a file opened to read bytes; RGB or
            grey values 0..255 as an array, tensor or nested list [height, width, 3], [height, width, 1] or
            [height, width]; or a Pillow image.
        max_pixels: width times height of the largest image that is decoded.

    Returns:
        A Pillow image of mode "RGB".

    Raises:
        ImageError: if it is missing, cannot be read or is too large. It is a ValueError.

    Example:

    >>> read_image("party.jpg").size
    (360, 200)
    """
    return _read(image, max_pixels)[0]


def _read(image: Any, max_pixels: int, *, reduce_above: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """An image, perhaps at half its size, and the size of the whole."""
    source = name_of(image)
    # tensorflow_datasets sets this to True for the whole process; half a JPEG would then pass as an image.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        if isinstance(image, ImageError):
            raise image
        if isinstance(image, str) and (content := _decode_text(image)) is not None:
            image = content
        if isinstance(image, str | os.PathLike):
            _check_file(os.stat(image))
            with open(image, "rb") as file:
                return _open(_bytes_of(file), max_pixels, reduce_above)
        if isinstance(image, bytes | bytearray | memoryview) or hasattr(image, "read"):
            return _open(bytes(_bytes_of(image)), max_pixels, reduce_above)
        decoded = image if isinstance(image, Image.Image) else _from_values(np.asarray(image), max_pixels)
        upright = _upright_rgb(decoded, max_pixels)
        return upright, upright.size
    except ImageError as error:
        raise ImageError(error.source or source, error.reason) from None
    except MemoryError:
        raise ImageError(source, "needs more memory than there is: reduce the image") from None
    except Exception as error:  # of files that are damaged or made to harm, Pillow's readers let any kind through
        raise ImageError(source, _reason(error, max_pixels)) from None


def read_reduced(image: Any, max_pixels: int) -> tuple[Image.Image, tuple[int, int]]:
    """Reads one image, at half its size where it has many pixels; a JPEG file is reduced while it is decoded.

    Args:
        image: as for `read_image`.
        max_pixels: of images that are read at their full size.

    Returns:
        A Pillow image of mode "RGB", and the width and height of the whole image, both upright.

    Raises:
        ImageError: as `read_image`.
    """
    if isinstance(image, str | os.PathLike | bytes | bytearray | memoryview):
        decoded, size = _read(image, MAX_PIXELS, reduce_above=max_pixels)
    else:
        decoded = read_image(image)
        size = decoded.size
    if decoded.size == size and size[0] * size[1] > max_pixels:
        decoded = decoded.reduce(2)
    return decoded, size


def fit_image(
    image: Image.Image, width: int, height: int, resampling: Image.Resampling = Image.Resampling.BILINEAR
) -> Image.Image:
    """Resizes with antialiasing, as it is where the size is right.

    Args:
        image: of any size.
        width: pixels.
        height: pixels.
        resampling: by default as the input pipeline resizes.
    """
    return image if image.size == (width, height) else image.resize((width, height), resampling)


def find_images(pattern: str | os.PathLike) -> list[pathlib.Path]:
    """Finds the image files that a path stands for.

    Args:
        pattern: a file, itself; a folder, all images in it and below, as their first bytes show, whatever their names;
            or a glob, in which `**` is any number of folders. Links to folders are not followed below a folder or a
            `**`; hidden files and folders are left out.

    Returns:
        Paths, sorted.

    Raises:
        ImageError: if no image is found. It is a ValueError.

    Example:

    >>> [path.name for path in find_images("*.jpg")]
    ['party.jpg']
    """
    return [found for found in list_images(pattern) if isinstance(found, pathlib.Path)]


def list_images(pattern: str | os.PathLike) -> "list[pathlib.Path | ImageError]":
    """Finds the image files that a path stands for, and says what is left out of a folder.

    Args:
        pattern: as for `find_images`.

    Returns:
        Paths and, for each file of a folder that is not an image and each folder that cannot be read, an `ImageError`;
        sorted by path.

    Raises:
        ImageError: if there is no image.
    """
    text = os.fsdecode(pattern)
    if not text:
        raise ImageError("''", "is an empty name; `.` is the current folder")
    try:
        if os.path.isdir(text):
            os.scandir(text).close()  # an error here is one of the pattern
            found = _list_folder(text)
            if not any(isinstance(each, pathlib.Path) for each in found):
                raise ImageError(text, "contains no images")
            return found
        found, reason = _find_files(text)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # a name that is too long or has a NUL in it, a folder that may not be read
        raise ImageError(text, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not found:
        raise ImageError(text, reason)
    return found


def _list_folder(top: str) -> "list[pathlib.Path | ImageError]":
    found: dict[str, pathlib.Path | ImageError] = {}
    for folder, entries in _walk(top):
        if isinstance(entries, OSError):
            found[folder] = _unreadable_folder(folder, entries)
        else:
            found |= {entry.path: _check_entry(entry) for entry in entries if not entry.is_dir(follow_symlinks=False)}
    return [found[path] for path in sorted(found, key=pathlib.Path)]


def _walk(top: str) -> "Iterator[tuple[str, list[os.DirEntry] | OSError]]":
    """Yields each folder with its entries, or what is wrong with it; neither hidden ones nor links to folders."""
    folders = [top]  # not os.walk, a recursion that ends a thousand folders deep
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as scanned:
                entries = [entry for entry in scanned if not entry.name.startswith(".")]
        except OSError as error:
            yield folder, error
            continue
        folders += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        yield folder, entries


def _unreadable_folder(folder: str, error: OSError) -> ImageError:
    return ImageError(_shorten(str(pathlib.Path(folder))), f"cannot be read: {error.strerror}")


def _check_entry(entry: os.DirEntry) -> "pathlib.Path | ImageError":
    """Returns the path of an image, or what is wrong with another file."""
    path = pathlib.Path(entry.path)  # "./a.jpg" is "a.jpg", for images and errors alike
    try:
        if entry.is_dir():
            return ImageError(str(path), "is a link to a folder: give that folder too")
        if not entry.is_file():
            return ImageError(str(path), "is a pipe, a device or a broken link, not a file")
        with open(entry.path, "rb") as file:
            first = file.read(_FIRST_BYTES)
    except OSError as error:
        return ImageError(str(path), f"cannot be read as an image: {error.strerror}")
    if not first:
        return ImageError(str(path), "is empty")
    return path if is_image(first) else ImageError(str(path), describe_formats())


def _find_files(text: str) -> "tuple[list[pathlib.Path | ImageError], str]":
    """The files of a name or glob, sorted, and what is wrong if there are none."""
    path = pathlib.Path(text)
    if is_glob(text):
        found = dict(_expand_glob("", path.parts))
        return [found[each] for each in sorted(found, key=pathlib.Path)], "matches no file"
    if path.is_file():
        return [path], ""
    return [], "is neither a file nor a folder" if path.exists() else _URL if _SCHEME in text else _MISSING


def _shorten(path: str) -> str:
    return path if len(path) <= _LONGEST else f"{path[:_LONGEST]}... ({len(path)} characters)"


def describe_formats() -> str:
    """The reason of an `ImageError` for a file that is not an image."""
    # The same before and after HEIC is first read.
    names = ", ".join(name for name in known_formats() if name != "HEIF")
    return f"is not an image, or has an unsupported format (supported: {names}, and HEIC with agegender[heic])"


def _expand_glob(path: str, parts: Sequence[str]) -> "Iterator[tuple[str, pathlib.Path | ImageError]]":
    """As `glob.glob`, which leaves out what it cannot read, and follows links below `**` that lead back to it."""
    try:
        if not parts:
            if not os.path.isdir(path):
                yield path, pathlib.Path(path)
        elif parts[0] == "**":
            for folder, entries in _walk(path or os.curdir):
                if isinstance(entries, OSError):
                    yield folder, _unreadable_folder(folder, entries)
                else:
                    yield from _expand_glob(folder, tuple(itertools.dropwhile("**".__eq__, parts)) or ("*",))
        elif _GLOB.isdisjoint(parts[0]):
            os.lstat(inner := os.path.join(path, parts[0]))
            yield from _expand_glob(inner, parts[1:])
        else:
            for name in fnmatch.filter(os.listdir(path or os.curdir), parts[0]):
                if parts[0].startswith(".") or not name.startswith("."):
                    yield from _expand_glob(os.path.join(path, name), parts[1:])
    except (FileNotFoundError, NotADirectoryError):  # it does not match
        return
    except OSError as error:
        yield path, _unreadable_folder(path, error)


def is_glob(pattern: str | os.PathLike) -> bool:
    """Whether a path has wildcards, and is not the name of a file that has them in it."""
    return bool(_GLOB & set(os.fspath(pattern))) and not os.path.exists(pattern)


def _check_file(status: os.stat_result) -> None:
    """Before a file is opened: opening a pipe waits for somebody to write to it, and a device may have no end."""
    if stat.S_ISDIR(status.st_mode):
        raise ImageError("", "is a folder, not an image")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("", "is a pipe or a device, not a file")
    _check_bytes(status.st_size)


def _check_bytes(count: int) -> None:
    if not count:
        raise ImageError("", "is empty")
    if count > MAX_BYTES:
        raise ImageError("", TOO_LONG)


def _bytes_of(image: Any) -> bytes:
    data = image.read(MAX_BYTES + 1) if hasattr(image, "read") else image
    if isinstance(data, str):
        raise ImageError("", _OPENED_AS_TEXT)
    if not data and hasattr(image, "read"):
        raise ImageError("", "is empty, or was read to its end before")
    _check_bytes(len(data))
    return data


def _open(content: bytes, max_pixels: int, reduce_above: int | None) -> tuple[Image.Image, tuple[int, int]]:
    if is_heic(content[:_FIRST_BYTES]) and not _register_heic():
        raise ImageError("", "is a HEIC file, which needs pip install 'agegender[heic]'")
    check_text(content)
    file = MeteredFile(hide_exif(content))
    with Image.open(file, formats=known_formats()) as image:
        width, height = image.size
        _check_pixels(width, height, max_pixels)
        check_costs(image, file)
        if image.format in ("JPEG", "MPO") and reduce_above is not None and width * height > reduce_above:
            image.draft(None, (max(1, width // 2), max(1, height // 2)))  # rounded up, an odd side would not be halved
        decoded = _upright_rgb(image, max_pixels, content)
        turned = (decoded.width > decoded.height) != (width > height)
        return decoded, (height, width) if turned else (width, height)


def is_image(first: bytes) -> bool:
    """Whether a file is an image of a format that is read, as its first bytes show.

    Args:
        first: 32 bytes or more, if it has as many.

    Example:

    >>> is_image(b"GIF89a"), is_image(b"%PDF-1.7")
    (True, False)
    """
    return is_heic(first) or _SIGNATURES.match(first) is not None


def is_heic(first: bytes) -> bool:
    """Whether a file is a HEIC image, as the first bytes show; an AVIF file has other brands in the same place."""
    return first[4:8] == b"ftyp" and b"avif" not in first[:_FIRST_BYTES] and first[8:12] in _HEIC_BRANDS


@functools.cache
def _register_heic() -> bool:
    """Lets Pillow read HEIC, if the extra [heic] is installed."""
    try:
        import pillow_heif
    except ModuleNotFoundError:
        return False
    pillow_heif.register_heif_opener()
    known_formats.cache_clear()
    return True


@functools.cache
def known_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(each for each in (*FORMATS, "HEIF") if each in Image.OPEN)


def _upright_rgb(image: Image.Image, max_pixels: int, content: bytes = b"") -> Image.Image:
    _check_pixels(image.width, image.height, max_pixels)
    image.load()  # of an animation the first frame
    return _rgb(_upright(image, content))


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if not width or not height:
        raise ImageError("", f"has no pixels: {width} x {height}")
    if width * height > max_pixels:
        raise ImageError("", f"has {width} x {height} pixels. {_too_large(max_pixels)}")
    if max(width, height) > MAX_SIDE:
        raise ImageError("", f"has {width} x {height} pixels. The limit is {MAX_SIDE:,} a side")


def _upright(image: Image.Image, content: bytes) -> Image.Image:
    try:
        turn = _TURNS.get(find_orientation(image, content) or 1)
    except Exception:  # damaged EXIF data: a viewer shows the image as it lies
        turn = None
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(np.asarray(image))
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.convert("RGB")
    whole = Image.new("RGB", image.size)
    rows = max(1, _MAX_BAND // image.width)
    for top in range(0, image.height, rows):  # in bands, or an image with transparency would be in memory four times
        box = (0, top, image.width, min(top + rows, image.height))
        whole.paste(_opaque_rgb(image.crop(box)), box)
    return whole


def _opaque_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        background.alpha_composite(image)
        image = background
    return image.convert("RGB")


def _eight_bits(values: np.ndarray) -> Image.Image:
    """Grey of 16 bits, which Pillow would clip at 255; or of 32, if they hold no more than 16, or only 8."""
    if np.issubdtype(values.dtype, np.floating) or values.min() < 0 or values.max() > 65_535:
        raise ImageError("", f"must have pixels of 8 or 16 bits. Received: {values.dtype}")
    scale = 1 if values.dtype.itemsize > 2 and values.max() <= 255 else _SIXTEEN_TO_EIGHT
    return Image.fromarray((values // scale).astype("uint8"))


def _from_values(values: np.ndarray, max_pixels: int) -> Image.Image:
    if values.ndim == 2 and values.dtype.kind not in _REAL:
        raise ImageError("", "is a table: give one column of it")
    if values.ndim == 0 or (values.ndim == 1 and values.dtype.kind not in _REAL):  # a number, or names in a list
        raise ImageError("", "expected a path, bytes, an open file, an array or a Pillow image")
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[-1] not in (1, 3) or 0 in values.shape:
        raise ImageError("", f"must have shape [height, width, 3]. Received: shape={values.shape}")
    _check_pixels(values.shape[1], values.shape[0], max_pixels)  # an array may take no memory and be of any size
    if not (values.dtype.kind in _REAL and np.all((values >= 0) & (values <= 255))):
        raise ImageError("", f"must have values in 0..255. Received dtype {values.dtype}{_describe_range(values)}")
    if np.issubdtype(values.dtype, np.floating) and 0 < values.max() <= 1:
        raise ImageError("", "must have values in 0..255; multiply by 255. Received: floats in 0..1")
    values = values if values.dtype == np.uint8 else np.round(values).astype("uint8")
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3))))


def _describe_range(values: np.ndarray) -> str:
    return f", values {values.min()}..{values.max()}" if values.dtype.kind in _REAL else ""


def _too_large(max_pixels: int) -> str:
    return f"The limit is {max_pixels / 1e6:.0f} million, for the memory that detection needs: reduce the image"


def _reason(error: Exception, max_pixels: int) -> str:
    if isinstance(error, FileNotFoundError):
        return _URL if _SCHEME in str(error.filename) else "there is no such file"
    if getattr(error, "errno", None) == errno.ENAMETOOLONG:
        return "is neither the path of a file nor an image in base64"
    if isinstance(error, UnicodeDecodeError):
        return _OPENED_AS_TEXT
    if isinstance(error, Image.UnidentifiedImageError):
        return describe_formats()
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):  # the second as an error
        count = re.search(r"\d+", str(error))  # Pillow's words are all that is known of it
        return f"has {int(count[0]):,} pixels. {_too_large(max_pixels)}" if count else _too_large(max_pixels)
    words = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return f"cannot be read as an image: {words[:_LONGEST]}"


def is_one(images: Any) -> bool:
    """Whether this stands for one image, good or not, and not for several."""
    if isinstance(images, str) and (_is_data_url(images) or _looks_like_base64(images)):
        return True
    if isinstance(images, str | os.PathLike):
        return not (os.path.isdir(images) or is_glob(images))
    if depth := _count_nested(images):
        return depth != 4
    if isinstance(images, memoryview):
        return True
    if (dimensions := getattr(images, "ndim", None)) is not None:  # an array, or a tensor of any framework
        return dimensions != 4 and not _is_column(images)
    return isinstance(images, bytes | bytearray | Image.Image) or hasattr(images, "read")


def each_image(images: Any) -> Iterator[Any]:
    """One by one the images that something stands for: one, a folder, a glob, a list or another iterable of images.

    Files of a folder that are not images are among them, as an `ImageError` each.

    Raises:
        ImageError: if it is none of these, or a folder or glob without images.
    """
    if is_one(images):
        return iter([images])
    if isinstance(images, str | os.PathLike):
        return iter(list_images(images))
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise ImageError(name_of(images), "is neither an image nor a sequence of images")
    return iter(np.asarray(images).tolist() if _is_column(images) else images)


def _count_nested(images: Any) -> int:
    """The dimensions of a list of numbers, nested or not, or of an image's rows as arrays; 0 for anything else."""
    depth = 0
    while isinstance(images, Sequence) and not isinstance(images, str | bytes | bytearray | memoryview) and images:
        images, depth = images[0], depth + 1
    if isinstance(images, int | float | np.number):
        return depth
    shape: tuple[int, ...] = getattr(images, "shape", ())
    is_row = len(shape) == 1 or (len(shape) == 2 and shape[1] in (1, 3))
    return depth + len(shape) if depth and is_row and not _is_column(images) else 0


def _is_column(images: Any) -> bool:
    """Whether this is an array or a column of a table that holds paths or images, not numbers."""
    return getattr(images, "ndim", None) == 1 and getattr(getattr(images, "dtype", None), "kind", "O") in "OUST"


def _is_data_url(text: str) -> bool:
    return text[: len(_DATA_URL)].lower() == _DATA_URL


def _is_long_text(text: str) -> bool:
    """Whether this is too long for a message, such as damaged base64, and not the path of a file."""
    return len(text) > _LONGEST and not os.path.lexists(text)


def _looks_like_base64(text: str) -> bool:
    # A file may have such a name, but it would lie in folders of such names.
    return len(text) >= _SHORTEST_BASE64 and _BASE64.fullmatch(text) is not None and _decode_base64(text) is not None


def _decode_text(text: str) -> bytes | None:
    """The bytes in a data URL or in base64; None if the text is a path."""
    if _is_data_url(text):
        head, _, body = text.partition(",")
        if not head.lower().endswith(";base64") or (content := _decode_base64(body)) is None:
            raise ImageError("", "is a data URL without an image in base64")
        return content
    return _decode_base64(text) if _looks_like_base64(text) else None


def _decode_base64(text: str) -> bytes | None:
    """The bytes, if they are those of an image."""
    try:
        letters = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
        content = base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except ValueError:
        return None
    return content if is_image(content[:_FIRST_BYTES]) else None
