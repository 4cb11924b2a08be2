"""Fixtures that many tests share: a prepared data set of drawn faces, a photograph, and a tiny trunk."""

import contextlib
import fcntl
import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

if TYPE_CHECKING:
    import keras

ROOT = pathlib.Path(__file__).parent.parent
FACES = 240
SIZE = 24


def pytest_configure(config: pytest.Config) -> None:
    """Sets JAX up for this process and for those that tests start.

    The programs are small: XLA would take longer to optimise them than they run. What it has compiled is kept in
    `.pytest_cache/jax` for all workers and for the next session; JAX keys it by program, version and flags.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(200 << 20))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Locks out all other pytest-xdist workers."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Drawn faces, prepared once for all workers by the command that users run. Read-only: tests share it."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder  # the workers' folders lie side by side
    data = folder / "prepared"
    with locked(folder / "prepared.lock"):
        if not data.exists():
            _build(folder / "faces", folder / "unfinished")
            (folder / "unfinished").rename(data)
    return data


def _build(faces: pathlib.Path, data: pathlib.Path) -> None:
    from agegender import write_faces

    write_faces(faces / "UTKFace", FACES, size=SIZE, seed=3)
    tfds = pathlib.Path(sys.executable).with_name("tfds")  # the builder is not imported into this process
    command = [tfds, "build", "utkface", f"--manual_dir={faces}", f"--data_dir={data}"]
    done = subprocess.run(command, cwd=ROOT / "datasets", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def couple() -> np.ndarray:
    """Uint8 RGB [200, 360, 3], two faces of 120 pixels."""
    from agegender.synthetic.faces import draw_people

    return draw_people([(23, 1, 4, 39), (47, 0, 3, 36)])


@pytest.fixture
def tiny_trunk() -> "keras.Model":
    return make_tiny_trunk()


def make_tiny_trunk(size: int = SIZE) -> "keras.Model":
    """Returns two convolutions that take images, 0 to 255, and give features, as every trunk does."""
    import keras

    return keras.Sequential(
        [
            keras.Input((size, size, 3), name="image"),
            keras.layers.Rescaling(1 / 127.5, -1),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


@pytest.fixture
def eager() -> Iterator[None]:
    """Runs steps eagerly, because to compile a step takes longer than three of them."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Even though the")  # that tf.data is not eager
        yield
    tf.config.run_functions_eagerly(False)
