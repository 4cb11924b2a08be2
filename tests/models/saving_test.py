"""Trained models are found and loaded; damaged and hostile files are refused in one line, at no cost."""

import copy
import io
import json
import pathlib
import pickle
import resource
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from conftest import SIZE, make_tiny_trunk

from agegender import build_model
from agegender.models.saving import check_model, load_model

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
DAMAGED = "is damaged, or not of this library: "
Parts = dict[str, bytes]


def build_small(trunk: keras.Model | None = None) -> keras.Model:
    return build_model(trunk or make_tiny_trunk(), units=(4,), age_dropout=(0,), gender_dropout=(0,))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(1)
    return build_small()


@pytest.fixture(scope="module")
def parts(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return save_parts(model, tmp_path_factory.mktemp("model"))


def save_parts(model: keras.Model, folder: pathlib.Path) -> Parts:
    model.save(folder / "saved.keras")
    with zipfile.ZipFile(folder / "saved.keras") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(parts: Mapping[str, bytes]) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def test_model_loads_from_file_and_folder(model: keras.Model, parts: Parts, tmp_path: pathlib.Path) -> None:
    (tmp_path / "best.keras").write_bytes(pack(parts))
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), "uint8")
    for path in (tmp_path, str(tmp_path / "best.keras")):
        for head, expected in model(images).items():
            np.testing.assert_array_equal(load_model(path)(images)[head], expected)
    with pytest.raises(FileNotFoundError, match=r"There is no trained model at .*nowhere"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"`model` must be .*Received: 3"):
        load_model(3)  # type: ignore[arg-type]


# --- hostile and damaged parts


def change_layer(change: Mapping[str, Any], kind: str = "LayerNormalization") -> Callable[[Parts], Parts]:
    """Changes the configuration of the first layer of a class."""

    def apply(parts: Parts) -> Parts:
        config = json.loads(parts[CONFIG])
        layer = next(layer for layer in config["config"]["layers"] if layer["class_name"] == kind)
        config_of_layer = {} if "class_name" in change else layer["config"]
        layer.update({**copy.deepcopy(dict(change)), "config": {**config_of_layer, **change.get("config", {})}})
        return {**parts, CONFIG: json.dumps(config).encode()}

    return apply


def change_part(name: str, content: bytes | None) -> Callable[[Parts], Parts]:
    return lambda parts: {key: value for key, value in {**parts, name: content}.items() if value is not None}


def change_weights(change: Callable[[h5py.File], None]) -> Callable[[Parts], Parts]:
    def apply(parts: Parts) -> Parts:
        file = io.BytesIO(parts[WEIGHTS])
        with h5py.File(file, "r+") as weights:
            change(weights)
        return {**parts, WEIGHTS: file.getvalue()}

    return apply


def replace_weight(make: Callable[[h5py.Group, str], object]) -> Callable[[Parts], Parts]:
    def change(file: h5py.File) -> None:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        del file[names[0]]
        make(file, names[0])

    return change_weights(change)


def link_elsewhere(file: h5py.Group, name: str) -> None:
    file[name] = h5py.ExternalLink("/etc/passwd", "/")


def custom(kind: str, module: str = "keras.layers", **config: Any) -> dict[str, Any]:
    return {"module": module, "class_name": kind, "registered_name": None, "config": config}


EVAL = {"module": "builtins", "class_name": "function", "config": "eval"}
CODE = {"class_name": "__lambda__", "config": {"code": "4wAAAAA="}}
HUGE = "needs more weights than"
CASES: dict[str, tuple[Callable[[Parts], Parts], str]] = {
    # Code that would run.
    "lambda": (change_layer(custom("Lambda", function=CODE)), DAMAGED),
    "torch-pickle": (change_layer(custom("TorchModuleWrapper", module="gASVAA==")), DAMAGED),
    "foreign-saved-model": (change_layer(custom("TFSMLayer", filepath="/tmp")), DAMAGED),
    "import-with-effects": (change_layer(custom("Evil", "antigravity")), DAMAGED),
    "os-system": (change_layer(custom("system", "os", command="touch evil")), DAMAGED),
    "eval-activation": (change_layer({"config": {"activation": EVAL}}, "Dense"), DAMAGED),
    "vocabulary-file": (change_layer(custom("StringLookup", vocabulary="/etc/passwd")), DAMAGED),
    "unregistered-class": (change_layer({"registered_name": "evil>Evil", "class_name": "Evil"}), DAMAGED),
    # Memory.
    "config-bomb": (change_part(CONFIG, b"{}" + b" " * 60_000_000), "unpacks to 60,"),
    "weights-bomb": (change_part(WEIGHTS, bytes(60_000_000)), "unpacks to 60,"),
    "other-bomb": (change_part("assets/a", bytes(60_000_000)), "unpacks to 60,"),
    "compressed-dataset": (
        replace_weight(lambda file, name: file.create_dataset(name, (8000, 10000), "f", compression="gzip")),
        "unpacks to 320,",
    ),
    "two-billion-units": (change_layer({"config": {"units": 2_000_000_000}}, "Dense"), HUGE),
    "many-units": (change_layer({"config": {"units": 5000}}, "Dense"), HUGE),
    "huge-embedding": (change_layer(custom("Embedding", input_dim=10**9, output_dim=8)), HUGE),
    "huge-image": (
        change_layer({"config": {"batch_shape": [None, 10**6, 10**6, 3]}}, "InputLayer"),
        "must have at most 268,435,456 values",
    ),
    # Damage.
    "no-config": (change_part(CONFIG, None), "config.json"),
    "no-weights": (change_part(WEIGHTS, None), "model.weights.h5"),
    "config-list": (change_part(CONFIG, b"[]"), DAMAGED),
    "config-not-text": (change_part(CONFIG, b"\xff\xfe\0"), DAMAGED),
    "config-nested": (change_part(CONFIG, b"[" * 200_000), "recursion"),
    "weights-not-hdf5": (change_part(WEIGHTS, b"<html>404</html>"), "file signature not found"),
    "weights-cut": (lambda parts: {**parts, WEIGHTS: parts[WEIGHTS][:-5000]}, "truncated"),
    "other-shape": (replace_weight(lambda file, name: file.create_dataset(name, data=np.zeros(7))), DAMAGED),
    "missing-weight": (replace_weight(lambda file, name: None), DAMAGED),
    "external-weight": (replace_weight(link_elsewhere), DAMAGED),
    "empty-archive": (lambda parts: {}, "model.weights.h5"),
}


