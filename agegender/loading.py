"""Where trained models are, and how they are loaded."""

import os
import pathlib
import zipfile
from typing import Any

import keras

# Registers the layers that a saved model is made of.
from agegender import augment, vggface  # noqa: F401
from agegender import model as heads  # noqa: F401
from agegender.schema import BEST_MODEL, HEADS

_RELEASED = pathlib.Path(__file__).parent.parent / "models" / "utkface64"  # at the top of a checkout
_VARIABLE = "AGEGENDER_MODEL"


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
        model = keras.saving.load_model(file, compile=False)
    except Exception as error:  # of a damaged archive Keras lets any kind through
        raise ValueError(f"{file} cannot be loaded; it is damaged, or not of this library: {error}") from error
    return check_model(model)


def check_model(model: Any) -> keras.Model:
    """The model itself, if it maps pictures to ages and genders.

    Raises:
        ValueError: if not.
    """
    pictures, answers = getattr(model, "input_shape", None), getattr(model, "output", None)
    named = isinstance(answers, dict) and answers and set(answers) <= set(HEADS)
    if not named or not isinstance(pictures, tuple) or len(pictures) != 4 or pictures[-1] != 3:
        answers = sorted(answers) if isinstance(answers, dict) else getattr(model, "output_shape", None)
        raise ValueError(
            "The model must be one from `build_model`, from pictures [batch, height, width, 3] to 'age', 'gender' or "
            f"both. Received: {model.name!r}, from {pictures} to {answers}"
        )
    return model
