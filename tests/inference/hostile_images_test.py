"""Hostile images: what the Predictor and the command make of them, and that the good ones beside them are answered.

A case is a name, what makes the hostile thing, and the words that must be in the error; with "" it is an image after
all, and the answer must be that of the image without the addition. A hang ends the test.
"""

import io
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
from conftest import ROOT, make_tiny_trunk
from PIL import Image

import agegender as ag
from agegender import cli

SIDE = 24
SECONDS = 20  # a case takes hundredths of one


class Hangs(BaseException):
    """Not an Exception, so that no boundary of the library takes it for one."""


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    def hang(*_: object) -> None:
        raise Hangs

    signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


FACE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), "uint8"))
JPEG, PNG, GIF, BMP, TIFF, WEBP = (encode(FACE, kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"))
FRAME = GIF.index(b"," + struct.pack("<4H", 0, 0, SIDE, SIDE))  # where the one frame of the GIF begins


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """The PNG with one chunk more, after its header."""
    return PNG[:33] + chunk(kind, data) + PNG[33:]


def with_segment(data: bytes) -> bytes:
    """The JPEG with one application segment more, at its beginning."""
    return JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data + JPEG[2:]


def says(width: int, height: int) -> bytes:
    """The JPEG with another size in its header."""
    place = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:place] + struct.pack(">HH", height, width) + JPEG[place + 4 :]


def inflating(size: int) -> bytes:
    pack = zlib.compressobj(9)
    return b"".join(pack.compress(bytes(1_000_000)) for _ in range(size // 1_000_000)) + pack.flush()


def many_scans(count: int, side: int) -> bytes:
    """A JPEG whose last scan, of some tens of bytes, is there many times."""
    whole = encode(Image.new("L", (side, side), 99), "JPEG", progressive=True)
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * count + whole[-2:]


def archive() -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as packed:
        packed.writestr("../../evil.sh", "rm -rf .")
    return file.getvalue()


def pages(count: int) -> bytes:
    others = (Image.new("RGB", (SIDE, SIDE), (number % 256, number // 256, 7)) for number in range(1, count))
    return encode(FACE, "TIFF", save_all=True, append_images=others)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(evil) (w) file closefile showpage\n"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>alert(1)</script></svg>"


def tag_directory(count: int, size: int) -> bytes:
    """EXIF data of tags that all share one value."""
    tags = b"".join(struct.pack("<HHII", 0x9000 + tag, 7, size, 14 + 12 * count) for tag in range(count))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + tags + bytes(4 + size)


def tiff(tags: dict[int, int], *, shared: int = 0, size: int = 0) -> bytes:
    """A TIFF of 64 x 64 grey pixels with other tags, and with further ones that share one value."""
    tags = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 273: 0, 277: 1, 278: 64, 279: 4096} | tags
    count = len(tags) + shared
    pixels = 14 + 12 * count
    tags |= {tag: pixels for tag in (273, 324) if tag in tags}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries += [struct.pack("<HHII", 0x9000 + tag, 7, size, pixels) for tag in range(shared)]
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", count) + b"".join(entries) + bytes(4)
    return head + zlib.compress(bytes(4096)).ljust(max(4096, size), b"\0")


def many_exif_segments() -> bytes:
    """A JPEG without a resolution of its own, which Pillow looks for in all tags of several segments."""
    data = tag_directory(1000, 300_000)
    parts = (b"Exif\0\0" + data[start : start + 60_000] for start in range(0, len(data), 60_000))
    return JPEG[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts) + JPEG[20:]


def raw_profile() -> bytes:
    data = b"Exif\0\0" + tag_directory(1000, 300_000)
    text = f"\nexif\n{len(data)}\n{data.hex()}"
    return with_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text.encode()))


BLOCKS, TILES = "it has too many blocks or tags", "its tiles have"
NO_FORMAT, BROKEN = "is not an image, or has an unsupported format", "cannot be read as an image"
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    # Too large, or larger than they look.
    "png-profile-that-inflates": (lambda: with_chunk(b"iCCP", b"x\0\0" + inflating(30_000_000)), BROKEN),
    "png-text-that-inflates": (lambda: with_chunk(b"zTXt", b"x\0\0" + inflating(30_000_000)), BROKEN),
    "png-of-seventy-text-chunks": (
        lambda: PNG[:33] + chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1_000_000))) * 70 + PNG[33:],
        BROKEN,
    ),
    "png-pixels-that-inflate-further": (
        lambda: PNG[:33] + chunk(b"IDAT", inflating(120_000_000)) + chunk(b"IEND", b""),
        "",
    ),
    "jpeg-of-five-thousand-scans": (lambda: many_scans(5000, 2000), "has more than 100 scans"),
    "jpeg-that-says-65500-squared": (lambda: says(65_500, 65_500), "pixels. The limit is 64 million"),
    "webp-of-few-bytes-and-16383-squared": (
        lambda: encode(Image.new("RGB", (16_383, 4_000)), "WEBP", quality=0, method=0),
        "16383 x 4000 pixels. The limit is 64 million",
    ),
    "gif-whose-frame-is-larger-than-it": (
        lambda: GIF[: FRAME + 5] + struct.pack("<HH", 60_000, 60_000) + GIF[FRAME + 9 :],
        "pixels. The limit is 64 million",
    ),
    "tiff-of-a-billion-pixels": (
        lambda: TIFF.replace(struct.pack("<HHII", 256, 4, 1, SIDE), struct.pack("<HHII", 256, 4, 1, 50_000_000)),
        "pixels. The limit is 64 million",
    ),
    "jpeg-that-takes-a-hundred-passes": (lambda: many_scans(50, 7900), "has more than 16 scans"),
    "jpeg-2000-of-64-million-pixels": (
        lambda: (data := encode(FACE, "JPEG2000", no_jp2=True)).replace(data[8:16], struct.pack(">II", 8000, 8000)),
        "16,000,000 is the limit for JPEG2000",
    ),
    "tiff-with-one-tile-of-a-billion-pixels": (lambda: tiff({322: 32_768, 323: 32_768, 324: 0, 325: 9}), TILES),
    "tiff-with-tiles-of-one-pixel": (lambda: tiff({322: 1, 323: 1, 324: 0, 325: 9}), TILES),
    # Metadata that multiply, or that take Pillow long.
    "tiff-whose-tags-share-a-value": (lambda: tiff({}, shared=500, size=1_000_000), BLOCKS),
    "jpeg-whose-tags-share-a-value": (many_exif_segments, ""),
    "png-whose-tags-share-a-value": (lambda: with_chunk(b"eXIf", tag_directory(1000, 300_000)), ""),
    "png-whose-tags-in-text-share-a-value": (raw_profile, ""),
    "avif-whose-tags-share-a-value": (lambda: encode(FACE, "AVIF", exif=tag_directory(1000, 300_000)), ""),
    "webp-whose-tags-share-a-value": (lambda: encode(FACE, "WEBP", exif=tag_directory(1000, 300_000)), ""),
    "gif-of-400,000-comments": (lambda: GIF[:FRAME] + b"!\xfe\1x\0" * 400_000 + GIF[FRAME:], BLOCKS),
    "gif-with-junk-before-comments": (lambda: GIF[:FRAME] + b"x!\xfe" + b"\1x" * 400_000 + b"\0" + GIF[FRAME:], BLOCKS),
    "jpeg-of-a-million-empty-comments": (lambda: JPEG[:2] + b"\xff\xfe\0\2" * 1_000_000 + JPEG[2:], BLOCKS),
    "jpeg-with-a-million-fill-bytes": (lambda: JPEG[:2] + b"\xff" * 1_000_000 + JPEG[2:], BLOCKS),
    "png-of-200,000-empty-chunks": (lambda: PNG[:33] + chunk(b"prIv", b"") * 200_000 + PNG[33:], BLOCKS),
    "png-of-200,000-chunks-after-its-pixels": (
        lambda: PNG[:-12] + chunk(b"tEXt", b"k\0v") * 200_000 + PNG[-12:],
        BLOCKS,
    ),
    "ppm-with-a-long-comment": (lambda: b"P6\n#" + b"x" * 1_000_000 + b"\n1 1 255\nxxx", BLOCKS),
    "ppm-of-text": (lambda: b"P3 64 64 255\n" + b"#\n" * 1_000_000 + b"1 " * 12_288, "its pixels are text"),
    # Damaged.
    "jpeg-of-no-width": (lambda: says(0, 9), NO_FORMAT),
    "jpeg-cut-in-its-pixels": (lambda: JPEG[: len(JPEG) * 2 // 3], BROKEN),
    "jpeg-of-tables-only": (lambda: JPEG[: JPEG.index(b"\xff\xda")] + b"\xff\xd9", NO_FORMAT),
    "jpeg-segment-longer-than-the-file": (lambda: JPEG[:2] + b"\xff\xe1\xff\xffx" + JPEG[2:100], BROKEN),
    "png-with-a-wrong-checksum": (lambda: PNG[:29] + b"evil" + PNG[33:], NO_FORMAT),
    "png-with-its-pixels-twice-cut": (lambda: PNG[:33] + chunk(b"IDAT", b"x") + chunk(b"IEND", b""), BROKEN),
    "png-chunk-of-two-gigabytes": (lambda: PNG[:33] + b"\x7f\xff\xff\xfftEXt" + bytes(99), BROKEN),
    "gif-without-a-frame": (lambda: GIF[:13] + b";", NO_FORMAT),
    "tiff-directory-that-follows-itself": (lambda: b"II*\0\x08\0\0\0\0\0\x08\0\0\0", NO_FORMAT),
    "tiff-without-pixels": (lambda: TIFF.replace(struct.pack("<H", 273), struct.pack("<H", 9273)), NO_FORMAT),
    "bmp-that-says-it-has-a-million-colours": (lambda: BMP[:46] + struct.pack("<I", 1_000_000) + BMP[50:], ""),
    "bmp-cut-short": (lambda: BMP[:99], BROKEN),
    "webp-cut-short": (lambda: WEBP[:99], BROKEN),
    # No images, or of formats that are programs.
    "svg": (lambda: SVG, NO_FORMAT),
    "html": (lambda: b"<!DOCTYPE html><script>alert(1)</script>", NO_FORMAT),
    "eps-which-ghostscript-would-run": (lambda: EPS, NO_FORMAT),
    "pdf-with-a-jpeg-in-it": (lambda: b"%PDF-1.4\n" + JPEG, NO_FORMAT),
    "zip-of-images": (archive, NO_FORMAT),
    "pickle": (lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR.", NO_FORMAT),
    "windows-metafile": (lambda: b"\xd7\xcd\xc6\x9a" + bytes(60), NO_FORMAT),
    "zeros": (lambda: bytes(100_000), NO_FORMAT),
    # Images, and something else beside.
    "jpeg-and-zip": (lambda: JPEG + archive(), ""),
    "gif-and-script": (lambda: GIF + b"*/=1;alert(1)//", ""),
    "png-with-a-program-behind-it": (lambda: PNG + b"MZ" + bytes(5_000_000), ""),
    "jpeg-with-a-film-behind-it": (lambda: JPEG + b"\xff\xda\0\x02" * 200, ""),
    "jpeg-with-a-comment-that-is-a-page": (lambda: with_segment(b"<html><script>alert(1)</script>"), ""),
    "gif-of-ten-thousand-frames": (lambda: GIF[:-1] + GIF[FRAME:-1] * 9_999 + b";", ""),
    "tiff-of-many-pages": (lambda: pages(300), ""),
    "jpeg-with-damaged-exif": (lambda: with_segment(b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\3" * 9), ""),
    "png-with-damaged-exif": (lambda: with_chunk(b"eXIf", b"garbage"), ""),
    "png-with-exif-that-points-at-itself": (
        lambda: with_chunk(b"eXIf", b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x8769, 4, 1, 8) + bytes(4)),
        "",
    ),
    "exif-orientation-9": (
        lambda: with_chunk(b"eXIf", b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 1, 9) + bytes(4)),
        "",
    ),
}
CLEAN = {kind: encode(FACE, kind.upper()) for kind in ("avif", "webp", "jpeg", "gif", "png", "bmp", "tiff")}
CLEAN["exif"] = PNG


@pytest.fixture(scope="module")
def predictor() -> ag.Predictor:
    keras.utils.set_random_seed(3)
    model, random = ag.build_model(make_tiny_trunk()), np.random.default_rng(3)
    for weight in model.trainable_weights:  # new heads answer the same for every image
        weight.assign(weight + random.normal(scale=0.02, size=weight.shape))
    return ag.Predictor(model, aligned=True, batch_size=1)  # else the last digits of an answer depend on its neighbours


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # an error here, which would hide what users get: the answer
def test_hostile_file_gives_error_and_neighbours_are_predicted(predictor: ag.Predictor, name: str) -> None:
    make, words = FILES[name]
    before, answer, after = predictor([PNG, make(), PNG])
    assert before == after == predictor(PNG) and len(before) == 1
    if words:
        assert isinstance(answer, ag.ImageError) and words in answer.reason
        assert len(answer.reason.splitlines()) == 1 and len(answer.reason) < 400
    elif "inflate" in name or "colours" in name:  # of which some pixels are read
        assert isinstance(answer, ag.Photograph) and len(answer) == 1 and answer.size == (SIDE, SIDE)
    else:
        assert answer == predictor(CLEAN[name.split("-")[0]])


VALUES: dict[str, tuple[Callable[[], Any], str]] = {
    "array-of-no-memory-and-any-size": (
        lambda: np.broadcast_to(np.uint8(0), (100_000, 100_000, 3)),
        "100000 x 100000 pixels. The limit is 64 million",
    ),
    "array-of-complex-numbers": (lambda: np.ones((SIDE, SIDE, 3), complex), "Received dtype complex128"),
    "array-of-times": (lambda: np.ones((SIDE, SIDE, 3), "m8[s]"), "Received dtype timedelta64[s]"),
    "array-of-objects": (lambda: np.full((SIDE, SIDE, 3), None), "Received dtype object"),
    "array-with-one-infinity": (lambda: np.where(np.arange(4)[:, None] == 2, np.inf, np.ones((4, 4))), "in 0..255"),
    "array-of-five-dimensions": (lambda: np.zeros((1, 1, 2, 2, 3)), "Received: shape=(1, 1, 2, 2, 3)"),
    "array-of-channels-first": (lambda: np.zeros((3, SIDE, SIDE)), "must have shape [height, width, 3]"),
    "nested-lists-of-unequal-lengths": (lambda: [[[1, 2, 3]], [[1, 2]]], BROKEN),
    "file-opened-as-text": (lambda: io.StringIO("text"), "in mode 'rb'"),
    "file-that-is-closed": (lambda: _closed(), BROKEN),
    "file-that-breaks-off": (lambda: _Breaking(), "Input/output error"),
    "image-that-is-closed": (lambda: _closed_image(), BROKEN),
    "a-number": (lambda: 7, "expected a path, bytes, "),
}


class _Breaking(io.RawIOBase):
    def read(self, *_: object) -> bytes:
        raise OSError(5, "Input/output error")


def _closed() -> io.BytesIO:
    file = io.BytesIO(PNG)
    file.close()
    return file


def _closed_image() -> Image.Image:
    image = Image.open(io.BytesIO(PNG))
    image.close()
    return image


@pytest.mark.parametrize("name", VALUES)
def test_what_is_no_file_is_answered_in_words_too(predictor: ag.Predictor, name: str) -> None:
    make, words = VALUES[name]
    before, answer, after = predictor([PNG, make(), PNG])
    assert before == after == predictor(PNG)
    assert isinstance(answer, ag.ImageError) and words in answer.reason and len(answer.reason.splitlines()) == 1


BOMBS = [name for name, (_, words) in FILES.items() if "scans" in words or "million" in words or "inflate" in name]
BOMBS += [name for name, (_, words) in FILES.items() if words in (BLOCKS, TILES) or "share" in name]
MEMORY = """
import pathlib, resource, sys
from agegender.inference.images import ImageError, read_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in pathlib.Path(sys.argv[1]).iterdir():
    try:
        read_image(bomb)
    except ImageError:
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_no_bomb_takes_memory_that_its_image_does_not_need(tmp_path: pathlib.Path) -> None:
    for name in BOMBS:
        (tmp_path / name).write_bytes(FILES[name][0]())
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert len(BOMBS) >= 7 and int(done.stdout) < 100_000, done.stdout + done.stderr  # KB; an image may take 400,000


# ---- paths, as the command is given them


@pytest.fixture(scope="module")
def model(predictor: ag.Predictor, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("model") / "best.keras"
    predictor.model.save(path)
    return path


def link(path: pathlib.Path, to: str) -> pathlib.Path:
    path.symlink_to(to)
    return path


def folder_of_loops(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    for name in ("one", "two"):  # each way through them is a path of its own, of which there are 2 ** 40
        (folder / name).symlink_to(folder)
    (folder / "face.png").write_bytes(PNG)
    return folder


def fifo(path: pathlib.Path) -> pathlib.Path:
    os.mkfifo(path)
    return path


def written(path: pathlib.Path, data: bytes = b"text") -> pathlib.Path:
    path.write_bytes(data)
    return path


def sparse(path: pathlib.Path) -> pathlib.Path:
    written(path, PNG[:33] + b"\x7f\xff\xff\xfftEXt")
    os.truncate(path, 3_000_000_000)
    return path


PATHS: dict[str, tuple[Callable[[pathlib.Path], pathlib.Path | str], str]] = {
    "pipe": (lambda at: fifo(at / "pipe.jpg"), "is neither a file nor a folder"),
    "endless-device": (lambda at: "/dev/zero", "is neither a file nor a folder"),
    "link-to-a-pipe": (lambda at: (fifo(at / "pipe"), link(at / "l.jpg", "pipe"))[1], "is neither a file nor"),
    "link-to-nothing": (lambda at: link(at / "broken.jpg", "nothing"), "there is no such file or folder"),
    "link-to-itself": (lambda at: link(at / "itself.jpg", "itself.jpg"), "there is no such file or folder"),
    "name-too-long": (lambda at: at / ("x" * 5000), "cannot be read: File name too long"),
    "path-through-a-file": (lambda at: written(at / "file") / "a.jpg", "there is no such file or folder"),
    "name-with-a-nul": (lambda at: f"{at}/a\0b.jpg", "there is no such file or folder"),
    "glob-with-a-nul": (lambda at: f"{at}/*\0.jpg", "matches no file"),
    "glob-that-is-not-closed": (lambda at: f"{at}/[a.jpg", "matches no file"),
    "glob-of-folders": (lambda at: (folder_of_loops(at / "f"), f"{at}/*")[1], "matches no file"),
    "name-that-moves-the-cursor": (lambda at: written(at / "\x1b[2J\x1b]0;evil\x07.jpg"), "\\x1b[2J\\x1b]0;evil\\x07"),
    "name-of-two-lines": (lambda at: written(at / "a\nagegender: all is well.jpg"), "a\\nagegender: all is well.jpg"),
    "name-written-backwards": (lambda at: written(at / "a\u202egpj.exe.jpg"), "a\\u202egpj.exe"),
    "name-of-bytes": (lambda at: written(at / os.fsdecode(b"\xff\xfe.jpg")), "\\udcff\\udcfe.jpg"),
    "name-of-a-web-address": (lambda at: "http://127.0.0.1:9/a.jpg", "is a URL: give a file"),
    "sparse-file-of-three-gigabytes": (lambda at: sparse(at / "sparse.png"), "has more than 600 MB"),
    "folder-of-no-images": (lambda at: (written(at / "a.txt"), at)[1], "contains no images"),
    "folder-of-links-that-lead-back": (lambda at: link(at / "back", "."), "contains no images"),
}


@pytest.mark.parametrize("name", PATHS)
def test_hostile_path_is_named_on_one_line(
    model: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    make, words = PATHS[name]
    good = tmp_path / "good.png"
    good.write_bytes(PNG)
    (tmp_path / "hostile").mkdir()
    path = make(tmp_path / "hostile")
    assert cli.main(["predict", "--aligned", "--json", "--model", str(model), str(path), str(good)]) == 1
    out, err = capsys.readouterr()
    hostile, answered = json.loads(out)
    assert len(answered["faces"]) == 1 and answered["image"] == str(good) and "error" in hostile
    (line,) = [line for line in err.splitlines() if words in line]
    assert line.startswith("agegender predict: ") and line.isprintable() and "1 of 2 could not be used" in err


def test_a_hostile_path_in_a_list_is_an_error_in_its_place(predictor: ag.Predictor, tmp_path: pathlib.Path) -> None:
    paths = [fifo(tmp_path / "pipe.jpg"), "/dev/zero", "a\0b.jpg", "x" * 5000, sparse(tmp_path / "s.png"), tmp_path]
    answers = predictor([*paths, PNG])
    words = ["a pipe or a device", "a pipe or a device", "null byte", "is neither the path", "600 MB", "is a folder"]
    for answer, reason in zip(answers, words, strict=False):
        assert isinstance(answer, ag.ImageError) and reason in answer.reason
    assert answers[-1] == predictor(PNG)


@pytest.mark.parametrize("pattern", ["", "**/*.png", "**/**/*.png", "**"])
def test_links_that_lead_back_are_not_followed_for_good(
    predictor: ag.Predictor, tmp_path: pathlib.Path, pattern: str
) -> None:
    folder = folder_of_loops(tmp_path / "loops")
    answers = predictor(str(folder / pattern))
    errors = {pathlib.Path(each.source).name for each in answers if isinstance(each, ag.ImageError)}
    assert errors == (set() if pattern else {"one", "two"})
    assert answers[0].source == str(folder / "face.png") and len(answers) == 1 + len(errors)


def test_unreadable_folder_is_an_error(tmp_path: pathlib.Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    user = os.geteuid()
    try:
        if not user:  # who may read everything
            os.chmod(tmp_path.parent.parent, 0o711)
            os.seteuid(65_534)
        with pytest.raises(ag.ImageError, match="cannot be read: Permission denied"):
            ag.find_images(closed)
    finally:
        os.seteuid(user)


# ---- where the command writes


DRAWN: dict[str, tuple[str, str]] = {
    "onto-a-file": ("kept.txt", "--draw must be a folder"),
    "below-a-file": ("kept.txt/folder", "Not a directory"),
    "into-a-device": ("/dev/null", "--draw must be a folder"),
    "into-what-has-a-nul": ("a\0b", "null byte"),
    "into-a-name-too-long": ("x" * 5000, "File name too long"),
    "through-a-link-to-nothing": ("gone", "File exists"),
    "where-nobody-may-write": ("/proc/faces", "No such file or directory"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_failed_drawing_keeps_existing_files(
    model: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    place, words = DRAWN[name]
    for kept in ("kept.txt", "good.png"):
        (tmp_path / kept).write_bytes(PNG)
    link(tmp_path / "gone", "nothing")
    arguments = ["predict", "--aligned", "--model", str(model), "--draw", str(tmp_path / place)]
    assert cli.main([*arguments, str(tmp_path / "good.png")]) == 2
    out, err = capsys.readouterr()
    assert words in err and len(err.splitlines()[-1]) and "Traceback" not in err and not out
    assert all((tmp_path / kept).read_bytes() == PNG for kept in ("kept.txt", "good.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gone", "good.png", "kept.txt"]


@pytest.mark.parametrize("name", ["-faces.jpg", "..-faces-2.jpg", "a b;rm -rf .png", "$(touch evil).png"])
def test_drawings_stay_in_their_folder(
    model: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_bytes(PNG)
    folder = tmp_path / "drawn"
    arguments = ["predict", "--aligned", "--model", str(model), "--draw", str(folder), str(tmp_path / name)]
    assert cli.main(arguments) == cli.main(arguments) == 0
    assert len(list(folder.iterdir())) == 2 and sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "drawn"])


def test_endless_or_invalid_standard_input_is_refused(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "good.png").write_bytes(PNG)
    command = [sys.executable, "-m", "agegender.cli", "predict", "--aligned", "--json", "--model", str(model)]
    with open("/dev/zero", "rb") as zeros:
        command += ["-", str(tmp_path / "good.png")]
        signal.alarm(3 * SECONDS)  # it loads TensorFlow first
        done = subprocess.run(command, stdin=zeros, capture_output=True, text=True, cwd=ROOT)
    zeroes, good = json.loads(done.stdout)
    assert done.returncode == 1 and len(good["faces"]) == 1
    assert "has more than 600 MB" in zeroes["error"] and zeroes["image"] == "standard input"
    assert "Traceback" not in done.stderr
