"""A trained model as a file for other runtimes, with the answers that its `Predictor` gives.

    saved_model      TensorFlow and its servers; the default signature takes the bytes of JPEG or PNG files
    onnx             onnxruntime and others; float32
    litert-float16   LiteRT (formerly TensorFlow Lite); weights in half precision
    litert-int8      LiteRT; the convolutions and poolings in 8 bits, the heads in float32

The heads stay in float32 because 8 bits are half a year of age, and because they take next to no time.
"""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import keras
import numpy as np

from agegender.export.serving_model import answering_model, decode_images, resize_images
from agegender.inference.images import fit_image, read_image
from agegender.inference.predictor import Predictor
from agegender.schema import AGE, AGE_HIGH, AGE_LOW, GENDER, IMAGE

FORMATS: Final = ("saved_model", "onnx", "litert-float16", "litert-int8")
FACTS: Final = (
    "agegender.json"  # in the folder assets.extra of a SavedModel; in the zip archive that a LiteRT file is too
)
_CONVERTERS: Final = {"onnx": ("onnx", "tf2onnx"), "litert-int8": ("ai_edge_quantizer",)}
_FEWEST: Final = 100  # images
_LICENCE: Final = (
    "Research only where UTKFace or the published VGGFace weights went into the model, as both are for non-commercial "
    "research only. Not to be used to decide about people."
)


def export_model(
    model: keras.Model | str | os.PathLike | None,
    path: str | os.PathLike,
    *,
    format: str,
    flip: bool | None = None,
    images: Sequence[Any] | np.ndarray | None = None,
) -> pathlib.Path:
    """Writes a model, with its calibration, as one file or folder that needs neither this library nor Keras.

    Every format takes a batch of any length and answers with float32 [batch, 1] each, as the model has heads: "age" in
    years, "gender" as the probability of female, and with a calibration of the age "age_low" and "age_high", the ends
    of the interval in years: in this order in ONNX, but take them by name, for LiteRT has one of its own. They are the
    numbers of `Predictor(model, flip=flip)`; a model that computes in half precision is exported in float32.

    "onnx" and the LiteRT formats take "image", uint8 [batch, height, width, 3] of the model's own size, RGB, 0..255,
    because they have no JPEG decoder. So does the signature "images" of the SavedModel, in any size; its default
    signature takes "encoded", a string [batch] of JPEG or PNG files, decoded, turned upright and resized as the
    Predictor does. One file that cannot be decoded fails its batch; TensorFlow says which of them are no JPEG or PNG,
    but not which is damaged. What is put in and comes out is also written into the file.

    Args:
        model: as for `Predictor`: a model, a `.keras` file, the folder of a run, or None for the released model.
        path: where to; nothing may be there.
        format: "saved_model", "onnx", "litert-float16" or "litert-int8".
        flip: whether to answer with the mean over a image and its mirror image; None does what the calibration was
            fitted with.
        images: for "litert-int8" only: 100 aligned faces or more, such as the model will see, each as for
            `Predictor`, or an array [n, height, width, 3]; the ranges of the 8 bits are measured on them.

    Returns:
        The path.

    Raises:
        ValueError: for an unknown format, images that are missing or too few, and a damaged model or calibration.
        ImageError: if one of the images cannot be used.
        FileExistsError: if something is at the path.
        FileNotFoundError: if there is no model.
        ModuleNotFoundError: if a package that converts is not installed; the words say how to get it.
        RuntimeError: if Keras does not run on TensorFlow.

    Example:

    >>> export_model("runs/1", "age_gender.onnx", format="onnx").name
    'age_gender.onnx'
    """
    path = pathlib.Path(path)
    _check(path, format, images)
    predictor = Predictor(model, flip=flip)
    answering = answering_model(predictor.model, predictor.calibration, flip=predictor.flip)
    fitted = _fit(images, *answering.input_shape[1:3])
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converters, about their own age
        made = _WRITERS[format](answering, pathlib.Path(folder), _facts(predictor, answering, format), fitted)
        made.rename(path)
    return path


