"""`agegender.training.devices`: which dtype for which chip, the device queries faked."""

import os
import subprocess
import sys
import types

import keras
import pytest
import tensorflow as tf

import agegender as ag
from agegender.training import devices


@pytest.mark.parametrize(
    ("seen", "capability", "expected"),
    [
        (["tpu:0"], None, "mixed_bfloat16"),
        (["gpu:0"], 9.0, "mixed_bfloat16"),
        (["gpu:0", "gpu:1"], 8.0, "mixed_bfloat16"),
        (["cuda:0"], 8.6, "mixed_bfloat16"),
        (["gpu:0"], 7.5, "mixed_float16"),
        (["gpu:0"], 7.0, "mixed_float16"),
        (["gpu:0"], 6.1, "float32"),
        (["gpu:0"], None, "float32"),  # of another maker
    ],
)
def test_an_accelerator_gets_the_dtype_that_it_multiplies_in(
    monkeypatch: pytest.MonkeyPatch, seen: list[str], capability: float | None, expected: str
) -> None:
    monkeypatch.setattr(devices, "list_devices", lambda: seen)
    monkeypatch.setattr(devices, "_gpu_capability", lambda: capability)
    assert ag.fastest_dtype() == expected


@pytest.mark.parametrize(
    ("backend", "flags", "expected"),
    [
        ("tensorflow", {"avx512f", "avx512_bf16"}, "mixed_bfloat16"),
        ("tensorflow", {"amx_bf16"}, "mixed_bfloat16"),
        ("tensorflow", {"avx2", "avx512f"}, "float32"),
        ("tensorflow", set(), "float32"),
        ("jax", {"avx512_bf16"}, "float32"),
    ],
)
def test_a_processor_gets_bfloat16_where_onednn_can_use_it(
    monkeypatch: pytest.MonkeyPatch, backend: str, flags: set[str], expected: str
) -> None:
    monkeypatch.setattr(devices, "list_devices", lambda: ["cpu:0"])
    monkeypatch.setattr(devices, "_cpu_flags", lambda: flags)
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    assert ag.fastest_dtype() == expected


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ([{"compute_capability": (8, 6)}, {"compute_capability": (7, 5)}], 7.5),
        ([{"compute_capability": (12, 0)}], 12.0),
        ([{"device_name": "another maker's"}], None),
        ([], None),
    ],
)
def test_tensorflow_tells_the_capability_of_the_oldest_gpu(
    monkeypatch: pytest.MonkeyPatch, details: list[dict], expected: float | None
) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(range(len(details))))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda index: details[index])
    assert devices._gpu_capability() == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"), [(["8.0"], 8.0), (["9.0", "7.0"], 7.0), (["gfx90a"], None), ([None], None)]
)
def test_jax_tells_the_capability_of_the_oldest_gpu(
    monkeypatch: pytest.MonkeyPatch, capabilities: list[str | None], expected: float | None
) -> None:
    seen = [types.SimpleNamespace(compute_capability=capability) for capability in capabilities]
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(devices=lambda: seen))
    assert devices._gpu_capability() == expected


def test_torch_tells_the_capability_of_the_oldest_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = [(9, 0), (8, 9)]
    cuda = types.SimpleNamespace(device_count=lambda: 2, get_device_capability=lambda index: capabilities[index])
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert devices._gpu_capability() == 8.9
    assert devices.list_devices() == ["cuda:0", "cuda:1"] and ag.fastest_dtype() == "mixed_bfloat16"


REPEATED = """
import sys, keras
from agegender.training.devices import enable_determinism
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


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_the_same_bits_are_asked_of_the_backend(backend: str) -> None:
    flags = "--xla_cpu_enable_fast_math=false"
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, "-c", REPEATED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
