"""Every format, read by its own runtime, answers as the `Predictor` does."""

import io
import json
import pathlib
import struct
import zipfile
import zlib
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

from agegender import Calibration, Predictor, build_model, draw_face
from agegender.export import export
from agegender.export.exif import orientations
from agegender.export.serving_model import answering_model, decode_images, resize_images
from agegender.inference.images import read_image
from agegender.models.batch_norm import add_batch_norm

# How far an answer may be from the Predictor's: in years or in probability, and as a share of how far these differ
# among the faces. Measured at this size: 1e-5 in float32, 0.001 and 0.17 of the range for the others.
WITHIN = {"saved_model": 1e-3, "onnx": 1e-3}
WITHIN_SHARE = {"litert-float16": 0.005, "litert-int8": 0.3}
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
Runner = Callable[[np.ndarray], dict[str, np.ndarray]]


def faces(count: int = 100, size: int = SIZE) -> np.ndarray:
    return np.stack([draw_face(i % 90, i % 2, i % 5, seed=i, size=size) for i in range(count)])


def make_model(**options: Any) -> keras.Model:
    """A model whose heads do not answer the same for all: an untrained one's start at zero."""
    keras.utils.set_random_seed(1)
    model = build_model(make_tiny_trunk(), units=(32,), age_dropout=(0,), gender_dropout=(0,), **options)
    for layer in model.layers:
        if layer.name in ("gender", "age_distribution", "age_deviations"):
            kernel, bias = layer.get_weights()
            layer.set_weights([keras.random.normal(kernel.shape, stddev=0.5, seed=2), bias])
    return model


