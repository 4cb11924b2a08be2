"""From pictures of aligned faces to ages and genders."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any, overload

import keras
import numpy as np
from PIL import Image, ImageOps

# Registers the layers that a saved model is made of.
from agegender import augment, vggface  # noqa: F401
from agegender.schema import AGE, BEST_MODEL, GENDER, GENDERS


@dataclasses.dataclass(frozen=True)
class Face:
    """What the model guesses of one face.

    Attributes:
        box: left, top, right and bottom of the face in the picture, in pixels.
        age: years; None if the model has no age head.
        p_female: the probability of female, 0 to 1; None if the model has no gender head.
    """

    box: tuple[int, int, int, int]
    age: float | None
    p_female: float | None

    @property
    def gender(self) -> str | None:
        """The more probable of "male" and "female"."""
        return None if self.p_female is None else GENDERS[int(self.p_female >= 0.5)]


class Predictor:
    """Guesses age and gender from pictures that show one aligned face each, cut as UTKFace cuts them.

    Args:
        model: a model, a `.keras` file, or the folder of a run (its `best.keras` is taken).
        batch_size: pictures a step.

    Raises:
        FileNotFoundError: if there is no model.

    Example:

    `Predictor("runs/1")("face.jpg")[0].age` is an age in years.
    """

    def __init__(self, model: keras.Model | str | os.PathLike, *, batch_size: int = 64) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be 1 or more. Received: batch_size={batch_size}")
        self.model = model if isinstance(model, keras.Model) else load_model(model)
        self.batch_size = batch_size

    @overload
    def __call__(self, pictures: str | os.PathLike) -> list[Face]: ...
    @overload
    def __call__(self, pictures: list | tuple) -> list[list[Face]]: ...
    @overload
    def __call__(self, pictures: np.ndarray) -> Any: ...
    def __call__(self, pictures: Any) -> list[Face] | list[list[Face]]:
        """Predicts one picture or many.

        Args:
            pictures: a path, or RGB values 0..255 as an array [height, width, 3] of any size; or a sequence of these,
                or an array [batch, height, width, 3].

        Returns:
            For one picture its faces (of an aligned picture: one); for many, a list of such lists in the same order.

        Raises:
            FileNotFoundError: if a path is not there.
            ValueError: if a file is no picture, or an array has another shape or range.
        """
        alone = isinstance(pictures, str | os.PathLike) or (isinstance(pictures, np.ndarray) and pictures.ndim == 3)
        listed = [pictures] if alone else list(pictures)
        faces: list[list[Face]] = []
        for start in range(0, len(listed), self.batch_size):
            faces += self._predict(listed[start : start + self.batch_size])
        return faces[0] if alone else faces

    def _predict(self, pictures: Sequence[Any]) -> list[list[Face]]:
        images = [_read(picture) for picture in pictures]
        height, width = self.model.input_shape[1:3]
        batch = np.stack([np.asarray(_fit(image, width, height)) for image in images])
        outputs = {head: np.asarray(values).ravel() for head, values in self.model.predict_on_batch(batch).items()}
        return [
            [Face((0, 0, *image.size), _float(outputs.get(AGE), i), _float(outputs.get(GENDER), i))]
            for i, image in enumerate(images)
        ]


def load_model(path: str | os.PathLike) -> keras.Model:
    """Loads a trained model from a `.keras` file or from the folder of a run.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = pathlib.Path(path)
    file = path / BEST_MODEL if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"There is no trained model at {file}. `train` writes one; give its workdir or file.")
    return keras.saving.load_model(file, compile=False)


def _float(values: np.ndarray | None, index: int) -> float | None:
    return None if values is None else float(values[index])


def _fit(image: Image.Image, width: int, height: int) -> Image.Image:
    # Bilinear with antialiasing, as the input pipeline resizes.
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def _read(picture: Any) -> Image.Image:
    if isinstance(picture, str | os.PathLike):
        return _read_file(pathlib.Path(picture))
    values = np.asarray(picture)
    if values.ndim != 3 or values.shape[-1] != 3 or 0 in values.shape:
        raise ValueError(f"A picture must have shape [height, width, 3]. Received: shape={values.shape}")
    if not (np.issubdtype(values.dtype, np.number) and np.all((values >= 0) & (values <= 255))):
        raise ValueError(
            f"A picture must have values in 0..255. Received: {values.dtype}, {values.min()}..{values.max()}"
        )
    if np.issubdtype(values.dtype, np.floating) and 0 < values.max() <= 1:
        raise ValueError("A picture must have values in 0..255; multiply by 255. Received: floats in 0..1")
    return Image.fromarray(np.round(values).astype("uint8"))


def _read_file(path: pathlib.Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no picture at {path}") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
