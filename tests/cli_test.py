import csv
import functools
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

import agegender as ag
from agegender import cli, environment
from agegender.data.prepared import find_prepared
from agegender.export import export
from tests.conftest import make_tiny_trunk

ROOT = pathlib.Path(__file__).parent.parent
COMMAND = pathlib.Path(sys.executable).with_name("agegender")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    keras.utils.set_random_seed(3)
    ag.build_model(make_tiny_trunk()).save(folder / "best.keras")
    ag.Calibration(coverage=0.9, ages=(0, 100), low=(0, 80), high=(10, 116), temperature=2.0, count=500).save(folder)
    return str(folder)


@pytest.fixture
def album(tmp_path: pathlib.Path, couple: np.ndarray) -> pathlib.Path:
    """Two faces, one face, none, and a text."""
    folder = tmp_path / "album"
    folder.mkdir()
    Image.fromarray(couple).save(folder / "couple.png")
    Image.fromarray(couple[:, :180]).save(folder / "one.png")
    Image.new("RGB", (80, 60), "gray").save(folder / "wall.png")
    (folder / "text.jpg").write_text("no image")
    return folder


def test_words_say_the_faces_of_each_image(model: str, album: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "--model", model, str(album)]) == 1
    out, err = capsys.readouterr()
    counts = [line.split(": ")[1] for line in out.splitlines() if line.startswith(str(album))]
    assert counts == ["2 faces", "1 face", "no faces"]
    assert len([line for line in out.splitlines() if line.startswith("  ")]) == 3
    (line,) = [line for line in err.splitlines() if "text.jpg" in line]
    assert line == f"Not read, because they are not images: {album / 'text.jpg'}" and "could not be used" not in err


