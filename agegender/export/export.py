"""Writes a trained model as one file for other runtimes, with the answers of its `Predictor`.

    saved_model      TensorFlow and its servers; the default signature takes the bytes of JPEG or PNG files
    onnx             ONNX Runtime and others; float32
    onnx_int8        ONNX Runtime; convolutions but the last in 8 bits, heads in float32
    litert_float16   LiteRT (formerly TensorFlow Lite); weights in half precision
    litert_int8      LiteRT; convolutions but the last in 8 bits, heads in float32

The last convolution and the heads stay in float32, because 8 bits cost years of age there and save next to no time.
"""

import contextlib
import dataclasses
import importlib.util
import io
import json
import os
import pathlib
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import keras
import numpy as np

from agegender.calibration.calibration import Calibration, load_calibration
from agegender.export.serving_model import RAW_GENDER, build_serving_model, decode_images, resize_images
from agegender.inference.images import fit_image, read_image
from agegender.models.layers import MeanAge, MedianAge
from agegender.models.saving import check_model, load_model
from agegender.released import find_released
from agegender.schema import AGE, AGE_HIGH, AGE_LOW, GENDER, HEADS, IMAGE

FORMATS: Final = ("saved_model", "onnx", "onnx_int8", "litert_float16", "litert_int8")
METADATA_KEY: Final = "agegender"  # of the metadata in an ONNX file
METADATA_FILE: Final = "agegender.json"  # in the folder assets.extra of a SavedModel; in the zip part of a LiteRT file
METADATA_VERSION: Final = 1
MIN_IMAGES: Final = 100  # to measure the ranges of 8 bits
_INT8_FORMATS: Final = ("onnx_int8", "litert_int8")
_CONVERTERS: Final = {
    "onnx": ("onnx", "tf2onnx"),
    "onnx_int8": ("onnx", "tf2onnx", "onnxruntime"),
    "litert_int8": ("ai_edge_quantizer",),
}
_LICENCE: Final = (
    "Research only where UTKFace or the published VGGFace weights went into the model, as both are for non-commercial "
    "research only. Not to be used to decide about people."
)
_Writer = Callable[[keras.Model, pathlib.Path, Mapping[str, Any], Sequence[np.ndarray]], pathlib.Path]


def export_model(
    model: keras.Model | str | os.PathLike | None,
    path: str | os.PathLike,
    *,
    format: str,
    flip: bool | None = None,
    images: Iterable[Any] | None = None,
) -> pathlib.Path:
    """Writes a model and its calibration as one file or folder that needs neither this library nor Keras.

    Inputs: `"image"`, uint8 `[batch, height, width, 3]` of the model's input size, RGB, 0..255. In a SavedModel that is
    the signature `"images"`, which takes any size; its default signature takes `"encoded"`, a string tensor `[batch]`
    of JPEG or PNG files of at most 4096 x 4096 pixels, which it decodes and resizes. The batch may have any length; an
    empty one has empty answers, but for litert_int8, whose runtime raises.

    Outputs, float32 `[batch, 1]` each, if the model has the head: `"age"` in years, `"gender"` as the calibrated
    probability of female and, with calibrated intervals, `"age_low"` and `"age_high"` in years. ONNX files have them in
    this order; in other formats use the names. ONNX files of a model whose gender is calibrated also answer
    `"gender_uncalibrated"`: whoever averages several views of a face averages `"age"` and this output, and calibrates
    the means with the calibration in the metadata, as `Predictor` does.

    Every format carries its metadata as JSON, in ONNX under the key `"agegender"`: `version`, `inputs` and `outputs`
    with a description each, `image_size` as `[height, width]`, `heads`, `age_head` ("regression", "distribution",
    "median" or null), `dtype` ("float32", "float16" or "int8"), `flip` (whether the graph itself averages over the
    mirror image), `calibration` (the fields of `Calibration` or null) and `licence`.

    A model that computes in half precision is exported in float32.

    Args:
        model: a model, a `.keras` file, the folder of a run, or None for the released model.
        path: where to write; nothing may exist there.
        format: "saved_model", "onnx", "onnx_int8", "litert_float16" or "litert_int8".
        flip: whether the graph averages over each image and its mirror image, which takes twice as long. None uses the
            setting that the calibration was fitted with.
        images: for the int8 formats only: at least 100 aligned faces such as the model will see, each as for
            `Predictor`, or an array `[n, height, width, 3]`. The ranges of the 8 bits are measured on them.

    Returns:
        The path.

    Raises:
        ValueError: if the format is unknown, images are missing or too few, or the model or its calibration is damaged.
        ImageError: if one of the images cannot be read.
        FileExistsError: if something exists at the path.
        FileNotFoundError: if there is no model.
        ModuleNotFoundError: if a converter is not installed.
        RuntimeError: if Keras does not run on TensorFlow.

    Example:

    >>> export_model("runs/1", "age_gender.onnx", format="onnx").name
    'age_gender.onnx'
    """
    path, images = pathlib.Path(path), images if images is None else list(images)
    _check_arguments(path, format, images, flip)
    model, calibration = _load(model)
    flip = (calibration is not None and calibration.flip) if flip is None else flip
    serving = build_serving_model(model, calibration, flip=flip, raw_gender=format.startswith("onnx"))
    metadata = _build_metadata(model, serving, calibration, format, flip)
    resized = _resize_to_model(images, serving)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converters use deprecated functions
        _WRITERS[format](serving, pathlib.Path(folder), metadata, resized).rename(path)
    return path


