"""The README: what it says to type is typed, section by section, in a folder where what it names is there."""

import ast
import configparser
import pathlib
import re
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
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

# What is run in the place of what would take a network or hours.
REPLACED = {
    'weights="vggface", trainable="last_block"': 'weights=None, trainable="all", width=1 / 64',
    "epochs=30": "epochs=1",
}
# Commands of which only the words are checked, and why.
PARSED = {
    "experiments.train": "joint.py wants the published weights and a GPU; experiments_test.py trains",
    "experiments.score_images": "its four processes take a minute to start; beam_test.py runs them",
}
PARSE = """
import importlib, sys
from absl import flags

importlib.import_module(sys.argv[1])
rest = flags.FLAGS(sys.argv[1:])[1:]
if "config" in flags.FLAGS:
    flags.FLAGS.config.epochs  # a file that is not there is an error only now
if rest:
    from apache_beam.options.pipeline_options import PipelineOptions

    unknown = {word.strip("-").partition("=")[0] for word in rest} - set(PipelineOptions([]).get_all_options())
    assert not unknown, unknown
"""
# What is true when the blocks of a section have run: `found` counts in what they printed, `shown` has the values of
# their expressions, and all other names are those of the blocks.
CLAIMS = {
    "Two commands": ["found('-m experiments.train ') == 4", "found('-m pytest ') == 1"],
    "In Python": [
        "found('^gender accuracy') >= 1 and found('^[(].*male') == 2",
        "there('runs/1/run.json', 'runs/1/evaluation-test/report.html')",
        "alike('docs/party.jpg')",
    ],
    "Where is ...?": ["list(model.output) == ['age']", "set(train.element_spec[1]) == {'age'}"],
    "From a photograph to an answer": [
        "found('^party.jpg: 2 faces') == 1 and found('^faces/.*: 1 face') == 3",
        "found('faces.: .{') == 2 and found('error.: .is no image') == 1",
        "found('^album/party.jpg,[12],') == 2 and there('drawn/party-faces.jpg')",
        "found('^album/party.jpg [(].*male') == 2 and there('party-faces.jpg')",
    ],
    "The web page": ["found('^http://127.0.0.1:7860 runs/1$') == 1", "'http://127.0.0.1:7860;' in readme"],
    "For other programs": [
        "there('runs/1/saved_model', 'runs/1/model.onnx', 'runs/1/model-float16.tflite', 'runs/1/model-int8.tflite')",
        "set(answers) == {'age', 'gender', 'age_low', 'age_high'} and answers['age'].shape == (1, 1)",
    ],
    "Millions of photographs": [],
    "The data set": ["[len(next(iter(batches))[0]) for batches in shown] == [64, 4, 64, 64]", "there('runs/look')"],
    "How to cite": ["'version = {%s}' % ag.__version__ in cited", "cited.count('  title = {') == 3"],
}


def find_blocks() -> dict[str, list[tuple[str, str]]]:
    """The fenced blocks below each heading: language and text."""
    found: dict[str, list[tuple[str, str]]] = {}
    heading = ""
    for part in re.split(r"^(```.*?^```)$", README, flags=re.MULTILINE | re.DOTALL):
        if part.startswith("```"):
            language, _, text = part.strip("`").partition("\n")
            found.setdefault(heading, []).append((language, text))
        else:
            heading = [heading, *headings(part)][-1]
    return found


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


BLOCKS = find_blocks()


@pytest.fixture(scope="module")
def belongings(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What the README names: photographs, one of them broken, faces, the scripts of a clone, data, and a run."""
    folder = tmp_path_factory.mktemp("belongings")
    for name in ("album", "more/of/them", "faces", "runs/1", "docs", "data"):
        (folder / name).mkdir(parents=True)
    rows = [{"age": 21 + n % 40, "gender": n % 2, "race": n % 5, "fold": n % 5} for n in range(100)]
    prepare(folder / "data", {"train": rows, "validation": rows[:10], "test": rows[:20]})
    photograph = Image.fromarray(draw_people([(23, 1, 4, 39), (47, 0, 3, 36)]))
    for name in ("party.jpg", "face.jpg", "album/party.jpg", "more/of/them/party.jpg"):
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
    known = ag.Calibration(coverage=0.9, ages=(0, 100), low=(0, 80), high=(10, 116), temperature=2.0, count=500)
    known.save(folder / "runs/1")
    return folder


@pytest.fixture
def place(belongings: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder of one's own to be in, with the data set where TFDS looks for it."""
    folder = shutil.copytree(belongings, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("AGEGENDER_MODEL", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder / "data"))
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(folder / "data"))
    monkeypatch.setattr("agegender.server.serve", lambda run, *, host, port, **_: print(f"http://{host}:{port} {run}"))
    return folder


