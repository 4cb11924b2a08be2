"""Runs the commands and code blocks of README.md and docs/, and checks links, modules and citation.

Blocks of one document run in order, in a folder that contains what they name. The slow form also runs the scripts.
Blocks of ```sh not run``` need a cluster or your own images. docs/serving.md is tested in tests/server, BUILD.md by CI.
"""

import configparser
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from tiny_utkface import prepare

import agegender as ag
from agegender import cli
from agegender.synthetic.faces import draw_people
from tests.conftest import make_tiny_trunk

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = {
    path.name: path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if path.name not in ("serving.md", "releasing.md")
}
BLOCKS = {
    name: re.findall(r"^```(\w.*)\n((?s:.*?))^```$", text, re.MULTILINE)
    for name, text in DOCUMENTS.items()
    if re.search(r"^```(python|sh)$", text, re.MULTILINE)
}
SLOW = ("export.md", "training.md")  # convert to four formats; train two trunks
# Small values that replace those which need a network or hours.
SMALLER = {
    'weights="vggface", trainable="last_block"': 'weights=None, trainable="all", width=1 / 64',
    "width=0.25": "width=1 / 64",
    "image_size=200": "image_size=48",
    "batch_size=64": "batch_size=64, image_size=48",
    "batch_size=64, image_size=48, image_size=64": "batch_size=64, image_size=64",
    "epochs=30": "epochs=2",
    "epochs=24": "epochs=1",
    "image_sizes=[(10, 48)]": "image_sizes=[(1, 48)]",
}
SMALLER_FLAGS = {
    "experiments.train": [
        *("--config.trunk.width=0.0625", "--config.train.steps_per_epoch=2", "--config.data.batch_size=8"),
        *("--config.train.epochs=2", "--data_dir=data"),
    ],
    "experiments.evaluate": ["--data_dir=data"],
    "experiments.calibrate": ["--data_dir=data"],
    "experiments.explore": ["--data_dir=data"],
    "experiments.release": ["--data_dir=data"],
}


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Photographs, one of them broken, aligned faces, prepared data, a run, and the scripts."""
    folder = tmp_path_factory.mktemp("contents")
    for name in ("album", "more/subfolder", "faces", "runs/1", "data"):
        (folder / name).mkdir(parents=True)
    rows = [{"age": 21 + n % 40, "gender": n % 2, "race": n % 5, "fold": n % 5} for n in range(100)]
    prepare(folder / "data", {"train": rows, "validation": rows, "test": rows[:20]})
    photograph = Image.fromarray(draw_people([(23, 1, 4, 39), (47, 0, 3, 36)]))
    for name in ("photo.jpg", "face.jpg", "album/photo.jpg", "more/subfolder/photo.jpg"):
        photograph.save(folder / name)
    (folder / "album" / "text.jpg").write_text("no image")
    ag.write_faces(folder / "aligned", 100, size=64)
    for path in sorted((folder / "aligned").iterdir())[:3]:
        shutil.copy(path, folder / "faces")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    keras.utils.set_random_seed(4)
    model, random = ag.build_model(make_tiny_trunk(64)), np.random.default_rng(4)
    for weight in model.trainable_weights:  # new heads answer the same for every image
        weight.assign(weight + random.normal(scale=0.02, size=weight.shape))
    model.save(folder / "runs/1/best.keras")
    ag.Calibration(coverage=0.9, ages=(0, 100), low=(0, 80), high=(10, 116), temperature=2.0, count=500).save(
        folder / "runs/1"
    )
    return folder


@pytest.fixture
def place(contents: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Changes into a copy of the contents; TFDS finds the data set there."""
    folder = shutil.copytree(contents, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder / "data"))
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(folder / "data"))
    return folder


def run_document(name: str, place: pathlib.Path, monkeypatch: pytest.MonkeyPatch, *, scripts: bool) -> dict[str, Any]:
    if name == "README.md":
        monkeypatch.delenv("AGEGENDER_MODEL", raising=False)  # the released model, as a user gets it
    else:
        monkeypatch.setenv("AGEGENDER_MODEL", str(place / "runs/1"))
    faces = np.stack([np.asarray(Image.open(path)) for path in sorted((place / "faces").iterdir())])
    space: dict[str, Any] = {"faces_64px": faces, "images": faces}
    for language, text in BLOCKS[name]:
        if language == "python":
            for old, new in SMALLER.items():
                text = text.replace(old, new)
            if 'workdir="runs/1"' in text:
                shutil.rmtree("runs/1")
            exec(compile(text, name, "exec"), space)
        elif language == "sh":
            for line in text.replace("\\\n", "").splitlines():
                run_line(shlex.split(line, comments=True), scripts=scripts)
    return space


