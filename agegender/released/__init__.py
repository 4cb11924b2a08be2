"""The released model: best.keras for Keras, model.onnx for onnxruntime with the same weights, calibration and card.

model-int8.onnx, if it is there, is the same model with all convolutions but the last in 8 bits.
"""

import os
import pathlib
from typing import Final

ONNX_MODEL: Final = "model.onnx"
INT8_MODEL: Final = "model-int8.onnx"
_FOLDER = pathlib.Path(__file__).parent
_VARIABLE: Final = "AGEGENDER_MODEL"


def find_released() -> pathlib.Path:
    """The released model, or the one that the environment variable AGEGENDER_MODEL names instead.

    Returns:
        A folder or a model file.

    Raises:
        FileNotFoundError: if nothing is there.
    """
    named = os.environ.get(_VARIABLE)
    path = pathlib.Path(named) if named else _FOLDER
    if not path.exists():
        raise FileNotFoundError(
            f"There is no model at {path}, which the environment variable {_VARIABLE} names. Give a .onnx or .keras "
            "file or the folder of a run, or unset it for the released model."
        )
    return path


def is_released(path: pathlib.Path) -> bool:
    """Whether a path is the folder of the released model."""
    return path.is_dir() and path.samefile(_FOLDER)
