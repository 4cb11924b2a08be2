"""From photographs to ages and genders: read, find faces, align them, predict."""

import collections
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np
from PIL import Image

from agegender.inference.alignment import align_face, similarity, yaw_ratio
from agegender.inference.detection import MIN_FACE, Detection, FaceDetector
from agegender.inference.drawing import draw_faces
from agegender.inference.face_model import load_face_model
from agegender.inference.images import ImageError, each_image, fit_image, is_one, name_of, read_image, read_reduced
from agegender.inference.results import Face, Photograph
from agegender.schema import AGE, GENDER

if TYPE_CHECKING:
    import keras

SMALL_FACE: Final = 40  # pixels: the model has seen no smaller face
TURNED: Final = 0.28  # of the distance of the eyes: 99 in 100 faces of UTKFace are turned less
_SQUARE: Final = 1.25  # times as long as wide: an aligned face that is stretched this far looks like another
_MAX_WAIT: Final = 1.0  # seconds until photographs are answered, even if they fill no batch
_LARGE: Final = 3_000_000  # pixels: faces are looked for in a copy of half the size where a photograph has more
_HALF_MIN_FACE: Final = 40  # pixels: smaller faces are not found at half the size


class Predictor:
    """Finds the faces of photographs and predicts age and gender of each.

    Args:
        model: an `.onnx` file from `export_model`, a Keras model, a `.keras` file, or the folder of a run, whose
            `best.keras` is taken; Keras models need the extra `[train]`. A calibration in or beside the file is used.
            None is the released model, or the one that the environment variable AGEGENDER_MODEL names.
        batch_size: largest number of faces per batch, and of photographs that wait for one.
        flip: whether to average over each face and its mirror image, which takes twice as long. None does what the
            calibration was fitted with; with the other value there are no age intervals.
        aligned: whether images show one aligned face each, so that none is looked for; calls can say otherwise.
        min_face: side in pixels of the smallest face to look for, 20 or more.
        bgr: whether arrays have their channels in the order blue, green, red, as OpenCV's frames do.
        dtype: None computes as the model was saved or exported, so that all machines agree. "float32" and "int8" say
            it, and "auto" takes the fastest on this machine: ages then differ between machines, one in a hundred by
            more than a year. "int8" is the file `model-int8.onnx` in the folder of the model.

    Attributes:
        model: the Keras model, or the model read from an ONNX file.
        heads: "age", "gender" or both.
        image_size: height and width in pixels of the model's images.
        dtype: what most of the model computes in: "float32", "int8", "bfloat16" or "float16".
        calibration: its `Calibration`, None without.

    Raises:
        FileNotFoundError: if there is no model.
        ValueError: if the model or its calibration is damaged or not of this library, or an argument is wrong.
        ModuleNotFoundError: if the model needs Keras and it is not installed.

    Example:

    >>> predictor = Predictor("runs/1")
    >>> for face in predictor("party.jpg"):
    ...     print(face.age, face.gender, face.age_interval)
    33.0 female None
    33.0 female None
    """

    def __init__(
        self,
        model: "keras.Model | str | os.PathLike | None" = None,
        *,
        batch_size: int = 64,
        flip: bool | None = None,
        aligned: bool = False,
        min_face: int = MIN_FACE,
        bgr: bool = False,
        dtype: str | None = None,
    ) -> None:
        _check_options(batch_size, flip, aligned)
        if not isinstance(bgr, bool):
            raise ValueError(f"`bgr` must be True or False. Received: bgr={bgr!r}")
        self.detector = FaceDetector(min_face=min_face)
        self._face_model, self.calibration = load_face_model(model, dtype)
        if self._face_model.flip and flip is False:
            raise ValueError(f"`flip` must be None or True: {model} averages over mirror images. Received: flip=False")
        self.model: Any = getattr(self._face_model, "model", self._face_model)
        self.heads, self.image_size = self._face_model.heads, self._face_model.image_size
        self.dtype = self._face_model.dtype
        self.batch_size = batch_size
        calibrated = self.calibration is not None and self.calibration.flip
        self.flip = bool(self._face_model.flip or calibrated) if flip is None else flip
        self.aligned = aligned
        self.bgr = bgr

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
            aligned: whether each image shows one aligned face; None is what `Predictor` was given.

        Returns:
            For one photograph its faces. For many a list in the same order, in which an `ImageError` stands for
            each that cannot be used; those of a folder or glob are sorted by name, each knows its `source`.

        Raises:
            ImageError: if the one photograph cannot be used, or a folder or glob has none.
        """
        if not is_one(images):
            return list(self.stream(images, aligned=aligned))
        _check_options(self.batch_size, self.flip, aligned)
        (answer,) = self._stream([images], self.aligned if aligned is None else aligned)
        if isinstance(answer, ImageError):
            raise answer
        return answer

    def stream(self, images: Any, *, aligned: bool | None = None) -> Iterator[Photograph | ImageError]:
        """Predicts photographs one after the other, however many there are, in constant memory.

        Photographs are read and searched in threads while the model answers.

        Args:
            images: as above, or any iterable of photographs; an `ImageError` among them is handed on.
            aligned: as above.

        Returns:
            An iterator: for each photograph, in order, its faces or what is wrong with it.

        Raises:
            ImageError: if this is neither a photograph nor several, or a folder or glob has none.
        """
        _check_options(self.batch_size, self.flip, aligned)
        return self._stream(each_image(images), self.aligned if aligned is None else aligned)

    def draw(self, image: Any, faces: Sequence[Face] | None = None) -> Image.Image:
        """Draws a box, the prediction and the interval at each face of a photograph.

        Args:
            image: one, as above.
            faces: what was predicted for it; by default it is predicted now.

        Returns:
            A new Pillow image of the photograph's size.

        Raises:
            ImageError: if it cannot be used.
        """
        decoded = read_image(self._to_rgb(image))
        return draw_faces(decoded, self(decoded) if faces is None else faces)

    def _stream(self, images: Iterable[Any], aligned: bool) -> Iterator[Photograph | ImageError]:
        waiting: list[_Faces | ImageError] = []
        answer_by = time.monotonic() + _MAX_WAIT
        for faces in _map_in_threads(lambda image: self._find_faces(image, aligned), images, self.batch_size):
            waiting.append(faces)
            crops = sum(len(each.crops) for each in waiting if isinstance(each, _Faces))
            if max(crops, len(waiting)) >= self.batch_size or time.monotonic() > answer_by:
                yield from self._answer(waiting)
                waiting, answer_by = [], time.monotonic() + _MAX_WAIT
        yield from self._answer(waiting)

    def _find_faces(self, image: Any, aligned: bool) -> "_Faces | ImageError":
        """Reads one photograph and aligns its faces. Whatever goes wrong is an answer: others still get theirs."""
        try:
            if isinstance(image, ImageError):
                return image
            image = self._to_rgb(image)
            if aligned:
                decoded = read_image(image)
                return _Faces(name_of(image), decoded.size, [self._resize(decoded)], [None])
            return self._search(image)
        except ImageError as error:
            return error
        except MemoryError:
            return ImageError(name_of(image), "needs more memory than there is: reduce the image")
        except Exception as error:
            return ImageError(name_of(image), f"cannot be searched for faces: {type(error).__name__}: {error}"[:300])

    def _to_rgb(self, image: Any) -> Any:
        return image[..., ::-1] if self.bgr and getattr(image, "ndim", None) == 3 else image

    def _search(self, image: Any) -> "_Faces":
        halved = self.detector.min_face >= _HALF_MIN_FACE
        decoded, size = read_reduced(image, _LARGE) if halved else _with_size(read_image(image))
        scale = size[0] / decoded.width
        found = self.detector(decoded, scale=scale)
        if scale > 1 and any(_enlarges(face, scale) for face in found):
            decoded, scale = read_image(image), 1.0  # the reduced copy has too few pixels for a crop
        # Aligning has blurred the faces already; Lanczos keeps more of the wrinkles than bilinear resizing.
        crops = [
            self._resize(align_face(decoded, np.divide(face.landmarks, scale)), Image.Resampling.LANCZOS)
            for face in found
        ]
        return _Faces(name_of(image), size, crops, found)

    def _resize(self, crop: Image.Image, resampling: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
        height, width = self.image_size
        return np.asarray(fit_image(crop, width, height, resampling))

    def _answer(self, waiting: Sequence["_Faces | ImageError"]) -> Iterator[Photograph | ImageError]:
        crops = [crop for each in waiting if isinstance(each, _Faces) for crop in each.crops]
        predictions = iter(self._predict(crops))
        for each in waiting:
            if isinstance(each, ImageError):
                yield each
                continue
            faces = [_make_face(found, each.size, next(predictions)) for found in each.found]
            yield Photograph(faces, source=each.source, size=each.size)

    def _predict(self, crops: list[np.ndarray]) -> list["_Prediction"]:
        predictions: list[_Prediction] = []
        for start in range(0, len(crops), self.batch_size):
            predictions += self._predict_batch(np.stack(crops[start : start + self.batch_size]))
        return predictions

    def _predict_batch(self, batch: np.ndarray) -> list["_Prediction"]:
        outputs: dict[str, Any] = dict(self._face_model.predict(batch, flip=self.flip))
        none = [None] * len(batch)
        intervals: Sequence[tuple[float, float] | None] = none
        if (calibration := self.calibration) is not None:
            if AGE in outputs and calibration.ages is not None and calibration.flip == self.flip:
                low, high = calibration.intervals(outputs[AGE])
                intervals = list(zip(low.tolist(), high.tolist(), strict=True))
            if GENDER in outputs and calibration.temperature is not None:
                outputs[GENDER] = calibration.probabilities(outputs[GENDER])
        ages, genders = (outputs[head].tolist() if head in outputs else none for head in (AGE, GENDER))
        return list(zip(ages, genders, intervals, strict=True))


_Prediction = tuple[float | None, float | None, tuple[float, float] | None]


@dataclasses.dataclass(frozen=True)
class _Faces:
    """The faces of a photograph, which is not kept itself, until there are enough for a batch."""

    source: str
    size: tuple[int, int]
    crops: list[np.ndarray]
    found: Sequence[Detection | None]


def _map_in_threads(function: Callable[[Any], Any], items: Iterable[Any], ahead: int) -> Iterator[Any]:
    """Maps in as many threads as there are processors, a few items ahead of what is taken; results keep their order."""
    items = iter(items)
    for item in itertools.islice(items, 1):  # here: most calls have one item
        yield function(item)
    count = min(os.cpu_count() or 1, ahead)
    pending: collections.deque[Future] = collections.deque()
    with ThreadPoolExecutor(count) as threads:  # starts a thread with the first item
        for item in items:
            pending.append(threads.submit(function, item))
            if len(pending) > min(2 * count, ahead - 1):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _with_size(image: Image.Image) -> tuple[Image.Image, tuple[int, int]]:
    return image, image.size


def _enlarges(face: Detection, scale: float) -> bool:
    """Whether a crop has more pixels than the face has in a photograph reduced by `scale`."""
    return float(np.hypot(*similarity(face.landmarks)[:, 0])) * scale > 1


def _check_options(batch_size: object, flip: object, aligned: object) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a whole number, 1 or more. Received: batch_size={batch_size!r}")
    for name, value in (("flip", flip), ("aligned", aligned)):
        if isinstance(value, np.ndarray) or value not in (True, False, None):
            raise ValueError(f"`{name}` must be True, False or None. Received: {name}={value!r}")


def _make_face(found: Detection | None, size: tuple[int, int], prediction: _Prediction) -> Face:
    if found is None:
        shape = [] if max(size) <= _SQUARE * min(size) else [f"not square: {size[0]} x {size[1]} pixels"]
        return Face((0, 0, *size), *prediction, note=", ".join(_note_size((0, 0, *size)) + shape) or None)
    return Face(found.box, *prediction, landmarks=found.landmarks, score=found.score, note=_note(found, size))


def _note(found: Detection, size: tuple[int, int]) -> str | None:
    """Why a prediction should not be trusted."""
    notes = _note_size(found.box)
    if abs(yaw_ratio(found.landmarks)) > TURNED:
        notes.append("turned from the camera")
    left, top, right, bottom = found.box
    inside = all(0 <= x < size[0] and 0 <= y < size[1] for x, y in found.landmarks)
    if not inside or left <= 0 or top <= 0 or right >= size[0] - 1 or bottom >= size[1] - 1:
        notes.append("cut off by the edge of the image")
    return ", ".join(notes) or None


def _note_size(box: tuple[int, int, int, int]) -> list[str]:
    side = min(box[2] - box[0], box[3] - box[1])
    return [f"small: {side} pixels, below {SMALL_FACE}"] if side < SMALL_FACE else []
