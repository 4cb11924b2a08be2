"""The training script: one run from the prepared data to its report, and how it is interrupted and refused."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from conftest import ROOT
from ml_collections import ConfigDict
from PIL import Image

import agegender as ag
from agegender.evaluation.evaluate import evaluate_run
from agegender.training.run_record import read_record, to_json, write_record
from experiments.config import default_config
from experiments.train import build_model, train, train_and_evaluate


@pytest.fixture(autouse=True)
def restore_dtype_policy() -> Iterator[None]:
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


def small_config(**groups: Any) -> ConfigDict:
    """48 pixels, an eighth of the width, one epoch of two steps."""
    config = default_config()
    config.dtype = "float32"
    config.data.update(image_size=48, batch_size=8)
    config.trunk.update(weights=None, trainable="all", width=0.125)
    config.train.update(epochs=1, steps_per_epoch=2)
    with config.ignore_type():
        config.update(groups)
    return config


OPTIONS: dict[str, Any] = {
    "batch_norm": True,
    "data": {"conflicts": False},
    "model": {"age_head": "distribution"},
    "augmentation": {"erasing": 0.5},
    "calibration": {"flip": True},
}


@pytest.fixture(scope="module")
def run(prepared: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with other options than the defaults, and what it printed in stdout.txt."""
    workdir = tmp_path_factory.mktemp("runs") / "small"
    config = small_config(**OPTIONS)
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        train_and_evaluate(config, workdir, str(prepared))
    (workdir / "stdout.txt").write_text(stdout.getvalue())
    return workdir


def test_run_ends_with_a_report_and_predictions(run: pathlib.Path) -> None:
    printed = (run / "stdout.txt").read_text()
    assert "gender accuracy" in printed and f"Report: {run / 'evaluation-test' / 'report.html'}" in printed
    assert printed.strip().endswith(f"Curves: {run / 'curves.png'}")
    assert printed.replace("\n", "").isprintable()  # a file must not get the control characters of progress bars
    with Image.open(run / "evaluation-test" / "predictions.png") as image:
        assert image.size[0] > 600
    assert {"report.html", "report.json", "predictions.csv"} <= set(os.listdir(run / "evaluation-test"))


def test_too_few_images_to_calibrate_is_not_an_error(run: pathlib.Path) -> None:
    assert "Not calibrated: " in (run / "stdout.txt").read_text() and not (run / "calibration.json").exists()


