"""The flags of each script reach what does the work, and their defaults are those of its functions."""

import contextlib
import logging
import pathlib
import runpy
from collections.abc import Iterator
from typing import Any

import absl.logging
import pytest
import tensorflow as tf
from absl import flags

import agegender as ag
from agegender.training.checkpoints import CheckpointPolicy
from experiments import command, train

pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # of runpy


class Called(Exception):
    pass


def forget_flags() -> None:
    for name in set(FLAGS) - DEFINED:
        delattr(FLAGS, name)
    FLAGS.unparse_flags()


@pytest.fixture(autouse=True)
def restore_absl() -> Iterator[None]:
    """A script defines flags, and absl then logs to stderr."""
    level, verbosity = logging.root.level, absl.logging.get_verbosity()
    yield
    forget_flags()
    absl.logging.set_verbosity(verbosity)
    logging.root.removeHandler(absl.logging.get_absl_handler())
    logging.root.setLevel(level)


FLAGS = flags.FLAGS
DEFINED = set(FLAGS)  # before any script defines its own
EVALUATE = "agegender.evaluation.evaluate.evaluate_run"
SCORE = "agegender.inference.beam.score_images"
DEFAULT_SCORE = {"model": None, "batch_size": 64, "aligned": False, "flip": None}
QUIET_BEAM = "--default_sdk_harness_log_level=WARNING"


@pytest.mark.parametrize(
    ("script", "target", "arguments", "given", "options"),
    [
        ("evaluate", EVALUATE, "--workdir=a", [pathlib.Path("a"), "test"],
         {"data_dir": None, "out": pathlib.Path("a/evaluation-test"), "flip": None, "batch_size": 64}),
        ("evaluate", EVALUATE, "--workdir=a --split=train[:9] --data_dir=d --noflip --batch_size=7",
         [pathlib.Path("a"), "train[:9]"],
         {"data_dir": "d", "out": pathlib.Path("a/evaluation-train__9_-noflip"), "flip": False, "batch_size": 7}),
        ("evaluate", EVALUATE, "--workdir=a/last.keras --flip", [pathlib.Path("a/last.keras"), "test"],
         {"data_dir": None, "out": pathlib.Path("a/evaluation-test-last-flip"), "flip": True, "batch_size": 64}),
        ("score_images", SCORE, "--images=i --out=o", ["i", "o"], {**DEFAULT_SCORE, "options": [QUIET_BEAM]}),
        ("score_images", SCORE, "--images=i --out=o --model=m --batch_size=8 --aligned --flip -- --runner=R",
         ["i", "o"],
         {"model": "m", "batch_size": 8, "aligned": True, "flip": True, "options": [QUIET_BEAM, "--runner=R"]}),
    ],
)  # fmt: skip
def test_flags_reach_the_function(
    monkeypatch: pytest.MonkeyPatch, script: str, target: str, arguments: str, given: list, options: dict
) -> None:
    assert run_script(monkeypatch, script, target, arguments) == (given, options)


@pytest.mark.parametrize("words", ["--flip False", "a", "--workdir=a last best"])
def test_words_that_are_no_flags_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_script(monkeypatch, "evaluate", EVALUATE, f"--workdir=a {words}")
    received = words.removeprefix("--flip ").removeprefix("--workdir=a ")
    message = f"Every option begins with --, and has its value after =. Received: {received}"
    assert stop.value.code == 1 and capsys.readouterr().err.strip().endswith(message)


