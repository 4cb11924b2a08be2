import dataclasses
import types

import numpy as np
import pytest

from experiments import config as configs
from experiments import option_runs as options
from experiments.configs import options_64, short_48

NAMES = np.array([f"{index}.jpg" for index in range(4)])
AGES, GENDERS = np.array([10.0, 20.0, 30.0, 40.0]), np.array([0.0, 1.0, 0.0, 1.0])


def predictions(errors: list[float], wrong: int = 0, *, order: slice = slice(None)) -> dict:
    p_female = np.where(np.arange(4) < wrong, 1 - GENDERS, GENDERS)
    columns = {
        "file_name": NAMES,
        "group": NAMES,
        "age": AGES,
        "gender": GENDERS,
        "predicted_age": AGES + errors,
        "p_female": p_female,
    }
    return {key: column[order] for key, column in columns.items()}


def test_the_table_averages_over_seeds_and_pairs_images_by_name() -> None:
    plain = {"1": predictions([2, -2, 2, -2]), "2": predictions([4, 4, 4, 4], wrong=1)}
    better = {"1": predictions([1, 1, 1, 1]), "2": predictions([2, 2, 2, 2], order=slice(None, None, -1))}
    first, second = options.table({"plain": plain, "better": better}).splitlines()[2:]
    assert first.startswith("| plain | 1, 2 | 2.00 / 4.00 | +0.00 (+0.00 to +0.00) | 100.0 % / 75.0 % |")
    assert second.startswith("| better | 1, 2 | 1.00 / 2.00 | -1.50 (-1.50 to -1.50) | 100.0 % / 100.0 % | +12.50 (")


def test_a_model_with_one_head_leaves_the_other_empty() -> None:
    one = {"1": {key: value for key, value in predictions([1] * 4).items() if key != "p_female"}}
    assert options.table({"plain": {"1": predictions([2] * 4)}, "age only": one}).endswith("to -1.00) |  |  |")


@pytest.mark.parametrize("base", [short_48, options_64])
def test_every_option_is_a_config_that_ends_at_its_full_size(base: types.ModuleType) -> None:
    plain = options.base_of(str(base.__file__))
    for option, changes in options.changes(plain).items():
        changed = dataclasses.replace(plain, **changes)
        configs.validate(changed)
        assert sum(epochs for epochs, _ in configs.sizes(changed)) < changed.epochs
        assert (changed != plain) == (option != options.PLAIN)
