import os
import subprocess
import sys

import pytest

ENABLE = """
import sys, keras
from agegender.training.determinism import enable_determinism
enable_determinism()
if keras.backend.backend() == "jax":
    import os
    assert "exclude_nondeterministic_ops=true" in os.environ["XLA_FLAGS"] and "--xla_cpu" in os.environ["XLA_FLAGS"]
    assert float(keras.ops.sum(keras.ops.ones(3))) == 3
else:
    import tensorflow as tf
    try:
        tf.random.uniform([1])
    except RuntimeError as error:
        assert "determinism" in str(error)
    else:
        sys.exit("not switched on")
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_determinism_is_enabled_in_the_backend(backend: str) -> None:
    flags = "--xla_cpu_enable_fast_math=false"
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, "-c", ENABLE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
