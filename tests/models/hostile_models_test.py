"""Hostile files of models: what is loaded of them is nothing, in words, and the model that was there is as it was.

A case changes the parts of a good `.keras` file, its calibration, or a file of weights of keras-vggface.
"""

import copy
import hashlib
import io
import json
import pathlib
import pickle
import resource
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from conftest import make_tiny_trunk
from vggface_test import trunk_of, write_weights

import agegender as ag
from agegender.models import vggface_weights
from agegender.schema import CALIBRATION

SIDE = 24
IMAGE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), "uint8")
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
DAMAGED = "is damaged, or not of this library: "
Parts = dict[str, bytes]


class Good:
    """A model, its file's bytes and its parts, and what it answers."""

    def __init__(self, folder: pathlib.Path) -> None:
        keras.utils.set_random_seed(1)
        self.model = ag.build_model(make_tiny_trunk(), units=(4,), age_dropout=(0,), gender_dropout=(0,))
        self.path = folder / "best.keras"
        self.model.save(self.path)
        self.data = self.path.read_bytes()
        with zipfile.ZipFile(self.path) as archive:
            self.parts = {name: archive.read(name) for name in archive.namelist()}
        self.predictor = ag.Predictor(self.path, aligned=True, batch_size=1)
        self.answer = self.predictor(IMAGE)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    return Good(tmp_path_factory.mktemp("good"))


def pack(parts: Mapping[str, bytes]) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def layer(change: Mapping[str, Any], *, of: str = "LayerNormalization") -> Callable[[Parts], Parts]:
    """Changes what the config says of a layer of that class."""

    def changed(parts: Parts) -> Parts:
        config = json.loads(parts[CONFIG])
        for one in config["config"]["layers"]:
            if one["class_name"] == of:
                one.update(copy.deepcopy(dict(change)))
                break
        return {**parts, CONFIG: json.dumps(config).encode()}

    return changed


def with_config(content: bytes) -> Callable[[Parts], Parts]:
    return lambda parts: {**parts, CONFIG: content}


def with_weights(change: Callable[[h5py.File], None]) -> Callable[[Parts], Parts]:
    def changed(parts: Parts) -> Parts:
        file = io.BytesIO(parts[WEIGHTS])
        with h5py.File(file, "r+") as weights:
            change(weights)
        return {**parts, WEIGHTS: file.getvalue()}

    return changed


def without(name: str) -> Callable[[Parts], Parts]:
    return lambda parts: {key: value for key, value in parts.items() if key != name}


def _biases(file: h5py.File) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []
    file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found


def nan(file: h5py.File) -> None:
    _biases(file)[0][...] = np.nan


def other_shape(file: h5py.File) -> None:
    bias = _biases(file)[0]
    name, parent = bias.name, bias.parent
    del file[name]
    parent[name] = np.zeros(7, "float32")


def fewer(file: h5py.File) -> None:
    name = _biases(file)[0].name
    del file[name]


def elsewhere(file: h5py.File) -> None:
    name = _biases(file)[0].name
    del file[name]
    file[name] = h5py.ExternalLink("/etc/passwd", "/")


