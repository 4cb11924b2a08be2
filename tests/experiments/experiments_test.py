"""The scripts, run as a user runs them: on synthetic faces, through the prepared data set."""

import dataclasses
import inspect
import io
import json
import os
import pathlib
import subprocess
import sys
import zipfile
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from PIL import Image
from tiny_utkface import prepare

from agegender import Augmentation, make_optimizer, train
from agegender.models.saving import load_model
from agegender.schema import HEADS
from agegender.training.checkpoints import write_checkpoint
from agegender.training.run_record import to_json, write_record
from experiments import config as configs
from experiments import one_run, runs
from experiments.one_run import train_and_evaluate

ROOT = pathlib.Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "experiments" / "configs").glob("[!_]*.py"))


def get(name: str) -> configs.Config:
    return __import__(f"experiments.configs.{name}", fromlist=["get_config"]).get_config()


def script(module: str, *arguments: str, timeout: int = 300) -> subprocess.CompletedProcess:
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", f"experiments.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=timeout)


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


def test_the_defaults_of_a_config_are_those_of_the_library() -> None:
    config = dataclasses.asdict(configs.Config())
    names = ("learning_rate", "warmup", "weight_decay", "clipnorm")
    defaults = {name: inspect.signature(make_optimizer).parameters[name].default for name in names}
    told = ("cache_trunk",)
    defaults |= {name: inspect.signature(train).parameters[name].default for name in told}
    defaults["augmentation"] = {name: Augmentation().get_config()[name] for name in config["augmentation"]}
    assert {name: config[name] for name in defaults} == defaults


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
    with Image.open(run / "evaluation-test" / "predictions.png") as image:
        assert image.size[0] > 600


def test_a_run_on_few_images_says_why_it_is_not_calibrated(run: pathlib.Path) -> None:
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
    assert ours["count"] == theirs["count"] and ours["baseline"] == theirs["baseline"]
    assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-3, abs=1e-3)
    names = {"report.html", "predictions.csv", "errors.html", "predictions.png", "ages.png"}
    assert names <= {path.name for path in written.iterdir()}
    assert {"race", "age x race"} <= set(theirs["groups"]) and theirs["bootstrap"]["resampled"] == "photograph groups"
    assert f"Report: {written / 'report.html'}" in done.stdout and "always the median or majority" in done.stdout


