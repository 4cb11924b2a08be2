import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import apache_beam as beam
import keras
import numpy as np
import pytest
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image

import agegender as ag
from agegender.inference import beam as scoring
from agegender.inference.images import ImageError, find_images
from tests.conftest import SIZE, make_tiny_trunk

ROOT = pathlib.Path(__file__).parents[2]
COUNT = 40
BROKEN = ("cut short.jpg", "empty.jpg", "text.jpg")
STEPS = ag.Calibration(
    coverage=0.9, ages=(0.0, 100.0), low=(0.0, 80.0), high=(10.0, 116.0), temperature=2.0, count=500, flip=True
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a run: a tiny model, whose answers differ from face to face, and a calibration with mirroring."""
    folder = tmp_path_factory.mktemp("run")
    keras.utils.set_random_seed(2)
    model, random = ag.build_model(make_tiny_trunk()), np.random.default_rng(2)
    for weight in model.trainable_weights:
        weight.assign(weight + random.normal(scale=0.05, size=weight.shape))
    model.save(folder / "best.keras")
    STEPS.save(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Faces, and files that are none; the names of two are not for every program."""
    folder = tmp_path_factory.mktemp("images")
    ag.write_faces(folder, COUNT, size=SIZE, seed=4)
    first, second, third = sorted(folder.iterdir())[:3]
    first.rename(folder / "a name, with [wildcards]* and blanks.jpg")
    second.rename(folder / "élève 学生.jpg")
    (folder / BROKEN[0]).write_bytes(third.read_bytes()[:200])
    (folder / BROKEN[1]).write_bytes(b"")
    (folder / BROKEN[2]).write_text("This is no image.")
    return folder


def read(folder: pathlib.Path, name: str) -> dict[str, dict]:
    """The rows of all shards, by image."""
    lines = [line for shard in folder.glob(f"{name}-*-of-*.jsonl") for line in shard.read_text().splitlines()]
    rows = {row["image"]: row for row in map(json.loads, lines)}
    assert len(rows) == len(lines)  # none twice
    return rows


def assert_as_the_predictor(out: pathlib.Path, run: pathlib.Path, images: pathlib.Path) -> None:
    answers = ag.Predictor(run, aligned=True)(images)
    faces, unreadable = read(out, "faces"), read(out, "unreadable")
    expected = [each for each in answers if not isinstance(each, ImageError)]
    assert set(faces) == {each.source for each in expected}
    for each in expected:
        row, wanted = faces[each.source]["faces"][0], each[0].to_dict()
        for number in ("age", "p_female", "age_interval"):
            assert row.pop(number) == pytest.approx(wanted.pop(number), rel=1e-5)
        assert row == json.loads(json.dumps(wanted))
    reasons = {each.source: each.reason for each in answers if isinstance(each, ImageError)}
    assert {name: row["error"] for name, row in unreadable.items()} == reasons


# One command, killed in the middle and given again.


def command(images: pathlib.Path, run: pathlib.Path, out: pathlib.Path) -> list[str]:
    flags = [f"--images={images}", f"--model={run}", f"--out={out}", "--aligned", "--batch_size=4"]
    workers = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    workers += ['--sdk_harness_log_level_overrides={"agegender.inference.beam": "INFO"}']
    return [sys.executable, "-m", "experiments.score_images", *flags, "--", *workers]


@pytest.fixture(scope="module")
def killed(
    images: pathlib.Path, run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, list[str]]:
    """Where the command wrote, and what it left there: killed while one of its workers read a pipe without an end."""
    out = tmp_path_factory.mktemp("scored") / "out"
    pipe = images / "pipe.jpg"
    os.mkfifo(pipe)
    running = subprocess.Popen(command(images, run, out), cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 300
        while not list(out.glob("beam-temp-faces-*/*")):  # the other worker has begun to write
            assert running.poll() is None and time.monotonic() < until
            time.sleep(0.05)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        pipe.unlink()
    return out, [path.name for path in out.iterdir()]


@pytest.fixture(scope="module")
def again(
    killed: tuple[pathlib.Path, list[str]], images: pathlib.Path, run: pathlib.Path
) -> tuple[pathlib.Path, subprocess.CompletedProcess]:
    """Where the same command has written, and what it said."""
    out, _ = killed
    return out, subprocess.run(command(images, run, out), cwd=ROOT, capture_output=True, text=True)


def test_a_killed_run_leaves_nothing_that_looks_finished(killed: tuple[pathlib.Path, list[str]]) -> None:
    _, left = killed
    assert left and all(name.startswith("beam-temp-") for name in left)


def test_the_same_command_again_gives_all_that_the_predictor_gives(
    again: tuple[pathlib.Path, subprocess.CompletedProcess], images: pathlib.Path, run: pathlib.Path
) -> None:
    out, done = again
    assert done.returncode == 0, done.stderr
    assert_as_the_predictor(out, run, images)
    assert len(list(out.glob("faces-*-of-00002.jsonl"))) == 2  # a shard of each worker


def test_its_counts_add_up_and_are_what_was_written(
    again: tuple[pathlib.Path, subprocess.CompletedProcess],
) -> None:
    out, done = again
    counts = json.loads(done.stdout)
    unreadable = len(BROKEN)
    expected = {"photographs": COUNT + unreadable, "answered": COUNT, "without_a_face": 0, "faces": COUNT}
    assert counts == {**expected, "unreadable": unreadable}
    assert counts == json.loads((out / "counts.json").read_text())
    assert (len(read(out, "faces")), len(read(out, "unreadable"))) == (COUNT, unreadable)


def test_each_of_its_two_processes_loads_the_model_once(
    again: tuple[pathlib.Path, subprocess.CompletedProcess],
) -> None:
    loads = re.findall(r"INFO:agegender.inference.beam:process (\d+) has loaded the model", again[1].stderr)
    assert len(loads) == len(set(loads)) == 2


def test_beam_and_tensorflow_tell_of_nothing_but_warnings(
    again: tuple[pathlib.Path, subprocess.CompletedProcess],
) -> None:
    told = re.findall(r"^(?:INFO:|I\d{4} ).*", again[1].stderr, re.MULTILINE)
    # Each worker's first line comes before it knows how much it is to tell.
    assert [line for line in told if "agegender.inference.beam" not in line] == [
        "INFO:__main__:Logging handler created."
    ] * 2


# In this process, which is faster.


def test_threads_share_one_model_and_answer_as_the_predictor(
    images: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    with caplog.at_level("INFO", logger="agegender.inference.beam"):
        scoring.score_images(f"{images}/*", tmp_path, model=run, batch_size=4, aligned=True, options=options)
    assert_as_the_predictor(tmp_path, run, images)
    assert len([each for each in caplog.messages if "has loaded the model" in each]) == 1


def test_flip_is_the_callers_before_it_is_the_calibrations(
    images: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images)
    scoring.score_images("*学生.jpg", tmp_path, model=run, aligned=True, flip=False)
    ((path, row),) = read(tmp_path, "faces").items()
    once, both = (ag.Predictor(run, flip=flip, aligned=True)(path)[0].age for flip in (False, None))
    assert row["faces"][0]["age"] == pytest.approx(once, rel=1e-5)
    assert both != pytest.approx(once, rel=1e-5)


def test_photographs_without_a_face_are_answered_and_counted(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    Image.new("RGB", (60, 40), "white").save(tmp_path / "blank.png")
    counts = scoring.score_images(f"{tmp_path}/*.png", tmp_path / "out", model=run)
    assert counts == {"photographs": 1, "answered": 1, "without_a_face": 1, "faces": 0, "unreadable": 0}
    assert read(tmp_path / "out", "faces") == {
        f"{tmp_path}/blank.png": {"image": f"{tmp_path}/blank.png", "width": 60, "height": 40, "faces": []}
    }
    assert read(tmp_path / "out", "unreadable") == {}


def score_one(path: pathlib.Path | str, out: pathlib.Path, run: pathlib.Path | str) -> dict[str, int]:
    return scoring.score_images(path, out, model=run, aligned=True)


def test_a_file_that_has_wildcards_in_its_name_is_itself(
    images: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = images / "a name, with [wildcards]* and blanks.jpg"
    assert score_one(path, tmp_path, run)["answered"] == 1
    assert list(read(tmp_path, "faces")) == [str(path)]


@pytest.fixture(scope="module")
def odd(run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Where the answers are to a folder of files that are hard to read."""
    folder, out = tmp_path_factory.mktemp("odd"), tmp_path_factory.mktemp("odd_out")
    face = Image.fromarray(ag.draw_face(30, 0, 1, size=SIZE, seed=1))
    for name in (b"caf\xe9", b"face.gz"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            face.save(file, "PNG")
    (folder / "broken").symlink_to("/proc/self/mem")  # whose first bytes nobody may read
    with open(folder / "long", "wb") as file:
        file.truncate(scoring.MAX_BYTES + 1)
    score_one(f"{folder}/*", out, run)
    return out


def test_a_name_that_is_no_text_does_not_stop_the_pipeline(odd: pathlib.Path) -> None:
    assert "caf\\xe9" in {pathlib.Path(name).name for name in read(odd, "faces")}


def test_a_image_is_read_as_it_is_whatever_its_suffix_says(odd: pathlib.Path) -> None:
    assert "face.gz" in {pathlib.Path(name).name for name in read(odd, "faces")}


def test_files_that_cannot_be_read_or_are_too_long_are_unreadable(odd: pathlib.Path) -> None:
    reasons = {pathlib.Path(name).name: row["error"] for name, row in read(odd, "unreadable").items()}
    assert set(reasons) == {"broken", "long"}
    assert reasons["broken"].startswith("cannot be read: ")
    assert reasons["long"] == "has more than 600 MB, the limit for a image's file"


@pytest.fixture
def album(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder of images with all sorts of suffixes, in folders of folders, and other files."""
    album = tmp_path / "album [2019]"
    face = Image.fromarray(ag.draw_face(30, 0, 1, size=SIZE, seed=1))
    for name in ("A.JPG", "b.png", "more/c.WebP", ".hidden.jpg", "notes.txt", "../album 2/d.jpg"):
        path = album / name
        path.parent.mkdir(parents=True, exist_ok=True)
        face.save(path, "PNG")
    return album


@pytest.mark.parametrize("place", ["", "shelf:/", "here"])
def test_of_a_folder_all_images_are_taken_as_the_predictor_takes_them(
    place: str, album: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(album.parent)
    pattern = album.name if place == "here" else f"{place}{album}"
    expected = [str(path) for path in find_images(album.name if place == "here" else album)]
    assert len(expected) == 3
    assert sorted(path.removeprefix("shelf:/") for path in scoring._find(pattern)) == expected


def test_a_glob_may_begin_with_a_wildcard(album: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(album.parent)
    assert scoring._find("a*2/*") == ["album 2/d.jpg"]


class Shelf(LocalFileSystem):
    """A file system that is elsewhere, for all that Beam knows: shelf://folder/file."""

    @classmethod
    def scheme(cls) -> str:
        return "shelf"

    def _path_open(self, path: str, *arguments: object) -> object:
        return super()._path_open(path.removeprefix("shelf:/"), *arguments)

    def _list(self, folder: str) -> Iterator[FileMetadata]:
        for each in super()._list(folder.removeprefix("shelf:/")):
            yield FileMetadata(f"shelf:/{each.path}", each.size_in_bytes)

    def exists(self, path: str) -> bool:
        return super().exists(path.removeprefix("shelf:/"))

    def split(self, path: str) -> tuple[str, str]:
        return os.path.split(path)


@pytest.mark.parametrize("named", ["", "/other.keras"])
def test_images_and_model_may_lie_in_any_file_system_that_beam_knows(
    named: str, images: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (run / "other.keras").write_bytes((run / "best.keras").read_bytes())  # to which the calibration does not belong
    counts = score_one(f"shelf:/{images}/a name*", tmp_path, f"shelf:/{run}{named}")
    ((path, row),) = read(tmp_path, "faces").items()
    assert counts["answered"] == 1 and path.startswith("shelf://")
    assert (row["faces"][0]["age_interval"] is None) == (named == "/other.keras")


def test_the_parts_join_other_pipelines_and_count_for_their_runners(images: pathlib.Path, run: pathlib.Path) -> None:
    pipeline = beam.Pipeline("FnApiRunner")
    scored = pipeline | scoring.ReadImages(f"{images}/[!0-9]*") | scoring.ScoreImages(run, aligned=True)
    names = ["a name, with [wildcards]* and blanks.jpg", "élève 学生.jpg"]
    for output, expected in ((scored.faces, names), (scored.unreadable, BROKEN)):
        found = output | f"names {expected}" >> beam.Map(lambda row: pathlib.Path(row["image"]).name)
        assert_that(found, equal_to(list(expected)), label=f"{expected}")
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_namespace("agegender"))["counters"]
    counts = {each.key.metric.name: each.committed for each in counters}
    assert counts == {"photographs": 5, "answered": 2, "without_a_face": 0, "faces": 2, "unreadable": 3}


# What is wrong is said before anything runs.


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("*.tiff", "(of the script: --images) must match a image or more; of a folder, a file below it that "),
        ("album [2019]/*", "for a [ in the name of a folder write ?"),
        ("nothing", "of a folder, a file below it that ends in .avif, "),
        ("nowhere", "there is no such file or folder"),
    ],
)
def test_a_pattern_without_files_is_an_error(
    pattern: str, words: str, images: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=re.escape(words)):
        score_one(f"{tmp_path if pattern == 'nothing' else images}/{pattern}", tmp_path / "out", run)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["nope", "", "nope.keras", "shelf://nope"])
def test_a_model_that_is_not_there_is_an_error(model: str, images: pathlib.Path, tmp_path: pathlib.Path) -> None:
    there = model if "://" in model else f"{tmp_path}/{model}"
    with pytest.raises(FileNotFoundError, match=re.escape(f"no trained model at {there}. ")):
        scoring.score_images(images, tmp_path / "out", model=there)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--images={images}/*.tiff", "--out={out}"], "`pattern` (of the script: --images) must match"),
        (["--images={images}", "--out={run}/best.keras/out"], "best.keras/out"),
        (["--images={images}", "--out={out}", "--model={out}"], "no trained model at"),
        (["--images={images}", "--out={out}", "--batch_size=0"], "batch_size"),
    ],
)
def test_the_command_ends_with_2_and_one_line_if_there_is_nothing_to_do(
    flags: list[str], words: str, images: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    given = [each.format(images=images, out=tmp_path / "out", run=run) for each in (f"--model={run}", *flags)]
    command = [sys.executable, "-m", "experiments.score_images", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    *_, last = done.stderr.splitlines()
    assert done.returncode == 2 and last.startswith("score_images: ") and words in last
    assert "Traceback" not in done.stderr and list(tmp_path.iterdir()) == []


def test_a_finished_run_is_not_written_over(images: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "counts.json").write_text("{}")
    with pytest.raises(ValueError, match="`out` must not hold a finished run"):
        score_one(f"{images}/*", tmp_path, run)


def test_a_folder_for_the_answers_has_no_wildcards(images: pathlib.Path, run: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="`out` must have none of"):
        score_one(f"{images}/*", pathlib.Path("runs/[1]"), run)


def test_a_model_in_memory_or_no_batch_is_an_error(tiny_trunk: keras.Model) -> None:
    with pytest.raises(ValueError, match="`model` must be a path or None"):
        scoring.ScoreImages(tiny_trunk)
    with pytest.raises(ValueError, match="`batch_size` must be 1 or more"):
        scoring.ScoreImages(batch_size=0)


def test_missing_photographs_fail_the_pipeline(
    images: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = scoring._Score.process
    monkeypatch.setattr(scoring._Score, "process", lambda score, batch: list(process(score, batch))[1:])
    with pytest.raises(RuntimeError, match="answered and unreadable must add up to photographs"):
        score_one(f"{images}/*", tmp_path, run)
    assert not (tmp_path / "counts.json").exists()
