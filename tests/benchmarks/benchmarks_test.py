"""Every benchmark at a tiny size, and the numbers of those that do not measure a time."""

import importlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import agegender
from agegender.export.export import FORMATS
from benchmarks import builder, exports, gpu, leak

ROOT = pathlib.Path(__file__).parents[2]
TINY = {"image_size": 48, "batch_size": 2}


@pytest.fixture(autouse=True)
def same_dtype() -> Iterator[None]:
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "rows", "ratios"),
    [
        ("input_pipeline", {"batch_size": 8}, 10, 5),
        ("generator", {"images": 16, "times": 2, "image_size": 24}, 4, 4),
        ("augmentation", {"batch_size": 8, "image_size": 24}, 6, 2),
        ("joint_step", TINY, 4, 3),
    ],
)
def test_benchmark_runs(name: str, options: dict[str, Any], rows: int, ratios: int, prepared: pathlib.Path) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    result = module.measure(str(prepared), rounds=1, **options)
    assert len(result.rows) == rows and len(result.ratios) == ratios
    assert all(ratio.median > 0 for ratio in result.ratios)


@pytest.mark.slow
def test_export_benchmark_compares_every_format(
    prepared: pathlib.Path, tiny_trunk: keras.Model, tmp_path: pathlib.Path
) -> None:
    agegender.build_model(tiny_trunk).save(tmp_path / "tiny.keras")
    result = exports.measure(str(prepared), model=str(tmp_path / "tiny.keras"), rounds=1, batch_size=2)
    assert {row["what"] for row in result.rows} == {"Predictor", *FORMATS}
    assert all(row["age off"] < 1 for row in result.rows) and len(result.ratios) == 2 * len(FORMATS)


@pytest.mark.slow
def test_builder_benchmark_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "benchmarks.builder", "--count=20", "--rounds=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "build / read and decode: " in done.stdout, done.stderr[-2000:]


def test_read_and_decode_counts_images_in_folders_and_archives(tmp_path: pathlib.Path) -> None:
    import tarfile
    import zipfile

    Image.new("RGB", (8, 8)).save(photo := tmp_path / "a.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff cut short")
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar, zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        tar.add(photo, "inner/a.jpg")
        archive.write(photo, "inner/a.jpg")
    assert builder.read_and_decode(str(tmp_path)) == 3


def test_flops_are_those_of_convolutions_and_dense_layers() -> None:
    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, padding="same")])
    model = keras.Sequential([keras.Input((8, 8, 3)), inner, keras.layers.Flatten(), keras.layers.Dense(5)])
    assert gpu.count_flops(model) == 2 * (8 * 8 * 3 * 3 * 3 * 4) + 2 * (8 * 8 * 4 * 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "error"),
    [
        ({"JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "jax"}, "JAX finds no GPU"),
        ({"KERAS_BACKEND": "tensorflow"}, "needs KERAS_BACKEND=jax"),
    ],
)
def test_gpu_benchmark_needs_jax_and_a_gpu(environment: dict[str, str], error: str) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode != 0 and error in done.stderr


@pytest.mark.slow
def test_gpu_benchmark_runs_without_a_data_set() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--nosteps_fed", "--any_device", "--rounds=1", "--repeats=1"]
    command += ["--batch_size=2", "--image_size=48", "--matrix=64", "--steps_per_fit=1"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "jax"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "FLOP/s, step / matrix product: " in done.stdout and "step, fed" not in done.stdout, done.stderr[-2000:]


def make_thumbnail(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (16, 16)).astype(np.float32)


def test_twins_are_found_upright_mirrored_and_darker() -> None:
    images = [make_thumbnail(0), make_thumbnail(1), make_thumbnail(0) * 0.5, make_thumbnail(1)[:, ::-1]]
    images += [np.full((16, 16), 7, np.float32), np.full((16, 16), 7, np.float32)]  # a single grey has no twin
    assert leak.find_twins(np.stack(images), 0.99).tolist() == [[0, 2], [1, 3]]


def test_leaks_are_counted_between_splits_and_between_folds() -> None:
    columns = {"split": np.array([0, 1, 0, 0, 2, 2]), "fold": np.array([0, 0, 1, 1, 2, 3])}
    pairs = np.array([[0, 1], [2, 3], [4, 5]])
    splits, folds, random = leak.count_leaks(pairs, columns, seeds=3)
    assert (splits["pairs"], splits["between"], splits["held out"]) == (3, 1, 3)
    assert splits["share"] == pytest.approx(1 / 3)  # of images 1, 4 and 5, image 1 has a twin in training
    assert folds["between"] == 1 and folds["share"] == pytest.approx((0 + 0 + 1 + 1) / 4)
    assert random["held out"] == 1


def test_random_split_parts_four_fifths_of_the_twins() -> None:
    columns = {"split": np.zeros(80, int), "fold": np.zeros(80, int)}
    pairs = np.arange(80).reshape(40, 2)
    random = leak.count_leaks(pairs, columns, seeds=40)[2]
    assert random["held out"] == 16 and random["share"] == pytest.approx(64 / 79, abs=0.05)


def test_builder_leaves_no_twins_between_splits_and_folds(prepared: pathlib.Path) -> None:
    result = leak.measure(str(prepared), threshold=0.999, seeds=1)
    assert result.title.startswith("240 images") and [ratio.reached for ratio in result.ratios] == [True, True]
