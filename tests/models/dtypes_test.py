"""`agegender.models.dtypes`: the dtype policy for each chip; the device queries are faked."""

import pathlib
import sys
import types

import keras
import pytest
import tensorflow as tf

import agegender as ag
from agegender import environment
from agegender.models import dtypes


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
def test_fastest_dtype_of_an_accelerator(
    monkeypatch: pytest.MonkeyPatch, seen: list[str], capability: float | None, expected: str
) -> None:
    monkeypatch.setattr(dtypes, "list_devices", lambda: seen)
    monkeypatch.setattr(dtypes, "_find_gpu_capability", lambda: capability)
    assert ag.fastest_dtype() == expected


@pytest.mark.parametrize(
    ("backend", "flags", "expected"),
    [
        ("tensorflow", "flags\t\t: fpu avx512f avx512_bf16\n", "mixed_bfloat16"),
        ("tensorflow", "flags\t\t: fpu amx_bf16 sse\nbugs\t\t: x\n", "mixed_bfloat16"),
        ("tensorflow", "flags\t\t: avx2 avx512f\nbugs\t\t: amx_bf16\n", "float32"),
        ("tensorflow", "", "float32"),
        ("tensorflow", None, "float32"),  # not Linux
        ("jax", "flags\t\t: avx512_bf16\n", "float32"),
    ],
)
def test_fastest_dtype_of_a_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, backend: str, flags: str | None, expected: str
) -> None:
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: x\n{flags}")
    monkeypatch.setattr(environment, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(dtypes, "list_devices", lambda: ["cpu:0"])
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
def test_tensorflow_finds_the_lowest_capability(
    monkeypatch: pytest.MonkeyPatch, details: list[dict], expected: float | None
) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(range(len(details))))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda index: details[index])
    assert dtypes._find_gpu_capability() == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"), [(["8.0"], 8.0), (["9.0", "7.0"], 7.0), (["gfx90a"], None), ([None], None)]
)
def test_jax_finds_the_lowest_capability(
    monkeypatch: pytest.MonkeyPatch, capabilities: list[str | None], expected: float | None
) -> None:
    seen = [types.SimpleNamespace(compute_capability=capability) for capability in capabilities]
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(devices=lambda: seen))
    assert dtypes._find_gpu_capability() == expected


def test_torch_finds_the_lowest_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = [(9, 0), (8, 9)]
    cuda = types.SimpleNamespace(device_count=lambda: 2, get_device_capability=lambda index: capabilities[index])
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert dtypes._find_gpu_capability() == 8.9
    assert dtypes.list_devices() == ["cuda:0", "cuda:1"] and ag.fastest_dtype() == "mixed_bfloat16"
