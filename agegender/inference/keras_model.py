"""Keras models as a `FaceModel`: the one module of inference that imports Keras."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import keras
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "A run or a .keras file needs TensorFlow and Keras: pip install 'agegender[train]'. An .onnx file does not."
    ) from error

from agegender.models.dtypes import cast_model, fastest_dtype, get_compute_dtype
from agegender.models.layers import iterate_layers
from agegender.models.prediction import predict_batch
from agegender.models.saving import check_model, load_model
from agegender.schema import HEADS


class KerasFaceModel:
    """A Keras model from `build_model`.

    Args:
        model: the model.
        dtype: as for `Predictor`.

    Raises:
        ValueError: if it is not one from `build_model`, or `dtype` is "int8".
    """

    flip: bool | None = None

    def __init__(self, model: keras.Model, dtype: str | None = None) -> None:
        if dtype == "int8":
            raise ValueError("Keras models do not compute in int8: export one with format='onnx_int8'.")
        self.model = check_model(model)
        if dtype is not None:
            self.model = cast_model(self.model, fastest_dtype() if dtype == "auto" else dtype)
        dtypes = [get_compute_dtype(layer) for layer in iterate_layers(self.model)]
        self.dtype = next((each for each in ("bfloat16", "float16") if each in dtypes), "float32")
        self.heads: Sequence[str] = [head for head in HEADS if head in self.model.output]
        self.image_size: tuple[int, int] = (self.model.input_shape[1], self.model.input_shape[2])
        self._process = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = {**state, "_process": os.getpid()}

    def predict(self, images: NDArray[np.uint8], *, flip: bool) -> dict[str, NDArray[np.float32]]:
        """Predicts one batch."""
        if self._process != os.getpid():
            raise RuntimeError(
                "A Keras model cannot be used in a process forked after it was loaded: make the Predictor in the "
                "child, start processes with multiprocessing.get_context('spawn'), or use an .onnx file."
            )
        return predict_batch(self.model, images, flip=flip)


def load_keras_model(path: pathlib.Path, dtype: str | None = None) -> KerasFaceModel:
    """Loads a `.keras` file or the best model in the folder of a run."""
    return KerasFaceModel(load_model(path), dtype)
