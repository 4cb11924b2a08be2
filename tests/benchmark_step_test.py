"""The benchmarks of the training step, run as a user runs them, on synthetic faces and as little as they can do."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TINY = ("--image_size=48", "--batch_size=2", "--rounds=1")


def benchmark(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"experiments.benchmarks.{name}", *arguments]
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)


def numbers(name: str, prepared: pathlib.Path, out: pathlib.Path, *arguments: str) -> dict:
    done = benchmark(name, f"--data_dir={prepared}", f"--out={out}", *TINY, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize(
    ("name", "arguments", "rows", "claims"),
    [
        ("augmentation_share", ["--repeats=1"], 5, 4),
        ("feeding", ["--steps_per_fit=1"], 4, 2),
        ("gpu", ["--any_device", "--matrix=64", "--products=1", "--steps_per_fit=1"], 4, 3),
    ],
)
def test_every_row_has_a_time_and_every_claim_a_mark_or_none(
    name: str, arguments: list[str], rows: int, claims: int, prepared: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    found = numbers(name, prepared, tmp_path / "out.json", *arguments)
    assert len(found["rows"]) == rows and len(found["claims"]) == claims
    assert all(row["fastest"] > 0 for row in found["rows"])
    assert all(claim["median"] > 0 for claim in found["claims"])


def test_dtypes_are_compared_where_the_machine_has_a_faster_one(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    found = numbers("dtypes", prepared, tmp_path / "out.json")
    names = {row["what"] for row in found["rows"]}
    assert {"train, float32", "predict, float32"} <= names
    assert len(found["claims"]) == len(names) - 2  # none where float32 is the fastest


def test_without_a_gpu_the_benchmark_of_it_says_so(prepared: pathlib.Path) -> None:
    done = benchmark("gpu", f"--data_dir={prepared}", JAX_PLATFORMS="cpu")
    assert done.returncode != 0 and "JAX sees no GPU" in done.stderr


def test_the_benchmark_of_the_gpu_is_one_of_jax(prepared: pathlib.Path) -> None:
    done = benchmark("gpu", f"--data_dir={prepared}", KERAS_BACKEND="tensorflow")
    assert done.returncode != 0 and "KERAS_BACKEND=jax" in done.stderr
