"""Where trained models are, and how they are loaded."""

import os
import pathlib

import keras

# Registers the layers that a saved model is made of.
from agegender import augment, vggface  # noqa: F401
from agegender import model as heads  # noqa: F401
from agegender.schema import BEST_MODEL

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
            f"clone of the project, not with an installed package: copy the folder models/utkface64 of a clone, and "
            f"give its path to `Predictor` or in the environment variable {_VARIABLE}."
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
    """
    file = model_file(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no trained model at {file}. `train` writes one; give its workdir or file.")
    return keras.saving.load_model(file, compile=False)