def run_line(words: list[str], *, scripts: bool) -> None:
    match words:
        case []:
            pass
        case ["make", *arguments]:
            check_make(arguments)
        case ["pip", "install", *packages]:
            extras = configparser.ConfigParser()
            extras.read(ROOT / "setup.cfg")
            (extra,) = re.findall(r"\[(\w+)\]", " ".join(packages)) or [None]
            assert extra is None or extra in extras["options.extras_require"]
        case ["cd", "datasets", "&&", "tfds", "build", "utkface", "--manual_dir=FOLDER"]:
            pass  # the fixture `prepared` of tests/conftest.py runs it
        case ["agegender", "serve", *_]:
            pass  # tests/server/serving_doc_test.py
        case ["agegender", *arguments]:
            assert cli.main(arguments) == (1 if "album/" in words else 0)  # 1: some images could not be used
        case ["python", "-m", module, *arguments]:
            assert (ROOT / f"{module.replace('.', '/')}.py").exists()
            if scripts:
                before, after = split_at_dashes(arguments)
                run([sys.executable, "-m", module, *before, *SMALLER_FLAGS.get(module, []), *after])
        case _:
            pytest.fail(f"no test runs {words}")


def split_at_dashes(arguments: list[str]) -> tuple[list[str], list[str]]:
    index = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:index], arguments[index:]


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def check_make(arguments: list[str]) -> None:
    """Checks that make knows targets, variables and config; nothing is made."""
    folder = str(pathlib.Path.cwd() / "faces")
    output = run(["make", "-C", str(ROOT), "--dry-run", *(word.replace("FOLDER", folder) for word in arguments)])
    assert all((ROOT / config).is_file() for config in re.findall(r"--config=(\S+)", output))
    assert "UTKFACE=FOLDER" not in arguments or f'--manual_dir="{folder}"' in output


@pytest.mark.parametrize("name", [each for each in BLOCKS if each not in SLOW])
def test_code_and_commands_run(
    name: str, place: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_document(name, place, monkeypatch, scripts=False)
    output = capsys.readouterr().out
    if name == "README.md":
        assert len(re.findall(r"^photo.jpg: 2 faces", output, re.MULTILINE)) == 1
        assert (place / "drawn/photo-faces.jpg").exists() and (place / "runs/1/best.keras").exists()
    if name == "prediction.md":
        assert (place / "photo-faces.jpg").exists() and (place / "four.jpg").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_code_commands_and_scripts_run(name: str, place: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = run_document(name, place, monkeypatch, scripts=True)
    if name == "export.md":
        assert set(space["answers"]) == {"age", "gender", "age_low", "age_high"}
    if name == "prediction.md":
        assert (place / "runs/scored/counts.json").exists()
    if name == "training.md":
        assert (place / "models/mine/best.keras").exists() and (place / "runs/2/evaluation-test").is_dir()


def test_replacements_are_still_in_the_documents() -> None:
    text = "".join(DOCUMENTS.values())
    assert all(old in text for old in SMALLER if "image_size=48" not in old)


def headings(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


LINKED = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    ROOT / "agegender/released/README.md",
    ROOT / "datasets/utkface/README.md",
]


@pytest.mark.parametrize("path", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not anchor or anchor in headings(file.read_text(encoding="utf-8")), target


NAMING = [
    *(path for path in LINKED if "measurements" not in path.parts),  # measurements name what is gone, too
    *(
        path
        for folder in ("agegender", "benchmarks", "datasets", "examples", "experiments")
        for path in (ROOT / folder).rglob("*.py")
    ),
    ROOT / "setup.cfg",
    ROOT / "Makefile",
]


@pytest.mark.parametrize("path", NAMING, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_in_documents_and_docstrings_exist(path: pathlib.Path) -> None:
    folders = "agegender|benchmarks|datasets|docs|examples|experiments|tests"
    for name in re.findall(
        rf"(?<![\w/.])(?:{folders})/[\w/]+\.(?:py|md|csv|ipynb|cfg)\b", path.read_text(encoding="utf-8")
    ):
        assert (ROOT / name).is_file() or "NAME" in name, name


def test_readme_is_short_and_shows_a_small_image() -> None:
    words = re.sub(r"^```bibtex.*?^```", "", DOCUMENTS["README.md"], flags=re.MULTILINE | re.DOTALL).split()
    assert len(words) <= 900
    assert DOCUMENTS["README.md"].index("(docs/party.jpg)") < DOCUMENTS["README.md"].index("\n## ")
    assert (ROOT / "docs" / "party.jpg").stat().st_size < 80_000


def test_citation_has_the_version() -> None:
    assert f"version = {{{ag.__version__}}}" in DOCUMENTS["README.md"]


def test_package_names_all_licence_files() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    named = {ROOT / name for name in config["metadata"]["license_files"].split()}
    assert named == {ROOT / "LICENSE", *(ROOT / "agegender").rglob("LICENSE")}


def test_every_guide_is_linked_from_the_readme() -> None:
    assert all(f"](docs/{path.name})" in DOCUMENTS["README.md"] for path in (ROOT / "docs").glob("*.md"))


def test_architecture_lists_the_modules() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "build.py"))["list_modules"]()
    assert made in DOCUMENTS["architecture.md"], "run: python docs/build.py modules"
