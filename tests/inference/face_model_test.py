import json
import os
import pathlib
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from conftest import make_tiny_trunk
from PIL import Image

import agegender as ag
from agegender import environment
from agegender.inference import face_model, keras_model
from agegender.inference.face_model import OnnxFaceModel, find_model_file
from agegender.released import find_released

FACES = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), "uint8")


@pytest.fixture(scope="module")
def varied() -> keras.Model:
    """A model whose answers differ from image to image."""
    model, random = ag.build_model(make_tiny_trunk()), np.random.default_rng(3)
    for weight in model.trainable_weights:
        weight.assign(weight + random.normal(scale=0.05, size=weight.shape))
    return model


@pytest.fixture(scope="module")
def exported(varied: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    yield ag.export_model(varied, tmp_path_factory.mktemp("exported") / "model.onnx", format="onnx")


def test_onnx_and_keras_agree_on_the_released_model() -> None:
    folder = find_released()
    by_keras = ag.Predictor(folder / "best.keras", aligned=True)(FACES)
    by_onnx = ag.Predictor(aligned=True)(FACES)
    for here, there in zip(by_onnx, by_keras, strict=True):
        assert here[0].age == pytest.approx(there[0].age, abs=1e-3)
        assert here[0].p_female == pytest.approx(there[0].p_female, abs=1e-4)
        assert here[0].age_interval == pytest.approx(there[0].age_interval, abs=1e-2)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_onnx_and_keras_agree_at_every_batch_size(
    varied: keras.Model, exported: pathlib.Path, flip: bool, count: int
) -> None:
    images = np.random.default_rng(1).integers(0, 256, (count, 24, 24, 3), "uint8")
    outputs = [ag.Predictor(model, flip=flip)._face_model.predict(images, flip=flip) for model in (varied, exported)]
    assert sorted(outputs[0]) == sorted(outputs[1]) == ["age", "gender"]
    for head, expected in outputs[0].items():
        np.testing.assert_allclose(outputs[1][head], expected, atol=1e-4)
        assert outputs[1][head].shape == (count,)


@pytest.fixture(scope="module")
def run(varied: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with its model in float32, float32 as ONNX and int8."""
    folder = tmp_path_factory.mktemp("run")
    varied.save(folder / "best.keras")
    ag.export_model(folder, folder / "model.onnx", format="onnx")
    images = np.random.default_rng(4).integers(0, 256, (100, 24, 24, 3), "uint8")
    ag.export_model(folder, folder / "model-int8.onnx", format="onnx_int8", images=images)
    return folder


def test_dtype_chooses_the_file(run: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(dtype: str | None) -> str:
        return find_model_file(run, dtype).name

    assert [chosen(dtype) for dtype in (None, "float32", "auto", "int8")] == ["best.keras"] * 3 + ["model-int8.onnx"]
    monkeypatch.setattr(face_model, "is_released", lambda _: True)
    for fast, expected in ((True, "model-int8.onnx"), (False, "model.onnx")):
        monkeypatch.setattr(face_model, "has_int8_instructions", lambda fast=fast: fast)
        assert chosen("auto") == expected
        assert [chosen(dtype) for dtype in (None, "float32", "int8")] == ["model.onnx"] * 2 + ["model-int8.onnx"]


def test_int8_answers_nearly_the_same_in_8_bits(run: pathlib.Path) -> None:
    images = np.random.default_rng(5).integers(0, 256, (20, 24, 24, 3), "uint8")
    exact, fast = (ag.Predictor(run, dtype=dtype, aligned=True) for dtype in ("float32", "int8"))
    assert (exact.dtype, fast.dtype) == ("float32", "int8")
    ages = np.array([[each[0].age for each in predictor(images)] for predictor in (exact, fast)])
    assert 0 < np.abs(ages[0] - ages[1]).max() < 0.3 * np.ptp(ages[0])
    assert ag.Predictor(run / "model-int8.onnx").dtype == "int8"


def test_auto_computes_convolutions_in_the_fastest_dtype(run: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(5).integers(0, 256, (20, 24, 24, 3), "uint8")
    monkeypatch.setattr(keras_model, "fastest_dtype", lambda: "mixed_bfloat16")
    exact, fast = (ag.Predictor(run, dtype=dtype, aligned=True) for dtype in (None, "auto"))
    assert (exact.dtype, fast.dtype) == ("float32", "bfloat16")
    ages = np.array([[each[0].age for each in predictor(images)] for predictor in (exact, fast)])
    assert 0 < np.abs(ages[0] - ages[1]).max() < 0.1 * np.ptp(ages[0])
    again = ag.Predictor(fast.model, dtype="float32", aligned=True)
    assert again.dtype == "float32" and fast.dtype == "bfloat16"
    np.testing.assert_allclose([each[0].age for each in again(images)], ages[0], atol=1e-4)


@pytest.mark.parametrize(
    ("model", "dtype", "error", "words"),
    [
        (".", "bf16", ValueError, "`dtype` must be None or one of .*Received: dtype='bf16'"),
        ("best.keras", "int8", ValueError, "Keras models do not compute in int8: export one"),
        ("model.onnx", "int8", ValueError, "model.onnx computes in float32; export it again"),
        ("model-int8.onnx", "float32", ValueError, "computes in int8; export it again"),
        ("none", "int8", FileNotFoundError, "There is no int8 model at .*--format=onnx_int8"),
    ],
)
def test_wrong_dtype_is_an_error(run: pathlib.Path, model: str, dtype: str, error: type[Exception], words: str) -> None:
    (run / "none").mkdir(exist_ok=True)
    with pytest.raises(error, match=words):
        ag.Predictor(run / model, dtype=dtype)


def test_int8_instructions_are_read_from_linux(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_CPU_INFO", tmp_path / "cpuinfo")
    for content, expected in (
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_vnni\n", True),
        ("flags\t\t: fpu avx2 avx_vnni\n", True),
        ("Features\t: fp asimd asimddp\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("", False),
    ):
        (tmp_path / "cpuinfo").write_text(content)
        assert environment.has_int8_instructions() == expected
    (tmp_path / "cpuinfo").unlink()
    assert not environment.has_int8_instructions()


def test_ages_of_a_regression_are_clipped(exported: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"age": np.array([-3, 50, 130], "float32")}
    monkeypatch.setattr(OnnxFaceModel, "_predict_views", lambda *_: answers)
    assert OnnxFaceModel(exported).predict(FACES[:3], flip=False)["age"].tolist() == [0, 50, 116]


def test_a_file_that_flips_is_not_flipped_again(varied: keras.Model, tmp_path: pathlib.Path) -> None:
    path = ag.export_model(varied, tmp_path / "flips.onnx", format="onnx", flip=True)
    image = np.random.default_rng(2).integers(0, 256, (24, 24, 3), "uint8")
    predictor = ag.Predictor(path, aligned=True)
    (expected,) = ag.Predictor(varied, flip=True)(image, aligned=True)
    assert predictor.flip and predictor(image)[0].age == pytest.approx(expected.age, abs=1e-3)
    with pytest.raises(ValueError, match=r"`flip` must be None or True.*averages over mirror images"):
        ag.Predictor(path, flip=False)


def test_the_released_model_has_intervals_and_a_card(couple: np.ndarray) -> None:
    predictor = ag.Predictor()
    assert predictor.flip and predictor.image_size == (64, 64) and predictor.heads == ["age", "gender"]
    faces = predictor(couple)
    assert len(faces) == 2
    for face in faces:
        low, high = face.age_interval
        assert 0 <= low < face.age < high <= 116 and high - low > 10
    card = (find_released() / "README.md").read_text()
    for words in ("non-commercial research only", "## What it is not for", "--age_head=median", "Coverage of the age"):
        assert words in card


def test_the_released_model_in_int8_answers_nearly_the_same() -> None:
    faces = [ag.draw_face(2 * i, i % 2, i % 5, seed=i, size=64) for i in range(40)]
    ages = np.array(
        [[each[0].age for each in ag.Predictor(aligned=True, dtype=dtype)(faces)] for dtype in ("float32", "int8")]
    )
    assert np.ptp(ages[0]) > 50 and 0 < np.median(np.abs(ages[0] - ages[1])) < 1.5


def test_the_environment_names_another_model(
    varied: keras.Model, exported: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    varied.save(tmp_path / "best.keras")
    expected = ag.Predictor(varied, aligned=True)(FACES[0])[0].age
    for path in (exported, tmp_path, tmp_path / "best.keras"):
        monkeypatch.setenv("AGEGENDER_MODEL", str(path))
        assert ag.Predictor(aligned=True)(FACES[0])[0].age == pytest.approx(expected, abs=1e-3)
    monkeypatch.setenv("AGEGENDER_MODEL", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"There is no model at .*gone, which the environment"):
        ag.Predictor()


def run_python(code: str, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    environ = {"PYTHONPATH": str(pathlib.Path(ag.__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environ, capture_output=True, text=True)


def add_endless_loop(graph: onnx.GraphProto) -> None:
    values = {"turn": onnx.TensorProto.INT64, "go": onnx.TensorProto.BOOL, "on": onnx.TensorProto.BOOL}
    turn, go, on = (onnx.helper.make_tensor_value_info(name, kind, []) for name, kind in values.items())
    body = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["go"], ["on"])], "body", [turn, go], [on])
    graph.node.append(onnx.helper.make_node("Loop", ["", "always"], [], body=body))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "always"))


def damage(path: pathlib.Path, what: str) -> None:
    content = path.read_bytes()
    if what == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif what == "text":
        path.write_text("not a model")
    else:
        model = onnx.load(path)
        metadata = json.loads(model.metadata_props[0].value)
        changes: dict[str, Any] = {"no metadata": {}, "no size": {**metadata, "image_size": None},
                                   "other heads": {**metadata, "heads": ["race"]},
                                   "other size": {**metadata, "image_size": [48, 48]},
                                   "loop": metadata, "floats": metadata}  # fmt: skip
        if what == "loop":
            add_endless_loop(model.graph)
        if what == "floats":
            model.graph.node[0].CopyFrom(onnx.helper.make_node("Identity", ["image"], model.graph.node[0].output))
            model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        del model.metadata_props[:]
        if changes[what]:
            onnx.helper.set_model_props(model, {"agegender": json.dumps(changes[what])})
        onnx.save(model, path)


@pytest.mark.parametrize(
    "what", ["cut", "text", "no metadata", "no size", "other heads", "other size", "loop", "floats"]
)
def test_a_damaged_or_foreign_onnx_file_is_refused(exported: pathlib.Path, tmp_path: pathlib.Path, what: str) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(exported.read_bytes())
    damage(path, what)
    with pytest.raises(ValueError, match=r"damaged\.onnx is damaged, or not an ONNX file of `export_model`: ") as error:
        OnnxFaceModel(path)
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="There is no model at"):
        OnnxFaceModel(tmp_path / "gone.onnx")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("nan", ValueError, r"one finite age for each image\. Received: 1 for 1 images, such as \[nan\]"),
        ("terabytes", RuntimeError, r"model\.onnx cannot be run: .*Failed to allocate memory"),
        ("two answers", ValueError, r"one finite age for each image\. Received: 2 for 1 images"),
    ],
)
def test_an_onnx_file_that_answers_nonsense_is_named(
    tmp_path: pathlib.Path, change: str, error: type[Exception], words: str
) -> None:
    values = np.float32(np.nan) if change == "nan" else np.float32(1)
    count = {"nan": 1, "terabytes": 10**12, "two answers": 2}[change]
    node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    graph = onnx.helper.make_graph(
        [
            node("Cast", ["image"], ["floats"], to=onnx.TensorProto.FLOAT),
            node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
            node("Mul", ["mean", "factor"], ["one"]),
            node("Expand", ["one", "shape"], ["age"]),
        ],
        "model",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", 24, 24, 3])],
        [onnx.helper.make_tensor_value_info("age", onnx.TensorProto.FLOAT, ["answers"])],
        [tensor(np.array([1, 2, 3]), "axes"), tensor(values, "factor"), tensor(np.array([count]), "shape")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    metadata = {"heads": ["age"], "image_size": [24, 24], "flip": False, "calibration": None}
    onnx.helper.set_model_props(model, {"agegender": json.dumps(metadata)})
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(error, match=words) as raised:
        ag.Predictor(tmp_path / "model.onnx", aligned=True)(FACES[0])
    assert len(str(raised.value).splitlines()) == 1


def test_a_predictor_is_pickled(varied: keras.Model, exported: pathlib.Path) -> None:
    for model in (exported, varied):
        predictor = ag.Predictor(model, aligned=True, flip=True, min_face=50)
        again = pickle.loads(pickle.dumps(predictor))
        assert again(FACES[0]) == predictor(FACES[0])
        assert again.flip and again.detector.min_face == 50


def test_a_keras_model_in_a_forked_process_says_what_to_do(varied: keras.Model) -> None:
    predictor = ag.Predictor(varied, aligned=True)
    predictor._face_model._process -= 1  # as in a child
    with pytest.raises(RuntimeError, match=r"forked after it was loaded: make the Predictor in the child"):
        predictor(FACES[0])


def test_prediction_with_onnx_imports_neither_tensorflow_nor_keras(
    exported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    Image.fromarray(FACES[0]).save(tmp_path / "face.png")
    code = f"""
import sys
import agegender as ag
ag.Predictor()("face.png", aligned=True)
ag.Predictor({str(exported)!r})("face.png")
from agegender import cli
assert cli.main(["predict", "--json", "face.png"]) == 0
heavy = {{"tensorflow", "keras", "h5py", "matplotlib", "scipy"}}
print(sorted(heavy & {{name.partition(".")[0] for name in sys.modules}}))
"""
    done = run_python(code, tmp_path)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr[-1000:]


def test_without_keras_one_line_says_what_to_install(tmp_path: pathlib.Path) -> None:
    (tmp_path / "best.keras").write_bytes(b"")
    code = """
import inspect, pydoc, sys
for name in ("absl", "h5py", "jinja2", "keras", "matplotlib", "ml_collections", "scipy", "tensorflow"):
    sys.modules[name] = None
import agegender as ag
from agegender import *
print(callable(Predictor), "Predictor" in dict(inspect.getmembers(ag)), "train" in dir(ag))
print("find_images" in pydoc.render_doc(ag))
for use in ('ag.Predictor("best.keras")', "ag.train", "from agegender import train", "from agegender import nothing"):
    try:
        exec(use)
    except (ImportError, AttributeError) as error:
        print(type(error).__name__, str(error).count("\\n"), "pip install 'agegender[train]'" in str(error))
print(hasattr(ag, "train"), hasattr(ag, "Predictor"))
print([name for name in ag._MODULES if hasattr(ag, name) != (name in dir(ag))])
"""
    done = run_python(code, tmp_path)
    assert done.stdout.splitlines() == [
        *("True True False", "True"),  # names of the core can be listed
        "ModuleNotFoundError 0 True",
        "AttributeError 0 True",
        "ModuleNotFoundError 0 True",
        "ImportError 0 False",
        "False True",
        "[]",
    ], done.stderr[-1000:]


COMMANDS = {
    "predict --model missing face.png": "There is no trained model at missing. ",
    "predict --model missing.keras face.png": "There is no trained model at missing.keras. ",
    "predict --model text.txt face.png": "text.txt is not a model. Give an .onnx or .keras file",
    "predict --model '' face.png": "Received: ''",
    "serve missing": "There is no trained model at missing. ",
    "export --model missing": "There is no trained model at missing. ",
    "predict --model run face.png": "pip install 'agegender[train]'",
    "export run": "pip install 'agegender[export]'",
    "info empty": "model     none: There is no trained model at empty/best.keras. ",
    f"predict --model {find_released()} face.png": "face.png: no faces",
    "evaluate --labels labels.csv": "No face was found. Received: 1 photographs",
}


def test_command_checks_the_model_before_it_needs_keras(tmp_path: pathlib.Path) -> None:
    Image.fromarray(FACES[0]).save(tmp_path / "face.png")
    (tmp_path / "labels.csv").write_text("file,age\nface.png,30\n")
    (tmp_path / "text.txt").write_text("not a model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.keras").touch()
    code = f"""
import shlex, sys
sys.stderr = sys.stdout
for name in ("absl", "h5py", "jinja2", "keras", "matplotlib", "ml_collections", "scipy", "tensorflow"):
    sys.modules[name] = None
from agegender import cli
for command in {list(COMMANDS)!r}:
    print("==")
    cli.main(shlex.split(command))
"""
    done = run_python(code, tmp_path)
    first, *answers = done.stdout.split("==\n")
    assert not first and "Traceback" not in done.stdout + done.stderr
    for (command, words), answer in zip(COMMANDS.items(), answers, strict=True):
        assert words in answer, command


def test_unreadable_model_is_not_called_damaged(exported: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.read_bytes())
    path.chmod(0)
    user = os.geteuid()
    try:
        if not user:  # who may read everything
            os.chmod(tmp_path.parent.parent, 0o711)
            os.chmod(tmp_path.parent, 0o711)
            os.chmod(tmp_path, 0o711)
            os.seteuid(65_534)
        with pytest.raises(PermissionError, match="Permission denied"):
            ag.Predictor(path)
    finally:
        os.seteuid(user)


def test_memory_stays_flat_over_many_photographs() -> None:
    predictor = ag.Predictor(batch_size=8)
    images = (np.full((200, 300, 3), number % 256, "uint8") for number in range(52))
    peaks = []
    for number, _ in enumerate(predictor.stream(images)):
        if number == 10:
            tracemalloc.start()
        if number in (20, 50):
            peaks.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2e6  # one photograph has 0.2 MB
