"""Any picture to upright RGB pixels: files, encoded bytes, arrays; whatever the format, the mode or the orientation."""

import glob
import io
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from PIL import Image, ImageOps

# A telephone of 2026 makes 48 or 50 million. Decoded, and copied for the detector, this many take 0.4 GB; a file of a
# few kilobytes may claim billions, so its header is asked before anything is decoded.
MAX_PIXELS: Final = 64_000_000
SUFFIXES: Final = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_GLOB: Final = frozenset("*?[")
_SIXTEEN_TO_EIGHT: Final = 257  # 65,535 becomes 255


class PictureError(ValueError):
    """A picture that cannot be used.

    Attributes:
        source: its path, or what else it was, in words.
        reason: what is wrong with it.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source, self.reason = source, reason

    def __reduce__(self) -> tuple:
        return type(self), (self.source, self.reason)

    def to_dict(self) -> dict[str, str]:
        """For JSON."""
        return {"picture": self.source, "error": self.reason}


def name_of(picture: Any) -> str:
    """What to call a picture in an answer: its path, or what it is."""
    if isinstance(picture, str | os.PathLike):
        return os.fspath(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return f"{len(picture)} bytes"
    if hasattr(picture, "read"):
        return str(getattr(picture, "name", type(picture).__name__))
    return f"{type(picture).__name__}{getattr(picture, 'shape', getattr(picture, 'size', ''))}"


def read_picture(picture: Any, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads one picture, as a viewer would show it.

    Turned as its EXIF orientation says; transparent parts are white; of an animation the first frame; 16 bits a channel
    become 8; grey, palette and CMYK become RGB.

    Args:
        picture: a path; the bytes of a file; a file opened to read bytes; RGB or grey values 0..255 as an array or
            tensor [height, width, 3], [height, width, 1] or [height, width]; or a Pillow image.
        max_pixels: width times height of the largest picture that is decoded.

    Returns:
        A Pillow image of mode "RGB".

    Raises:
        PictureError: if there is none, it cannot be read, or it is too large.
    """
    source = name_of(picture)
    try:
        if isinstance(picture, str | os.PathLike):
            return _open(picture, max_pixels)
        if isinstance(picture, bytes | bytearray | memoryview):
            return _open(io.BytesIO(picture), max_pixels)
        if hasattr(picture, "read"):
            return _open(io.BytesIO(picture.read()), max_pixels)
        image = picture if isinstance(picture, Image.Image) else _from_values(np.asarray(picture))
        return _upright_rgb(image, max_pixels)
    except PictureError as error:
        raise PictureError(source, error.reason) from None
    except FileNotFoundError:
        raise PictureError(source, "there is no such file") from None
    except IsADirectoryError:
        raise PictureError(source, "is a folder; a picture is wanted here") from None
    except Image.UnidentifiedImageError:
        empty = picture == b"" or (isinstance(picture, str | os.PathLike) and not os.path.getsize(picture))
        reason = "is empty" if empty else "is no picture, or of a format that Pillow does not know"
        raise PictureError(source, reason) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # the second where it is an error
        count = re.search(r"\d+", str(error))  # Pillow's words are all that is known of it
        many = f"{int(count[0]):,}" if count else "too many"
        raise PictureError(source, f"has {many} pixels. {_too_large(max_pixels)}") from None
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, MemoryError) as error:
        # Pillow's readers raise all of these for files that are cut short or damaged.
        raise PictureError(source, f"cannot be read as a picture: {error}") from None