def run_script(monkeypatch: pytest.MonkeyPatch, script: str, target: str, arguments: str) -> tuple[list, dict]:
    """Runs a script in this process, up to the call of a function, and returns what that was called with."""
    called: list[tuple[list, dict]] = []

    def stop(*values: Any, **named: Any) -> None:
        named.pop("verbose", None)  # as the terminal is
        called.append((list(values), named))
        raise Called

    monkeypatch.setattr(target, stop)
    monkeypatch.setattr("sys.argv", [f"{script}.py", *arguments.split()])
    monkeypatch.setattr("experiments.command.load_backend", lambda: None)
    forget_flags()
    with contextlib.suppress(Called):
        runpy.run_module(f"experiments.{script}", run_name="__main__")
    (only,) = called
    return only


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("two\nlines"), 1, "two lines"),
        (FileExistsError("finished"), 2, "finished"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (tf.errors.DataLossError(None, None, "damaged\nshard"), 1, "DataLossError: damaged"),
    ],
)
def test_error_ends_a_script_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, words: str
) -> None:
    def fail(arguments: list[str]) -> None:
        assert arguments == ["train.py", "more"]
        raise error

    monkeypatch.setattr("sys.argv", ["train.py", "more"])
    with pytest.raises(SystemExit) as stopped:
        command.run(fail, {FileExistsError: 2, KeyboardInterrupt: 130}, takes_arguments=True, uses_keras=False)
    assert stopped.value.code == code and capsys.readouterr().err == f"train: {words}\n"


def test_flags_reach_the_calibration(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    import keras

    trunk = keras.Sequential([keras.Input((24, 24, 3)), keras.layers.GlobalAveragePooling2D()])
    ag.build_model(trunk).save(tmp_path / "best.keras")
    arguments = f"--workdir={tmp_path} --data_dir=d --batch_size=5"
    assert run_script(monkeypatch, "calibrate", "agegender.load_utkface", arguments) == (
        ["validation"],
        {"batch_size": 5, "image_size": 24, "data_dir": "d"},
    )
    monkeypatch.setattr("agegender.evaluation.evaluate.predict_dataset", lambda *_, flip: ({"flip": flip}, {}))
    monkeypatch.setattr("agegender.load_utkface", lambda *_, **__: None)
    for more, options in (("", {"flip": False}), (" --coverage=0.8 --flip", {"coverage": 0.8, "flip": True})):
        given, received = run_script(monkeypatch, "calibrate", "agegender.calibrate", arguments + more)
        assert given == [{"flip": options["flip"]}, {}] and received == options


TRAIN: dict[str, Any] = {
    **{"config": "c", "workdir": "w", "data_dir": None, "split": "test", "save_seconds": 300.0, "keep": 2},
    **{"distribute": "none", "coordinator": None, "num_processes": None, "process_id": None, "deterministic": False},
}
PROCESSES = {"coordinator": "localhost:1", "num_processes": 3, "process_id": 0}


@pytest.mark.parametrize(
    ("given", "split", "policy", "devices", "deterministic"),
    [
        ({}, "test", CheckpointPolicy(), {"mirrored": False, "processes": None}, 0),
        (
            {"split": "validation", "save_seconds": 9.0, "keep": 5, "distribute": "mirrored", "deterministic": True},
            *("validation", CheckpointPolicy(seconds=9.0, keep=5), {"mirrored": True, "processes": None}, 1),
        ),
        (PROCESSES, "test", CheckpointPolicy(), {"mirrored": False, "processes": ("localhost:1", 3, 0)}, 0),
    ],
)
def test_flags_reach_the_training(
    monkeypatch: pytest.MonkeyPatch,
    given: dict,
    split: str,
    policy: CheckpointPolicy,
    devices: dict,
    deterministic: int,
) -> None:
    received, enabled = [], []
    monkeypatch.setattr(flags, "FLAGS", type("Flags", (), TRAIN | given))
    monkeypatch.setattr("agegender.training.determinism.enable_determinism", lambda: enabled.append(1))
    monkeypatch.setattr(train, "use_devices", lambda **options: options)
    monkeypatch.setattr(train, "train_and_evaluate", lambda *values, **options: received.append((values, options)))
    train.main([])
    assert (
        received == [(("c", pathlib.Path("w"), None), {"split": split, "devices": devices, "checkpoints": policy})]
        and len(enabled) == deterministic
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_processes": 2}, r"go together\. Received: --coordinator=None --num_processes=2 --process_id=None"),
        ({**PROCESSES, "distribute": "mirrored"}, "--distribute and --coordinator exclude each other"),
    ],
)
def test_flags_that_exclude_each_other(monkeypatch: pytest.MonkeyPatch, given: dict, words: str) -> None:
    monkeypatch.setattr(flags, "FLAGS", type("Flags", (), TRAIN | given))
    with pytest.raises(ValueError, match=words):
        train.main([])
