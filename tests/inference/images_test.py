import array
import base64
import contextlib
import errno
import io
import os
import pathlib
import pickle
import struct
import subprocess
import types
import zlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image, ImageFile

from agegender.inference import image_costs, images
from agegender.inference.images import (
    ImageError,
    each_image,
    find_images,
    fit_image,
    is_glob,
    is_heic,
    is_image,
    is_one,
    list_images,
    name_of,
    read_image,
    read_reduced,
)

LEFT_RED = np.zeros((4, 6, 3), "uint8")
LEFT_RED[:, :3, 0] = 200
LEFT_RED[:, 3:, 2] = 200


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_paths_bytes_arrays_and_images_are_equal(tmp_path: pathlib.Path) -> None:
    decoded = Image.fromarray(LEFT_RED)
    decoded.save(tmp_path / "a.png")
    given = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        encode(decoded),
        bytearray(encode(decoded)),
        LEFT_RED,
        decoded,
    ]
    for image in [*given, LEFT_RED.astype("float64"), LEFT_RED.astype("int64")]:
        read = read_image(image)
        assert read.mode == "RGB" and np.array_equal(np.asarray(read), LEFT_RED)


def test_truncated_files_are_refused_whatever_pillow_is_set_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as tensorflow_datasets does
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8"))
    for kind in ("JPEG", "PNG"):
        content = encode(noise, kind)
        with pytest.raises(ImageError, match="cannot be read as an image"):
            read_image(content[: len(content) // 2])


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"])
def test_every_format_of_photographs_is_read(kind: str) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip("This Pillow was built without it.")
    pixels = np.asarray(read_image(encode(Image.fromarray(LEFT_RED).resize((60, 40), 0), kind)), int)
    assert pixels.shape == (40, 60, 3)
    assert pixels[20, 15, 0] > 150 > 60 > pixels[20, 15, 2] and pixels[20, 45, 2] > 150 > 60 > pixels[20, 45, 0]


def test_image_is_resized_bilinearly() -> None:
    import tensorflow as tf

    values = np.random.default_rng(0).integers(0, 256, (40, 90, 3), "uint8")
    fitted = np.asarray(fit_image(Image.fromarray(values), 30, 20), int)
    expected = tf.image.resize(values, (20, 30), method="bilinear", antialias=True).numpy()
    assert fitted.shape == (20, 30, 3) and np.abs(fitted - expected).max() < 2


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, LEFT_RED),
        (2, LEFT_RED[:, ::-1]),
        (3, LEFT_RED[::-1, ::-1]),
        (4, LEFT_RED[::-1]),
        (5, LEFT_RED.transpose(1, 0, 2)),
        (6, np.rot90(LEFT_RED, -1)),
        (7, LEFT_RED[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(LEFT_RED)),
    ],
)
def test_exif_orientation_is_applied(orientation: int, turned: np.ndarray) -> None:
    image = Image.fromarray(LEFT_RED)
    exif = image.getexif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(read_image(encode(image, exif=exif))), turned)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_transparent_pixels_become_white(mode: str) -> None:
    image = Image.new("RGBA", (3, 1), (200, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    image = image.convert(mode)
    pixels = np.asarray(read_image(encode(image) if mode in ("RGBA", "LA") else image))
    assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[0, 1].max() < 5
    assert mode == "PA" or abs(int(pixels[0, 2, 0]) - 127) <= 1


def test_transparent_palette_colour_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    pixels = np.asarray(read_image(encode(image, transparency=0)))
    assert pixels[0].tolist() == [[255, 255, 255], [40, 50, 60]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    image = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    assert np.asarray(read_image(encode(image, kind))).min() >= 250


def test_sixteen_bits_become_eight_and_are_not_clipped() -> None:
    values = np.array([[0, 256, 257, 128 * 257, 65534, 65535]], "uint16")
    pixels = np.asarray(read_image(encode(Image.fromarray(values))))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 128, 254, 255]


def test_sixteen_bits_of_three_colours_become_eight() -> None:
    row = struct.pack(">6H", 0, 128 * 257, 65535, 257, 257, 257)
    chunks = [
        (b"IHDR", struct.pack(">2I5B", 2, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    ]
    file = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    assert np.asarray(read_image(file))[0].tolist() == [[0, 128, 255], [1, 1, 1]]


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    for kind in ("GIF", "WEBP", "PNG"):
        animation = encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert np.asarray(read_image(animation))[0, 0].tolist() == [255, 0, 0]


def claims(width: int, height: int) -> bytes:
    """A PNG with this size in its header, and one pixel."""
    file = bytearray(encode(Image.new("L", (1, 1))))
    file[16:24] = struct.pack(">II", width, height)
    file[29:33] = struct.pack(">I", zlib.crc32(bytes(file[12:29])))
    return bytes(file)


@pytest.mark.parametrize("side", [8_001, 10_000, 20_000, 100_000])
@pytest.mark.filterwarnings("default")  # Pillow's own warning of 90 million pixels is an error in these tests
def test_too_many_pixels_are_refused_before_decoding(side: int) -> None:
    with pytest.raises(ImageError, match=rf"{side} x {side} pixels|{side**2:,} pixels") as error:
        read_image(claims(side, side))
    assert "The limit is 64 million" in str(error.value)


def test_the_limit_on_pixels_is_the_callers() -> None:
    assert read_image(LEFT_RED, max_pixels=24).size == (6, 4)
    with pytest.raises(ImageError, match=r"array|ndarray.*6 x 4 pixels"):
        read_image(LEFT_RED, max_pixels=23)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, this is text", b"\xff\xd8\xff\xe0 not really", encode(Image.fromarray(LEFT_RED))[:50], claims(9, 9)],
)
def test_non_image_file_is_named_with_the_reason(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "broken.jpg").write_bytes(content)
    words = "is not an image|cannot be read as an image" if content else "is empty"
    with pytest.raises(ImageError, match=rf"broken\.jpg: ({words})") as error:
        read_image(tmp_path / "broken.jpg")
    assert error.value.source == str(tmp_path / "broken.jpg") and error.value.reason


@pytest.mark.parametrize("path", ["gone.jpg", "."])
def test_a_path_without_an_image_is_named(tmp_path: pathlib.Path, path: str) -> None:
    with pytest.raises(ImageError, match="no such file" if path == "gone.jpg" else "is a folder"):
        read_image(tmp_path / path)


def test_a_float_image_is_refused_not_clipped() -> None:
    with pytest.raises(ImageError, match="8 or 16 bits"):
        read_image(encode(Image.fromarray(np.full((2, 2), 0.5, "float32")), "TIFF"))


def test_of_32_bits_8_may_be_used() -> None:
    values = np.array([[0, 200]], "int32")
    assert np.asarray(read_image(encode(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == [0, 200]
    assert np.asarray(read_image(encode(Image.fromarray(257 * values), "TIFF")))[0, :, 0].tolist() == [0, 200]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((4,)), r"\[height, width, 3\].*Received: shape=\(4,\)"),
        (np.zeros((4, 4, 4)), "Received: shape"),
        (np.zeros((0, 4, 3)), "Received: shape"),
        (np.full((4, 4, 3), 256.0), r"0\.\.255"),
        (np.full((4, 4, 3), -1), r"0\.\.255"),
        (np.full((4, 4, 3), np.nan), r"0\.\.255"),
        (np.full((4, 4, 3), "a"), r"0\.\.255"),
        (None, "NoneType: expected a path, bytes"),
        (["one.jpg"], "expected a path, bytes"),
        (io.StringIO("words"), "mode 'rb'"),
        (io.BytesIO(), "is empty, or was read to its end"),
        ("", "no such file"),
        (np.full((4, 4, 3), 0.5), "multiply by 255"),
        ({"a": 1}, "expected a path, bytes"),
    ],
)
def test_values_that_are_no_image_are_named(values: object, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read_image(values)


def test_float_pixels_are_rounded() -> None:
    for value, level in ((199.6, 200), (199.4, 199), (0.0, 0), (1.2, 1)):
        assert np.asarray(read_image(np.full((2, 3, 3), value)))[0, 0].tolist() == [level] * 3


def test_grey_arrays_are_images_too() -> None:
    for values in (np.full((2, 3), 7), np.full((2, 3, 1), 7)):
        assert np.asarray(read_image(values)).tolist() == np.full((2, 3, 3), 7).tolist()


def test_an_error_survives_pickling_and_is_ready_for_json() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "not an image")))
    assert str(error) == "a.jpg: not an image"
    assert error.to_dict() == {"image": "a.jpg", "error": "not an image"}


@pytest.fixture
def album(tmp_path: pathlib.Path) -> pathlib.Path:
    for name in ("b.JPG", "a.png", "deep/er/c.webp", "notes.txt", ".hidden.jpg", "odd[1].jpg", "p.avif", "q.ppm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"" if name == "notes.txt" else encoded("PNG"))
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["a.png", "b.JPG", "deep/er/c.webp", "odd[1].jpg", "p.avif", "q.ppm"]),
        ("*.png", ["a.png"]),
        ("**/*.webp", ["deep/er/c.webp"]),
        ("[ab].*", ["a.png", "b.JPG"]),
        ("odd[1].jpg", ["odd[1].jpg"]),  # a name, not a pattern
        ("notes.txt", ["notes.txt"]),  # given by name: reading it raises
    ],
)
def test_a_folder_a_glob_and_a_file_stand_for_images(album: pathlib.Path, pattern: str, names: list[str]) -> None:
    assert [str(path.relative_to(album)) for path in find_images(album / pattern)] == names


