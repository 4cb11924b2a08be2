"""Where trained models are, and how they are loaded."""

import json
import os
import pathlib
import zipfile
from typing import Any, Final

import keras
import numpy as np

# Registers the layers that a saved model is made of.
from agegender.models import (
    augmentation,  # noqa: F401
    layers,  # noqa: F401
)
from agegender.schema import BEST_MODEL, HEADS

_RELEASED = pathlib.Path(__file__).parents[2] / "models" / "utkface64"  # at the top of a checkout
_VARIABLE = "AGEGENDER_MODEL"
_CONFIG: Final = "config.json"  # in a .keras file
_RATIO: Final = 100  # to what a part of a file may inflate; Keras packs without compression
_SLACK: Final = 1_000_000  # bytes for which that does not matter
_CODE: Final = frozenset({"Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper"})
_SIZES: Final = ("batch_shape", "filters", "units")
_LARGEST: Final = 16_384  # of these; Keras would ask for the memory before it looks at the weights


def find_released() -> pathlib.Path:
    """The place of the released model.

    Raises:
        FileNotFoundError: if it is not there; the words say how to get it.
    """
    named = os.environ.get(_VARIABLE)
    path = pathlib.Path(named) if named else _RELEASED
    if not model_file(path).is_file():
        raise FileNotFoundError(
            f"There is no released model at {path}{f', which {_VARIABLE} names' if named else ''}. It comes with a "
            "clone of the project, not with an installed package: copy the folder models/utkface64 of a clone, or "
            "train a model with `make train`, and give the folder to `Predictor`, to the command (--model=FOLDER for "
            f"predict, FOLDER for the others) or in the environment variable {_VARIABLE}."
        )
    return path


def model_file(path: str | os.PathLike) -> pathlib.Path:
    """The `.keras` file that a path stands for: itself, or the best model of a run's folder. It need not be there."""
    path = pathlib.Path(path)
    return path / BEST_MODEL if path.is_dir() else path


def load_model(path: str | os.PathLike) -> keras.Model:
    """Loads a trained model from a `.keras` file or from the folder of a run.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is damaged, or no model from `build_model`.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"`model` must be a model, a .keras file or the folder of a run. Received: {path!r}")
    file = model_file(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no trained model at {file}. `train` writes one; give its workdir or file.")
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is no .keras file, or it is cut short: every .keras file is a zip archive.")
    try:
        _check_archive(file)
        model = keras.saving.load_model(file, compile=False)
    except Exception as error:  # of a damaged archive Keras lets any kind through
        raise ValueError(f"{file} cannot be loaded; it is damaged, or not of this library: {_cause(error)}") from error
    try:
        return check_model(model)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _check_archive(file: pathlib.Path) -> None:
    """Before Keras reads a file: that it does not inflate to much more, holds no code and asks for no huge layer."""
    with zipfile.ZipFile(file) as archive:
        for part in archive.infolist():
            if part.filename.startswith("/") or ".." in part.filename.split("/"):
                raise ValueError(f"its part {part.filename!r} leads out of it")
            if part.file_size > _RATIO * part.compress_size + _SLACK:
                raise ValueError(f"its part {part.filename!r} inflates from {part.compress_size} to {part.file_size}")
        json.loads(archive.read(_CONFIG), object_hook=_check_config)


def _check_config(config: dict[str, Any]) -> dict[str, Any]:
    if (kind := config.get("class_name")) in _CODE:
        raise ValueError(f"it holds a {kind}, code that would run here, which no model of `build_model` has")
    for name in _SIZES:
        sizes = config.get(name)
        for size in sizes if isinstance(sizes, list) else [sizes]:
            if isinstance(size, int | float) and not size <= _LARGEST:
                raise ValueError(f"`{name}` must be {_LARGEST} or less. Received: {name}={size}")
    return config


def _cause(error: Exception) -> str:
    """One line of what Keras says, which repeats the configuration before it comes to the point."""
    said = str(error).rpartition("Exception encountered: ")[2].strip() or type(error).__name__
    return said.splitlines()[0][:300]


def check_model(model: Any) -> keras.Model:
    """The model itself, if it maps images to ages and genders.

    Raises:
        ValueError: if not, or if some of its weights are not finite.
    """
    images, answers = getattr(model, "input_shape", None), getattr(model, "output", None)
    shapes = {head: tuple(answer.shape) for head, answer in answers.items()} if isinstance(answers, dict) else {}
    sized = isinstance(images, tuple) and len(images) == 4 and None not in images[1:] and images[-1] == 3
    if not shapes or not sized or any(head not in HEADS or shape != (None, 1) for head, shape in shapes.items()):
        raise ValueError(
            "The model must be one from `build_model`, from images [batch, height, width, 3] to 'age', 'gender' or "
            f"both. Received: {getattr(model, 'name', model)!r}, from {images} to "
            f"{shapes or getattr(model, 'output_shape', None)}"
        )
    for weight in model.weights:
        if not np.all(np.isfinite(keras.ops.convert_to_numpy(weight))):
            raise ValueError(f"The model must have finite weights: its guesses would be none. Received: {weight.path}")
    return model
