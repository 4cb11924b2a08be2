"""The benchmarks run on a few tiny faces, in this process: what is timed exists, and the ratios are those announced.

The others build several large models or start processes, which takes minutes; CI runs those as a user does.
"""

import importlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import keras
import pytest

from benchmarks import turns

ROOT = pathlib.Path(__file__).parents[2]
TINY = {"image_size": 48, "batch_size": 2}


@pytest.fixture(autouse=True)
def same_dtype() -> Iterator[None]:
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


def measure(name: str, prepared: pathlib.Path, **options: Any) -> turns.Result:
    module = importlib.import_module(f"benchmarks.{name}")
    return module.measure(str(prepared), rounds=1, **options)


@pytest.mark.parametrize(
    ("name", "options", "rows", "claims"),
    [
        ("first_epoch", {"batch_size": 8}, 11, 3),
        ("cached_epochs", {"batch_size": 8}, 6, 2),
        ("fine_tuning", {**TINY, "times": 2}, 4, 2),
        ("feeding", {**TINY, "steps_per_fit": 1}, 4, 2),
    ],
)
def test_a_benchmark_has_a_time_in_every_row_and_its_ratios(
    name: str, options: dict[str, Any], rows: int, claims: int, prepared: pathlib.Path
) -> None:
    result = measure(name, prepared, **options)
    assert len(result.rows) == rows and len(result.claims) == claims
    assert all(row["fastest"] > 0 for row in result.rows)
    assert all(claim.median > 0 for claim in result.claims)


def test_the_augmentation_is_held_against_the_fastest_way_to_run_the_layers(prepared: pathlib.Path) -> None:
    result = measure("augmentation", prepared, image_size=24, batch_size=8, jax=False)
    median = {row["what"]: row["ms a image"] for row in result.rows}
    best = min((name for name in median if name.startswith("five layers")), key=lambda name: median[name])
    marked = [claim.what for claim in result.claims if claim.at_least]
    assert marked == [f"{best} / Augmentation, geometry", f"{best} / Augmentation"]


def test_the_benchmark_of_the_gpu_says_what_it_lacks(prepared: pathlib.Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", f"--data_dir={prepared}"]
    for environment, words in (
        ({"JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "jax"}, "JAX sees no GPU"),
        ({"KERAS_BACKEND": "tensorflow"}, "KERAS_BACKEND=jax"),
    ):
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
        assert done.returncode != 0 and words in done.stderr