def open_saved_model(path: pathlib.Path, signature: str = "images") -> Runner:
    loaded = tf.saved_model.load(path)
    return lambda images: {
        name: values.numpy() for name, values in loaded.signatures[signature](image=tf.constant(images)).items()
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
    "litert-float16": open_litert,
    "litert-int8": open_litert,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a calibrated run that flips."""
    folder = tmp_path_factory.mktemp("run")
    make_model(age_head="distribution").save(folder / "best.keras")
    CALIBRATION.save(folder)
    return folder


@pytest.fixture(scope="module")
def exported(run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    folder = tmp_path_factory.mktemp("exported")
    return {format: write(run, folder / format, format) for format in export.FORMATS}


def write(model: Any, path: pathlib.Path, format: str, **options: Any) -> pathlib.Path:
    images = faces() if format == "litert-int8" else None
    return export.export_model(model, path, format=format, images=images, **options)


def of_predictor(model: Any, images: Any, **options: Any) -> dict[str, np.ndarray]:
    """What the Predictor says, under the names that the exported files use."""
    answers: Any = Predictor(model, aligned=True, **options)(list(images))
    told = [photograph[0] for photograph in answers]
    columns: dict[str, Any] = {"age": [face.age for face in told], "gender": [face.p_female for face in told]}
    if told[0].age_interval is not None:
        columns["age_low"], columns["age_high"] = zip(*(face.age_interval for face in told), strict=True)
    return {name: np.array(values)[:, None] for name, values in columns.items() if values[0] is not None}


def assert_same(got: dict[str, np.ndarray], want: dict[str, np.ndarray], format: str) -> None:
    assert set(got) == set(want)
    for name, values in want.items():
        assert np.ptp(values) > 1e-2  # else the same answer for all faces would do
        within = WITHIN[format] if format in WITHIN else WITHIN_SHARE[format] * np.ptp(values)
        np.testing.assert_allclose(got[name], values, rtol=0, atol=within, err_msg=name)


@pytest.mark.parametrize("format", export.FORMATS)
def test_a_calibrated_model_that_flips_answers_in_its_own_runtime_as_the_predictor(
    format: str, exported: dict[str, pathlib.Path], run: pathlib.Path
) -> None:
    answer = OPEN[format](exported[format])
    want = of_predictor(run, faces(40))
    assert sorted(want) == ["age", "age_high", "age_low", "gender"]
    assert_same(answer(faces(40)), want, format)
    one = answer(faces(1))  # a batch of any length
    assert {values.shape for values in one.values()} == {(1, 1)}


@pytest.mark.parametrize(
    ("format", "head"),
    [("saved_model", "age"), ("onnx", "gender"), ("litert-float16", "gender"), ("litert-int8", "age")],
)
def test_a_model_with_one_head_and_no_calibration_has_one_answer(
    format: str, head: str, tmp_path: pathlib.Path
) -> None:
    model = make_model(heads=[head])
    answers = OPEN[format](write(model, tmp_path / "it", format))(faces(40))
    assert_same(answers, of_predictor(model, faces(40)), format)


def test_flip_can_be_said_otherwise_than_calibrated(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    answers = open_onnx(write(run, tmp_path / "it.onnx", "onnx", flip=False))(faces(5))
    plain, flipped = (of_predictor(run, faces(5), flip=flip) for flip in (False, True))
    assert_same(answers, plain, "onnx")
    assert np.abs(plain["age"] - flipped["age"]).max() > 0.01


def test_int8_takes_its_ranges_from_images_of_any_size_and_kind(tmp_path: pathlib.Path) -> None:
    model = make_model()
    drawn = [Image.fromarray(face) for face in faces(size=40)]
    path = export.export_model(model, tmp_path / "it", format="litert-int8", images=drawn)
    assert_same(open_litert(path)(faces(40)), of_predictor(model, faces(40)), "litert-int8")


def test_onnx_has_its_outputs_in_the_order_that_is_documented(exported: dict[str, pathlib.Path]) -> None:
    outputs = onnxruntime.InferenceSession(exported["onnx"]).get_outputs()
    assert [output.name for output in outputs] == ["age", "gender", "age_low", "age_high"]


def encode(
    image: np.ndarray, format: str, mode: str = "RGB", size: tuple[int, int] | None = None, **options: Any
) -> bytes:
    decoded = Image.fromarray(image).convert(mode)
    file = io.BytesIO()
    (decoded.resize(size) if size else decoded).save(file, format, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def serve(exported: dict[str, pathlib.Path]) -> Callable[[list[bytes]], dict[str, np.ndarray]]:
    loaded = tf.saved_model.load(exported["saved_model"])
    signature = loaded.signatures["serving_default"]
    return lambda files: {name: values.numpy() for name, values in signature(encoded=tf.constant(files)).items()}


def test_the_default_signature_answers_the_same_on_the_bytes_of_files(
    serve: Any, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    forms = [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "L"), ("PNG", "RGBA"), ("PNG", "P")]
    files = [encode(face, *form) for face, form in zip(faces(6), forms, strict=True)]
    paths = [tmp_path / f"{i}" for i in range(6)]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    assert_same(serve(files), of_predictor(run, paths), "saved_model")


def test_images_of_other_sizes_are_resized_as_the_predictor_does(
    serve: Any, exported: dict[str, pathlib.Path], run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    files = [encode(face, "PNG", size=(70 + i, 50)) for i, face in enumerate(faces(6, size=64))]
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    got, want = serve(files), of_predictor(run, paths)
    assert np.abs(got["age"] - want["age"]).max() < 0.1  # a grey level here and there; measured: 0.023
    larger = faces(6, size=64)
    got, want = open_saved_model(exported["saved_model"])(larger), of_predictor(run, larger)
    assert np.abs(got["age"] - want["age"]).max() < 0.1


@pytest.mark.parametrize("size", [(24, 24), (57, 31), (200, 180)])
def test_resizing_is_pillows_but_for_a_grey_level_here_and_there(size: tuple[int, int]) -> None:
    images = faces(4, size=64)
    want = [np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BILINEAR)) for each in images]
    off = np.abs(resize_images(images, size[1], size[0]).numpy().astype(int) - np.stack(want).astype(int))
    assert off.max() <= 2 and np.mean(off > 0) < 0.02  # in one pass a tenth and more are off


def test_decoding_is_pillows_to_the_bit() -> None:
    files = [encode(face, "JPEG") for face in faces(4, size=64)]
    want = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    np.testing.assert_array_equal(decode_images(tf.constant(files), 64, 64), want)


def make_png(kind: int, bits: int, *chunks: tuple[bytes, bytes], interlaced: bool = False) -> bytes:
    """A PNG file of 8 x 8 random values: kind 0 is grey, 2 colour, 3 a palette, 4 grey and 6 colour with opacity."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    values = np.random.default_rng(bits).integers(0, 2**bits, (8, 8, channels))
    # x and y of the first, and the steps to the next, of each pass.
    passes = "0088 4088 0448 2044 0224 1022 0112" if interlaced else "0011"
    rows = [row for x, y, dx, dy in (map(int, each) for each in passes.split()) for row in values[y::dy, x::dx]]
    lines = b"".join(b"\0" + pack(row.ravel(), bits) for row in rows)
    head = struct.pack(">2I5B", 8, 8, bits, kind, 0, 0, interlaced)
    every = ((b"IHDR", head), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in every
    )


def pack(row: np.ndarray, bits: int) -> bytes:
    if bits >= 8:
        return row.astype(f">u{bits // 8}").tobytes()
    return np.packbits(np.unpackbits(row.astype("u1")[:, None], axis=1)[:, -bits:]).tobytes()


def test_png_of_any_bits_and_colours_is_decoded_as_the_predictor_does() -> None:
    palette, opacities = (b"PLTE", bytes(range(48))), (b"tRNS", bytes([0, 100]))
    files = [make_png(0, bits, interlaced=odd) for bits in (1, 2, 4, 8, 16) for odd in (False, True)]
    files += [make_png(3, bits, (b"PLTE", palette[1][: 3 * 2**bits])) for bits in (1, 2, 4)]
    files += [make_png(3, bits, (b"PLTE", palette[1][: 3 * 2**bits]), opacities) for bits in (1, 2, 4)]
    files += [make_png(kind, bits) for kind in (2, 4, 6) for bits in (8, 16)]
    files += [make_png(0, bits, (b"tRNS", b"\0\1")) for bits in (1, 8)]
    want = np.stack([np.asarray(read_image(file)) for file in files])
    np.testing.assert_array_equal(decode_images(tf.constant(files), 8, 8), want)


def exif(orientation: int, order: str, makers: int = 1) -> bytes:
    """EXIF data of a maker, or more of them, an orientation and a resolution."""
    entries = [
        *[(0x010F, 2, 4, b"Me.\0")] * makers,
        (0x0112, 3, 1, struct.pack(f"{order}2H", orientation, 0)),
        (0x0128, 3, 1, b"\0" * 4),
    ]
    body = b"".join(struct.pack(f"{order}2HI", *entry) + data for *entry, data in entries)
    mark = {"<": b"II*\0\x08\0\0\0", ">": b"MM\0*\0\0\0\x08"}[order]
    return b"Exif\0\0" + mark + struct.pack(f"{order}H", len(entries)) + body + b"\0" * 4


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_turned_images_are_turned_upright_as_the_predictor_does(serve: Any, run: pathlib.Path, format: str) -> None:
    turns = [(orientation, order) for orientation in range(1, 10) for order in "<>"]  # 9 is nothing
    face = faces(1, size=40)[0]
    files = [encode(face, format, size=(40, 30), exif=exif(*turn)) for turn in turns]
    want = np.stack([np.asarray(read_image(file).resize((24, 24), Image.Resampling.BILINEAR), int) for file in files])
    off = np.abs(decode_images(tf.constant(files), 24, 24).numpy() - want)
    assert off.max() <= 2 and len(np.unique(want, axis=0)) == 8
    answers: Any = Predictor(run, aligned=True)(files)
    np.testing.assert_allclose(serve(files)["age"][:, 0], [photograph[0].age for photograph in answers], atol=0.1)


@pytest.mark.parametrize("order", "<>")
def test_an_orientation_behind_many_other_entries_is_found(order: str) -> None:
    files = [encode(faces(1)[0], "JPEG", exif=exif(6, order, makers)) for makers in (0, 2, 40)]
    assert orientations(tf.constant(files)).numpy().tolist() == [6, 6, 6]


@pytest.mark.parametrize("length", [2, 6, 13, 16, 30, 36])
def test_odd_exif_data_are_upright(length: int) -> None:
    file = encode(faces(1)[0], "JPEG")
    odd = exif(6, "<")[:length]
    segment = b"\xff\xe1" + struct.pack(">H", len(odd) + 2) + odd
    np.testing.assert_array_equal(orientations(tf.constant([file[:2] + segment + file[2:], file])), [1, 1])


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (b"", r"must be JPEG or PNG files. Received others at\] \[1\]"),
        (b"no image", r"must be JPEG or PNG files. Received others at\] \[1\]"),
        (encode(faces(1)[0], "GIF"), r"must be JPEG or PNG files. Received others at\] \[1\]"),
        (encode(faces(1)[0], "PNG")[:20], r"must be JPEG or PNG files. Received others at\] \[1\]"),
        (encode(faces(1)[0], "JPEG")[:200], "JPEG"),
        (encode(faces(1)[0], "PNG")[:200], "PNG"),
    ],
)
def test_broken_bytes_are_an_error_and_the_next_ones_are_not(serve: Any, broken: bytes, words: str) -> None:
    good = encode(faces(1)[0], "PNG")
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        serve([good, broken])
    assert serve([good])["age"].shape == (1, 1)


