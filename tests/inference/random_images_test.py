"""Changed image files are read or refused with an `ImageError` of one line, whatever the change."""

import io
import tempfile
import warnings

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from PIL import Image

from agegender import ImageError, read_image

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 1_000_000
REPEATABLE = settings(
    derandomize=True, database=None, deadline=5_000, max_examples=600, suppress_health_check=list(HealthCheck)
)
set_hypothesis_home_dir(tempfile.gettempdir())  # without a database it still makes a folder


def encode(kind: str) -> bytes:
    base = Image.radial_gradient("L").resize((16, 16))
    Image.merge("RGB", (base, base.rotate(90), base.rotate(180))).save(file := io.BytesIO(), kind)
    return file.getvalue()


FILES = {kind: encode(kind) for kind in FORMATS}


def is_read(content: bytes) -> bool:
    """Whether the bytes are read as an image; fails if anything but an image or an `ImageError` comes back."""
    with warnings.catch_warnings(action="ignore"):
        try:
            image = read_image(content, max_pixels=MAX_PIXELS)
        except ImageError as error:
            assert error.reason.isprintable() and 0 < len(error.reason) < 500
            return False
    assert image.mode == "RGB" and 0 < image.width * image.height <= MAX_PIXELS
    assert len(image.tobytes()) == 3 * image.width * image.height
    return True


def test_unchanged_files_are_read() -> None:
    assert all(map(is_read, FILES.values()))


@REPEATABLE
@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 4), st.binary(max_size=4)), min_size=1, max_size=4),
)
def test_changed_bytes(kind: str, changes: list[tuple[int, int, bytes]]) -> None:
    content = FILES[kind]
    for place, removed, added in changes:
        start = place % len(content)
        content = content[:start] + added + content[start + removed :]
    is_read(content)


@REPEATABLE
@given(st.sampled_from(FORMATS), st.sampled_from((0, 4, 12, 40)), st.binary(max_size=200))
def test_the_start_of_a_file_and_random_bytes(kind: str, kept: int, rest: bytes) -> None:
    is_read(FILES[kind][:kept] + rest)
