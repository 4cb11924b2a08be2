"""Models that answer with age and gender for aligned faces, whatever computes them."""

import dataclasses
import json
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from agegender.calibration.calibration import Calibration, load_calibration
from agegender.environment import has_int8_instructions
from agegender.inference.runtime import OnnxModel
from agegender.released import INT8_MODEL, ONNX_MODEL, find_released, is_released
from agegender.schema import AGE, BEST_MODEL, GENDER, HEADS, MAX_AGE, MIN_AGE

_METADATA: Final = "agegender"  # key of the metadata in a file that `export_model` wrote
_RAW_GENDER: Final = "gender_uncalibrated"
_MAX_VIEWS: Final = 32  # that a thread computes at once: more take memory, but hardly less time
_MAX_SIDE: Final = 4096  # pixels of a model's images
# The type of a node in an ONNX file: field 4, whose length may be written with more bytes than it needs. Onnxruntime
# does not bound a loop without end, and no model of this library has a loop.
_LOOP: Final = re.compile(rb"\x22(?:\x04|\x84\x80*\x00)Loop")
DTYPES: Final = ("float32", "int8", "auto")


class FaceModel(Protocol):
    """What answers for faces.

    Attributes:
        heads: "age", "gender" or both.
        image_size: height and width in pixels of the images it takes.
        dtype: what most of it computes in: "float32", "int8", "bfloat16" or "float16".
        flip: True if it always averages over mirror images, None if the caller chooses.
    """

    heads: Sequence[str]
    image_size: tuple[int, int]
    dtype: str
    flip: bool | None

    def predict(self, images: NDArray[np.uint8], *, flip: bool) -> dict[str, NDArray[np.float32]]:
        """Predicts one batch.

        Args:
            images: RGB [batch, height, width, 3].
            flip: whether to average the answers for each image and its mirror image.

        Returns:
            For each head [batch]: the age in years, within 0..116, and the uncalibrated probability of female.
        """
        ...


