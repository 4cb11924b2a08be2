"""What this machine computes with, and the dtype that it computes fastest in."""

import os
import pathlib
from typing import Any

import keras


def fastest_dtype() -> str:
    """The dtype policy that this machine computes fastest with, to be set before a trunk is built.

    "mixed_bfloat16" where the chip multiplies in it: a TPU, an NVIDIA GPU of compute capability 8.0 or more (2020 and
    later), and a CPU with AVX512-BF16 or AMX-BF16 under TensorFlow on Linux, whose oneDNN makes use of it.
    "mixed_float16" on an NVIDIA GPU of capability 7.x, for which `train` scales the loss. "float32" elsewhere. Where
    GPUs differ, the oldest decides.

    Returns:
        The name of a Keras dtype policy, for `keras.config.set_dtype_policy`.

    Example:

    >>> fastest_dtype() in ("float32", "mixed_float16", "mixed_bfloat16")
    True
    """
    kinds = {device.partition(":")[0] for device in list_devices()}
    if "tpu" in kinds:
        return "mixed_bfloat16"
    if kinds & {"gpu", "cuda"}:
        capability = _gpu_capability() or 0.0
        return "mixed_bfloat16" if capability >= 8 else "mixed_float16" if capability >= 7 else "float32"
    fast = keras.backend.backend() == "tensorflow" and {"avx512_bf16", "amx_bf16"} & _cpu_flags()
    return "mixed_bfloat16" if fast else "float32"


def list_devices() -> list[str]:
    """The accelerators, or the processors where there are none, as "gpu:0"."""
    if keras.backend.backend() != "torch":
        return keras.distribution.list_devices()
    import torch  # only in this branch; Keras 3.15 does not list the devices of torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu:0"]


def enable_determinism() -> None:
    """Makes a GPU deterministic, which is slower; a CPU is anyway. Call it before anything is computed.

    Raises:
        ValueError: on the torch backend.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf  # only in this branch: the other backends must not need TensorFlow

        tf.config.experimental.enable_op_determinism()
    elif backend == "jax":
        os.environ["XLA_FLAGS"] = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_exclude_nondeterministic_ops=true".strip()
        )
    else:
        raise ValueError(f"Works on TensorFlow and JAX. Received: the backend {backend!r}")


def _gpu_capability() -> float | None:
    """The lowest compute capability of the GPUs in use, 8.6 for instance; None for those that have no such number."""
    backend = keras.backend.backend()
    found: list[Any]
    if backend == "tensorflow":
        import tensorflow as tf  # only in this branch: the other backends must not need TensorFlow

        details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
        found = [each.get("compute_capability") for each in details]
    elif backend == "jax":
        import jax

        found = [getattr(device, "compute_capability", None) for device in jax.devices()]
    else:
        import torch

        found = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
    numbers = [number for number in map(_number, found) if number]
    return min(numbers) if found and len(numbers) == len(found) else None


def _number(capability: Any) -> float | None:
    """TensorFlow and torch say (8, 6), JAX says "8.6" and of an AMD GPU "gfx90a"."""
    try:
        return float(capability if isinstance(capability, str) else "{}.{}".format(*capability))
    except (TypeError, ValueError, IndexError):
        return None


def _cpu_flags() -> set[str]:
    """What the processor can do, in Linux's words; nothing elsewhere."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
