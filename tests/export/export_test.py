"""Each format, run by its own runtime, gives the answers of the model and its calibration."""

import io
import json
import pathlib
import struct
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from conftest import SIZE, make_tiny_trunk
from PIL import Image

from agegender import Calibration, build_model, draw_face
from agegender.export import export
from agegender.export.serving_model import (
    apply_temperature,
    build_serving_model,
    decode_images,
    interpolate,
    resize_images,
)
from agegender.models.batch_norm import add_batch_norm
from agegender.models.layers import iterate_layers
from agegender.models.prediction import predict_batch

# Largest deviation from Keras, in years or probability, and for reduced precision as a share of the answers' range.
# Measured at this size: 1e-5 in float32, 0.001 and 0.17 of the range for the others.
TOLERANCE = {"saved_model": 1e-3, "onnx": 1e-3}
RELATIVE_TOLERANCE = {"litert_float16": 0.005, "litert_int8": 0.3, "onnx_int8": 0.3}
AGES = tuple(np.arange(0, 116.5, 0.5).tolist())
CALIBRATION = Calibration(
    coverage=0.9,
    ages=AGES,
    low=tuple(age * 0.7 for age in AGES),
    high=tuple(min(116.0, age + 3 + age**0.5) for age in AGES),
    temperature=1.7,
    count=500,
    flip=True,
)
Answers = dict[str, np.ndarray]
Runner = Callable[[np.ndarray], Answers]


def draw_faces(count: int = 100, size: int = SIZE) -> np.ndarray:
    return np.stack([draw_face(i % 90, i % 2, i % 5, seed=i, size=size) for i in range(count)])


def make_model(**options: Any) -> keras.Model:
    """Builds a model that answers differently for each face: last layers of an untrained one are zero."""
    keras.utils.set_random_seed(1)
    model = build_model(make_tiny_trunk(), units=(32,), age_dropout=(0,), gender_dropout=(0,), **options)
    for layer in model.layers:
        if layer.name in ("gender", "age_distribution", "age_deviations"):
            kernel, bias = layer.get_weights()
            layer.set_weights([keras.random.normal(kernel.shape, stddev=0.5, seed=2), bias])
    return model


def compute_expected(model: keras.Model, images: np.ndarray, calibration: Calibration | None, flip: bool) -> Answers:
    """Computes the answers in NumPy, under the names of the exported files."""
    answers = predict_batch(model, images, flip=flip)
    if calibration:
        answers["age_low"], answers["age_high"] = calibration.intervals(answers["age"])
        answers["gender_uncalibrated"] = answers["gender"]
        answers["gender"] = calibration.probabilities(answers["gender"])
    return {name: values[:, None] for name, values in answers.items()}


def open_saved_model(path: pathlib.Path) -> Runner:
    loaded = tf.saved_model.load(path)
    return lambda images: {
        name: values.numpy() for name, values in loaded.signatures["images"](image=tf.constant(images)).items()
    }


def open_onnx(path: pathlib.Path) -> Runner:
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(None, {"image": images}), strict=True))


def open_litert(path: pathlib.Path) -> Runner:
    runner = Interpreter(str(path)).get_signature_runner()
    return lambda images: runner(image=images)


OPEN: dict[str, Callable[[pathlib.Path], Runner]] = {
    "saved_model": open_saved_model,
    "onnx": open_onnx,
    "onnx_int8": open_onnx,
    "litert_float16": open_litert,
    "litert_int8": open_litert,
}


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model(age_head="distribution")


