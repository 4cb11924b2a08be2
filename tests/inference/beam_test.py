"""The Beam pipeline gives the answers of `Predictor`, and its counts add up."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import keras
import numpy as np
import pytest
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem
from apache_beam.testing.util import assert_that, equal_to
from conftest import SIZE, make_tiny_trunk
from PIL import Image

import agegender as ag
from agegender.inference import beam as scoring
from agegender.inference.images import ImageError

ROOT = pathlib.Path(__file__).parents[2]
COUNT = 6
BROKEN = ("cut short.jpg", "empty.jpg", "text.jpg")
ODD_NAME = "élève, with {braces} 学生.jpg"
CALIBRATION = ag.Calibration(
    coverage=0.9, ages=(0.0, 100.0), low=(0.0, 80.0), high=(10.0, 116.0), temperature=2.0, count=500, flip=True
)
Rows = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a run, whose answers differ from face to face, with a calibration that flips."""
    folder = tmp_path_factory.mktemp("run")
    keras.utils.set_random_seed(2)
    model, random = ag.build_model(make_tiny_trunk()), np.random.default_rng(2)
    for weight in model.trainable_weights:
        weight.assign(weight + random.normal(scale=0.05, size=weight.shape))
    model.save(folder / "best.keras")
    CALIBRATION.save(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of faces, files that are not images, and a hidden file."""
    folder = tmp_path_factory.mktemp("images")
    ag.write_faces(folder, COUNT, size=SIZE, seed=4)
    first, second, third = sorted(folder.iterdir())[:3]
    first.rename(folder / ODD_NAME)
    (folder / "more").mkdir()
    second.rename(folder / "more/FACE.JPG")
    (folder / BROKEN[0]).write_bytes(third.read_bytes()[:200])
    (folder / BROKEN[1]).write_bytes(b"")
    (folder / BROKEN[2]).write_text("This is no image.")
    (folder / "notes.txt").write_text("Not an image.")
    (folder / ".hidden.jpg").write_bytes(third.read_bytes())
    return folder


def read_rows(folder: pathlib.Path, name: str) -> Rows:
    lines = [line for shard in folder.glob(f"{name}-*-of-*.jsonl") for line in shard.read_text().splitlines()]
    rows = {row["image"]: row for row in map(json.loads, lines)}
    assert len(rows) == len(lines), "no image may be written twice"
    return rows


def assert_equals_predictor(out: pathlib.Path, run: pathlib.Path, images: pathlib.Path) -> None:
    answers = ag.Predictor(run, aligned=True)(images)
    faces, unreadable = read_rows(out, "faces"), read_rows(out, "unreadable")
    expected = [each for each in answers if not isinstance(each, ImageError)]
    assert len(expected) == COUNT and set(faces) == {each.source for each in expected}
    for each in expected:
        row, face = faces[each.source]["faces"][0], each[0].to_dict()
        for number in ("age", "p_female", "age_interval"):
            assert row.pop(number) == pytest.approx(face.pop(number), rel=1e-5)
        assert row == json.loads(json.dumps(face))
    assert {name: row["error"] for name, row in unreadable.items()} == {
        each.source: each.reason for each in answers if isinstance(each, ImageError)
    }
    assert json.loads((out / "counts.json").read_text()) == {
        "photographs": COUNT + 4, "answered": COUNT, "without_a_face": 0, "faces": COUNT, "unreadable": 4
    }  # fmt: skip


def test_a_folder_is_scored_as_by_the_predictor(
    images: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    infer = scoring._PredictorHandler.run_inference
    monkeypatch.setattr(
        scoring._PredictorHandler,
        "run_inference",
        lambda self, batch, *rest: (sizes.append(len(batch)), infer(self, batch, *rest))[1],
    )
    counts = scoring.score_images(images, tmp_path, model=run, batch_size=4, aligned=True)
    assert_equals_predictor(tmp_path, run, images)
    assert counts == json.loads((tmp_path / "counts.json").read_text())
    assert sum(sizes) == COUNT + 4 and max(sizes) == 4


def test_flip_overrides_the_calibration(images: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    scoring.score_images(f"{images}/*学生.jpg", tmp_path, model=run, aligned=True, flip=False)
    ((path, row),) = read_rows(tmp_path, "faces").items()
    plain, flipped = (ag.Predictor(run, flip=flip, aligned=True)(path)[0].age for flip in (False, None))
    assert row["faces"][0]["age"] == pytest.approx(plain, rel=1e-5)
    assert flipped != pytest.approx(plain, rel=1e-5)


def test_a_photograph_without_faces_is_answered(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    Image.new("RGB", (60, 40), "white").save(tmp_path / "blank.png")
    counts = scoring.score_images(tmp_path / "blank.png", tmp_path / "out", model=run)
    assert counts == {"photographs": 1, "answered": 1, "without_a_face": 1, "faces": 0, "unreadable": 0}
    (row,) = read_rows(tmp_path / "out", "faces").values()
    assert row == {"image": f"{tmp_path}/blank.png", "width": 60, "height": 40, "faces": []}


def test_odd_files_are_scored_or_named(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder, out = tmp_path / "odd", tmp_path / "out"
    folder.mkdir()
    face = Image.fromarray(ag.draw_face(30, 0, 1, size=SIZE, seed=1))
    for name in (b"caf\xe9", b"face.gz"):  # a name that is not UTF-8, and a suffix that lies
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            face.save(file, "PNG")
    (folder / "broken").symlink_to("/proc/self/mem")  # whose first bytes nobody may read
    with open(folder / "long", "wb") as file:
        file.truncate(scoring.MAX_BYTES + 1)
    scoring.score_images(f"{folder}/*", out, model=run, aligned=True)
    assert {pathlib.Path(name).name for name in read_rows(out, "faces")} == {"caf\\xe9", "face.gz"}
    reasons = {pathlib.Path(name).name: row["error"] for name, row in read_rows(out, "unreadable").items()}
    assert set(reasons) == {"broken", "long"} and reasons["broken"].startswith("cannot be read: ")
    assert "more than 600 MB" in reasons["long"]


class Remote(LocalFileSystem):
    """A file system that only Beam can read: remote://folder/file."""

    @classmethod
    def scheme(cls) -> str:
        return "remote"

    def _path_open(self, path: str, *arguments: object) -> object:
        return super()._path_open(path.removeprefix("remote:/"), *arguments)

    def _list(self, folder: str) -> Iterator[FileMetadata]:
        for each in super()._list(folder.removeprefix("remote:/")):
            yield FileMetadata(f"remote:/{each.path}", each.size_in_bytes)

    def exists(self, path: str) -> bool:
        return super().exists(path.removeprefix("remote:/"))

    def split(self, path: str) -> tuple[str, str]:
        return os.path.split(path)


@pytest.mark.parametrize("name", ["", "/other.keras"])
def test_images_and_model_may_be_remote(
    name: str, images: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (run / "other.keras").write_bytes((run / "best.keras").read_bytes())  # the calibration is not of this file
    scoring.score_images(f"remote:/{images}/*学生.jpg", tmp_path, model=f"remote:/{run}{name}", aligned=True)
    ((path, row),) = read_rows(tmp_path, "faces").items()
    assert path.startswith("remote://")
    assert (row["faces"][0]["age_interval"] is None) == (name == "/other.keras")


def test_transforms_join_other_pipelines(images: pathlib.Path, run: pathlib.Path) -> None:
    with beam.Pipeline("FnApiRunner") as pipeline:
        scored = pipeline | scoring.ReadImages(f"{images}/[!0-9]*.jpg") | scoring.ScoreImages(run, aligned=True)
        for output, expected in ((scored.faces, [".hidden.jpg", ODD_NAME]), (scored.unreadable, list(BROKEN))):
            names = output | f"Names {expected}" >> beam.Map(lambda row: pathlib.Path(row["image"]).name)
            assert_that(names, equal_to(expected), label=f"{expected}")


def test_missing_photographs_fail_the_pipeline(
    images: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = scoring._PredictorHandler.run_inference
    monkeypatch.setattr(scoring._PredictorHandler, "run_inference", lambda *arguments: list(complete(*arguments))[1:])
    with pytest.raises(RuntimeError, match="answered and unreadable must add up to photographs"):
        scoring.score_images(images, tmp_path, model=run, aligned=True)
    assert not (tmp_path / "counts.json").exists()


def test_invalid_tables_are_refused_before_scoring(
    images: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for pattern in (f"{images}/*.tiff", f"{tmp_path}/nowhere", f"{tmp_path}/empty"):
        with pytest.raises(ValueError, match=rf"must be a folder with files.*Received: pattern='{re.escape(pattern)}"):
            scoring.score_images(pattern, out, model=run)
    for model in (f"{tmp_path}/nope", f"{tmp_path}/nope.keras", "remote://nope"):
        with pytest.raises(FileNotFoundError, match=re.escape(f"no trained model at {model}. ")):
            scoring.score_images(images, out, model=model)
    with pytest.raises(ValueError, match="`out` must have none of"):
        scoring.score_images(images, tmp_path / "[1]", model=run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]
    (tmp_path / "counts.json").write_text("{}")
    with pytest.raises(ValueError, match="`out` must not contain a finished run"):
        scoring.score_images(images, tmp_path, model=run)
    with pytest.raises(ValueError, match="`model` must be a path or None"):
        scoring.ScoreImages(keras.Model())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`batch_size` must be 1 or more"):
        scoring.ScoreImages(batch_size=0)
    with pytest.raises(ValueError, match="Unexpected pipeline runner: NoRunner"):
        scoring.score_images(images, tmp_path, model=run, options=["--runner=NoRunner"])


# --- the command, in processes of its own


def make_command(images: pathlib.Path, run: pathlib.Path, out: pathlib.Path) -> list[str]:
    options = [f"--images={images}", f"--model={run}", f"--out={out}", "--aligned", "--batch_size=2"]
    workers = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    return [sys.executable, "-m", "experiments.score_images", *options, "--", *workers]


@pytest.mark.slow
def test_a_killed_command_starts_over(images: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out, pipe = tmp_path / "out", images / "pipe.jpg"
    os.mkfifo(pipe)  # one of the workers reads it for ever
    command = make_command(images, run, out)
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        while not list(out.glob("beam-temp-faces-*/*")):  # the other worker has started to write
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        pipe.unlink()
    assert all(path.name.startswith("beam-temp-") for path in out.iterdir())
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_equals_predictor(out, run, images)
    assert json.loads(done.stdout) == json.loads((out / "counts.json").read_text())


@pytest.mark.slow
def test_a_wrong_command_ends_with_2_and_one_line(tmp_path: pathlib.Path) -> None:
    command = make_command(tmp_path / "nowhere", tmp_path, tmp_path / "out")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("score_images: ")
    assert "Traceback" not in done.stderr
