"""Configs and run folders that cannot work are refused before anything is written."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import pytest
from tiny_utkface import prepare

from experiments import config as configs
from experiments.one_run import train_and_evaluate

CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "no-head": ({"heads": ""}, "`heads`"),
    "a-head-that-is-not-there": ({"heads": "age,race"}, "`heads`"),
    "a-head-twice": ({"heads": "age,age"}, "`heads`"),
    "an-architecture-that-is-not-there": ({"architecture": "../vgg16"}, "`architecture`"),
    "weights-that-are-not-there": ({"weights": "/etc/passwd/x"}, "`weights`"),
    "weights-that-are-no-weights": ({"weights": "/etc/passwd"}, "must be a complete HDF5 file"),
    "trainable-by-an-unknown-name": ({"trainable": "last"}, "`trainable`"),
    "a-width-that-is-no-number": ({"width": float("nan")}, "`width`"),
    "a-dtype-that-is-not-there": ({"dtype": "float17"}, "float17"),
    "no-images-a-batch": ({"batch_size": 0}, "`batch_size`"),
    "epochs-below-zero": ({"epochs": -3}, "`epochs`"),
    "images-of-no-size": ({"image_size": 0}, "`image_size`"),
    "a-rate-that-is-no-number": ({"learning_rate": float("nan")}, "`learning_rate`"),
    "a-rate-without-end": ({"learning_rate": float("inf")}, "`learning_rate`"),
    "a-rate-below-zero": ({"learning_rate": -1.0}, "`learning_rate`"),
    "a-warmup-longer-than-the-run": ({"warmup": 2.0}, "`warmup`"),
    "a-decay-that-is-no-number": ({"weight_decay": float("nan")}, "`weight_decay`"),
    "a-clip-below-zero": ({"clipnorm": -1.0}, "`clipnorm`"),
    "a-weight-that-is-no-number": ({"age_weight": float("nan")}, "`loss_weights`"),
    "a-weight-below-zero": ({"gender_weight": -1.0}, "`loss_weights`"),
    "an-age-head-that-is-not-there": ({"age_head": "oracle"}, "`age_head`"),
    "sizes-in-words": ({"sizes": "8 epochs of 32"}, "`sizes`"),
    "sizes-below-zero": ({"sizes": "-1x32"}, "`sizes`"),
    "a-limit-of-nothing": ({"limit": 0}, "`limit`"),
    "a-cache-below-zero": ({"cache_trunk": -1}, "`cache_trunk`"),
    "a-seed-below-zero": ({"seed": -1}, "`seed`"),
    "a-start-that-is-not-there": ({"start": "/nowhere"}, "no trained model at"),
    "a-start-that-is-no-model": ({"start": "/etc"}, "no trained model at"),
    "epochs-in-words": ({"epochs": "three"}, "`epochs` must be a whole number. Received: epochs='three'"),
    "a-batch-of-half-a-image": ({"batch_size": 0.5}, "`batch_size` must be a whole number"),
    "a-yes-in-words": ({"flip": "yes"}, "`flip` must be True or False"),
    "heads-in-a-list": ({"heads": ["age"]}, "`heads` must be text"),
    "a-rotation-in-words": ({"augmentation": {"rotation": "a lot"}}, "`rotation` must be a number"),
    "a-turn-that-is-no-number": ({"augmentation": {"rotation": float("nan")}}, "`rotation`"),
    "an-erasing-of-more-than-all": ({"augmentation": {"erasing": 7.0}}, "`erasing`"),
}


@pytest.fixture(scope="module")
def trainable_data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    rows = [{"age": age % 100, "gender": age % 2} for age in range(40)]
    return prepare(tmp_path_factory.mktemp("rows"), dict.fromkeys(("train", "validation", "test"), rows))


@pytest.fixture(autouse=True)
def policy_as_it_was() -> Iterator[None]:
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


def config_of(change: dict[str, Any]) -> configs.Config:
    config = configs.Config(
        weights="none", width=1 / 64, image_size=48, batch_size=8, epochs=1, steps_per_epoch=1, dtype="float32",
        trainable="all",
    )  # fmt: skip
    augmentation = dataclasses.replace(config.augmentation, **change.get("augmentation", {}))
    return dataclasses.replace(config, **{**change, "augmentation": augmentation})


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_config_is_refused_before_anything_is_written(
    trainable_data: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    change, words = CONFIGS[name]
    if "width" not in change and ({"weights", "architecture"} & set(change)):
        change = {**change, "width": 1.0}
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "notes.txt").write_text("mine")
    with pytest.raises((ValueError, OSError), match=words) as error:
        train_and_evaluate(config_of(change), workdir, str(trainable_data))
    assert len(str(error.value).splitlines()) == 1
    assert [path.name for path in workdir.iterdir()] == ["notes.txt"]
    assert (workdir / "notes.txt").read_text() == "mine"


WORKDIRS: dict[str, tuple[str, str]] = {
    "below-a-file": ("file/run", "Not a directory"),
    "a-name-too-long": ("x" * 5000, "File name too long"),
    "a-link-to-nothing-below-nothing": ("gone", "exists|No such file"),
    "where-nobody-may-write": ("/proc/run", "No such file"),
}


@pytest.mark.parametrize("name", WORKDIRS)
def test_a_folder_that_cannot_be_a_run_is_named(
    trainable_data: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    place, words = WORKDIRS[name]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "gone").symlink_to("nowhere/at/all")
    with pytest.raises((ValueError, OSError), match=words):
        train_and_evaluate(config_of({}), tmp_path / place, str(trainable_data))
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "gone"]
