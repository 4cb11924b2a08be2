import os
import subprocess
import sys

import keras
import pytest
import tensorflow as tf

from agegender.training.determinism import enable_determinism

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


def test_determinism_is_set_up_for_each_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    enabled: list[int] = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: enabled.append(1))
    enable_determinism()
    assert enabled == [1]
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setenv("XLA_FLAGS", "--a=b")
    enable_determinism()
    assert os.environ["XLA_FLAGS"] == "--a=b --xla_gpu_exclude_nondeterministic_ops=true" and enabled == [1]
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="Received: the backend 'torch'"):
        enable_determinism()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_determinism_is_enabled_in_the_backend(backend: str) -> None:
    flags = "--xla_cpu_enable_fast_math=false"
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, "-c", ENABLE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
