"""Runs the examples: the tutorial cell by cell, the script on a folder of drawn photographs."""

import ast
import csv
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from PIL import Image

import agegender
from agegender.synthetic.faces import draw_people
from examples import webcam

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
NOTEBOOK = json.loads((EXAMPLES / "tutorial.ipynb").read_text(encoding="utf-8"))
HEADINGS = [
    *("GPU set-up", "Looking at the data", "Split", "Augmentation", "VGGFace trunk", "Unfreezing", "Heads", "Compile"),
    *("Train", "Curves", "Save", "Test on images", "What it is not for"),
]
# Like Jupyter: all cells in one namespace, showing the last expression of each.
RUNNER = """
import ast, json, pathlib

space = {"__name__": "__main__"}
for cell in json.loads(pathlib.Path("tutorial.ipynb").read_text())["cells"]:
    if cell["cell_type"] == "code":
        print(f"[{cell['id']}]", flush=True)
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, cell["id"], "exec"), space)
        shown = last and eval(compile(ast.Expression(last.value), cell["id"], "eval"), space)
        if hasattr(shown, "_repr_png_"):
            print(f"[image of {cell['id']}: {len(shown._repr_png_())} bytes]")
print(f"[run: {space['run']}]")
"""


def python(*arguments: str | pathlib.Path, folder: pathlib.Path) -> subprocess.CompletedProcess:
    """Runs Python in a folder, which also serves for temporary files."""
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TMPDIR": str(folder)}
    environ.pop("AGEGENDER_MODEL", None)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=600)


def test_tutorial_has_the_headings_of_the_notebook() -> None:
    sources = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown"]
    lines = [line for source in sources for line in source.splitlines()]
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == HEADINGS


def test_tutorial_has_little_code_under_each_heading() -> None:
    lines = dict.fromkeys(HEADINGS, 0)
    heading = ""
    for cell in NOTEBOOK["cells"]:
        words = "".join(cell["source"])
        if cell["cell_type"] == "code":
            lines[heading] += sum(not isinstance(line, ast.Import | ast.ImportFrom) for line in ast.parse(words).body)
        elif words.startswith("## "):
            heading = words.splitlines()[0].removeprefix("## ")
    assert lines.pop("What it is not for") == 0 and all(1 <= count <= 15 for count in lines.values()), lines


