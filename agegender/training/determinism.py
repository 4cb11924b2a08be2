"""Bit-exact results on a GPU."""

import os

import keras


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
