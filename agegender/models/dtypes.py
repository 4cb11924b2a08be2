"""The devices of this machine, and the dtype policy that is fastest on them."""

import pathlib
from typing import Any, Final

import keras

_CPU_INFO: Final = pathlib.Path("/proc/cpuinfo")


def fastest_dtype() -> str:
    """Finds the dtype policy that is fastest on this machine; set it before you build a trunk.

    "mixed_bfloat16" on a TPU, on an NVIDIA GPU of compute capability 8.0 or more (2020 and later), and on a CPU with
    AVX512-BF16 or AMX-BF16 under TensorFlow on Linux. "mixed_float16" on an NVIDIA GPU of capability 7.x, where
    `train` scales the loss. "float32" elsewhere. The oldest of several GPUs decides.

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
        capability = _find_gpu_capability() or 0.0
        return "mixed_bfloat16" if capability >= 8 else "mixed_float16" if capability >= 7 else "float32"
    has_bfloat16 = keras.backend.backend() == "tensorflow" and {"avx512_bf16", "amx_bf16"} & _read_cpu_flags()
    return "mixed_bfloat16" if has_bfloat16 else "float32"


def list_devices() -> list[str]:
    """Lists the accelerators, such as "gpu:0", or the CPUs if there are none."""
    if keras.backend.backend() != "torch":
        return keras.distribution.list_devices()
    import torch  # only in this branch; Keras 3.15 does not list the devices of torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu:0"]


def _find_gpu_capability() -> float | None:
    """The lowest compute capability of the GPUs, such as 8.6; None for GPUs of other makers."""
    backend = keras.backend.backend()
    capabilities: list[Any]
    if backend == "tensorflow":
        import tensorflow as tf  # only in this branch: the other backends must not need TensorFlow

        details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
        capabilities = [each.get("compute_capability") for each in details]
    elif backend == "jax":
        import jax

        capabilities = [getattr(device, "compute_capability", None) for device in jax.devices()]
    else:
        import torch

        capabilities = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
    numbers = [number for number in map(_parse_capability, capabilities) if number]
    return min(numbers) if capabilities and len(numbers) == len(capabilities) else None


def _parse_capability(capability: Any) -> float | None:
    """Parses (8, 6), as TensorFlow and torch have it, or "8.6", as JAX has it; "gfx90a", of an AMD GPU, gives None."""
    try:
        return float(capability if isinstance(capability, str) else "{}.{}".format(*capability))
    except (TypeError, ValueError, IndexError):
        return None


def _read_cpu_flags() -> set[str]:
    """The instruction sets of the CPU as Linux names them; empty on other systems."""
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