def _saved_model(model: keras.Model, folder: pathlib.Path, facts: Mapping[str, str], _: Any) -> pathlib.Path:
    import tensorflow as tf

    height, width = model.input_shape[1:3]
    path, module = folder / "saved_model", tf.Module()
    # Not Keras's ExportArchive: it writes every weight twice.
    module.weights = [variable.value for variable in model.variables]

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="encoded")])
    def of_files(encoded: Any) -> Any:
        return model(decode_images(encoded, height, width), training=False)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8, name=IMAGE)])
    def of_images(image: Any) -> Any:
        return model(resize_images(image, height, width), training=False)

    tf.saved_model.save(module, path, signatures={"serving_default": of_files, "images": of_images})
    extra = path / "assets.extra"  # where TensorFlow leaves room for files of others
    extra.mkdir()
    (extra / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    return path


def _onnx(model: keras.Model, folder: pathlib.Path, facts: Mapping[str, str], _: Any) -> pathlib.Path:
    import onnx

    path = folder / "model.onnx"
    signature = [keras.InputSpec(shape=model.input_shape, dtype="uint8", name=IMAGE)]
    model.export(path, format="onnx", input_signature=signature, verbose=False)
    made = onnx.load(path)
    outputs = {each.name: each for each in made.graph.output}  # by the alphabet
    del made.graph.output[:]
    made.graph.output.extend(outputs[name] for name in model.output)
    onnx.helper.set_model_props(made, dict(facts))
    onnx.save(made, path)
    return path


def _litert_float16(model: keras.Model, folder: pathlib.Path, facts: Mapping[str, str], _: Any) -> pathlib.Path:
    import tensorflow as tf

    path = folder / "model.tflite"
    _to_litert(model, path, optimizations=[tf.lite.Optimize.DEFAULT], supported_types=[tf.float16])
    return _with_facts(path, facts)


def _litert_int8(
    model: keras.Model, folder: pathlib.Path, facts: Mapping[str, str], images: Sequence[np.ndarray]
) -> pathlib.Path:
    from ai_edge_quantizer import qtyping, quantizer

    floats, path = folder / "float.tflite", folder / "model.tflite"
    _to_litert(model, floats)
    # Not TensorFlow's own converter: it takes the heads to 8 bits too, and the age with them.
    maker = quantizer.Quantizer(str(floats))
    for operation in (qtyping.TFLOperationName.CONV_2D, qtyping.TFLOperationName.MAX_POOL_2D):
        maker.add_static_config(
            regex=".*", operation_name=operation, activation_num_bits=8, weight_num_bits=8,
            weight_granularity=qtyping.QuantGranularity.CHANNELWISE,
        )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # progress, sizes
        ranges = maker.calibrate({"serving_default": [{IMAGE: image[None]} for image in images]})
        path.write_bytes(maker.quantize(ranges).quantized_model)
    return _with_facts(path, facts)


def _to_litert(model: keras.Model, path: pathlib.Path, *, supported_types: Any = (), **options: Any) -> None:
    import tensorflow as tf

    target = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS], "supported_types": list(supported_types)}
    model.export(path, format="litert", verbose=False, target_spec=target, **options)


def _with_facts(path: pathlib.Path, facts: Mapping[str, str]) -> pathlib.Path:
    """Appends an archive, as LiteRT's own metadata tools do: the runtime reads the front, `unzip` the end."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(FACTS, json.dumps(facts, indent=2) + "\n")
    return path


_WRITERS: Final[Mapping[str, Callable[..., pathlib.Path]]] = {
    "saved_model": _saved_model,
    "onnx": _onnx,
    "litert-float16": _litert_float16,
    "litert-int8": _litert_int8,
}


def _facts(predictor: Predictor, model: keras.Model, format: str) -> dict[str, str]:
    height, width = model.input_shape[1:3]
    faces = "one aligned face each, cut as UTKFace cuts them"
    end = "float32 [batch, 1], years"
    coverage = "" if predictor.calibration is None else f", coverage {predictor.calibration.coverage:g}"
    of = {
        AGE: end,
        GENDER: "float32 [batch, 1], probability of female",
        AGE_LOW: f"{end}, from where the interval reaches{coverage}",
        AGE_HIGH: f"{end}, to where the interval reaches{coverage}",
    }
    taken = {IMAGE: f"uint8 [batch, {height}, {width}, 3], RGB, 0..255, {faces}"}
    if format == "saved_model":
        taken = {
            "encoded": f"string [batch], JPEG or PNG files, {faces}; signature serving_default",
            IMAGE: f"uint8 [batch, height, width, 3], RGB, 0..255, {faces}; signature images",
        }
    flip = "answers are the mean over a image and its mirror image" if predictor.flip else "no"
    return {**taken, **{name: of[name] for name in model.output}, "flip": flip, "licence": _LICENCE}


def _fit(images: Sequence[Any] | np.ndarray | None, height: int, width: int) -> list[np.ndarray]:
    decoded = map(read_image, () if images is None else images)
    return [np.asarray(fit_image(image, width, height)) for image in decoded]


def _check(path: pathlib.Path, format: str, images: Sequence[Any] | np.ndarray | None) -> None:
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {FORMATS}. Received: format={format!r}")
    if os.path.lexists(path):
        raise FileExistsError(f"There is something at {path}. Nothing is overwritten: give another path or remove it.")
    count = 0 if images is None else len(images)
    if count < _FEWEST if format == "litert-int8" else count:
        raise ValueError(
            f"`images` (of the command: --images=FOLDER) must be {_FEWEST} aligned faces or more for "
            f"'litert-int8', and not given for other formats. Received: format={format!r} and {count} images"
        )
    missing = [name for name in _CONVERTERS.get(format, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"{format!r} needs {', '.join(missing)}: pip install 'agegender[export]'")
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(f"Models are exported with KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()}")
