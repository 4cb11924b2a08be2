"""What several tests need: a prepared data set of synthetic faces, and a trunk of a few weights."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
FACES = 240
SIZE = 24


def pytest_configure(config: pytest.Config) -> None:
    """For all processes that tests start: XLA would work longer on programs this small than they run."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # pytest-xdist's workers have that of the process that began them
        compiled = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
        config.add_cleanup(lambda: shutil.rmtree(compiled, ignore_errors=True))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Synthetic faces, drawn and then built by the command that users run; the builder is not imported here."""
    from agegender import write_faces

    faces, data = tmp_path_factory.mktemp("faces"), tmp_path_factory.mktemp("data")
    write_faces(faces / "UTKFace", FACES, size=SIZE, seed=3)
    tfds = pathlib.Path(sys.executable).with_name("tfds")
    command = [tfds, "build", "utkface", f"--manual_dir={faces}", f"--data_dir={data}"]
    done = subprocess.run(command, cwd=ROOT / "datasets", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return data


@pytest.fixture(scope="session")
def couple() -> np.ndarray:
    """Uint8 RGB [200, 360, 3], two faces of 120 pixels."""
    from agegender.synthetic.faces import draw_people

    return draw_people([(23, 1, 4, 39), (47, 0, 3, 36)])


@pytest.fixture
def tiny_trunk() -> keras.Model:
    return make_tiny_trunk()


def make_tiny_trunk(size: int = SIZE) -> keras.Model:
    """Two convolutions, in the trunk's contract: images 0..255 in, features out."""
    return keras.Sequential(
        [
            keras.Input((size, size, 3), name="image"),
            keras.layers.Rescaling(1 / 127.5, -1),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
