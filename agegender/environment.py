"""The environment that TensorFlow reads when it is imported, which only commands set, and the CPU's instructions."""

import contextlib
import importlib.util
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Final

_BACKENDS: Final = ("tensorflow", "jax", "torch")
_CPU_INFO: Final = pathlib.Path("/proc/cpuinfo")
# AVX512-VNNI and its shorter form, AMX, and the dot product of ARM: products of 8 bits, added up in 32.
_INT8_FLAGS: Final = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})


def set_environment() -> None:
    """Sets what makes a command quiet and fast, where the user has not said otherwise; before TensorFlow loads."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # take GPU memory as it is needed, not all of it
    # oneDNN's convolutions, which TensorFlow takes by itself on chips with AVX512-VNNI or newer only: 1.7 times as fast
    # on one with AVX2.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    check_backend()


def check_backend() -> None:
    """Raises ImportError if Keras is installed, but not the backend that it would use; before Keras is imported."""
    backend, source = _read_backend()
    if importlib.util.find_spec("keras") is None or backend == "numpy":  # which cannot train, and can predict
        return
    if backend not in _BACKENDS:
        raise ImportError(f"Keras's backend must be one of {_BACKENDS}. Received: {backend!r}, from {source}")
    if importlib.util.find_spec(backend) is None:
        package = "'agegender[train]'" if backend == "tensorflow" else backend
        raise ImportError(
            f"Keras's backend is {backend} (from {source}), which is not installed: pip install {package}"
        )


def _read_backend() -> tuple[str, str]:
    """Returns the backend that Keras will use, and where it is named."""
    if backend := os.environ.get("KERAS_BACKEND"):
        return backend, "KERAS_BACKEND"
    file = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras") / "keras.json"
    try:
        return json.loads(file.read_text())["backend"], str(file)
    except (OSError, ValueError, KeyError, TypeError):  # Keras, too, ignores a file that is no JSON
        return "tensorflow", "its default"


def load_backend() -> None:
    """Imports Keras, and TensorFlow if it is installed, without the lines that they print whatever the log level.

    JAX does not start yet: several processes must join before.

    Raises:
        ImportError: as `check_backend`.
    """
    set_environment()
    with _silent():
        import keras

        if importlib.util.find_spec("tensorflow"):
            import tensorflow

            tensorflow.config.list_physical_devices()  # starts CUDA, which complains where there is no GPU
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


def read_cpu_flags() -> set[str]:
    """The instruction sets of the CPU as Linux names them; empty on other systems."""
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    return next((set(line.split()) for line in lines if line.startswith(("flags", "Features"))), set())


def has_int8_instructions() -> bool:
    """Whether the CPU multiplies integers of 8 bits several times as fast as floats, as far as Linux tells."""
    return bool(_INT8_FLAGS & read_cpu_flags())
