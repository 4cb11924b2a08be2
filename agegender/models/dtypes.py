"""The devices of this machine, the dtype policy that is fastest on them, and models in another dtype."""

from typing import Any, Final

import keras

from agegender.environment import read_cpu_flags
from agegender.models.layers import iterate_layers

_HALF_PRECISION: Final = ("float16", "bfloat16")
_CONVOLUTIONS: Final = (keras.layers.Conv2D, keras.layers.MaxPooling2D)


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
    has_bfloat16 = keras.backend.backend() == "tensorflow" and {"avx512_bf16", "amx_bf16"} & read_cpu_flags()
    return "mixed_bfloat16" if has_bfloat16 else "float32"


def cast_model(model: keras.Model, policy: str) -> keras.Model:
    """Copies a model so that it computes in another dtype, where it does not yet; the weights are the same.

    Args:
        model: a model from `build_model`.
        policy: "float32" for all layers; or a Keras policy of half precision for convolutions and poolings, which take
            nearly all of the time. The heads keep their dtype.

    Returns:
        The copy, or the model itself if there is nothing to change.
    """

    def is_changed(layer: keras.layers.Layer) -> bool:
        if policy == "float32":
            return get_compute_dtype(layer) in _HALF_PRECISION
        return isinstance(layer, _CONVOLUTIONS) and get_compute_dtype(layer) == "float32"

    def copy_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        return type(layer).from_config({**config, "dtype": policy} if is_changed(layer) else config)

    if not any(map(is_changed, iterate_layers(model))):
        return model
    copy = keras.models.clone_model(model, clone_function=copy_layer, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def get_compute_dtype(layer: keras.layers.Layer) -> str | None:
    """The dtype that a layer computes in; None for bare operations, which have none of their own."""
    return getattr(layer, "compute_dtype", None)


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
