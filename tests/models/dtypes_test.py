"""`agegender.models.dtypes`: the dtype policy for each chip; the device queries are faked."""

import pathlib
import sys
import types

import keras
import pytest
import tensorflow as tf

import agegender as ag
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
        ("tensorflow", {"avx512f", "avx512_bf16"}, "mixed_bfloat16"),
        ("tensorflow", {"amx_bf16"}, "mixed_bfloat16"),
        ("tensorflow", {"avx2", "avx512f"}, "float32"),
        ("tensorflow", set(), "float32"),
        ("jax", {"avx512_bf16"}, "float32"),
    ],
)
def test_fastest_dtype_of_a_cpu(monkeypatch: pytest.MonkeyPatch, backend: str, flags: set[str], expected: str) -> None:
    monkeypatch.setattr(dtypes, "list_devices", lambda: ["cpu:0"])
    monkeypatch.setattr(dtypes, "_read_cpu_flags", lambda: flags)
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


@pytest.mark.parametrize(
    ("info", "expected"), [("flags\t\t: fpu avx2 amx_bf16 sse\n", "mixed_bfloat16"), ("", "float32")]
)
def test_cpu_flags_are_read_from_proc(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, info: str, expected: str
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: x\n{info}")
    monkeypatch.setattr(dtypes, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(dtypes, "list_devices", lambda: ["cpu:0"])
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    assert ag.fastest_dtype() == expected