def test_normalisation_is_folded_and_half_precision_left_behind() -> None:
    from agegender import vggface_trunk

    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        trunk = add_batch_norm(vggface_trunk("vgg16", image_size=48, weights=None, trainable="all", seed=0))
        model = build_model(trunk)
    finally:
        keras.config.set_dtype_policy("float32")
    answering = answering_model(model, CALIBRATION, flip=True)
    layers = answering._flatten_layers()
    assert not [layer.name for layer in layers if layer.name.endswith("_batch_norm") and layer.name[0] == "c"]
    assert {layer.compute_dtype for layer in layers} <= {"float32", "uint8"}
    got, want = answering.predict_on_batch(faces(2, size=48)), model.predict_on_batch(faces(2, size=48))
    np.testing.assert_allclose(got["age"], want["age"], atol=0.5)


def test_interpolation_and_temperature_are_those_of_the_calibration_at_the_ends_too() -> None:
    years, shares = keras.Input((1,)), keras.Input((1,))
    from agegender.export import serving_model

    interpolated = keras.Model(years, serving_model._interpolate(years, CALIBRATION.ages or (), CALIBRATION.high))
    ages = np.array([[-5.0], [0.0], [0.3], [33.33], [80.0], [116.0], [130.0]], "float32")
    np.testing.assert_allclose(interpolated(ages), CALIBRATION.intervals(ages)[1], atol=1e-4)
    cooled = keras.Model(shares, serving_model._cooled(shares, 1.7))
    probabilities = np.array([[0.0], [1e-6], [0.3], [0.5], [0.999], [1.0]], "float32")
    np.testing.assert_allclose(cooled(probabilities), CALIBRATION.probabilities(probabilities), atol=1e-5)