@pytest.fixture
def unharmed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Checks that a case neither runs code nor takes memory."""
    monkeypatch.chdir(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert not (tmp_path / "evil").exists() and "antigravity" not in sys.modules
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


def assert_refused(path: pathlib.Path, words: str) -> None:
    with pytest.raises(ValueError) as error:
        load_model(path)
    message = str(error.value)
    assert words in message and str(path) in message and len(message.splitlines()) == 1 and len(message) < 700


@pytest.mark.parametrize("name", CASES)
def test_a_tampered_model_is_refused(parts: Parts, tmp_path: pathlib.Path, unharmed: None, name: str) -> None:
    change, words = CASES[name]
    path = tmp_path / "best.keras"
    path.write_bytes(pack(change(parts)))
    assert_refused(path, words)


def test_onnx_file_is_sent_to_what_takes_it(tmp_path: pathlib.Path, unharmed: None) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x07")
    assert_refused(path, "must be the .keras file that it was exported from")


def test_other_bytes_are_refused(parts: Parts, tmp_path: pathlib.Path, unharmed: None) -> None:
    path, good = tmp_path / "best.keras", pack(parts)
    for content in (b"", b"<!DOCTYPE html>", pickle.dumps(print), parts[WEIGHTS], good[: len(good) // 2]):
        path.write_bytes(content)
        assert_refused(path, "is not a .keras file, or it is cut short")
    flipped = len(good) // 2
    path.write_bytes(good[:flipped] + bytes([good[flipped] ^ 1]) + good[flipped + 1 :])
    assert_refused(path, DAMAGED)


def test_the_limit_of_weights_ends_with_the_load(parts: Parts, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "best.keras"
    path.write_bytes(pack(CASES["many-units"][0](parts)))
    assert_refused(path, HUGE)
    assert keras.layers.Dense(5000).add_weight(shape=(3, 5000)).shape == (3, 5000)


# --- other models


def test_a_model_with_other_inputs_or_outputs_is_refused() -> None:
    images = keras.Input((SIZE, SIZE, 3))
    two_ages = keras.Model(images, {"age": keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(images))})
    any_size = build_small(keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()]))
    gray = build_small(keras.Sequential([keras.Input((SIZE, SIZE, 1)), keras.layers.GlobalAveragePooling2D()]))
    dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    for model in (two_ages, any_size, gray, dense, object()):
        with pytest.raises(ValueError, match=r"must be one from `build_model`.*Received"):
            check_model(model)


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_refused(trainable: bool, value: float, tmp_path: pathlib.Path) -> None:
    model = build_small()
    layer = model.layers[1].layers[1]
    layer.trainable = trainable
    layer.bias.assign([0] * 7 + [value])
    model.save(tmp_path / "best.keras")
    with pytest.raises(ValueError, match=r"finite weights\. Received: .*conv2d.*/bias"):
        load_model(tmp_path)


def test_convolutions_of_zeros_are_refused(tmp_path: pathlib.Path) -> None:
    model = build_small()
    for weight in model.weights:
        weight.assign(keras.ops.zeros_like(weight))
    model.save(tmp_path / "best.keras")
    with pytest.raises(ValueError, match=r"other than zero.* Received: 2 convolutions of zeros"):
        load_model(tmp_path)
    model.layers[1].layers[1].kernel.assign(keras.ops.ones((3, 3, 3, 8)))
    check_model(model)
