"""Whatever comes, the image reader and the parser of file names answer or refuse in words.

The same cases each time: `python -m experiments.fuzz` is there to find new ones.
"""

import atexit
import io
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from PIL import Image

from experiments import fuzzing

_HOME = tempfile.mkdtemp()
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
set_hypothesis_home_dir(_HOME)  # else it leaves a folder in the project, also without a database
SEEDS = fuzzing.image_seeds()
CHECK_IMAGE, CHECK_NAME = fuzzing.check_image(), fuzzing.check_name()
SAME = settings(
    derandomize=True, database=None, deadline=5_000, max_examples=1_500, suppress_health_check=list(HealthCheck)
)


@SAME
@given(st.sampled_from(SEEDS), st.integers(0, 2**32))
def test_a_changed_image_is_answered_or_refused_in_words(image: bytes, seed: int) -> None:
    CHECK_IMAGE(fuzzing.mutate_image(image, seed))


@SAME
@given(st.sampled_from([seed[:count] for seed in SEEDS for count in (0, 4, 12, 40)]), st.binary(max_size=200))
def test_the_beginning_of_a_image_and_any_bytes_are_refused_or_answered(head: bytes, rest: bytes) -> None:
    CHECK_IMAGE(head + rest)


@SAME
@given(st.sampled_from(fuzzing.name_seeds()), st.integers(0, 2**32))
def test_a_changed_name_has_labels_or_a_reason(name: bytes, seed: int) -> None:
    CHECK_NAME(fuzzing.mutate_name(name, seed))


@settings(SAME, max_examples=500)
@given(
    st.one_of(
        st.text(),
        st.from_regex(r"[0-9]{1,3}_[0-9]_[0-9]_[0-9]{1,20}( ?\.?jpe?g)(\.chip\.jpg)?", fullmatch=True),
        st.from_regex(r"[0-9_]{0,40}\.jpg", fullmatch=True),
    )
)
def test_any_text_has_labels_or_a_reason(name: str) -> None:
    CHECK_NAME(name.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    "name",
    ["9" * 100_000 + "_0_0_1.jpg", "1_0_0_" + "1" * 100_000 + ".jpg", "1_0_0_1" + ".jpg" * 20_000, " " * 100_000],
)
def test_a_name_as_long_as_an_archive_may_hold_is_read_in_no_time(name: str) -> None:
    assert CHECK_NAME(name.encode()) == name.startswith("1_0_0_1" + "1" * 99)


def test_most_seeds_are_images_and_changes_leave_some_of_them_so() -> None:
    assert (
        sum(map(CHECK_IMAGE, SEEDS)) == len(SEEDS) - 2
    )  # floats are refused, and a TIFF that Pillow writes and cannot read
    changed = [fuzzing.mutate_image(seed, number) for number in range(20) for seed in SEEDS]
    assert 0.1 < np.mean([CHECK_IMAGE(each) for each in changed]) < 0.9
    assert sum(each in SEEDS for each in changed) < len(changed) / 10


def test_a_changed_png_keeps_right_checksums_and_says_other_things() -> None:
    Image.new("RGB", (4, 4)).save(file := io.BytesIO(), "PNG")
    made = [fuzzing.mutate_image(file.getvalue(), seed) for seed in range(200)]
    assert len(set(made)) > 150 and sum(each.startswith(b"\x89PNG\r\n\x1a\n") for each in made) > 100


@pytest.mark.parametrize("target", ["images", "names"])
def test_the_search_ends_in_one_line_of_what_it_tried(target: str, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("atheris", reason="the search needs atheris: pip install atheris")
    command = [sys.executable, "-m", "experiments.fuzz", f"--target={target}", "--cases=500", f"--out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("500 cases in ") and "the slowest took" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_case_is_tried_again_by_its_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "case").write_bytes(SEEDS[0])
    command = [sys.executable, "-m", "experiments.fuzz", f"--case={tmp_path / 'case'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{tmp_path / 'case'}: answered\n"