def test_tutorial_is_small_and_has_no_outputs() -> None:
    cells = NOTEBOOK["cells"]
    assert (EXAMPLES / "tutorial.ipynb").stat().st_size < 60_000
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert NOTEBOOK["nbformat"] == 4 and NOTEBOOK["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.slow
def test_tutorial_runs_from_top_to_bottom(tmp_path: pathlib.Path) -> None:
    shutil.copy(EXAMPLES / "tutorial.ipynb", tmp_path)
    done = python("-c", RUNNER, folder=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    images = ("look", "faces", "augmentation", "curves", "photograph", "released")
    assert all(f"[image of {cell}: " in done.stdout for cell in images)
    assert "gender accuracy" in done.stdout and "400 kept, 0 skipped" in done.stdout
    run = pathlib.Path(done.stdout.rpartition("[run: ")[2].strip().removesuffix("]"))
    assert run.is_relative_to(tmp_path)
    assert {"run.json", "best.keras", "last.keras", "curves.png", "report"} <= {path.name for path in run.iterdir()}


def test_tutorial_uses_existing_names() -> None:
    """The short form of the next test: every attribute of agegender that the cells use exists."""
    code = "\n".join("".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")
    names = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ag"
    }
    assert names <= {*agegender.__all__, "__file__"} and "train" in names
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("agegender."):
            assert all(hasattr(importlib.import_module(node.module), alias.name) for alias in node.names)


BAD = {
    "torn.png": (("30", "male"), "not an image"),
    "missing.png": (("30", "male"), "there is no such file"),
    "nobody.png": (("30", "male"), "no faces were found; an image must show one"),
    "couple.png": (("30", "male"), "2 faces were found; an image must show one"),
    "0.png": (("117", "male"), "Received: age='117'"),
    "1.png": (("-1", "female"), "Received: age='-1'"),
    "2.png": (("thirty", "male"), "Received: age='thirty'"),
    "3.png": (("30", "1"), "Received: gender='1'"),
    "": (("30", "male"), "is a folder"),
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(40):
        _draw(folder / f"{index}.png", (5 + 2 * index, index % 2, index % 5, index))
    _draw(folder / "couple.png", (23, 1, 4, 39), (47, 0, 3, 36))
    Image.new("RGB", (100, 100), "grey").save(folder / "nobody.png")
    (folder / "torn.png").write_bytes(b"\x89PNG")
    return folder


def _draw(path: pathlib.Path, *people: tuple[int, int, int, int]) -> None:
    Image.fromarray(draw_people(people, size=100)).save(path)


def write_table(path: pathlib.Path, rows: list[tuple[str, ...]], columns: tuple[str, ...]) -> pathlib.Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def train(images: pathlib.Path, labels: pathlib.Path, *more: str) -> subprocess.CompletedProcess:
    folder = labels.parent
    arguments = (f"--images={images}", f"--labels={labels}", f"--out={folder / 'out'}", *more)
    return python(EXAMPLES / "your_own_faces.py", *arguments, folder=folder)


@pytest.mark.slow
def test_your_own_faces_trains_on_usable_rows(photographs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    good = [(f"{index}.png", str(5 + 2 * index), ("male", "female")[index % 2], "Indian") for index in range(40)]
    bad = [(name, *labels, "") for name, (labels, _) in BAD.items()]
    bad.append(("4.png", "13", "male", "Martian"))
    table = write_table(tmp_path / "labels.csv", good + bad, ("file", "age", "gender", "race"))
    done = train(photographs, table, "--epochs=1", "--batch_size=8")
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = [line for line in done.stdout.splitlines() if line.startswith("Skipped row ")]
    for row, reason in enumerate([*(reason for _, reason in BAD.values()), "Received: race='Martian'"], len(good) + 1):
        assert any(line.startswith(f"Skipped row {row}: ") and reason in line for line in skipped), reason
    used = len(good + bad) - len(skipped)
    assert used >= 30 and f"{used} of {len(good + bad)} images are usable" in done.stdout
    faces = sorted((tmp_path / "out" / "faces").iterdir())
    assert len(faces) == used
    with Image.open(faces[0]) as face:
        assert face.size == (200, 200)
    assert json.loads((tmp_path / "out" / "run" / "report" / "report.json").read_text())["count"] >= 1
    with Image.open(tmp_path / "out" / "answer.png") as answer, Image.open(photographs / "0.png") as photograph:
        assert answer.size == photograph.size
    again = train(photographs, table)
    assert again.returncode == 2 and "without a finished run" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("columns", [("file", "age", "sex"), ("file;age;gender",)])
def test_missing_column_is_an_error(columns: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    table = write_table(tmp_path / "labels.csv", [], columns)
    done = train(tmp_path, table)
    assert done.returncode == 2 and "Missing: [" in done.stderr and f"Found: {list(columns)}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_no_usable_row_is_an_error(photographs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    rows = [("nobody.png", "30", "male"), ("torn.png", "30", "female")]
    table = write_table(tmp_path / "labels.csv", rows, ("file", "age", "gender"))
    done = train(photographs, table)
    assert done.returncode == 2 and "Received: 2 rows, all skipped" in done.stderr
    assert done.stdout.count("Skipped row ") == 2 and not (tmp_path / "out" / "prepared").exists()


def test_webcam_draws_each_frame_of_a_video_file(tmp_path: pathlib.Path) -> None:
    people = np.asarray(draw_people([(30, 1, 2, 1)], size=120))
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, people.shape[1::-1])
    for _ in range(3):
        film.write(people[..., ::-1].copy())
    film.release()
    webcam.main(str(tmp_path / "film.avi"), str(tmp_path / "drawn.mp4"))
    drawn = list(webcam.read_all(cv2.VideoCapture(str(tmp_path / "drawn.mp4"))))
    assert [frame.shape for frame in drawn] == [people.shape] * 3
    original = people[..., ::-1].astype("float64")
    expected = np.asarray(agegender.Predictor().draw(people))[..., ::-1].astype("float64")
    label = np.abs(expected - original).max(axis=-1) > 60
    assert label.sum() > 1_000
    off, unchanged = (np.abs((each - expected)[label].mean(axis=0)).max() for each in (drawn[2], original))
    assert off < 15 < 30 < unchanged  # compressed twice
    with pytest.raises(SystemExit, match=r"OpenCV cannot open .*gone\.mp4"):
        webcam.main(str(tmp_path / "gone.mp4"))
    with pytest.raises(SystemExit, match=r"OpenCV cannot write .*gone/drawn\.mp4"):
        webcam.main(str(tmp_path / "film.avi"), str(tmp_path / "gone" / "drawn.mp4"))


def test_webcam_drops_frames_that_came_while_one_was_drawn() -> None:
    class Camera:
        """Has a frame every 5 ms, each with its number, and 60 in all."""

        number = -1

        def read(self) -> tuple[bool, np.ndarray | None]:
            time.sleep(0.005)
            self.number += 1
            return self.number < 60, np.full(1, self.number) if self.number < 60 else None

    camera, late = Camera(), []
    for frame in webcam.read_newest(camera):
        late.append(camera.number - int(frame[0]))
        time.sleep(0.04)
    assert 1 < len(late) < 60 and max(late) <= 1