@pytest.mark.parametrize(
    "options",
    [
        {"cache_trunk": 1, "trainable": "last_block"},
        {"age_head": "distribution", "conflicts": False, "flip": True, "limit": 60},
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_option_trains(options: dict[str, Any], prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    small = {"weights": "none", "trainable": "all", "width": 0.125, "image_size": 48, "batch_size": 8, "epochs": 1}
    config = configs.Config(**{**small, "steps_per_epoch": 2, "dtype": "float32", **options})
    train_and_evaluate(config, tmp_path / "run", str(prepared))
    report = json.loads((tmp_path / "run" / "evaluation-test" / "report.json").read_text())
    assert np.isfinite([report["metrics"][measure] for measure in ("mae", "log_loss")]).all()


# ---- what a config says reaches what it is about


SMALL: dict[str, Any] = {"weights": "none", "trainable": "all", "width": 1 / 64, "image_size": 48, "dtype": "float32"}
STILL = configs.AugmentationConfig(
    rotation=0.0, width_shift=0.0, height_shift=0.0, shear=0.0, zoom=0.0, horizontal_flip=False, brightness=0.0,
    contrast=0.0, erasing=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Random pixels: 80 to learn from, a quarter of them with copies of another age, and more to measure on."""
    learned = [{"age": age, "gender": age % 2, "age_conflict": age < 20} for age in range(80)]
    others = [{"age": index % 80, "gender": index % 2} for index in range(120)]
    return prepare(tmp_path_factory.mktemp("rows"), {"train": learned, "validation": others, "test": others[:9]})


FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "most": (
        {
            **{"heads": "age, gender", "age_weight": 2.0, "gender_weight": 3.0, "batch_size": 5, "epochs": 7},
            **{"learning_rate": 0.002, "warmup": 0.25, "weight_decay": 0.003, "clipnorm": 0.4, "seed": 8},
            **{"batch_norm": True, "age_head": "distribution", "sizes": "2x32"},
            **{"conflicts": False, "limit": 50},
            "augmentation": configs.AugmentationConfig(1.0, 0.11, 0.12, 0.13, 0.14, False, 0.15, 0.16, 0.17),
        },
        {
            **{"epochs": 7, "steps_per_epoch": 6, "image_sizes": [[2, 32]], "cache_trunk": 0},
            **{
                "loss_weights.age": 2.0,
                "loss_weights.gender": 3.0,
                "optimizer.learning_rate.config.warmup_target": 0.002,
            },
            **{"optimizer.learning_rate.config.warmup_steps": 10, "optimizer.learning_rate.config.decay_steps": 32},
            **{"optimizer.weight_decay": 0.003, "optimizer.global_clipnorm": 0.4},
            **{"augmentation.rotation": 1.0, "augmentation.width_shift": 0.11, "augmentation.height_shift": 0.12},
            **{"augmentation.shear": 0.13, "augmentation.zoom": 0.14, "augmentation.horizontal_flip": False},
            **{"augmentation.brightness": 0.15, "augmentation.contrast": 0.16, "augmentation.erasing": 0.17},
            **{"augmentation.seed": 8, "dtype_policy": "float32", "outputs.age": 118, "outputs.gender": 1},
        },
    ),
    "a recorded trunk": (
        {"heads": "age", "trainable": "last_block", "cache_trunk": 2, "epochs": 3, "steps_per_epoch": 4, "warmup": 0.0},
        {"epochs": 3, "steps_per_epoch": 4, "cache_trunk": 2, "optimizer.learning_rate.config.decay_steps": 12}
        | {"outputs.age": 1},
    ),
}


@pytest.mark.parametrize("fields", FIELDS)
def test_the_fields_of_a_config_are_the_settings_of_the_training(
    fields: str, rows: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A checkpoint of a run without settings: what is refused is all that this one would have been trained with."""
    changes, expected = FIELDS[fields]
    config = configs.Config(**{**SMALL, **changes})
    (folder := tmp_path / "checkpoints").mkdir()
    settings = {"config": to_json(dataclasses.asdict(config))}
    write_checkpoint(folder, 1, [], {"settings": settings, "epoch": 0, "step": 1})
    with pytest.raises(ValueError, match="other settings: ") as refused:
        train_and_evaluate(config, tmp_path, str(rows))
    told = str(refused.value)
    for name, value in expected.items():
        assert f"{name} was absent, now {value}" in told
    assert all((f"outputs.{head} was" in told) == (head in config.heads) for head in HEADS)


def test_seed_is_that_of_the_images_and_start_those_of_the_weights(rows: pathlib.Path, tmp_path: pathlib.Path) -> None:
    one_step = {"heads": "age", "trainable": "none", "batch_size": 40, "epochs": 1, "steps_per_epoch": 1}
    config = configs.Config(**{**SMALL, **one_step}, augmentation=STILL)
    (start := tmp_path / "start").mkdir()
    runs.build(config).save(start / "last.keras")

    def loss(name: str, **changes: Any) -> float:
        keras.utils.set_random_seed(0)
        changed = dataclasses.replace(config, start=str(start), **changes)
        one_run._train(changed, tmp_path / name, str(rows), profile=False, checkpoints=None)
        return float((tmp_path / name / "metrics.csv").read_text().splitlines()[1].split(",")[-1])

    assert len({loss("one"), loss("other", seed=2)}) == 2


def test_a_model_is_built_as_its_config_says(tmp_path: pathlib.Path) -> None:
    def weights(**changes: Any) -> list[np.ndarray]:
        return runs.build(configs.Config(**{**SMALL, **changes})).get_weights()

    first, again, other = weights(), weights(), weights(seed=2)
    assert np.array_equal(first[0], again[0]) and not np.array_equal(first[0], other[0])
    assert weights(width=1 / 32)[0].shape[-1] == 2 * first[0].shape[-1]
    frozen = runs.build(configs.Config(**{**SMALL, "trainable": "3"}))
    some, every = (len(model.trainable_weights) for model in (frozen, runs.build(configs.Config(**SMALL))))
    assert some < every
    runs.build(configs.Config(**{**SMALL, "seed": 2})).save(tmp_path / "last.keras")
    assert all(map(np.array_equal, weights(start=str(tmp_path))[:26], other[:26]))


def test_a_release_is_the_run_folded_in_half_precision_calibrated_and_measured_with_its_card(
    rows: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = configs.Config(**SMALL, batch_norm=True, age_head="distribution", flip=True)
    model, random = runs.build(config), np.random.default_rng(1)
    for weight in model.weights:  # the statistics of the normalisations too
        weight.assign(weight + random.uniform(0, 0.1, weight.shape))
    (run := tmp_path / "run").mkdir()
    model.save(run / "best.keras")
    command = ["train.py", "--config=c.py", f"--workdir={run}", "--config.epochs=3"]
    record = {"versions": {"keras": "3"}, "backend": "tensorflow", "dtype_policy": "mixed_bfloat16", "seconds": {}}
    write_record(run, {**record, "config": dataclasses.asdict(config), "command": command})
    out = tmp_path / "small"
    options = [f"--out={out}", f"--data_dir={rows}", "--age_head=median", "--split=validation"]
    done = script("release", f"--workdir={run}", *options)
    assert done.returncode == 0, done.stderr[-3000:]

    assert {path.name for path in out.iterdir()} == {"best.keras", "calibration.json", "recipe.json", "README.md"}
    released = load_model(out)
    normalised = [each.name for each in released._flatten_layers() if isinstance(each, keras.layers.BatchNormalization)]
    assert normalised == ["feature_batch_norm"]  # that of the heads; those of the trunk are in its convolutions
    assert {weight.dtype for weight in released.weights} == {"float32"}
    with (
        zipfile.ZipFile(out / "best.keras") as archive,
        h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file,
    ):
        stored: list[str] = []
        file.visititems(lambda _, item: stored.append(str(item.dtype)) if isinstance(item, h5py.Dataset) else None)
    assert set(stored) == {"float16"}
    median = runs.build(dataclasses.replace(config, age_head="median"))
    median.set_weights(model.get_weights())
    images = random.integers(0, 256, (8, 48, 48, 3)).astype("uint8")
    for head, expected in median.predict_on_batch(images).items():
        np.testing.assert_allclose(released.predict_on_batch(images)[head], expected, rtol=0.02, atol=0.01)

    calibration = json.loads((out / "calibration.json").read_text())
    assert calibration["flip"] is True and calibration["count"] == 120
    assert json.loads((run / "released" / "report.json").read_text())["count"] == 120
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["config"] == to_json(dataclasses.asdict(config)) and recipe["released_with"] == {"age_head": "median"}
    assert (recipe["versions"], recipe["dtype_policy"]) == ({"keras": "3"}, "mixed_bfloat16")
    card = (out / "README.md").read_text()
    assert "\npython -m experiments.train --config=c.py --config.epochs=3 --workdir=runs/small\n" in card
    assert "\npython -m experiments.release --workdir=runs/small --out=models/small --age_head=median\n" in card
    for words in ("48 x 48 pixels", "its convolutions 0.0156 times as wide", "train 80, validation 120, test 9"):
        assert words in card
    for title in ("What it is not for", "All images", "By age", "Coverage of the age intervals", "Definitions"):
        assert f"\n## {title}\n" in card


def test_a_split_that_there_is_not_is_named_before_the_training(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="Received: split='holdout'"):
        train_and_evaluate(configs.Config(weights="none"), tmp_path / "run", str(prepared), split="holdout")
    assert not (tmp_path / "run").exists()


def test_a_second_run_in_the_same_folder_is_refused(run: pathlib.Path, prepared: pathlib.Path) -> None:
    before = (run / "best.keras").read_bytes()
    done = script("train", "--config=experiments/configs/synthetic.py", f"--workdir={run}", f"--data_dir={prepared}")
    assert done.returncode == 2 and "holds a trained model already" in done.stderr
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
        (
            ("train", "--config=experiments/configs/joint.py", "--workdir=x", "--num_processes=2"),
            "go together. Received",
        ),
        (("train", "--config=experiments/configs/joint.py", "--workdir=x", "--keep=0"), "keep"),
        (("train", "--config=experiments/configs/joint.py", "--workdir=x", "--save_seconds=0"), "save_seconds"),
        (("evaluate",), "--workdir must have a value"),
        (("evaluate", "--workdir=x"), "There is no trained model at x"),
    ],
)
def test_wrong_flags_are_named(arguments: tuple[str, ...], words: str) -> None:
    done = script(*arguments)
    assert done.returncode == 1 and words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