class OnnxFaceModel:
    """A model that `export_model` wrote as ONNX.

    Args:
        path: of the file.

    Attributes:
        calibration: the one in the file, None without.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it is damaged, or `export_model` did not write it.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = pathlib.Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no model at {self.path}. `export_model(..., format='onnx')` writes one.")
        self._model = OnnxModel(self.path)
        try:
            if _LOOP.search(self.path.read_bytes()):  # onnxruntime runs some loops while it loads
                raise ValueError("it has a loop")
            session = self._model.session
            metadata = json.loads(session.get_modelmeta().custom_metadata_map[_METADATA])
            self.heads: Sequence[str] = [head for head in HEADS if head in metadata["heads"]]
            height, width = metadata["image_size"]
            self.image_size = (int(height), int(width))
            _check_input(session.get_inputs(), self.image_size)
            self.dtype: str = metadata.get("dtype", "float32")
            self.flip: bool | None = True if metadata["flip"] else None
            fields = metadata["calibration"]
            self.calibration = None if fields is None else Calibration(**_as_tuples(fields))
            self._outputs = [each.name for each in session.get_outputs()]
            if not self.heads or not set(self.heads) <= set(self._outputs):
                raise ValueError("it has neither an age nor a gender output")
        except Exception as error:  # onnxruntime's errors have no common type
            reason = f"the metadata lacks {error}" if isinstance(error, KeyError) else _first_line(error)
            raise ValueError(f"{self.path} is damaged, or not an ONNX file of `export_model`: {reason}") from None

    def predict(self, images: NDArray[np.uint8], *, flip: bool) -> dict[str, NDArray[np.float32]]:
        """Predicts one batch, in as many threads as there are processors."""
        mirror = flip and self.flip is None
        views = np.concatenate([images, images[:, :, ::-1]]) if mirror else images
        answers = self._predict_views(np.ascontiguousarray(views))
        if mirror:
            answers = {head: values.reshape(2, -1).mean(axis=0) for head, values in answers.items()}
        if AGE in answers:  # a regression has no bounds
            answers[AGE] = np.clip(answers[AGE], MIN_AGE, MAX_AGE)
        return answers

    def _predict_views(self, views: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        count = max(1, min(os.cpu_count() or 1, len(views)))
        parts = np.array_split(views, max(count, -(-len(views) // _MAX_VIEWS)))
        try:
            if len(parts) == 1:
                outputs = [self._model.run(parts[0])]
            else:
                with ThreadPoolExecutor(count) as threads:  # new each time: threads do not survive a fork
                    outputs = list(threads.map(self._model.run, parts))
        except Exception as error:  # onnxruntime's errors have no common type
            raise RuntimeError(f"{self.path} cannot be run: {_first_line(error)}") from None
        columns = [np.concatenate(each).ravel() for each in zip(*outputs, strict=True)]
        values = dict(zip(self._outputs, columns, strict=True))
        values[GENDER] = values.get(_RAW_GENDER, values.get(GENDER, np.empty(0)))
        for head in self.heads:
            if values[head].shape != (len(views),) or not np.all(np.isfinite(values[head])):
                raise ValueError(
                    f"{self.path} must answer with one finite {head} for each image. "
                    f"Received: {values[head].size} for {len(views)} images, such as {values[head][:3]}"
                )
        return {head: values[head] for head in self.heads}


def _check_input(inputs: Sequence[Any], image_size: tuple[int, int]) -> None:
    found = [(each.type, each.shape) for each in inputs]
    expected = ("tensor(uint8)", [*image_size, 3])
    if [(kind, shape[1:]) for kind, shape in found] != [expected] or not all(1 <= n <= _MAX_SIDE for n in image_size):
        raise ValueError(
            f"its one input must be uint8 images of 1 to {_MAX_SIDE} pixels a side, as its metadata say: "
            f"{image_size}. Received: {found}"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def load_face_model(model: Any, dtype: str | None = None) -> tuple[FaceModel, Calibration | None]:
    """Loads what `Predictor` takes as a model.

    Args:
        model: a Keras model, an `.onnx` or `.keras` file, the folder of a run, or None for the released model.
        dtype: as for `Predictor`.

    Returns:
        The model, and the calibration beside or in it.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"`dtype` must be None or one of {DTYPES}. Received: dtype={dtype!r}")
    keras = sys.modules.get("keras")  # whoever has a Keras model has imported Keras
    if keras is not None and isinstance(model, keras.Model):
        from agegender.inference.keras_model import KerasFaceModel

        return KerasFaceModel(model, dtype), None
    file = find_model_file(model, dtype)
    if file.suffix == ".onnx":
        onnx = OnnxFaceModel(file)
        if dtype not in (None, "auto", onnx.dtype):
            raise ValueError(f"{file} computes in {onnx.dtype}; export it again. Received: dtype={dtype!r}")
        return onnx, onnx.calibration
    from agegender.inference.keras_model import load_keras_model

    return load_keras_model(file, dtype), load_calibration(file)


def find_model_file(model: str | os.PathLike | None, dtype: str | None = None) -> pathlib.Path:
    """Finds the model file of a path, without loading it.

    Args:
        model: an `.onnx` or `.keras` file, the folder of a run, or None for the released model.
        dtype: as for `Predictor`.

    Returns:
        An `.onnx` or `.keras` file that can be opened.

    Raises:
        FileNotFoundError: if there is none.
        PermissionError: if it must not be read.
        ValueError: if it is another file.
    """
    path = find_released() if model is None else model
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise ValueError(
            f"`model` must be a Keras model, an .onnx or .keras file or the folder of a run. Received: {model!r}"
        )
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / _choose_file(path, dtype)
    if not path.is_file():
        if path.name == INT8_MODEL:
            raise FileNotFoundError(
                f"There is no int8 model at {path}. `agegender export --format=onnx_int8 --images=FOLDER` writes one."
            )
        raise FileNotFoundError(
            f"There is no trained model at {path}. Give an .onnx or .keras file, or the folder of a run."
        )
    if path.suffix not in (".onnx", ".keras"):
        raise ValueError(f"{path} is not a model. Give an .onnx or .keras file, or the folder of a run.")
    with path.open("rb"):  # onnxruntime and Keras call a file that must not be read damaged
        return path


def _choose_file(folder: pathlib.Path, dtype: str | None) -> str:
    """The name of the model file to take from a folder."""
    if dtype == "int8":
        return INT8_MODEL
    if not is_released(folder):
        return BEST_MODEL
    fast = dtype == "auto" and (folder / INT8_MODEL).is_file() and has_int8_instructions()
    return INT8_MODEL if fast else ONNX_MODEL


def _as_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(Calibration)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items() if name in names}
