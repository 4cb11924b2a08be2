"""What TensorFlow reads from the environment when it is imported, for commands; the library itself sets nothing."""

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator


def set_environment() -> None:
    """Sets what makes a command quiet and fast, where the user has not said otherwise; before TensorFlow loads."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # take GPU memory as it is needed, not all of it
    # oneDNN's convolutions, which TensorFlow takes by itself on chips with AVX512-VNNI or newer only: 1.7 times as fast
    # on one with AVX2.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    backend = os.environ.get("KERAS_BACKEND")
    if backend in ("jax", "torch") and importlib.util.find_spec(backend) is None:
        raise ImportError(f"KERAS_BACKEND={backend}, but {backend} is not installed: `pip install {backend}`")


def load_backend() -> None:
    """Imports Keras, and TensorFlow if it is installed, without the lines that they print whatever the log level.

    JAX does not start yet: several processes must join before.
    """
    set_environment()
    with _silent():
        import keras

        if importlib.util.find_spec("tensorflow"):
            import tensorflow  # noqa: F401
        if keras.backend.backend() != "jax":
            keras.ops.zeros(1)  # starts the devices


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Captures standard error, and writes it out if an error is raised."""
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(standard_error, held.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
