"""Finds, checks and loads trained models."""

import contextlib
import functools
import math
import os
import pathlib
import threading
import zipfile
from collections.abc import Iterator
from typing import Any, Final

import h5py
import keras
import numpy as np

# Importing these registers the layers of saved models.
from agegender.models import augmentation, layers  # noqa: F401
from agegender.models.layers import iterate_layers
from agegender.schema import BEST_MODEL, HEADS

_WEIGHTS: Final = "model.weights.h5"  # in a .keras file
_MAX_EXPANSION: Final = 4  # Keras packs weights without compression, and floats hardly compress
_SLACK: Final = 1_000_000  # bytes, for the configuration and small files
_MAX_ACTIVATION: Final = 2**28  # values per image and layer; VGG16 has 2**24 at 512 pixels
_KERNEL_DIMENSIONS: Final = 4  # of a convolution: height, width, input and output channels
_LOADING: Final = threading.Lock()


def load_model(path: str | os.PathLike) -> keras.Model:
    """Loads a trained model from a `.keras` file or from the folder of a run.

    The file may come from anywhere: loading runs no code in it, and takes a few times its size in memory at most.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if the file is damaged, or not a model from `build_model`.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"`model` must be a model, a .keras file or the folder of a run. Received: {path!r}")
    file = pathlib.Path(path)
    if file.is_dir():
        file = file / BEST_MODEL
    if not file.is_file():
        raise FileNotFoundError(f"There is no trained model at {file}. `train` writes one; give its workdir or file.")
    if file.suffix == ".onnx":
        raise ValueError(
            f"{file} must be the .keras file that it was exported from. `Predictor` and `agegender evaluate --labels` "
            "take ONNX files"
        )
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is not a .keras file, or it is cut short: every .keras file is a zip archive.")
    try:
        with _limit_weights(_count_weights(file)):
            model = keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises any kind for a damaged archive
        reason = _summarize_error(error)
        raise ValueError(f"{file} cannot be loaded; it is damaged, or not of this library: {reason}") from error
    try:
        return check_model(model)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _count_weights(file: pathlib.Path) -> int:
    """Counts the numbers in a `.keras` file, without reading them, and checks that they take the space they claim."""
    limit = _MAX_EXPANSION * file.stat().st_size + _SLACK
    with zipfile.ZipFile(file) as archive:
        _check_size(sum(part.file_size for part in archive.infolist()), limit)
        with archive.open(_WEIGHTS) as part, h5py.File(part, "r") as weights:
            datasets: list[h5py.Dataset] = []
            weights.visititems(lambda _, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
            _check_size(sum(dataset.nbytes for dataset in datasets), limit)
            return sum(dataset.size for dataset in datasets)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"it unpacks to {size:,} bytes, and {limit:,} is the most for a file of its size")


@contextlib.contextmanager
def _limit_weights(limit: int) -> Iterator[None]:
    """Raises ValueError, before memory is allocated, once layers create more than `limit` weights in this thread."""
    add_weight = keras.layers.Layer.add_weight
    thread, count = threading.get_ident(), 0

    @functools.wraps(add_weight)
    def add_limited_weight(self: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        if threading.get_ident() == thread:
            shape = kwargs.get("shape", args[0] if args else None)
            count += math.prod(shape if isinstance(shape, tuple | list) else (shape or 1,))
            if count > limit:
                raise ValueError(f"its configuration needs more weights than the {limit:,} that it contains")
        return add_weight(self, *args, **kwargs)

    with _LOADING:
        keras.layers.Layer.add_weight = add_limited_weight
        try:
            yield
        finally:
            keras.layers.Layer.add_weight = add_weight


def _summarize_error(error: Exception) -> str:
    """Returns one line of what Keras says, which repeats the configuration before it comes to the point."""
    message = str(error).rpartition("Exception encountered: ")[2].strip() or type(error).__name__
    return message.splitlines()[0][:300]


def check_model(model: Any) -> keras.Model:
    """Returns the model if it maps images to ages and genders.

    Raises:
        ValueError: if it does not, if a layer needs too much memory, if weights are not finite, or if all convolutions
            are zero.
    """
    input_shape, outputs = getattr(model, "input_shape", None), getattr(model, "output", None)
    shapes = {head: tuple(output.shape) for head, output in outputs.items()} if isinstance(outputs, dict) else {}
    takes_images = (
        isinstance(input_shape, tuple)
        and len(input_shape) == 4
        and input_shape[-1] == 3
        and None not in input_shape[1:]
    )
    answers_heads = shapes and all(head in HEADS and shape == (None, 1) for head, shape in shapes.items())
    if not takes_images or not answers_heads:
        raise ValueError(
            "The model must be one from `build_model`, from images [batch, height, width, 3] to 'age', 'gender' or "
            f"both. Received: {getattr(model, 'name', model)!r}, from {input_shape} to "
            f"{shapes or getattr(model, 'output_shape', None)}"
        )
    for layer in iterate_layers(model):
        for output in keras.tree.flatten(getattr(layer, "output", None)):
            if math.prod(size or 1 for size in output.shape[1:]) > _MAX_ACTIVATION:
                raise ValueError(
                    f"The output of each layer must have at most {_MAX_ACTIVATION:,} values per image. "
                    f"Received: {layer.name!r} with {tuple(output.shape)}"
                )
    _check_weights(model)
    return model


def _check_weights(model: keras.Model) -> None:
    """Raises ValueError if weights are not finite, or all convolutions are zero, which no training changes."""
    kernels = []
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight)
        if not np.all(np.isfinite(values)):
            raise ValueError(f"The model must have finite weights. Received: {weight.path}")
        if values.ndim == _KERNEL_DIMENSIONS:
            kernels.append(np.any(values))
    if kernels and not any(kernels):
        raise ValueError(
            "The model must have a convolution with weights other than zero: it answers the same for all images and "
            f"cannot learn. Received: {len(kernels)} convolutions of zeros"
        )
