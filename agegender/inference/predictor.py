"""From photographs to ages and genders: read, find the faces, cut them as the training images were cut, answer."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import keras
import numpy as np
from PIL import Image

from agegender.calibration.calibration import Calibration, load_calibration
from agegender.inference.alignment import align_face, yaw_ratio
from agegender.inference.detection import MIN_FACE, Detection, FaceDetector
from agegender.inference.drawing import draw_faces
from agegender.inference.images import ImageError, each_image, fit_image, is_one, name_of, read_image
from agegender.inference.results import Face, Photograph
from agegender.models.prediction import predict_batch
from agegender.models.saving import check_model, find_released, load_model
from agegender.schema import AGE, GENDER

_TOGETHER = 16  # photographs, at most, that are looked at together
_TOGETHER_PIXELS = 4_000_000  # and pixels, unless one alone has more
SMALL_FACE = 40  # pixels: the model has seen no face that small
_SQUARE = 1.25  # times as long as wide: an aligned face that is stretched this far looks like another
TURNED = 0.28  # of the distance of the eyes: 99 in 100 faces of UTKFace are turned less


class Predictor:
    """Finds the faces of photographs and guesses age and gender of each.

    Args:
        model: a model, a `.keras` file, or the folder of a run (its `best.keras` is taken). A calibration.json beside
            the file is used. None is the released model: the file or folder that the environment variable
            AGEGENDER_MODEL names, or else models/utkface64 of the checkout that this package is run from.
        batch_size: faces a step, and photographs that are waited for.
        flip: whether to answer with the mean over a face and its mirror image, which takes twice as long; None does
            what the calibration was fitted with, and only then does it hold.
        aligned: what calls do that do not say it: whether images show one face each, cut as UTKFace cuts them,
            which is not looked for.
        min_face: pixels, the side of the smallest face that is looked for, see `faces.FaceDetector`.

    Attributes:
        model: the Keras model.
        calibration: its `Calibration`, None if there is none.

    Raises:
        FileNotFoundError: if there is no model.
        ValueError: if it is damaged, or not from `build_model`, if its calibration is damaged, or an argument is none
            of the above.

    Example:

    >>> predictor = Predictor("runs/1")
    >>> for face in predictor("party.jpg"):
    ...     print(face.age, face.gender, face.age_interval)
    33.0 female None
    33.0 female None
    """

    def __init__(
        self,
        model: keras.Model | str | os.PathLike | None = None,
        *,
        batch_size: int = 64,
        flip: bool | None = None,
        aligned: bool = False,
        min_face: int = MIN_FACE,
    ) -> None:
        _check(batch_size, flip, aligned)
        self.calibration: Calibration | None = None
        self.detector = FaceDetector(min_face=min_face)
        if isinstance(model, keras.Model):
            self.model = check_model(model)
        else:
            path = find_released() if model is None else model
            self.model, self.calibration = load_model(path), load_calibration(path)
        self.batch_size = batch_size
        self.flip = (self.calibration is not None and self.calibration.flip) if flip is None else flip
        self.aligned = aligned

    @overload
    def __call__(self, images: bytes | Image.Image, *, aligned: bool | None = None) -> Photograph: ...
    @overload
    def __call__(self, images: list | tuple, *, aligned: bool | None = None) -> list[Photograph | ImageError]: ...
    @overload
    def __call__(self, images: str | os.PathLike | np.ndarray, *, aligned: bool | None = None) -> Any: ...
    def __call__(self, images: Any, *, aligned: bool | None = None) -> Photograph | list[Photograph | ImageError]:
        """Predicts one photograph or many.

        Args:
            images: one photograph: a path, the bytes of a file, a file opened to read bytes, RGB values 0..255 as an
                array or tensor [height, width, 3] of any size, or a Pillow image. Or many: a sequence of these, an
                array [batch, height, width, 3], a folder, whose images and those below it are taken, or a glob.
            aligned: whether each image shows one face, cut as UTKFace cuts them; None is what `Predictor` was told.

        Returns:
            For one photograph its faces. For many a list in the same order, in which a `ImageError` stands for
            each that cannot be used; those of a folder or glob are sorted by name, each knows its `source`.

        Raises:
            ImageError: if the one photograph cannot be used, or a folder or glob has none.
        """
        if not is_one(images):
            return list(self.stream(images, aligned=aligned))
        (answer,) = self.stream([images], aligned=aligned)
        if isinstance(answer, ImageError):
            raise answer
        return answer

    def stream(self, images: Any, *, aligned: bool | None = None) -> Iterator[Photograph | ImageError]:
        """Predicts photographs one after the other, however many there are, in constant memory.

        Args:
            images: as above, or any iterable of photographs; a `ImageError` among them is handed on.
            aligned: as above.

        Returns:
            An iterator: for each photograph, in order, its faces or what is wrong with it.

        Raises:
            ImageError: if this is neither a photograph nor several, or a folder or glob has none.
        """
        _check(self.batch_size, self.flip, aligned)
        return self._stream(each_image(images), self.aligned if aligned is None else aligned)

    def _stream(self, images: Iterable[Any], aligned: bool) -> Iterator[Photograph | ImageError]:
        waiting: list[_Cut | ImageError] = []
        for photographs in self._read(images):
            waiting += self._cut(photographs, aligned)
            faces = sum(len(each.crops) for each in waiting if isinstance(each, _Cut))
            if max(faces, len(waiting)) >= self.batch_size:
                yield from self._answer(waiting)
                waiting = []
        yield from self._answer(waiting)

    def draw(self, image: Any, faces: Sequence[Face] | None = None) -> Image.Image:
        """The photograph with a box, the guesses and the interval at each face.

        Args:
            image: one, as above.
            faces: what was predicted of it; by default it is predicted now.

        Returns:
            A new Pillow decoded of the photograph's size.

        Raises:
            ImageError: if it cannot be used.
        """
        decoded = read_image(image)
        return draw_faces(decoded, self(decoded) if faces is None else faces)

    def _read(self, images: Iterable[Any]) -> Iterator[list["_Read | ImageError"]]:
        """A few photographs at a time, to look for faces in them together."""
        group: list[_Read | ImageError] = []
        pixels = 0
        for image in images:
            try:
                if isinstance(image, ImageError):
                    raise image
                decoded = read_image(image)
                group.append((name_of(image), decoded))
                pixels += decoded.width * decoded.height
            except ImageError as error:
                group.append(error)
            if len(group) >= min(_TOGETHER, self.batch_size) or pixels >= _TOGETHER_PIXELS:
                yield group
                group, pixels = [], 0
        yield group

    def _cut(self, group: Sequence["_Read | ImageError"], aligned: bool) -> Iterator["_Cut | ImageError"]:
        images = [each[1] for each in group if not isinstance(each, ImageError)]
        detected = [] if aligned else self.detector.find([np.asarray(image) for image in images])
        every: Iterator[Sequence[Detection | None]] = iter([[None]] * len(images) if aligned else detected)
        height, width = self.model.input_shape[1:3]
        for each in group:
            if isinstance(each, ImageError):
                yield each
                continue
            source, image = each
            found = next(every)
            crops = [image if face is None else align_face(image, face.landmarks) for face in found]
            yield _Cut(source, image.size, [np.asarray(fit_image(crop, width, height)) for crop in crops], found)

    def _answer(self, waiting: Sequence["_Cut | ImageError"]) -> Iterator[Photograph | ImageError]:
        crops = [crop for each in waiting if isinstance(each, _Cut) for crop in each.crops]
        guesses = iter(self._guess(crops))
        for each in waiting:
            if isinstance(each, ImageError):
                yield each
                continue
            faces = [_face(found, each.size, next(guesses)) for found in each.found]
            yield Photograph(faces, source=each.source, size=each.size)

    def _guess(self, crops: list[np.ndarray]) -> list["_Guess"]:
        guesses: list[_Guess] = []
        for start in range(0, len(crops), self.batch_size):
            guesses += self._guess_batch(np.stack(crops[start : start + self.batch_size]))
        return guesses

    def _guess_batch(self, batch: np.ndarray) -> list["_Guess"]:
        outputs = predict_batch(self.model, batch, flip=self.flip)
        none = [None] * len(batch)
        intervals: Sequence[tuple[float, float] | None] = none
        if AGE in outputs and self.calibration is not None and self.calibration.ages is not None:
            low, high = self.calibration.intervals(outputs[AGE])
            intervals = list(zip(low.tolist(), high.tolist(), strict=True))
        if GENDER in outputs and self.calibration is not None and self.calibration.temperature is not None:
            outputs[GENDER] = self.calibration.probabilities(outputs[GENDER])
        ages, genders = (outputs[head].tolist() if head in outputs else none for head in (AGE, GENDER))
        return list(zip(ages, genders, intervals, strict=True))


_Read = tuple[str, Image.Image]
_Guess = tuple[float | None, float | None, tuple[float, float] | None]


@dataclasses.dataclass(frozen=True)
class _Cut:
    """A photograph of which nothing is kept but its faces, until there are enough for a batch."""

    source: str
    size: tuple[int, int]
    crops: list[np.ndarray]
    found: Sequence[Detection | None]


def _check(batch_size: object, flip: object, aligned: object) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a whole number, 1 or more. Received: batch_size={batch_size!r}")
    for name, value in (("flip", flip), ("aligned", aligned)):
        if value not in (True, False, None):
            raise ValueError(f"`{name}` must be True, False or None. Received: {name}={value!r}")


def _face(found: Detection | None, size: tuple[int, int], guess: _Guess) -> Face:
    if found is None:
        shape = [] if max(size) <= _SQUARE * min(size) else [f"not square: {size[0]} x {size[1]} pixels"]
        return Face((0, 0, *size), *guess, note=", ".join(_small((0, 0, *size)) + shape) or None)
    return Face(found.box, *guess, landmarks=found.landmarks, score=found.score, note=_note(found))


def _note(found: Detection) -> str | None:
    turned = ["turned from the camera"] if abs(yaw_ratio(found.landmarks)) > TURNED else []
    return ", ".join(_small(found.box) + turned) or None


def _small(box: tuple[int, int, int, int]) -> list[str]:
    side = min(box[2] - box[0], box[3] - box[1])
    return [f"small: {side} pixels, below {SMALL_FACE}"] if side < SMALL_FACE else []
