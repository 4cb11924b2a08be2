"""The configs, and what becomes of a wrong option."""

import importlib
import json
import pathlib
from typing import Any

import pytest
from absl import flags
from conftest import ROOT
from ml_collections import ConfigDict, config_flags
from tiny_utkface import prepare

from agegender.training.run_record import flatten, to_json
from experiments.command import describe_error
from experiments.config import default_config
from experiments.train import train_and_evaluate

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections calls it
NAMES = sorted(path.stem for path in (ROOT / "experiments" / "configs").glob("[!_]*.py"))


def load_config(name: str) -> ConfigDict:
    return importlib.import_module(f"experiments.configs.{name}").get_config()


@pytest.mark.parametrize("name", NAMES)
def test_configs_are_locked_and_set_what_has_no_default(name: str) -> None:
    config = load_config(name)
    assert config.is_locked and config.train.epochs >= 1 and config.data.batch_size >= 1


def test_notebook_models_differ_in_their_heads_alone() -> None:
    age, gender = (flatten(load_config(f"notebook_{head}").to_dict()) for head in ("age", "gender"))
    assert {name for name in age if age[name] != gender[name]} == {"model.heads", "data.heads"}


def test_released_model_was_trained_with_released_64() -> None:
    recipe = json.loads((ROOT / "models" / "utkface64" / "recipe.json").read_text())
    config = load_config("released_64")
    config.train_split = "train+validation"
    assert recipe["config"] == to_json(config.to_dict())


def test_one_option_sets_seed_and_image_size_of_all_groups() -> None:
    config = default_config()
    config.seed, config.data.image_size, config.model.heads = 5, 96, ("age",)
    assert (config.data.seed, config.trunk.seed, config.augmentation.seed) == (5, 5, 5)
    assert config.trunk.image_size == 96 and config.data.heads == ("age",)


def parse_config(*overrides: str) -> ConfigDict:
    values = flags.FlagValues()
    arguments = ["train.py", f"--config={ROOT / 'experiments' / 'configs' / 'joint.py'}", *overrides]
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=arguments)
    values(arguments)
    return values.config


def test_command_line_changes_options() -> None:
    config = parse_config(
        "--config.trunk.weights=None",
        "--config.trunk.trainable=3",
        "--config.model.heads=('age',)",
        "--config.augmentation.erasing=0",
        "--config.train.image_sizes=((8, 32), (4, 48))",
        "--config.seed=7",
    )
    assert (config.trunk.weights, config.trunk.trainable, config.data.heads) == (None, 3, ("age",))
    assert (config.augmentation.erasing, config.augmentation.seed) == (0.0, 7)
    assert config.train.image_sizes == ((8, 32), (4, 48)) and config.train.epochs == 30


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.train.epoch=3", "The config has no option 'epoch'. Did you mean 'epochs'?"),
        ("--config.trainn.epochs=3", "The config has no option 'trainn'. Did you mean 'train'?"),
        ("--config.calibration.zzz=3", "The config has no option 'zzz'. Options of calibration: coverage, flip."),
        ("--config.zzz=3", "The config has no option 'zzz'. See experiments/config.py."),
        (
            "--config.train.loss_weights.gender=3",
            "--config.train.loss_weights is one option, not a group. "
            "Give its whole value: --config.train.loss_weights=VALUE",
        ),
    ],
)
def test_unknown_option_names_the_closest_one(override: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", override])
    with pytest.raises((KeyError, AttributeError, ValueError)) as error:
        parse_config(override)
    assert describe_error(error.value) == message


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    rows = [{"age": age, "gender": age % 2} for age in range(40)]
    return prepare(tmp_path_factory.mktemp("rows"), dict.fromkeys(("train", "validation", "test"), rows))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("data.batch_size", 0),
        ("trunk.architecture", "vgg17"),
        ("model.heads", ("age", "race")),
        ("augmentation.erasing", 7.0),
        ("optimizer.learning_rate", float("nan")),
        ("train.image_sizes", ((-1, 32),)),
    ],
)
def test_invalid_option_is_named_before_writing(
    option: str, value: Any, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = default_config()
    config.dtype = "float32"
    config.data.update(image_size=48, batch_size=8)
    config.trunk.update(weights=None, width=1.0 if "trunk" in option else 1 / 64)
    config.train.update(epochs=1, steps_per_epoch=1)
    config.update_from_flattened_dict({option: value})
    with pytest.raises(ValueError, match=option.rpartition(".")[2]):
        train_and_evaluate(config, tmp_path / "run", str(data_dir))
    assert not (tmp_path / "run").exists()