def test_validation_split_that_was_trained_on_calibrates_nothing(
    run: pathlib.Path, prepared: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    config = small_config(**OPTIONS, train_split="train+validation")
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    record = read_record(tmp_path)
    del record["seconds"]["evaluation"]
    write_record(tmp_path, {**record, "config": to_json(config.to_dict())})
    train_and_evaluate(config, tmp_path, str(prepared))
    assert "was trained on images to calibrate on. Received: train_split='train+validation'" in capsys.readouterr().out


def test_record_has_config_and_data_dir(run: pathlib.Path, prepared: pathlib.Path) -> None:
    record = read_record(run)
    assert record["config"]["augmentation"]["erasing"] == 0.5 and record["config"]["train"]["epochs"] == 1
    assert record["data_dir"] == str(prepared) and record["seconds"]["evaluation"] > 0


def test_evaluation_repeats_the_report_of_the_run(run: pathlib.Path) -> None:
    written = json.loads((run / "evaluation-test" / "report.json").read_text())
    report = evaluate_run(run, "test")
    assert report.count == written["count"]
    assert report.to_dict()["metrics"] == pytest.approx(written["metrics"], rel=1e-3, abs=1e-3)


def test_finished_run_is_refused_or_evaluated(
    run: pathlib.Path, prepared: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    config = small_config(**OPTIONS)
    model = (run / "last.keras").read_bytes()
    with pytest.raises(FileExistsError):
        train_and_evaluate(config, run, str(prepared))
    record = read_record(run)
    del record["seconds"]["evaluation"]
    write_record(run, record)
    train_and_evaluate(config, run, str(prepared))
    assert "best epoch on the test split" in capsys.readouterr().out
    assert "evaluation" in read_record(run)["seconds"] and (run / "last.keras").read_bytes() == model


def test_missing_split_is_named_before_training(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="Received: split='holdout'"):
        train_and_evaluate(small_config(), tmp_path / "run", str(prepared), split="holdout")
    assert not (tmp_path / "run").exists()


def test_options_reach_the_functions(
    prepared: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(
        seed=8,
        train_split="train[:50%]",
        data={"batch_size": 5},
        model={"heads": ("age",), "age_head": "distribution"},
        augmentation={"rotation": 1.0, "zoom": 0.14, "horizontal_flip": False},
        optimizer={"learning_rate": 0.002, "warmup": 0.25, "weight_decay": 0.003, "clipnorm": 0.4},
        train={"epochs": 7, "steps_per_epoch": None, "image_sizes": ((2, 40),), "loss_weights": {"age": 2.0}},
    )
    received: dict[str, Any] = {}
    monkeypatch.setattr(ag, "train", lambda *positional, **named: received.update(named, positional=positional))
    train(config, tmp_path, str(prepared))

    model, data, validation = received["positional"]
    assert set(model.output) == {"age"} and set(data.element_spec[1]) == {"age"}
    expected = ag.load_utkface(
        "train[:50%]", batch_size=5, image_size=48, training=True, seed=8, heads=("age",), data_dir=prepared
    )
    np.testing.assert_array_equal(next(iter(data))[0], next(iter(expected))[0])
    assert sum(int((batch[2].numpy() > 0).sum()) for batch in validation) == sum(
        len(images) for images, _ in ag.load_utkface("validation", batch_size=5, image_size=48, data_dir=prepared)
    )
    augmentation = received["augmentation"].get_config()
    assert (augmentation["rotation"], augmentation["zoom"], augmentation["seed"]) == (1.0, 0.14, 8)
    assert augmentation["horizontal_flip"] is False and augmentation["shear"] == ag.Augmentation().get_config()["shear"]
    optimizer, steps = received["optimizer"], 7 * expected.steps_per_epoch
    schedule = optimizer.get_config()["learning_rate"]["config"]
    assert schedule["warmup_target"] == 0.002 and schedule["warmup_steps"] == int(0.25 * steps)
    assert schedule["warmup_steps"] + schedule["decay_steps"] == steps
    assert (optimizer.weight_decay, optimizer.global_clipnorm) == (0.003, 0.4)
    assert (received["epochs"], received["image_sizes"], received["cache_trunk"]) == (7, ((2, 40),), 0)
    assert dict(received["loss_weights"]) == {"age": 2.0}


def test_model_is_built_as_the_config_says(tmp_path: pathlib.Path) -> None:
    def weights(**changes: Any) -> list[np.ndarray]:
        return build_model(small_config(**changes)).get_weights()

    first, again, other = weights(), weights(), weights(seed=2)
    assert np.array_equal(first[0], again[0]) and not np.array_equal(first[0], other[0])
    assert weights(trunk={"width": 0.25})[0].shape[-1] == 2 * first[0].shape[-1]
    frozen = build_model(small_config(trunk={"trainable": 3}))
    assert len(frozen.trainable_weights) < len(build_model(small_config()).trainable_weights)
    (saved := build_model(small_config(seed=2))).save(tmp_path / "best.keras")
    assert all(map(np.array_equal, weights(init_from=str(tmp_path)), saved.get_weights()))


# ---- the script, in processes of its own

FLAGS = ("--config=experiments/configs/synthetic.py", "--config.trunk.width=0.125", "--config.dtype=float32")


def start_script(module: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", f"experiments.{module}", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes)


def run_script(module: str, *arguments: str) -> subprocess.CompletedProcess:
    process = start_script(module, *arguments)
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.mark.slow
def test_script_resumes_after_sigterm(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    arguments = [*FLAGS, f"--workdir={workdir}", f"--data_dir={prepared}", "--save_seconds=0.1"]
    arguments += ["--config.data.batch_size=8", "--config.train.epochs=3", "--config.train.steps_per_epoch=20"]
    process = start_script("train", *arguments)
    while not (workdir / "metrics.csv").exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    done = run_script("train", *arguments)
    assert done.returncode == 0, done.stderr
    assert len((workdir / "metrics.csv").read_text().splitlines()) == 1 + 3
    assert (workdir / "evaluation-test" / "report.json").exists()
    # Neither the lines of TensorFlow's start nor control characters.
    assert "0000 00:" not in stderr + done.stderr and "TensorFlow" not in stderr + done.stderr
    assert (stdout + done.stdout).replace("\n", "").isprintable()
    assert run_script("train", *arguments).returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--workdir=x"), "--config must have a value"),
        (("train", FLAGS[0]), "--workdir must have a value"),
        (("train", FLAGS[0], "--workdir="), "must name a folder"),
        (("train", "--config=experiments/configs/none.py", "--workdir=x"), "none.py"),
        (("train", "--config=README.md", "--workdir=x"), "(README.md, line "),
        (("train", FLAGS[0], "--config.train.epoch=3", "--workdir=x"), "Did you mean 'epochs'?"),
        (("train", FLAGS[0], "--config.train.epochs=x", "--workdir=x"), "config.train.epochs"),
        (("train", FLAGS[0], "--workdir=x", "--keep=0"), "keep"),
        (("evaluate",), "Give --workdir or --predictions"),
        (("evaluate", "--workdir=x"), "There is no trained model at x"),
        (("calibrate", "--workdir=x"), "There is no trained model at x"),
    ],
)
def test_wrong_flags_are_named(arguments: tuple[str, ...], message: str) -> None:
    done = run_script(*arguments)
    assert done.returncode == 1 and message in done.stderr
    assert "Traceback" not in done.stderr