def test_files_that_are_not_images_share_one_line(
    model: str, album: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        (album / f"note{number:02}.txt").write_text("no image")
    (album / "damaged.png").write_bytes((album / "one.png").read_bytes()[:60])
    assert cli.main(["predict", "--aligned", "--model", model, str(album)]) == 1
    named, damaged, count = capsys.readouterr().err.splitlines()
    names = [str(album / f"note{number:02}.txt") for number in range(10)]
    assert named == f"Not read, because they are not images: {', '.join(names)} and 3 others"
    assert "damaged.png: cannot be read as an image" in damaged and count == "1 of 4 could not be used."


def test_json_is_one_array_with_errors_in_place(
    model: str, album: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", "--json", "--model", model, str(album)]) == 1
    answers = json.loads(capsys.readouterr().out)
    assert [pathlib.Path(answer["image"]).name for answer in answers] == [
        *("couple.png", "one.png", "text.jpg", "wall.png"),
    ]
    assert [len(answer["faces"]) if "faces" in answer else None for answer in answers] == [2, 1, None, 0]
    expected = [face.to_dict() for face in ag.Predictor(model)(album / "couple.png")]
    assert answers[0]["faces"][0]["age"] == pytest.approx(expected[0]["age"], rel=1e-5)
    assert answers[0]["faces"][0]["age_interval"] == pytest.approx(expected[0]["age_interval"], rel=1e-5)


def test_csv_has_a_row_a_face(model: str, album: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "--csv", "--model", model, str(album / "*.png"), str(album / "text.jpg")]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    names = [pathlib.Path(row["image"]).name for row in rows]
    assert names == ["couple.png", "couple.png", "one.png", "wall.png", "text.jpg"]
    assert [row["face"] for row in rows] == ["1", "2", "1", "", ""]
    assert rows[4]["error"].startswith("is not an image")


def test_all_is_well_without_a_broken_file(model: str, album: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "--aligned", "--model", model, str(album / "one.png")]) == 0
    out, err = capsys.readouterr()
    assert "one.png: 1 face\n  0,0,180,200  " in out and "could not" not in err


def test_drawings_overwrite_no_file(model: str, album: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in album.iterdir()}
    for _ in range(2):
        assert cli.main(["predict", "--draw", str(album), "--model", model, str(album / "couple.png")]) == 0
    new = sorted(path.name for path in set(album.iterdir()) - set(before))
    assert new == ["couple-faces-2.jpg", "couple-faces.jpg"]
    capsys.readouterr()
    assert cli.main(["predict", "--json", "--draw", str(album), "--model", model, str(album)]) == 1
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 4 and "3 drawn" in err and "2 skipped" in err  # drawn images are not read again
    assert all(path.read_bytes() == content for path, content in before.items())
    with Image.open(album / "couple-faces.jpg") as drawn:
        assert drawn.size == (360, 200)


def test_image_from_standard_input(model: str, album: pathlib.Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    command = [COMMAND, "predict", "--json", "--aligned", "--model", model, "-"]
    done = subprocess.run(command, input=(album / "one.png").read_bytes(), capture_output=True, env=environ, cwd=album)
    (answer,) = json.loads(done.stdout)
    assert done.returncode == 0 and answer["image"] == "standard input" and len(answer["faces"]) == 1
    assert done.stderr == b""  # nothing of what the libraries say of themselves


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (["gone.jpg"], "there is no such file or folder"),
        (["empty"], "contains no images"),
        (["*.tiff"], "matches no file"),
        (["huge.png"], "400,000,000 pixels"),
        (["nothing/"], "there is no such file or folder"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_unusable_images_are_named_with_exit_code_one(
    model: str, album: pathlib.Path, capsys: pytest.CaptureFixture[str], images: list[str], words: str
) -> None:
    from tests.inference.images_test import claims

    (album / "empty").mkdir()
    (album / "huge.png").write_bytes(claims(20_000, 20_000))
    paths = [str(album / image) for image in images]
    assert cli.main(["predict", "--json", "--model", model, *paths, str(album / "wall.png")]) == 1
    out, err = capsys.readouterr()
    assert words in err and words in json.loads(out)[0]["error"]
    assert cli.main(["predict", "--json", "--model", model, *paths]) == 2  # nothing could be done


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "--model", "{album}", "{album}"], "no trained model at"),
        (["predict", "--model", "{album}/text.jpg", "{album}"], "text.jpg"),
        (["predict", "{album}"], "There is no model at"),
        (
            ["predict", "--model", "{model}", "--min-face", "3", "{album}"],
            "`min_face` must be an integer of at least 20 (pixels)",
        ),
        (["predict", "--model", "{model}", "--batch-size", "0", "{album}"], "`batch_size` must be a whole number"),
        (["evaluate", "{model}", "--data-dir", "{album}"], "tfds build"),
        (["export", "{album}"], "no trained model at"),
        (["evaluate", "{model}", "--data-dir", "{prepared}", "--split", "test[:0%]"], "at least one image"),
        (["predict", "--model", "{model}", "--draw", "{album}/text.jpg", "{album}"], "--draw must be a folder"),
        (["predict", "--model", "{album}/damaged.keras", "{album}"], "damaged"),
        (["predict", "--model", "{album}/foreign.keras", "{album}"], "must be one from `build_model`"),
    ],
)
def test_errors_are_one_line_with_exit_code_two(
    model: str,
    album: pathlib.Path,
    prepared: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.setenv("AGEGENDER_MODEL", str(album / "none"))
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]).save(album / "foreign.keras")
    with zipfile.ZipFile(album / "damaged.keras", "w") as damaged:
        damaged.writestr("config.json", "{}")
    places = {"album": album, "model": model, "prepared": prepared}
    assert cli.main([argument.format(**places) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert words in err and f"agegender {arguments[0]}: " in err and "Traceback" not in err and not out


class Called(RuntimeError):
    """What a command calls, and with what."""


EVALUATE = "agegender.evaluation.evaluate.evaluate_run"
PHOTOGRAPHS = "agegender.evaluation.photographs.evaluate_photographs"
EXPORT = "agegender.export.export.export_model"


@pytest.mark.parametrize(
    ("target", "arguments", "given", "options"),
    [
        ("agegender.Predictor", "predict x", ["{model}"],
         {"batch_size": 64, "flip": None, "min_face": 40, "dtype": None}),
        ("agegender.Predictor", "predict --batch-size=8 --flip --min-face=30 --dtype=auto x", ["{model}"],
         {"batch_size": 8, "flip": True, "min_face": 30, "dtype": "auto"}),
        (EVALUATE, "evaluate", ["{model}", "test"],
         {"data_dir": None, "out": None, "flip": None, "batch_size": 64, "verbose": False}),
        (EVALUATE, "evaluate --data-dir=d --split=train --out=o --no-flip --batch-size=8", ["{model}", "train"],
         {"data_dir": "d", "out": pathlib.Path("o"), "flip": False, "batch_size": 8, "verbose": False}),
        (PHOTOGRAPHS, "evaluate --labels=a.csv --images=b --out=o", ["a.csv"],
         {"folder": "b", "out": pathlib.Path("o"), "predictor": "Predictor"}),
        (EXPORT, "export", ["{model}", "{model}/saved_model"],
         {"format": "saved_model", "flip": None, "images": None}),
        (EXPORT, "export --format=onnx_int8 --no-flip", ["{model}", "{model}/model-int8.onnx"],
         {"format": "onnx_int8", "flip": False, "images": None}),
        (EXPORT, "export --images={album}/one.png --out=o", ["{model}", "o"],
         {"format": "saved_model", "flip": None, "images": [(180, 200)]}),
    ],
)  # fmt: skip
def test_options_reach_what_does_the_work(
    model: str,
    album: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    arguments: str,
    given: list[str],
    options: dict,
) -> None:
    def fail(*values: object, **named: object) -> None:
        raise Called([str(value) for value in values], named)

    monkeypatch.setattr(target, fail)
    command, *rest = arguments.format(album=album).split()
    args = cli._parser().parse_args([command, "--model", model, *rest])
    with pytest.raises(Called) as called:
        args.run(args)
    values, named = called.value.args
    if images := named.get("images"):
        named["images"] = [image.size for image in images]
    if predictor := named.get("predictor"):
        named["predictor"] = type(predictor).__name__
    assert (values, named) == ([each.format(model=model) for each in given], options)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["predict"],
        ["guess"],
        ["predict", "--jason", "a.jpg"],
        ["predict", "--draw", "", "a.jpg"],
        ["evaluate", "--labels="],
        ["evaluate", "--out="],
        ["export", "--out="],
        ["export", "--format=x"],
    ],
)
def test_wrong_words_are_answered_with_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2 and "usage: agegender" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "command", "words"),
    [
        (ModuleNotFoundError(name="uvicorn.config"), "serve", "needs uvicorn: pip install 'agegender[server]'"),
        (ModuleNotFoundError(name="onnx"), "export", "needs onnx: pip install 'agegender[export]'"),
        (ModuleNotFoundError(name="keras"), "evaluate", "needs keras: pip install 'agegender[train]'"),
        (ModuleNotFoundError("pip install x", name="x"), "evaluate", "pip install x"),
        (FileNotFoundError(2, "No such file", "a.csv"), "evaluate", "a.csv: No such file"),
        (OSError(28, "No space left"), "export", "No space left"),
    ],
)
def test_errors_say_what_is_missing(error: Exception, command: str, words: str) -> None:
    assert cli._format_error(error, command) == words


