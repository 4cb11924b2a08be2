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
from agegender import model as heads  # noqa: F401
from agegender.calibration import Calibration, load_calibration
from agegender.schema import AGE, BEST_MODEL, GENDER, GENDERS

_RELEASED = pathlib.Path(__file__).parent.parent / "models" / "utkface64"  # at the top of a checkout
_VARIABLE = "AGEGENDER_MODEL"


@dataclasses.dataclass(frozen=True)
class Face:
    """What the model guesses of one face.

    Attributes:
        box: left, top, right and bottom of the face in the picture, in pixels.
        age: years; None if the model has no age head.
        p_female: the probability of female, 0 to 1, calibrated if the model is; None if it has no gender head.
        age_interval: years, from the youngest to the oldest that would be no surprise, with the coverage that the
            model's calibration promises; None if the model has no age head or no calibration.
    """

    box: tuple[int, int, int, int]
    age: float | None
    p_female: float | None
    age_interval: tuple[float, float] | None = None

    @property
    def gender(self) -> str | None:
        """The more probable of "male" and "female"."""
        return None if self.p_female is None else GENDERS[int(self.p_female >= 0.5)]


class Predictor:
    """Guesses age and gender from pictures that show one aligned face each, cut as UTKFace cuts them.

    Args:
        model: a model, a `.keras` file, or the folder of a run (its `best.keras` is taken). A calibration.json beside
            the file is used. None is the released model: the file or folder that the environment variable
            AGEGENDER_MODEL names, or else models/utkface64 of the checkout that this package is run from.
        batch_size: pictures a step.
        flip: whether to answer with the mean over a picture and its mirror image, which takes twice as long; None does
            what the calibration was fitted with, and only then does it hold.

    Raises:
        FileNotFoundError: if there is no model.
        ValueError: if its calibration is damaged.

    Example:

    `Predictor("runs/1")("face.jpg")[0].age` is an age in years.
    """

    def __init__(
        self, model: keras.Model | str | os.PathLike | None = None, *, batch_size: int = 64, flip: bool | None = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be 1 or more. Received: batch_size={batch_size}")
        self.calibration: Calibration | None = None
        if isinstance(model, keras.Model):
            self.model = model
        else:
            path = find_released() if model is None else model
            self.model, self.calibration = load_model(path), load_calibration(path)
        self.batch_size = batch_size
        self.flip = (self.calibration is not None and self.calibration.flip) if flip is None else flip

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
        outputs = self._answer(batch)
        if self.flip:
            mirrored = self._answer(batch[:, :, ::-1])
            outputs = {head: (values + mirrored[head]) / 2 for head, values in outputs.items()}
        intervals = self._intervals(outputs)
        if GENDER in outputs and self.calibration is not None and self.calibration.temperature is not None:
            outputs[GENDER] = self.calibration.probabilities(outputs[GENDER])
        return [
            [Face((0, 0, *image.size), _float(outputs.get(AGE), i), _float(outputs.get(GENDER), i), intervals[i])]
            for i, image in enumerate(images)
        ]

    def _intervals(self, outputs: dict[str, np.ndarray]) -> Sequence[tuple[float, float] | None]:
        if AGE not in outputs or self.calibration is None or self.calibration.ages is None:
            return [None] * self.batch_size
        low, high = self.calibration.intervals(outputs[AGE])
        return list(zip(low.tolist(), high.tolist(), strict=True))

    def _answer(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return {head: np.asarray(values).ravel() for head, values in self.model.predict_on_batch(batch).items()}


def find_released() -> pathlib.Path:
    """The place of the released model.

    Raises:
        FileNotFoundError: if it is not there; the words say how to get it.
    """
    named = os.environ.get(_VARIABLE)
    path = pathlib.Path(named) if named else _RELEASED
    if not (path / BEST_MODEL if path.is_dir() else path).is_file():
        raise FileNotFoundError(
            f"There is no released model at {path}{f', which {_VARIABLE} names' if named else ''}. It comes with a "
            f"clone of the project, not with an installed package: copy the folder models/utkface64 of a clone, and "
            f"give its path to `Predictor` or in the environment variable {_VARIABLE}."
        )
    return path


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