def _load(model: keras.Model | str | os.PathLike | None) -> tuple[keras.Model, Calibration | None]:
    if isinstance(model, keras.Model):
        return check_model(model), None
    path = find_released() if model is None else model
    return load_model(path), load_calibration(path)


def _write_saved_model(model: keras.Model, folder: pathlib.Path, metadata: Mapping, _: Any) -> pathlib.Path:
    import tensorflow as tf

    height, width = model.input_shape[1:3]
    path, module = folder / "saved_model", tf.Module()
    # Not Keras's ExportArchive: it writes every weight twice.
    module.weights = [variable.value for variable in model.variables]

    def answer(images: Any) -> Any:
        # TensorFlow's fused convolutions fail for an empty batch, so that one gets a black image, whose answer is cut.
        count = tf.shape(images)[0]
        answers = model(tf.pad(images, [[0, tf.cast(count == 0, tf.int32)], [0, 0], [0, 0], [0, 0]]), training=False)
        return {name: values[:count] for name, values in answers.items()}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="encoded")])
    def answer_files(encoded: Any) -> Any:
        return answer(decode_images(encoded, height, width))

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8, name=IMAGE)])
    def answer_images(image: Any) -> Any:
        return answer(resize_images(image, height, width))

    tf.saved_model.save(module, path, signatures={"serving_default": answer_files, "images": answer_images})
    extra = path / "assets.extra"  # TensorFlow reserves this folder for files of others
    extra.mkdir()
    (extra / METADATA_FILE).write_text(json.dumps(metadata, indent=2) + "\n")
    return path


def _write_onnx(model: keras.Model, folder: pathlib.Path, metadata: Mapping, _: Any) -> pathlib.Path:
    import onnx

    path = folder / "model.onnx"
    signature = [keras.InputSpec(shape=model.input_shape, dtype="uint8", name=IMAGE)]
    model.export(path, format="onnx", input_signature=signature, verbose=False)
    graph = onnx.load(path)
    outputs = {each.name: each for each in graph.graph.output}  # in alphabetical order
    del graph.graph.output[:]
    graph.graph.output.extend(outputs[name] for name in model.output)
    onnx.helper.set_model_props(graph, {METADATA_KEY: json.dumps(metadata)})
    onnx.save(graph, path)
    return path


def _write_onnx_int8(
    model: keras.Model, folder: pathlib.Path, metadata: Mapping, images: Sequence[np.ndarray]
) -> pathlib.Path:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Any] = ({IMAGE: image[None]} for image in images)

        def get_next(self) -> Any:
            return next(self.batches, None)

    source, prepared, path = _write_onnx(model, folder, metadata, None), folder / "prepared.onnx", folder / "int8.onnx"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    nodes = [node for node in onnx.load(prepared).graph.node if node.op_type in ("Conv", "MaxPool")]
    first = _count_8_bit([node.op_type == "Conv" for node in nodes])
    quantize_static(
        prepared, path, Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv", "MaxPool"],
        nodes_to_exclude=[node.name for node in nodes[first:]], per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return path


def _count_8_bit(convolutions: Sequence[bool]) -> int:
    """How many of the convolutions and poolings, in order, are computed in 8 bits: those before the last convolution.

    The heads read its channels, and 8 bits with one range for all of them lose those whose range is small.
    """
    return len(convolutions) - 1 - convolutions[::-1].index(True)


def _write_litert_float16(model: keras.Model, folder: pathlib.Path, metadata: Mapping, _: Any) -> pathlib.Path:
    import tensorflow as tf

    path = folder / "model.tflite"
    _convert_to_litert(model, path, optimizations=[tf.lite.Optimize.DEFAULT], supported_types=[tf.float16])
    return _append_metadata(path, metadata)


def _write_litert_int8(
    model: keras.Model, folder: pathlib.Path, metadata: Mapping, images: Sequence[np.ndarray]
) -> pathlib.Path:
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils as flatbuffers

    source, path = folder / "float.tflite", folder / "model.tflite"
    _convert_to_litert(model, source)
    # Not TensorFlow's own converter: it quantizes the heads too.
    maker = quantizer.Quantizer(str(source))
    convolution, pooling = qtyping.TFLOperationName.CONV_2D, qtyping.TFLOperationName.MAX_POOL_2D
    read = flatbuffers.read_model(source)
    kinds = [flatbuffers.TFL_OP_CODE_TO_NAME.get(code.builtinCode) for code in read.operatorCodes]
    (graph,) = read.subgraphs
    nodes = [node for node in graph.operators if kinds[node.opcodeIndex] in (convolution, pooling)]
    first = _count_8_bit([kinds[node.opcodeIndex] == convolution for node in nodes])
    names = [re.escape(flatbuffers.get_op_scope(node, graph.tensors)) for node in nodes[:first]]
    for operation in (convolution, pooling):
        maker.add_static_config(
            regex=f"^({'|'.join(names)})$", operation_name=operation, activation_num_bits=8, weight_num_bits=8,
            weight_granularity=qtyping.QuantGranularity.CHANNELWISE,
        )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # progress bars
        ranges = maker.calibrate({"serving_default": [{IMAGE: image[None]} for image in images]})
        path.write_bytes(maker.quantize(ranges).quantized_model)
    return _append_metadata(path, metadata)


def _convert_to_litert(model: keras.Model, path: pathlib.Path, *, supported_types: Any = (), **options: Any) -> None:
    import tensorflow as tf

    target = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS], "supported_types": list(supported_types)}
    model.export(path, format="litert", verbose=False, target_spec=target, **options)