def encoded(kind: str, size: tuple[int, int] = (4, 3), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"])
def test_a_folder_knows_images_by_their_first_bytes(tmp_path: pathlib.Path, kind: str) -> None:
    for name in ("IMG_0001", "a.txt"):
        (tmp_path / name).write_bytes(encoded(kind))
    assert [path.name for path in find_images(tmp_path)] == ["IMG_0001", "a.txt"]
    assert read_image(tmp_path / "IMG_0001").size == (4, 3)


def test_what_is_left_out_of_a_folder_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "b.png").write_bytes(encoded("PNG"))
    (tmp_path / "a.jpg").write_bytes(b"%PDF-1.7")
    (tmp_path / "c.jpg").touch()
    (tmp_path / "d.jpg").symlink_to(tmp_path / "gone")
    (tmp_path / ".hidden").write_bytes(b"%PDF-1.7")
    (tmp_path / "e").symlink_to("..")
    pdf, image, empty, link, folder = list_images(tmp_path)
    assert image == tmp_path / "b.png"
    for error, name, reason in (
        (pdf, "a.jpg", "is not an image, or has an unsupported format"),
        (empty, "c.jpg", "is empty"),
        (link, "d.jpg", "is a pipe, a device or a broken link"),
        (folder, "e", "is a link to a folder"),
    ):
        assert isinstance(error, ImageError) and error.source == str(tmp_path / name)
        assert error.reason.startswith(reason)