def test_evaluate_writes_report(
    model: str, prepared: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", model, "--data-dir", str(prepared), "--split", "train", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    assert "MAE" in capsys.readouterr().out and (tmp_path / "report.html").is_file()
    report = json.loads((tmp_path / "report.json").read_text())
    images = find_prepared(prepared).info.splits["train"].num_examples
    assert images == report["count"] == len(ag.read_predictions(tmp_path / "predictions.csv")["age"])
    assert {"race", "age x race"} <= set(report["groups"])
    assert report["coverage"]["nominal"] == 0.9 and "after" in report["calibration"]


def test_an_interruption_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Interrupted()))
    assert cli.main(["predict", "-"]) == 130


QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_FORCE_GPU_ALLOW_GROWTH": "true", "TF_ENABLE_ONEDNN_OPTS": "1"}


def test_command_keeps_environment_variables_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in QUIET:
        monkeypatch.setenv(name, "the user's")
        monkeypatch.delenv(name)
    environment.set_environment()
    assert {name: os.environ[name] for name in QUIET} == QUIET
    for name in QUIET:
        monkeypatch.setenv(name, "0")
    environment.set_environment()
    assert {os.environ[name] for name in QUIET} == {"0"}


@pytest.mark.parametrize(
    ("variable", "configured", "message"),
    [
        ("mxnet", None, r"backend must be one of .* Received: 'mxnet', from KERAS_BACKEND"),
        ("torch", None, r"backend is torch \(from KERAS_BACKEND\), which is not installed: pip install torch"),
        ("", "torch", r"backend is torch \(from .*/keras\.json\), which is not installed: pip install torch"),
        ("", None, r"backend is tensorflow .from its default., .* pip install 'agegender\[train\]'"),
    ],
)
def test_missing_backend_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, variable: str, configured: str | None, message: str
) -> None:
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: name if name == "keras" else None)
    monkeypatch.setenv("KERAS_BACKEND", variable)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    if configured:
        (tmp_path / "keras.json").write_text(json.dumps({"backend": configured}))
    with pytest.raises(ImportError, match=message):
        environment.check_backend()


def test_captured_stderr_is_written_on_failure(capfd: pytest.CaptureFixture[str]) -> None:
    with environment._silent():
        os.write(2, b"of no interest")
    os.write(2, b"as ever. ")
    with pytest.raises(ImportError), environment._silent():
        os.write(2, b"no such library")
        raise ImportError
    assert capfd.readouterr().err == "as ever. no such library"