LAMBDA = {
    "module": "keras.layers",
    "class_name": "Lambda",
    "config": {"name": "evil", "function": {"class_name": "__lambda__", "config": {"code": "4wAAAAA="}}},
    "registered_name": None,
}
FOREIGN = {"module": "antigravity", "class_name": "Evil", "registered_name": None}
SYSTEM = {"module": "os", "class_name": "system", "registered_name": None, "config": {"command": "touch evil"}}
TORCH = {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {"module": "gASVAA=="}}
FILES = {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/tmp", "name": "evil"}}
WORDS = {
    "module": "keras.layers",
    "class_name": "StringLookup",
    "config": {"name": "feature_layer_norm", "vocabulary": "/etc/passwd"},
}
FUNCTION = {
    "module": "keras.layers",
    "class_name": "Dense",
    "config": {"units": 4, "activation": {"module": "builtins", "class_name": "function", "config": "eval"}},
}
DENSE, KERNEL = "Dense", {"units": 2_000_000_000, "name": "age_dense_1"}
MODELS: dict[str, tuple[Callable[[Parts], Parts], str]] = {
    # What would run.
    "a-lambda": (layer(LAMBDA), "it holds a __lambda__, code that would run here"),
    "a-lambda-that-names-a-function": (layer({"class_name": "Lambda", "config": {"function": "evil"}}), "a Lambda"),
    "a-pickled-torch-module": (layer(TORCH), "it holds a TorchModuleWrapper"),
    "a-saved-model-of-another-folder": (layer(FILES), "it holds a TFSMLayer"),
    "a-class-of-a-module-that-does-things": (layer(FOREIGN), "Could not locate class 'Evil'"),
    "a-function-of-the-system": (layer(SYSTEM), "Could not locate class 'system'"),
    "an-activation-that-is-eval": (layer(FUNCTION), DAMAGED),
    "words-from-another-file": (layer(WORDS), DAMAGED),
    "a-class-that-nobody-registered": (layer({"registered_name": "evil>Evil", "class_name": "Evil"}), "Could not"),
    # What inflates, or asks for memory.
    "a-part-with-a-way-out": (lambda parts: {**parts, "../../evil.py": b"0"}, "'../../evil.py' leads out of it"),
    "a-part-of-the-root": (lambda parts: {**parts, "/etc/evil": b"0"}, "'/etc/evil' leads out of it"),
    "config-that-inflates": (lambda parts: {**parts, CONFIG: parts[CONFIG] + b" " * 60_000_000}, "inflates from"),
    "weights-that-inflate": (lambda parts: {**parts, WEIGHTS: bytes(60_000_000)}, "inflates from"),
    "another-part-that-inflates": (lambda parts: {**parts, "assets/a": bytes(60_000_000)}, "inflates from"),
    "two-billion-units": (layer({"config": KERNEL}, of=DENSE), "`units` must be 16384 or less"),
    "units-without-end": (layer({"config": {"units": float("inf")}}, of=DENSE), "`units` must be 16384 or less"),
    "images-of-a-million-pixels-a-side": (
        layer({"config": {"batch_shape": [None, 1_000_000, 1_000_000, 3], "name": "image"}}, of="InputLayer"),
        "`batch_shape` must be 16384 or less",
    ),
    # What is damaged.
    "no-config": (without(CONFIG), "config.json"),
    "no-weights": (without(WEIGHTS), "model.weights.h5"),
    "config-is-a-list": (with_config(b"[]"), DAMAGED),
    "config-is-null": (with_config(b"null"), DAMAGED),
    "config-is-no-text": (with_config(b"\xff\xfe\0"), DAMAGED),
    "config-is-cut-short": (lambda parts: {**parts, CONFIG: parts[CONFIG][:-99]}, DAMAGED),
    "config-nested-for-ever": (with_config(b"[" * 200_000), "recursion"),
    "weights-are-text": (lambda parts: {**parts, WEIGHTS: b"<html>404</html>"}, "file signature not found"),
    "weights-are-a-pickle": (lambda parts: {**parts, WEIGHTS: pickle.dumps({"evil": 1})}, "file signature not found"),
    "weights-cut-short": (lambda parts: {**parts, WEIGHTS: parts[WEIGHTS][:-5000]}, "truncated"),
    "weights-of-another-shape": (with_weights(other_shape), DAMAGED),
    "a-weight-is-missing": (with_weights(fewer), DAMAGED),
    "a-weight-lies-in-another-file": (with_weights(elsewhere), DAMAGED),
    "a-weight-is-not-a-number": (with_weights(nan), "must have finite weights"),
    # Other models.
    "a-model-of-one-dense-layer": (
        lambda parts: _saved(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])),
        "must be one from `build_model`",
    ),
    "a-model-for-images-of-any-size": (lambda parts: _saved(_any_size()), "must be one from `build_model`"),
    "a-model-with-two-ages": (lambda parts: _saved(_two_ages()), "'age': (None, 2)"),
}


def _saved(model: keras.Model) -> Parts:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "other.keras"
        model.save(path)
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def _any_size() -> keras.Model:
    return ag.build_model(
        keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()]),
        units=(4,), age_dropout=(0,), gender_dropout=(0,),
    )  # fmt: skip


