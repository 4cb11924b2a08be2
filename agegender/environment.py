"""What TensorFlow reads from the environment when it is imported, for commands; the library itself sets nothing."""

import os


def set_environment() -> None:
    """Sets what makes a command quiet and fast, where the user has not said otherwise; before TensorFlow loads."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # take GPU memory as it is needed, not all of it
    # oneDNN's convolutions, which TensorFlow takes by itself on chips with AVX512-VNNI or newer only: 1.7 times as fast
    # on one with AVX2 (BENCHMARKS.md).
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