def test_info_says_what_is_found_and_what_is_not(
    model: str, prepared: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["info", "--model", model, "--data_dir", str(prepared)]) == 0
    words = capsys.readouterr().out
    for expected in ("cpu:0", "float", "age, gender from 24 x 24 pixels", "age intervals of 90%", "train", "utkface"):
        assert expected in words
    assert "the run" not in words and "mirror" not in words
    assert cli.main(["info"]) == 0 and "of 95%, mean over mirror images, float32\n" in capsys.readouterr().out
    (tmp_path / "run.json").write_text(
        json.dumps({"command": ["train.py", "--workdir=runs/1"], "versions": {"x": "1"}})
    )
    assert cli.main(["info", str(tmp_path), "--data-dir", str(tmp_path)]) == 0
    words = capsys.readouterr().out
    assert "model     none: There is no trained model" in words and "data      none: " in words
    assert "the run\n" in words and "train.py --workdir=runs/1" in words and "x 1" in words
    for named in ([str(tmp_path / "nowhere")], [model, "--data-dir", str(tmp_path)]):
        assert cli.main(["info", *named]) == 2


def test_formats_of_the_command() -> None:
    assert tuple(cli.EXPORTS) == export.FORMATS


def test_help_answers_before_anything_large_is_imported() -> None:
    large = "print(sorted({'numpy', 'onnxruntime', 'PIL', 'keras'} & set(sys.modules)))"
    program = f"import atexit, sys; atexit.register(lambda: {large}); from agegender import cli; cli.main(sys.argv[1:])"
    command = [sys.executable, "-c", program]
    for arguments in (["--help"], ["predict", "--help"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=ROOT)
        assert "usage: agegender" in done.stdout and "not for deciding" in done.stdout.lower()
        assert done.returncode == 0 and done.stdout.endswith("\n[]\n")


def test_invalid_or_long_names_are_accepted(
    model: str, album: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [b"\xff.png", b"two\nlines.png", b"x" * 250 + b".png"]
    for name in names:
        (album / os.fsdecode(name)).write_bytes((album / "wall.png").read_bytes())
    arguments = ["predict", "--aligned", "--model", model, "--draw", str(album / "drawn"), str(album)]
    for form in ("--json", "--csv"):
        assert cli.main([*arguments, form]) == 1
        out = capsys.readouterr().out
        out.encode()  # else it could not be printed
        assert len(json.loads(out) if form == "--json" else list(csv.DictReader(io.StringIO(out)))) == 7
    assert len(list((album / "drawn").iterdir())) == 12
    assert cli.main(arguments) == 1
    out = capsys.readouterr().out
    assert "two\\nlines.png: 1 face" in out and "\\udcff.png: 1 face" in out


def test_answers_come_early_and_survive_an_interruption(album: pathlib.Path) -> None:
    big = album / "big"
    big.mkdir()
    Image.effect_noise((1600, 1200), 80).save(big / "0.jpg")
    for number in range(1, 2000):  # their answers do not fit into the pipe, so that the command cannot end first
        (big / f"{number}.jpg").symlink_to("0.jpg")
    command = [sys.executable, "-m", "agegender", "predict", "--json", "big"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # What a shell starts in the background, these tests perhaps, ignores Ctrl-C, and so do its children.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, **pipes, cwd=album, preexec_fn=heed) as process:
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        answers, err = json.loads(first + process.stdout.read()), process.stderr.read()
    assert process.returncode == 130 and 0 < len(answers) < 2000
    assert err.splitlines() == [f"Interrupted after {len(answers)} of 2000."]


def test_closed_output_is_no_error(album: pathlib.Path) -> None:
    shell = f"{sys.executable} -m agegender predict --aligned one.png >&-"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=album)
    assert done.returncode == 0 and not done.stderr


def test_a_model_without_intervals_is_said(
    model: str, album: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = shutil.copy(pathlib.Path(model) / "best.keras", tmp_path / "bare.keras")
    assert cli.main(["predict", "--aligned", "--model", str(bare), str(album / "one.png")]) == 0
    assert "not calibrated" in capsys.readouterr().err


def test_a_reader_that_stops_reading_is_no_error(model: str, album: pathlib.Path) -> None:
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    shell = f"{COMMAND} predict --json --aligned --model {model} {album} 2>err.txt | head -c 1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environ, cwd=album)
    assert done.stdout == "[" and "Traceback" not in (album / "err.txt").read_text()