def _two_ages() -> keras.Model:
    image = keras.Input((SIDE, SIDE, 3))
    return keras.Model(image, {"age": keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(image))})


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, good: Good) -> Any:
    """After each case: nothing was written or imported, and the good model is byte for byte as it was and answers."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "evil").exists() and "antigravity" not in sys.modules
    assert good.path.read_bytes() == good.data and good.predictor(IMAGE) == good.answer


@pytest.mark.parametrize("name", MODELS)
def test_a_tampered_model_is_refused_in_one_line(good: Good, tmp_path: pathlib.Path, name: str) -> None:
    change, words = MODELS[name]
    path = tmp_path / "best.keras"
    path.write_bytes(pack(change(dict(good.parts))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError) as error:
        ag.Predictor(path)
    said = str(error.value)
    assert words in said and str(path) in said and len(said.splitlines()) == 1 and len(said) < 700
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


RAW: dict[str, tuple[Callable[[Good], bytes], str]] = {
    "empty": (lambda good: b"", "is no .keras file, or it is cut short"),
    "html": (lambda good: b"<!DOCTYPE html><title>Quota exceeded</title>", "is no .keras file"),
    "pickle": (lambda good: pickle.dumps(print), "is no .keras file"),
    "hdf5": (lambda good: good.parts[WEIGHTS], "is no .keras file"),
    "cut-short": (lambda good: good.data[: len(good.data) // 2], "is no .keras file, or it is cut short"),
    "a-bit-is-flipped": (lambda good: _flipped(good.data), "Bad CRC-32"),
    "an-archive-of-nothing": (lambda good: pack({}), "config.json"),
    "an-archive-in-an-archive": (lambda good: pack({"best.keras": good.data}), "config.json"),
}


def _flipped(data: bytes) -> bytes:
    place = data.index(WEIGHTS.encode()) + 20_000
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_model_file_is_refused_in_one_line(good: Good, tmp_path: pathlib.Path, name: str) -> None:
    make, words = RAW[name]
    path = tmp_path / "best.keras"
    path.write_bytes(make(good))
    with pytest.raises(ValueError) as error:
        ag.Predictor(tmp_path)
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1


# ---- what lies beside a model


FINE: dict[str, Any] = {
    **{"version": 1, "coverage": 0.9, "ages": [0, 100], "low": [0, 80], "high": [10, 116]},
    **{"temperature": 2.0, "count": 500, "flip": False},
}
CALIBRATIONS: dict[str, str | bytes] = {
    "nested-for-ever": "[" * 200_000,
    "two-megabytes": json.dumps(FINE) + " " * 2_000_000,
    "no-text": b"\xff\xfe\x00\xd8",
    "ages-without-begin": json.dumps({**FINE, "ages": [-np.inf, 100]}),
    "ages-are-letters": json.dumps({**FINE, "ages": "09", "low": "01", "high": "23"}),
    "ages-are-names": json.dumps({**FINE, "ages": {"0": 1, "1": 2}, "low": {"0": 1, "1": 1}, "high": {"2": 1, "3": 1}}),
    "ages-of-five-thousand-digits": json.dumps(FINE).replace("100]", f"{'9' * 5000}]"),
    "ages-beyond-all-numbers": json.dumps(FINE).replace("100]", f"{'9' * 400}]"),
    "a-temperature-of-nearly-nothing": json.dumps({**FINE, "temperature": 1e-320}),
    "a-temperature-beyond-all": json.dumps({**FINE, "temperature": 1e300}),
    "a-temperature-that-is-no-number": json.dumps({**FINE, "temperature": np.nan}),
    "a-promise-that-is-no-number": json.dumps({**FINE, "coverage": np.nan}),
    "a-version-to-come": json.dumps({**FINE, "version": 99}),
    "a-web-page": "<html>404</html>",
}


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_a_tampered_calibration_is_named_and_no_answer_is_given_with_it(
    good: Good, tmp_path: pathlib.Path, name: str
) -> None:
    (tmp_path / "best.keras").write_bytes(good.data)
    content = CALIBRATIONS[name]
    (tmp_path / CALIBRATION).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"calibration\.json is no calibration: .*experiments\.calibrate") as error:
        ag.Predictor(tmp_path)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 600
    (tmp_path / CALIBRATION).write_text(json.dumps(FINE))
    (face,) = ag.Predictor(tmp_path, aligned=True)(IMAGE)
    assert face.age_interval is not None and face.age == pytest.approx(good.answer[0].age)


# ---- weights of keras-vggface


@pytest.fixture(scope="module")
def trunk() -> keras.Model:
    return trunk_of()


@pytest.fixture(scope="module")
def layers(trunk: keras.Model) -> dict[str, list[np.ndarray]]:
    return {one.name: one.get_weights() for one in trunk.layers if one.weights}


Layers = dict[str, list[np.ndarray]]
FILES_OF_WEIGHTS: dict[str, tuple[Callable[[pathlib.Path, Layers], object], str]] = {
    "empty": (lambda path, layers: path.touch(), "must be a complete HDF5 file"),
    "a-zip": (lambda path, layers: path.write_bytes(pack({"a": b"b"})), "must be a complete HDF5 file"),
    "a-pickle": (lambda path, layers: path.write_bytes(pickle.dumps(layers["conv1_1"])), "must be a complete HDF5"),
    "hdf5-of-nothing": (lambda path, layers: h5py.File(path, "w").close(), "must be a complete HDF5 file"),
    "no-numbers": (
        lambda path, layers: write_weights(path, {**layers, "conv1_1": [np.full((3, 3, 3, 64), b"a"), np.zeros(64)]}),
        "the layer conv1_1 has weights that are not finite numbers",
    ),
    "not-a-number": (
        lambda path, layers: write_weights(path, {**layers, "conv3_2": [layers["conv3_2"][0] * np.nan, np.zeros(256)]}),
        "the layer conv3_2 has weights that are not finite numbers",
    ),
    "a-layer-of-forty-gigabytes": (lambda path, layers: _huge(path, layers), "conv1_1 has the shapes"),
    "names-that-are-numbers": (lambda path, layers: _names(path, layers, np.arange(3)), "must be a complete HDF5"),
    "a-name-that-leads-elsewhere": (lambda path, layers: _names(path, layers, [b"../.."]), "must be a complete HDF5"),
    "weights-in-another-file": (lambda path, layers: _raw(path, layers), "its weights lie in other files"),
}


def _huge(path: pathlib.Path, layers: Layers) -> None:
    write_weights(path, {**layers, "conv1_1": []})
    with h5py.File(path, "r+") as file:
        group = file["conv1_1"]
        group.create_dataset("weight", (10**5, 10**5), "float32")  # nothing of it is written
        group.attrs["weight_names"] = [b"weight"]


def _names(path: pathlib.Path, layers: Layers, names: Any) -> None:
    write_weights(path, layers)
    with h5py.File(path, "r+") as file:
        file.attrs["layer_names"] = names


def _raw(path: pathlib.Path, layers: Layers) -> None:
    write_weights(path, layers)
    with h5py.File(path, "r+") as file:
        name = file["conv1_1"].attrs["weight_names"][1]
        del file["conv1_1"][name]
        file["conv1_1"].create_dataset(name, (64,), "float32", external=[("/etc/passwd", 0, 256)])


@pytest.mark.parametrize("name", FILES_OF_WEIGHTS)
def test_a_hostile_file_of_weights_is_refused_and_the_trunk_keeps_its_own(
    trunk: keras.Model, layers: Layers, tmp_path: pathlib.Path, name: str
) -> None:
    make, words = FILES_OF_WEIGHTS[name]
    path = tmp_path / "weights.h5"
    make(path, layers)
    before, data = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(ValueError, match="`weights` must be") as error:
        vggface_weights.load_weights(trunk, path, "vgg16")
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1
    for one, values in layers.items():
        for received, expected in zip(trunk.get_layer(one).get_weights(), values, strict=True):
            np.testing.assert_array_equal(received, expected)
    assert hashlib.sha256(path.read_bytes()).digest() == data
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB
