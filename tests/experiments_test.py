"""The scripts, run as a user runs them: on synthetic faces, through the prepared data set."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agegender.schema import HEADS
from experiments import config as configs
from experiments.one_run import train_and_evaluate

ROOT = pathlib.Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "experiments" / "configs").glob("[!_]*.py"))


def get(name: str) -> configs.Config:
    return __import__(f"experiments.configs.{name}", fromlist=["get_config"]).get_config()


def script(module: str, *arguments: str, timeout: int = 300) -> subprocess.CompletedProcess:
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", f"experiments.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=timeout)


def test_the_configs_are_those_of_the_readme() -> None:
    assert {"joint", "joint_64", "notebook_age", "notebook_gender", "synthetic"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_valid(name: str) -> None:
    configs.validate(get(name))
    assert set(configs.heads(get(name))) <= set(HEADS)


def test_the_two_notebook_models_differ_in_their_head_alone() -> None:
    age, gender = (dataclasses.asdict(get(f"notebook_{head}")) for head in HEADS)
    assert {key for key in age if age[key] != gender[key]} == {"heads"}


@pytest.mark.parametrize(("field", "value"), [("limit", 0), ("limit", 101), ("epochs", 0), ("steps_per_epoch", -1)])
def test_a_config_out_of_range_is_named(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"`{field}`.*Received: {field}={value}"):
        configs.validate(dataclasses.replace(configs.Config(), **{field: value}))


@pytest.fixture(scope="module")
def run(prepared: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("runs") / "smoke"
    done = script(
        "train",
        "--config=experiments/configs/synthetic.py",
        f"--workdir={workdir}",
        f"--data_dir={prepared}",
        "--config.epochs=1",
        "--config.sizes=",
        "--config.steps_per_epoch=2",
        "--profile",
        "--config.augmentation.erasing=0.5",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (workdir / "stdout.txt").write_text(done.stdout)
    return workdir


def test_training_ends_with_a_table_and_the_paths_of_its_report_and_curves(run: pathlib.Path) -> None:
    words = (run / "stdout.txt").read_text()
    assert "always the median or majority" in words and "gender accuracy" in words
    assert f"Report: {run / 'evaluation-test' / 'report.html'}" in words
    assert words.strip().endswith(f"Curves: {run / 'curves.png'}")
    with Image.open(run / "evaluation-test" / "predictions.png") as picture:
        assert picture.size[0] > 600


def test_a_run_on_few_pictures_says_why_it_is_not_calibrated(run: pathlib.Path) -> None:
    assert "Not calibrated: " in (run / "stdout.txt").read_text() and not (run / "calibration.json").exists()


def test_profile_traces_steps_and_says_how_to_look_at_them(run: pathlib.Path) -> None:
    assert list((run / "tensorboard").rglob("*.xplane.pb"))
    words = (run / "stdout.txt").read_text()
    assert f"pip install xprof && tensorboard --logdir={run / 'tensorboard'}" in words


def test_the_record_holds_the_config_as_it_was_overridden(run: pathlib.Path) -> None:
    config = json.loads((run / "run.json").read_text())["config"]
    assert config["epochs"] == 1 and config["augmentation"]["erasing"] == 0.5


def test_evaluate_gives_the_numbers_that_training_ended_with(run: pathlib.Path, prepared: pathlib.Path) -> None:
    written = run / "again"
    done = script("evaluate", f"--workdir={run}", f"--data_dir={prepared}", f"--out={written}")
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = (json.loads((folder / "report.json").read_text()) for folder in (run / "evaluation-test", written))
    assert ours["count"] == theirs["count"] and ours["constant"] == theirs["constant"]
    assert ours["model"] == pytest.approx(theirs["model"], rel=1e-3, abs=1e-3)
    names = {"report.html", "report.md", "predictions.csv", "errors.html", "predictions.png", "ages.png"}
    assert names <= {path.name for path in written.iterdir()}
    assert {"race", "age x race"} <= set(theirs["groups"]) and theirs["bootstrap"]["resampled"] == "photograph groups"
    assert f"Report: {written / 'report.html'}" in done.stdout and "always the median or majority" in done.stdout


@pytest.mark.parametrize(
    "options",
    [
        {"cache_trunk": 1, "trainable": "last_block"},
        {"age_head": "distribution", "learned_weights": True, "age_density": 0.5, "conflicts": False, "ema": 0.9}
        | {"mixup": 0.2, "flip": True, "limit": 60},
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_option_trains(options: dict[str, Any], prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    small = {"weights": "none", "trainable": "all", "width": 0.125, "image_size": 48, "batch_size": 8, "epochs": 1}
    config = configs.Config(**{**small, "steps_per_epoch": 2, "dtype": "float32", **options})
    train_and_evaluate(config, tmp_path / "run", str(prepared))
    report = json.loads((tmp_path / "run" / "evaluation-test" / "report.json").read_text())
    assert np.isfinite([report["model"][measure] for measure in ("mae", "log_loss")]).all()


def test_a_split_that_there_is_not_is_named_before_the_training(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="Received: split='holdout'"):
        train_and_evaluate(configs.Config(weights="none"), tmp_path / "run", str(prepared), split="holdout")
    assert not (tmp_path / "run").exists()


def test_a_second_run_in_the_same_folder_is_refused(run: pathlib.Path, prepared: pathlib.Path) -> None:
    before = (run / "best.keras").read_bytes()
    done = script("train", "--config=experiments/configs/synthetic.py", f"--workdir={run}", f"--data_dir={prepared}")
    assert done.returncode != 0 and "holds a trained model already" in done.stderr
    assert (run / "best.keras").read_bytes() == before


@pytest.mark.parametrize("module", ["train", "evaluate"])
def test_help_explains_the_flags(module: str) -> None:
    done = script(module, "--help")
    assert "--workdir" in done.stdout and "--data_dir" in done.stdout and f"experiments.{module}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--workdir=x"), "--config must have a value"),
        (("train", "--config=experiments/configs/joint.py"), "--workdir must have a value"),
        (("train", "--config=experiments/configs/joint.py", "--workdir="), "must name a folder"),
        (("train", "--config=experiments/configs/none.py", "--workdir=x"), "none.py"),
        (("train", "--config=experiments/configs/joint.py", "--config.epoch=3", "--workdir=x"), "Field epoch not"),
        (("evaluate",), "--workdir must have a value"),
        (("evaluate", "--workdir=x"), "There is no trained model at x"),
    ],
)
def test_wrong_flags_are_named(arguments: tuple[str, ...], words: str) -> None:
    done = script(*arguments)
    assert done.returncode != 0 and words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