def test_broken_entry_leaves_the_rest_of_a_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number}.png" for number in range(5)]
    (tmp_path / "bad.jpg").symlink_to("bad.jpg")
    for name in names:
        (tmp_path / name).write_bytes(encoded("PNG"))
    monkeypatch.chdir(tmp_path)
    for folder in (".", "./"):
        *images, error = list_images(folder)
        assert images == [pathlib.Path(name) for name in names]
        assert isinstance(error, ImageError) and str(error) == (
            "bad.jpg: cannot be read as an image: Too many levels of symbolic links"
        )


@pytest.mark.parametrize("pattern", ["", "**", "**/*.png"])
def test_folders_nested_too_deep_are_named(tmp_path: pathlib.Path, pattern: str) -> None:
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):  # 6,000 characters
        os.mkdir("z" * 200, dir_fd=folder)
        inner = os.open("z" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    image, error = list_images(tmp_path / pattern)
    assert image == tmp_path / "a.png" and isinstance(error, ImageError)
    assert "cannot be read: File name too long" in error.reason and len(error.source) < 400


def test_glob_reaches_a_thousand_folders_deep(tmp_path: pathlib.Path) -> None:
    image = tmp_path / "/".join("f" * 1_200) / "a.png"
    subprocess.run(["mkdir", "-p", str(image.parent)], check=True)  # Python's own is a recursion
    image.write_bytes(encoded("PNG"))
    try:
        assert list_images(tmp_path / "**" / "*.png") == list_images(tmp_path) == [image]
    finally:
        subprocess.run(["rm", "-r", str(tmp_path / "f")], check=True)  # pytest cannot


def test_glob_names_a_folder_that_cannot_be_read(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("closed/a.png", "open/a.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encoded("PNG"))
    list_names, scan = os.listdir, os.scandir

    def refuse(function: Callable) -> Callable:
        def read(path: str) -> Any:
            if str(path).endswith("closed"):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return function(path)

        return read

    monkeypatch.setattr(os, "listdir", refuse(list_names))  # the user of the tests may read everything
    monkeypatch.setattr(os, "scandir", refuse(scan))
    for pattern in ("*/*.png", "**/*.png"):
        error, image = list_images(tmp_path / pattern)
        assert image == tmp_path / "open" / "a.png"
        assert str(error) == f"{tmp_path / 'closed'}: cannot be read: Permission denied"


def test_heic_is_read_with_its_extra_and_named_without(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), "red")).save(tmp_path / "IMG_1.HEIC")
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)  # as before the first HEIC file
    images._register_heic.cache_clear()
    images.known_formats.cache_clear()
    formats = images.describe_formats()
    with monkeypatch.context() as patch:
        patch.setattr(images, "_register_heic", lambda: False)
        with pytest.raises(ImageError, match=r"is a HEIC file, which needs pip install 'agegender\[heic\]'"):
            read_image(tmp_path / "IMG_1.HEIC")
    assert read_image(find_images(tmp_path)[0]).size == (64, 48)
    assert images.describe_formats() == formats  # by which the command knows files that are not images


@pytest.mark.parametrize("brand", ["heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"])
def test_heic_is_known_by_its_brand(brand: str) -> None:
    first = b"\0\0\0\x18ftyp" + brand.encode() + b"\0\0\0\0mif1miaf"
    assert is_heic(first) and is_image(first) and not is_heic(first.replace(b"miaf", b"avif"))
    assert not is_heic(first.replace(brand.encode(), b"isom", 1))


@pytest.mark.parametrize("make", [
    lambda data: "data:image/png;base64," + base64.b64encode(data).decode(),
    lambda data: base64.b64encode(data).decode(),
    lambda data: base64.encodebytes(data).decode(),
    lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    lambda data: "DATA:image/png;BASE64," + base64.b64encode(data).decode(),
])  # fmt: skip
def test_base64_is_an_image_with_a_short_name(make: Callable[[bytes], str]) -> None:
    content = encoded("PNG", (30, 20))
    text = make(content + bytes(1 - len(content) % 3))  # base64 ends in "=="
    assert read_image(text).size == (30, 20)
    assert is_one(text) and name_of(text) == f"text of {len(text)} characters"


@pytest.mark.parametrize("text", ["data:image/png;base64,AAAA", "data:,hello", "data:image/png;base64," + "A" * 40_000])
def test_a_data_url_without_an_image_is_refused_in_short(text: str) -> None:
    with pytest.raises(ImageError, match="is a data URL without an image in base64") as error:
        read_image(text)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(("text", "reason"), [
    ("/9j/4AAQ" * 5_000 + "!", "is neither the path of a file nor an image in base64"),
    ("x" * 400, "is neither the path of a file nor an image in base64"),
    ("f/" * 200 + "a.jpg", "there is no such file"),
])  # fmt: skip
def test_long_text_is_not_repeated(text: str, reason: str) -> None:
    with pytest.raises(ImageError) as error:
        read_image(text)
    assert str(error.value) == f"text of {len(text)} characters: {reason}"


def test_long_path_of_a_file_is_its_name(tmp_path: pathlib.Path) -> None:
    path = tmp_path.joinpath(*["f" * 200] * 3, "a.png")
    path.parent.mkdir(parents=True)
    path.write_bytes(encoded("PNG"))
    assert name_of(str(path)) == str(path)


@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "file:///a.jpg"])
def test_url_is_named(url: str) -> None:
    for use in (read_image, find_images):
        with pytest.raises(ImageError, match="is a URL: give a file or its bytes"):
            use(url)


def test_rows_and_ragged_lists_are_one_image() -> None:
    pixels = np.arange(4 * 5 * 3, dtype="uint8").reshape(4, 5, 3)
    for rows in (list(pixels), [list(row) for row in pixels], tuple(pixels)):
        assert is_one(rows)
        np.testing.assert_array_equal(np.asarray(read_image(rows)), pixels)
    assert is_one(memoryview(b"bytes of a file")) and is_one(pixels) and is_one(pixels[..., 0])
    assert not is_one(pixels[None])
    for refused in ([[1, 2], [3]], [[[1, 2, 3]], [[1, 2]]], array.array("B", b"12"), range(9)):
        assert is_one(refused)
        with pytest.raises(ImageError):
            read_image(refused)
    for several in ([pixels, pixels], [pixels.tolist(), pixels[:2].tolist()], [pixels[..., 0]]):
        assert not is_one(several) and len(list(each_image(several))) == len(several)


def test_lists_columns_and_arrays_of_paths(tmp_path: pathlib.Path) -> None:
    pandas = pytest.importorskip("pandas")
    paths = [str(tmp_path / f"{name}.png") for name in "ab"]
    values = np.arange(4 * 5 * 3).reshape(4, 5, 3)
    np.testing.assert_array_equal(np.asarray(read_image(values.tolist())), values)
    assert is_one(values.tolist()) and not is_one([values.tolist()])
    assert [np.shape(each) for each in each_image([values.tolist()] * 2)] == [(4, 5, 3)] * 2
    for several in (
        paths,
        np.array(paths),
        np.array(paths, object),
        pandas.Series(paths),
        pandas.DataFrame({"p": paths})["p"],
    ):
        assert not is_one(several) and list(each_image(several)) == paths
    with pytest.raises(ImageError, match="is a table: give one column of it"):
        read_image(pandas.DataFrame({"p": paths}))


@pytest.mark.parametrize(("image", "reason"), [
    (lambda: Image.new("RGB", (0, 5)), "has no pixels: 0 x 5"),
    (lambda: encoded("PNG", (65_536, 1)), "has 65536 x 1 pixels. The limit is 65,535 a side"),
    (lambda: np.zeros((65_536, 1, 3), "uint8"), "has 1 x 65536 pixels. The limit is 65,535 a side"),
])  # fmt: skip
def test_sides_are_bounded(image: Callable[[], Any], reason: str) -> None:
    with pytest.raises(ImageError) as error:
        read_image(image())
    assert error.value.reason == reason
    assert read_image(encoded("PNG", (65_535, 1))).width == 65_535


def test_comments_of_a_gif_are_bounded() -> None:
    content = encoded("GIF")
    place = content.index(b",")
    for count, refused in ((2_900, False), (3_100, True)):  # parts of 255 bytes, two reads each; the limit is 6,000
        hostile = content[:place] + b"!\xfe" + (b"\xff" + bytes(255)) * count + b"\0" + content[place:]
        if refused:
            with pytest.raises(ImageError, match="it has too many blocks or tags"):
                read_image(hostile)
        else:
            assert read_image(hostile).size == (4, 3)


def test_rare_kinds_are_read_if_they_are_small() -> None:
    levels = np.full((1000, 1000), 100, "uint8")
    pixels = np.asarray(read_image(b"P5 1000 1000 200\n" + levels.tobytes()))
    assert set(pixels.ravel()) == {round(100 * 255 / 200)}
    with pytest.raises(ImageError, match="of a rare kind that takes long to decode"):
        read_image(b"P5 2000 1001 200\n" + bytes(2_002_000))


@pytest.mark.parametrize(
    ("width", "height", "pixels", "is_read"),
    [
        *((8, 8, 1_000_000, True), (7, 9, 1_000_000, False), (2048, 2048, 1_000_000, True)),
        *((2048, 2049, 1_000_000, False), (2048, 2049, 2048 * 2049, True), (0, 0, 1_000_000, True)),
    ],
)
def test_tiles_have_64_pixels_to_four_million(width: int, height: int, pixels: int, is_read: bool) -> None:
    image = types.SimpleNamespace(tag_v2={322: width, 323: height} if width else {})
    with contextlib.nullcontext() if is_read else pytest.raises(ValueError, match="its tiles have"):
        image_costs._check_tiles(image, pixels)


@pytest.mark.parametrize("order", ["little", "big"])
def test_orientation_is_read_alone(order: Literal["little", "big"]) -> None:
    def tag(number: int, kind: int, count: int, value: bytes) -> bytes:
        return number.to_bytes(2, order) + kind.to_bytes(2, order) + count.to_bytes(4, order) + value.ljust(4, b"\0")

    tags = [tag(7, 7, 9_000_000, (8).to_bytes(4, order))] * 300 + [tag(0x0112, 3, 1, (6).to_bytes(2, order))]
    head = b"II*\0" if order == "little" else b"MM\0*"
    exif = b"Exif\0\0" + head + (8).to_bytes(4, order) + len(tags).to_bytes(2, order) + b"".join(tags)
    assert image_costs._read_orientation(exif) == 6
    assert read_image(encoded("PNG", (40, 30), exif=exif)).size == (30, 40)
    assert image_costs._read_orientation(b"") is None


def test_a_large_jpeg_is_reduced_while_it_is_decoded() -> None:
    content = encoded("JPEG", (400, 301))
    reduced, size = read_reduced(content, 100_000)
    assert (reduced.size, size) == ((200, 151), (400, 301))
    assert read_reduced(content, 200_000)[0].size == (400, 301)
    noise = encode(Image.effect_noise((400, 301), 80), "JPEG")
    with Image.open(io.BytesIO(noise)) as drafted:
        drafted.draft(None, (200, 150))
        np.testing.assert_array_equal(read_reduced(noise, 100_000)[0], drafted.convert("RGB"))
    turned = Image.Exif()
    turned[0x0112] = 6
    reduced, size = read_reduced(encoded("JPEG", (400, 301), exif=turned), 100_000)
    assert (reduced.size, size) == ((151, 200), (301, 400))
    reduced, size = read_reduced(encoded("PNG", (400, 300)), 100_000)
    assert (reduced.size, size) == ((200, 150), (400, 300))
    whole = Image.new("RGB", (400, 300))
    for image in (encoded("PNG", (400, 300)), whole, np.asarray(whole)):
        assert read_reduced(image, 120_000)[0].size == (400, 300)
        assert read_reduced(image, 119_999)[0].size == (200, 150)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "L", "1", "CMYK", "YCbCr", "I;16"])
def test_large_images_are_converted_in_bands(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (23, 17, 4), "uint8")
    rgba = Image.fromarray(pixels)
    image = rgba.convert("L").convert(mode) if mode == "I;16" else rgba.convert("RGB").convert(mode)
    if mode in ("RGBA", "LA"):
        image = rgba.convert(mode)
    if mode in ("P", "RGB"):
        image.info["transparency"] = 3 if mode == "P" else tuple(image.getpixel((1, 5)))  # type: ignore[arg-type]
    whole = np.asarray(read_image(image))
    monkeypatch.setattr(images, "_MAX_BAND", 40)  # two rows
    np.testing.assert_array_equal(np.asarray(read_image(image)), whole)


def test_glob_is_sorted_and_skips_hidden_folders(tmp_path: pathlib.Path) -> None:
    names = ["b.png", "a.png", "deep/c.png", "deep/er/a.png", ".git/d.png", "deep/.trash/e.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in find_images(tmp_path / "**" / "*.png")]
    assert found == ["a.png", "b.png", "deep/c.png", "deep/er/a.png"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("gone", "no such file or folder"), ("*.tif", "matches no file"), ("none", "contains no images")],
)
def test_nothing_found_is_said(album: pathlib.Path, pattern: str, words: str) -> None:
    (album / "none").mkdir()
    with pytest.raises(ImageError, match=words):
        find_images(album / pattern)


def test_only_what_has_wildcards_and_is_no_file_is_a_glob(album: pathlib.Path) -> None:
    assert is_glob("*.jpg") and is_glob(album / "?.png")
    assert not is_glob("a.jpg") and not is_glob(album / "odd[1].jpg")