def _append_metadata(path: pathlib.Path, metadata: Mapping[str, Any]) -> pathlib.Path:
    """Appends a zip archive, as LiteRT's own metadata tools do: the runtime reads the front, `unzip` the end."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA_FILE, json.dumps(metadata, indent=2) + "\n")
    return path


_WRITERS: Final[Mapping[str, _Writer]] = {
    "saved_model": _write_saved_model,
    "onnx": _write_onnx,
    "onnx_int8": _write_onnx_int8,
    "litert_float16": _write_litert_float16,
    "litert_int8": _write_litert_int8,
}


def _build_metadata(
    model: keras.Model, serving: keras.Model, calibration: Calibration | None, format: str, flip: bool
) -> dict[str, Any]:
    height, width = serving.input_shape[1:3]
    face = "one aligned face each"
    inputs = {IMAGE: f"uint8 [batch, {height}, {width}, 3], RGB, 0..255, {face}"}
    if format == "saved_model":
        inputs = {
            "encoded": f"string [batch], JPEG or PNG files, {face}; signature serving_default",
            IMAGE: f"uint8 [batch, height, width, 3], RGB, 0..255, {face}; signature images",
        }
    coverage = "" if calibration is None else f", coverage {calibration.coverage:g}"
    outputs = {
        AGE: "float32 [batch, 1], years",
        GENDER: "float32 [batch, 1], probability of female",
        AGE_LOW: f"float32 [batch, 1], years, lower end of the interval{coverage}",
        AGE_HIGH: f"float32 [batch, 1], years, upper end of the interval{coverage}",
        RAW_GENDER: "float32 [batch, 1], probability of female before calibration",
    }
    return {
        "version": METADATA_VERSION,
        "inputs": inputs,
        "outputs": {name: outputs[name] for name in serving.output},
        "image_size": [height, width],
        "heads": [head for head in HEADS if head in serving.output],
        "age_head": _find_age_head(model),
        "dtype": format.rpartition("_")[2] if format.endswith(("float16", "int8")) else "float32",
        "flip": flip,
        "calibration": None if calibration is None else dataclasses.asdict(calibration),
        "licence": _LICENCE,
    }


def _find_age_head(model: keras.Model) -> str | None:
    layer = next((layer for layer in model.layers if layer.name == AGE), None)
    kinds = {MeanAge: "distribution", MedianAge: "median"}
    return None if layer is None else kinds.get(type(layer), "regression")


def _resize_to_model(images: Sequence[Any] | None, model: keras.Model) -> list[np.ndarray]:
    height, width = model.input_shape[1:3]
    decoded = map(read_image, () if images is None else images)
    return [np.asarray(fit_image(image, width, height)) for image in decoded]


def _check_arguments(path: pathlib.Path, format: str, images: Sequence[Any] | None, flip: bool | None) -> None:
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {FORMATS}. Received: format={format!r}")
    if not isinstance(flip, bool | np.bool_ | None):
        raise ValueError(f"`flip` must be True, False or None. Received: flip={flip!r}")
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists. Nothing is overwritten: give another path or remove it.")
    count = 0 if images is None else len(images)
    if count < MIN_IMAGES if format in _INT8_FORMATS else count:
        raise ValueError(
            f"`images` (on the command line: --images=FOLDER) must be at least {MIN_IMAGES} aligned faces for the int8 "
            f"formats, and must not be given for other formats. Received: format={format!r} and {count} images"
        )
    missing = [name for name in _CONVERTERS.get(format, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"{format!r} needs {', '.join(missing)}: pip install 'agegender[export]'")
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(f"Export needs KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()}")