def test_each_file_says_what_goes_in_and_comes_out(exported: dict[str, pathlib.Path]) -> None:
    told = {"saved_model": json.loads((exported["saved_model"] / "assets.extra" / export.FACTS).read_text())}
    told["onnx"] = {each.key: each.value for each in onnx.load(exported["onnx"]).metadata_props}
    for format in ("litert-float16", "litert-int8"):
        told[format] = json.loads(zipfile.ZipFile(exported[format]).read(export.FACTS))
    for format, facts in told.items():
        assert {"image", "age", "gender", "age_low", "age_high", "flip", "licence"} <= set(facts), format
        assert "coverage 0.9" in facts["age_low"] and "Research only" in facts["licence"]
        assert "years, from where" in facts["age_low"] and "years, to where" in facts["age_high"]
        assert "probability of female" in facts["gender"] and "mirror image" in facts["flip"]
        assert f"[batch, {'height, width' if format == 'saved_model' else '24, 24'}, 3], RGB" in facts["image"]


def types_of(path: pathlib.Path) -> dict[str, set[str]]:
    """The dtypes of all tensors, and of what each kind of operation puts out."""
    interpreter = Interpreter(str(path))
    names = {detail["index"]: np.dtype(detail["dtype"]).name for detail in interpreter.get_tensor_details()}
    types: dict[str, set[str]] = {"all": set(names.values())}
    for operation in interpreter._get_ops_details():
        if len(operation["outputs"]):
            types.setdefault(operation["op_name"], set()).add(names[operation["outputs"][0]])
    return types


def test_litert_files_hold_what_their_names_say(exported: dict[str, pathlib.Path]) -> None:
    int8 = types_of(exported["litert-int8"])
    assert int8["CONV_2D"] == {"int8"} and int8["FULLY_CONNECTED"] == {"float32"}
    assert "float16" in types_of(exported["litert-float16"])["all"]


def test_nothing_is_overwritten(exported: dict[str, pathlib.Path], run: pathlib.Path) -> None:
    for format, path in exported.items():
        with pytest.raises(FileExistsError, match=str(path)):
            write(run, path, format)


def test_what_cannot_be_exported_is_refused_in_words(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "it"
    with pytest.raises(ValueError, match=r"`format` must be one of .*Received: format='coreml'"):
        export.export_model(run, path, format="coreml")
    words = r"`images` \(of the command: --images=FOLDER\) must be 100 aligned faces or more for 'litert-int8'"
    for format, images in (("litert-int8", None), ("litert-int8", faces(99)), ("onnx", faces())):
        with pytest.raises(ValueError, match=words):
            export.export_model(run, path, format=format, images=images)
    with pytest.raises(ValueError, match=r"values in 0\.\.255"):
        export.export_model(run, path, format="litert-int8", images=[*faces(99), -faces(1)[0].astype("float32")])
    with pytest.raises(FileNotFoundError, match="no trained model"):
        export.export_model(tmp_path, path, format="onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "package"), [("onnx", "tf2onnx"), ("onnx", "onnx"), ("litert-int8", "ai_edge_quantizer")]
)
def test_a_missing_converter_is_named_with_the_extra_that_brings_it(
    format: str, package: str, run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=rf"{package}.*pip install 'agegender\[export\]'"):
        write(run, tmp_path / "it", format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", export.FORMATS)
def test_a_conversion_that_fails_leaves_nothing_behind(format: str, tmp_path: pathlib.Path) -> None:
    @keras.saving.register_keras_serializable(package="test")
    class Unconvertible(keras.layers.Layer):
        def call(self, tensor: Any) -> Any:
            raise RuntimeError("no format has this")

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    trunk = make_tiny_trunk()
    model = build_model(keras.Sequential([keras.Input((SIZE, SIZE, 3)), Unconvertible(), *trunk.layers]))
    with pytest.raises(RuntimeError, match="no format has this"):
        write(model, tmp_path / "it", format)
    assert list(tmp_path.iterdir()) == []