@pytest.fixture(scope="module")
def run(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a run whose calibration was fitted with flip."""
    folder = tmp_path_factory.mktemp("run")
    model.save(folder / "best.keras")
    CALIBRATION.save(folder)
    return folder


@pytest.fixture(scope="module")
def exported(run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    folder = tmp_path_factory.mktemp("exported")
    return {format: write(run, folder / format, format) for format in export.FORMATS}


def write(model: Any, path: pathlib.Path, format: str, **options: Any) -> pathlib.Path:
    images = draw_faces() if format.endswith("int8") else None
    return export.export_model(model, path, format=format, images=images, **options)


def assert_close(answers: Answers, expected: Answers, format: str) -> None:
    assert set(answers) == set(expected)
    for name, values in expected.items():
        assert np.ptp(values) > 1e-2, "equal answers for all faces would prove nothing"
        tolerance = TOLERANCE.get(format) or RELATIVE_TOLERANCE[format] * np.ptp(values)
        np.testing.assert_allclose(answers[name], values, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("format", export.FORMATS)
def test_format_answers_as_keras_and_calibration(
    format: str, exported: dict[str, pathlib.Path], model: keras.Model
) -> None:
    answer = OPEN[format](exported[format])
    expected = compute_expected(model, draw_faces(40), CALIBRATION, flip=True)
    if not format.startswith("onnx"):
        del expected["gender_uncalibrated"]
    assert_close(answer(draw_faces(40)), expected, format)
    assert {values.shape for values in answer(draw_faces(1)).values()} == {(1, 1)}
    if format == "litert_int8":
        with pytest.raises(RuntimeError, match="failed to reshape"):
            answer(draw_faces(1)[:0])
    else:
        assert {values.shape for values in answer(draw_faces(1)[:0]).values()} == {(0, 1)}


@pytest.mark.parametrize(("format", "head"), [("saved_model", "age"), ("onnx", "gender")])
def test_model_with_one_head_and_no_calibration(format: str, head: str, tmp_path: pathlib.Path) -> None:
    model = make_model(heads=[head])
    answers = OPEN[format](write(model, tmp_path / "model", format))(draw_faces(40))
    assert_close(answers, compute_expected(model, draw_faces(40), None, flip=False), format)


def test_flip_overrides_the_calibration(tmp_path: pathlib.Path) -> None:
    model = make_model(age_head="median")
    model.save(tmp_path / "best.keras")
    CALIBRATION.save(tmp_path)
    path = write(tmp_path, tmp_path / "model.onnx", "onnx", flip=False)
    expected = compute_expected(model, draw_faces(40), CALIBRATION, flip=False)
    assert_close(open_onnx(path)(draw_faces(40)), expected, "onnx")
    flipped = compute_expected(model, draw_faces(40), CALIBRATION, flip=True)
    assert np.abs(expected["age"] - flipped["age"]).max() > 0.01
    assert read_metadata(path, "onnx")["flip"] is False


def test_int8_resizes_its_images_and_measures_ranges_on_all(tmp_path: pathlib.Path) -> None:
    model = make_model()
    images = [Image.new("RGB", (30, 40), "gray")] * 95 + [Image.fromarray(face) for face in draw_faces(5, size=40)]
    path = export.export_model(model, tmp_path / "model", format="onnx_int8", images=images)
    expected = compute_expected(model, draw_faces(40), None, flip=False)
    assert_close(open_onnx(path)(draw_faces(40)), expected, "onnx_int8")


@pytest.mark.parametrize("format", ["onnx_int8", "litert_int8"])
def test_int8_leaves_the_channels_that_the_heads_read(format: str, tmp_path: pathlib.Path) -> None:
    """8 bits with one range for all would erase the others beside a channel a thousand times as large."""
    model = make_model()
    last = [layer for layer in iterate_layers(model) if isinstance(layer, keras.layers.Conv2D)][-1]
    kernel, bias = last.get_weights()
    last.set_weights([kernel * np.where(np.arange(len(bias)) == 0, 1000, 1), bias])
    readers = [layer for layer in model.layers if layer.name in ("gender_dense_1", "age_dense_1")]
    assert len(readers) == 2
    for dense in readers:
        kernel, bias = dense.get_weights()
        dense.set_weights([kernel * (np.arange(len(kernel)) > 0)[:, None], bias])  # the other channels decide
    expected = compute_expected(model, draw_faces(40), None, flip=False)
    assert_close(OPEN[format](write(model, tmp_path / "model", format))(draw_faces(40)), expected, format)


def test_saved_model_decodes_files(
    exported: dict[str, pathlib.Path], model: keras.Model, tmp_path: pathlib.Path
) -> None:
    serve = tf.saved_model.load(exported["saved_model"]).signatures["serving_default"]
    images = draw_faces(4)
    kinds = [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "L")]
    files = [encode(face, *kind) for face, kind in zip(images, kinds, strict=True)]
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    expected = compute_expected(model, decoded, CALIBRATION, flip=True)
    np.testing.assert_allclose(serve(encoded=tf.constant(files))["age"], expected["age"], atol=1e-3)
    assert serve(encoded=tf.constant([], tf.string))["age"].shape == (0, 1)


def encode(image: np.ndarray, format: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, format)
    return file.getvalue()


def test_decoding_equals_pillow() -> None:
    files = [encode(face, "JPEG") for face in draw_faces(4, size=64)]
    expected = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    np.testing.assert_array_equal(decode_images(tf.constant(files), 64, 64), expected)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_saved_model_refuses_sizes_before_decoding(exported: dict[str, pathlib.Path], format: str) -> None:
    serve = tf.saved_model.load(exported["saved_model"]).signatures["serving_default"]
    largest = encode(np.zeros((4096, 4096, 3), "uint8"), format)
    assert serve(encoded=tf.constant([largest]))["age"].shape == (1, 1)
    small = encode(np.zeros((16, 16, 3), "uint8"), format)
    size = {"JPEG": struct.pack(">HH", 16, 16), "PNG": struct.pack(">II", 16, 16)}[format]
    place, kind = small.index(size), {"JPEG": ">HH", "PNG": ">II"}[format]
    hostile = small[:place] + struct.pack(kind, 13_000, 13_000) + small[place + len(size) :]
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have at most 16,777,216 pixels"):
        serve(encoded=tf.constant([hostile]))


@pytest.mark.parametrize("size", [(24, 24), (57, 31), (200, 180)])
def test_resizing_is_close_to_pillow(size: tuple[int, int]) -> None:
    images = draw_faces(4, size=64)
    expected = np.stack([np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BILINEAR)) for each in images])
    difference = np.abs(resize_images(images, size[1], size[0]).numpy().astype(int) - expected)
    assert difference.max() <= 2 and np.mean(difference > 0) < 0.02  # in one pass more than a tenth differ


def test_serving_model_folds_batch_norm_and_computes_in_float32() -> None:
    convolution = keras.layers.Conv2D(8, 3, activation="relu", name="conv")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        trunk = keras.Sequential([keras.Input((SIZE, SIZE, 3)), convolution, keras.layers.GlobalAveragePooling2D()])
        model = build_model(add_batch_norm(trunk))
    finally:
        keras.config.set_dtype_policy("float32")
    model.get_layer("age_deviations").kernel.assign(np.full((128, 1), 0.01))
    serving = build_serving_model(model)
    layers = list(iterate_layers(serving))
    assert "conv_batch_norm" not in [layer.name for layer in layers]
    assert {layer.compute_dtype for layer in layers} <= {"float32", "uint8"}
    answers, expected = (each.predict_on_batch(draw_faces(2)) for each in (serving, model))
    np.testing.assert_allclose(answers["age"], expected["age"], atol=0.1)


@pytest.mark.parametrize(
    ("floatx", "policy", "data_format"),
    [("float16", "float16", "channels_first"), ("float64", "mixed_bfloat16", "channels_last")],
)
def test_serving_model_ignores_keras_config(floatx: str, policy: str, data_format: str, model: keras.Model) -> None:
    expected = build_serving_model(model, CALIBRATION, flip=True).predict_on_batch(draw_faces(4))
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(data_format)
    try:
        answers = build_serving_model(model, CALIBRATION, flip=True).predict_on_batch(draw_faces(4))
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        keras.config.set_image_data_format("channels_last")
    for name, values in expected.items():
        assert values.dtype == answers[name].dtype == np.float32
        np.testing.assert_allclose(answers[name], values, rtol=1e-5)


def test_ages_are_clipped() -> None:
    model = make_model()
    for bias, age in ((-9.0, 0.0), (9.0, 116.0)):
        model.get_layer("age_deviations").bias.assign([bias])
        assert float(build_serving_model(model)(draw_faces(1))["age"][0, 0]) == age


def test_interpolation_and_temperature_equal_numpy() -> None:
    ages = np.array([[-5.0], [0.0], [0.3], [33.33], [80.0], [116.0], [130.0]], "float32")
    expected = np.interp(ages, AGES, CALIBRATION.high)
    np.testing.assert_allclose(interpolate(ages, AGES, CALIBRATION.high), expected, atol=1e-4)
    # The logit of 0.8 is log(4); half of it is log(2), which is 2 to 1.
    np.testing.assert_allclose(apply_temperature(np.float32([[0.8], [0.5], [0.2]]), 2.0), [[2 / 3], [0.5], [1 / 3]])
    probabilities = np.array([[0.0], [1e-6], [0.3], [0.999], [1.0]], "float32")
    expected = CALIBRATION.probabilities(probabilities)
    np.testing.assert_allclose(apply_temperature(probabilities, 1.7), expected, atol=1e-5)


def read_metadata(path: pathlib.Path, format: str) -> dict[str, Any]:
    if format.startswith("onnx"):
        return json.loads({each.key: each.value for each in onnx.load(path).metadata_props}[export.METADATA_KEY])
    if format == "saved_model":
        return json.loads((path / "assets.extra" / export.METADATA_FILE).read_text())
    return json.loads(zipfile.ZipFile(path).read(export.METADATA_FILE))


@pytest.mark.parametrize("format", export.FORMATS)
def test_metadata_is_complete(format: str, exported: dict[str, pathlib.Path]) -> None:
    metadata = read_metadata(exported[format], format)
    assert metadata["version"] == 1 and metadata["image_size"] == [SIZE, SIZE] and metadata["flip"] is True
    assert metadata["heads"] == ["age", "gender"] and metadata["age_head"] == "distribution"
    expected = {"litert_float16": "float16", "litert_int8": "int8", "onnx_int8": "int8"}.get(format, "float32")
    assert metadata["dtype"] == expected
    calibration = metadata["calibration"]
    assert Calibration(**{**calibration, **{key: tuple(calibration[key]) for key in ("ages", "low", "high")}}) == (
        CALIBRATION
    )
    outputs = ["age", "gender", "age_low", "age_high", *["gender_uncalibrated"][: format.startswith("onnx")]]
    assert list(metadata["outputs"]) == outputs
    assert "coverage 0.9" in metadata["outputs"]["age_low"] and "Research only" in metadata["licence"]
    if format.startswith("onnx"):
        assert [each.name for each in onnxruntime.InferenceSession(exported[format]).get_outputs()] == outputs


@pytest.mark.parametrize(("options", "age_head"), [({}, "regression"), ({"age_head": "median"}, "median")])
def test_metadata_names_the_age_head(options: dict[str, str], age_head: str, tmp_path: pathlib.Path) -> None:
    path = write(make_model(**options), tmp_path / "model", "saved_model")
    metadata = read_metadata(path, "saved_model")
    assert metadata["age_head"] == age_head and metadata["calibration"] is None and metadata["flip"] is False


def test_formats_store_their_precision(exported: dict[str, pathlib.Path]) -> None:
    operations = [node.op_type for node in onnx.load(exported["onnx_int8"]).graph.node]
    assert operations.count("Conv") == 2 and "DequantizeLinear" in operations
    scales = [each.dims for each in onnx.load(exported["onnx_int8"]).graph.initializer if "_scale" in each.name]
    assert [8] in scales, "each channel of a convolution has its own scale"
    assert [16] not in scales, "the last convolution stays in float32"
    details = Interpreter(str(exported["litert_int8"])).get_tensor_details()
    assert {"int8", "float32"} <= {np.dtype(detail["dtype"]).name for detail in details}
    details = Interpreter(str(exported["litert_float16"])).get_tensor_details()
    assert "float16" in {np.dtype(detail["dtype"]).name for detail in details}


def test_refusals_name_the_argument_and_write_nothing(
    run: pathlib.Path, exported: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "model"
    with pytest.raises(ValueError, match=r"`format` must be one of .*Received: format='coreml'"):
        export.export_model(run, path, format="coreml")
    for format, images in (("litert_int8", None), ("onnx_int8", draw_faces(99)), ("onnx", draw_faces())):
        with pytest.raises(ValueError, match=r"`images` .*at least 100 aligned faces.*Received"):
            export.export_model(run, path, format=format, images=images)
    with pytest.raises(ValueError, match=r"at least 100 aligned faces.* and 3 images"):
        export.export_model(run, path, format="onnx_int8", images=(image for image in draw_faces(3)))
    with pytest.raises(ValueError, match=r"`flip` must be True, False or None\. Received: flip='maybe'"):
        export.export_model(run, path, format="onnx", flip="maybe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"values in 0\.\.255"):
        export.export_model(run, path, format="onnx_int8", images=[*draw_faces(99), -draw_faces(1)[0].astype("f")])
    with pytest.raises(FileNotFoundError, match="no trained model"):
        export.export_model(tmp_path, path, format="onnx")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileExistsError, match=str(exported["onnx"])):
        write(run, exported["onnx"], "onnx")


@pytest.mark.parametrize(
    ("format", "package"), [("onnx", "tf2onnx"), ("onnx_int8", "onnxruntime"), ("litert_int8", "ai_edge_quantizer")]
)
def test_a_missing_converter_is_named(
    format: str, package: str, run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=rf"{package}.*pip install 'agegender\[export\]'"):
        write(run, tmp_path / "model", format)


def test_a_failed_conversion_leaves_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> pathlib.Path:
        (next(tmp_path.iterdir()) / "half").touch()
        raise RuntimeError("conversion failed")

    monkeypatch.setitem(export._WRITERS, "onnx", fail)
    with pytest.raises(RuntimeError, match="conversion failed"):
        write(make_model(), tmp_path / "model", "onnx")
    assert list(tmp_path.iterdir()) == []