def run_python(code: str, space: dict[str, Any]) -> None:
    for old, new in REPLACED.items():
        code = code.replace(old, new)
    if 'workdir="runs/1"' in code:  # it makes its own
        shutil.rmtree("runs/1")
    for statement in ast.parse(code).body:
        if isinstance(statement, ast.Expr):
            expression = compile(ast.Expression(statement.value), "README.md", "eval")
            space["shown"].append(eval(expression, space))
        else:
            exec(compile(ast.Module([statement], []), "README.md", "exec"), space)


def run_shell(text: str) -> None:
    for line in text.replace("\\\n", "").splitlines():
        command, _, others = line.partition("  # or ")
        run_line(shlex.split(command, comments=True))
        for other in filter(None, others.split(", ")):  # `--format=one  # or another`
            run_line(shlex.split(re.sub(r"(--\w+)=\S+", rf"\1={other}", command)))


def run_line(words: list[str]) -> None:
    match words:
        case []:  # a remark
            pass
        case ["make", *targets]:
            make(targets)
        case ["pip", "install", "--editable", package]:
            extras = configparser.ConfigParser()
            extras.read(ROOT / "setup.cfg")
            assert package.removeprefix(".[").removesuffix("]") in extras["options.extras_require"]
        case ["agegender", *arguments]:
            assert cli.main(arguments) == (1 if "album/" in words else 0)  # 1: some image could not be used
        case ["python", "-m", module, *arguments]:
            start = ["-c", PARSE, module] if module in PARSED else ["-m", module]
            run([sys.executable, *start, *arguments], pathlib.Path.cwd())
        case _:
            pytest.fail(f"no test runs {words}")


def run(command: list[str], folder: pathlib.Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout)
    return done.stdout


def make(words: list[str]) -> None:
    """What make would do, and that it knows the variables and has the config; nothing is made."""
    folder = str(pathlib.Path.cwd() / "faces")
    said = run(["make", "--dry-run", *(word.replace("FOLDER", folder) for word in words)], ROOT)
    for variable in (word.partition("=")[0] for word in words if "=" in word):
        assert re.search(rf"^{variable} \?=", MAKEFILE, re.MULTILINE)
    assert all((ROOT / config).is_file() for config in re.findall(r"--config=(\S+)", said))
    assert "UTKFACE=FOLDER" not in words or f'--manual_dir="{folder}"' in said


@pytest.mark.parametrize("heading", BLOCKS)
def test_what_a_section_says_to_type_does_what_it_says(
    heading: str, place: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = np.stack([np.asarray(Image.open(path)) for path in sorted((place / "faces").iterdir())])
    space: dict[str, Any] = {
        **{"ag": ag, "readme": README, "shown": [], "cited": "", "aligned_faces": faces, "faces_64px": faces},
        "there": lambda *files: all((place / file).exists() for file in files),
        "alike": lambda file: difference(place / file, ROOT / file) < 0.3,
    }
    for language, text in BLOCKS[heading]:
        match language:
            case "python":
                run_python(text, space)
            case "sh":
                run_shell(text)
            case "bibtex":
                space["cited"] += text
            case _:
                pytest.fail(f"no test runs a block of {language or 'no language'}")
    said = capsys.readouterr().out
    space["found"] = lambda pattern: len(re.findall(pattern, said, re.MULTILINE))
    for claim in CLAIMS[heading]:
        assert eval(claim, space), f"{claim}\n{said[-3000:]}"


def difference(one: pathlib.Path, other: pathlib.Path) -> float:
    """Between two images, in grey levels on average: the last digit of a guess may differ between machines.

    One digit changed is 0.11, one in each of four faces 0.42.
    """
    with Image.open(one) as first, Image.open(other) as second:
        assert first.size == second.size
        return float(np.abs(np.asarray(first, "float32") - np.asarray(second, "float32")).mean())


def test_every_section_with_a_block_is_claimed_and_what_is_replaced_is_there() -> None:
    assert set(CLAIMS) == set(BLOCKS)
    assert [README.count(old) for old in REPLACED] == [1] * len(REPLACED)
    assert all(README.count(f"python -m {module} ") == 1 for module in PARSED)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https:)([^)]+)\)", README))))
def test_a_link_leads_to_a_file_and_to_a_heading_of_it(target: str) -> None:
    name, _, anchor = target.partition("#")
    path = ROOT / (name or "README.md")
    assert path.exists()
    if anchor:
        titles = headings(path.read_text(encoding="utf-8"))
        assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "wanted", ["another trunk", "your own images", "a GPU", "an age-only model", "serving", "the reference"]
)
def test_what_people_look_for_is_named_with_the_place_where_it_is_told(wanted: str) -> None:
    (place,) = re.findall(rf"^\| {wanted} \| (.+) \|$", README, re.MULTILINE)
    assert re.search(r"\]\(\S+\)", place)


def test_the_image_is_small_and_shown_at_the_top() -> None:
    assert README.index("(docs/party.jpg)") < README.index("\n## ")
    assert (ROOT / "docs" / "party.jpg").stat().st_size < 80_000