def fit_picture(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resizes as the input pipeline does: bilinear with antialiasing, as it is where the size is right.

    Args:
        image: of any size.
        width: pixels.
        height: pixels.
    """
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def find_pictures(pattern: str | os.PathLike) -> list[pathlib.Path]:
    """The picture files that a path stands for, by name.

    Args:
        pattern: a file, itself; a folder, all files below it whose suffix is that of a picture; or a glob, in which
            `**` is any number of folders.

    Returns:
        Paths, sorted.

    Raises:
        PictureError: if there is none.
    """
    text = os.fspath(pattern)
    path = pathlib.Path(text)
    if not text:
        raise PictureError("''", "is an empty name; `.` is the current folder")
    if path.is_dir():
        found = sorted(each for each in path.rglob("*") if _is_picture(each))
        reason = f"has no pictures in it: no file ends in {', '.join(SUFFIXES)}"
    elif is_glob(pattern):
        found = sorted(map(pathlib.Path, glob.glob(text, recursive=True)))
        found = [each for each in found if each.is_file()]
        reason = "matches no file"
    else:
        found = [path] if path.is_file() else []
        reason = "is neither a file nor a folder" if path.exists() else "there is no such file or folder"
    if not found:
        raise PictureError(text, reason)
    return found


def is_glob(pattern: str | os.PathLike) -> bool:
    """Whether a path has wildcards, and is not the name of a file that has them in it."""
    return bool(_GLOB & set(os.fspath(pattern))) and not os.path.exists(pattern)


def _is_picture(path: pathlib.Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _open(file: Any, max_pixels: int) -> Image.Image:
    with Image.open(file) as image:
        return _upright_rgb(image, max_pixels)


def _upright_rgb(image: Image.Image, max_pixels: int) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise PictureError("", f"has {image.width} x {image.height} pixels. {_too_large(max_pixels)}")
    image.load()  # of an animation the first frame
    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        background.alpha_composite(image)
        image = background
    return image.convert("RGB")


def _eight_bits(values: np.ndarray) -> Image.Image:
    """Grey of 16 bits, which Pillow would clip at 255; or of 32, if they hold no more than 16."""
    if np.issubdtype(values.dtype, np.floating) or values.min() < 0 or values.max() > 65_535:
        raise PictureError("", f"must have pixels of 8 or 16 bits. Received: {values.dtype}")
    return Image.fromarray((values // _SIXTEEN_TO_EIGHT).astype("uint8"))


def _from_values(values: np.ndarray) -> Image.Image:
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[-1] not in (1, 3) or 0 in values.shape:
        raise PictureError("", f"must have shape [height, width, 3]. Received: shape={values.shape}")
    if not (np.issubdtype(values.dtype, np.number) and np.all((values >= 0) & (values <= 255))):
        raise PictureError("", f"must have values in 0..255. Received: {values.dtype}, {_range(values)}")
    if np.issubdtype(values.dtype, np.floating) and 0 < values.max() <= 1:
        raise PictureError("", "must have values in 0..255; multiply by 255. Received: floats in 0..1")
    values = values if values.dtype == np.uint8 else np.round(values).astype("uint8")
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3))))


def _range(values: np.ndarray) -> str:
    return f"{values.min()}..{values.max()}" if np.issubdtype(values.dtype, np.number) else "no numbers"


def _too_large(max_pixels: int) -> str:
    return f"The limit is {max_pixels / 1e6:.0f} million, for the memory that detection needs: reduce the picture"


def is_one(pictures: Any) -> bool:
    """Whether this stands for one picture, good or not, and not for several."""
    if isinstance(pictures, str | os.PathLike):
        return not (os.path.isdir(pictures) or is_glob(pictures))
    if (dimensions := getattr(pictures, "ndim", None)) is not None:  # an array, or a tensor of any framework
        return dimensions != 4
    return isinstance(pictures, bytes | bytearray | memoryview | Image.Image) or hasattr(pictures, "read")


def each_picture(pictures: Any) -> Iterator[Any]:
    """One by one the pictures that something stands for: one, a folder, a glob, a list or another iterable of pictures.

    Raises:
        PictureError: if it is none of these, or a folder or glob without pictures.
    """
    if isinstance(pictures, str | os.PathLike):
        return iter(find_pictures(pictures))
    if is_one(pictures):
        return iter([pictures])
    if isinstance(pictures, Mapping) or not isinstance(pictures, Iterable):
        raise PictureError(name_of(pictures), "is neither a picture nor a sequence of pictures")
    return iter(pictures)
