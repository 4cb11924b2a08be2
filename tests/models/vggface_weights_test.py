"""Weight files that Keras 2 saved load as a whole or not at all; no test uses the network."""

import hashlib
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from agegender.models import vggface_weights
from agegender.models.trunk import vggface_trunk
from agegender.models.vggface_weights import load_weights

Layers = dict[str, list[np.ndarray]]


@pytest.fixture(scope="module")
def trunk() -> keras.Model:
    return vggface_trunk(image_size=48, weights=None, seed=1)


@pytest.fixture(scope="module")
def layers(trunk: keras.Model) -> Layers:
    """Weights by layer, with another bias for each: that of random weights is zero."""
    weights = {layer.name: layer.get_weights() for layer in trunk.layers if layer.weights}
    return {name: [kernel, bias + i] for i, (name, (kernel, bias)) in enumerate(weights.items())}


def write_weights(path: Path, layers: Layers, *, root: str = "/", as_bytes: bool = True) -> Path:
    """Writes layers as Keras 2 does, with names as bytes or str, which depends on the version of h5py."""

    def name_of(text: str) -> Any:
        return text.encode() if as_bytes else text

    with h5py.File(path, "w") as file:
        group = file.require_group(root)
        group.attrs["layer_names"] = [name_of(name) for name in layers]
        for name, values in layers.items():
            layer = group.require_group(name)
            names = [f"{name}/weight_{i}:0" for i in range(len(values))]
            layer.attrs["weight_names"] = [name_of(each) for each in names]
            for each, value in zip(names, values, strict=True):
                layer[each] = value
    return path


def assert_weights(trunk: keras.Model, layers: Layers) -> None:
    for name, values in layers.items():
        for received, expected in zip(trunk.get_layer(name).get_weights(), values, strict=True):
            np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize(("root", "as_bytes"), [("/", True), ("model_weights", False)])
def test_weights_load_with_and_without_classifier(
    root: str, as_bytes: bool, trunk: keras.Model, layers: Layers, tmp_path: Path
) -> None:
    with_classifier = {"input_1": [], **layers, "fc6": [np.ones((2, 3)), np.ones(3)]}
    path = write_weights(tmp_path / "weights.h5", with_classifier, root=root, as_bytes=as_bytes)
    assert_weights(vggface_trunk(image_size=48, weights=str(path)), layers)


def make_huge(path: Path, layers: Layers) -> None:
    write_weights(path, {**layers, "conv1_1": []})
    with h5py.File(path, "r+") as file:
        file["conv1_1"].create_dataset("weight", (10**5, 10**5), "float32")  # nothing of it is written
        file["conv1_1"].attrs["weight_names"] = [b"weight"]


def make_external(path: Path, layers: Layers) -> None:
    write_weights(path, layers)
    with h5py.File(path, "r+") as file:
        name = file["conv1_1"].attrs["weight_names"][1]
        del file["conv1_1"][name]
        file["conv1_1"].create_dataset(name, (64,), "float32", external=[("/etc/passwd", 0, 256)])


def rename_layers(path: Path, layers: Layers, names: Any) -> None:
    write_weights(path, layers)
    with h5py.File(path, "r+") as file:
        file.attrs["layer_names"] = names


def truncate(path: Path, layers: Layers) -> None:
    content = write_weights(path, layers).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def change(**changed: list[np.ndarray]) -> Callable[[Path, Layers], object]:
    return lambda path, layers: write_weights(path, {**layers, **changed})


OTHER_SHAPE = [np.zeros((3, 3, 4, 64)), np.zeros(64)]
CASES: dict[str, tuple[Callable[[Path, Layers], object], str]] = {
    "missing-layer": (
        lambda path, layers: write_weights(path, {k: v for k, v in layers.items() if k != "conv5_3"}),
        "the layer conv5_3 is missing",
    ),
    "empty-layer": (change(conv1_1=[]), "the layer conv1_1 has the shapes [] instead of"),
    "other-shape": (change(conv1_1=OTHER_SHAPE), "has the shapes [(3, 3, 4, 64), (64,)] instead of [(3, 3, 3, 64)"),
    "further-layer": (change(conv5_4=[np.zeros(1)]), "the layer conv5_4 is unknown"),
    "zeros": (change(conv1_1=[np.zeros((3, 3, 3, 64)), np.ones(64)]), "all weights of the layer conv1_1 are zero"),
    "text": (change(conv1_1=[np.full((3, 3, 3, 64), b"a"), np.zeros(64)]), "conv1_1 has weights that are not finite"),
    "nan": (change(conv1_1=[np.full((3, 3, 3, 64), np.nan), np.zeros(64)]), "conv1_1 has weights that are not finite"),
    "forty-gigabytes": (make_huge, "conv1_1 has the shapes"),
    "external-file": (make_external, "its weights are in other files"),
    "names-are-numbers": (lambda path, layers: rename_layers(path, layers, np.arange(3)), "complete HDF5 file"),
    "names-lead-outside": (lambda path, layers: rename_layers(path, layers, [b"../.."]), "complete HDF5 file"),
    "truncated": (truncate, "truncated"),
    "empty": (lambda path, layers: path.touch(), "complete HDF5 file"),
    "html": (lambda path, layers: path.write_text("<html>404</html>"), "complete HDF5 file"),
    "pickle": (lambda path, layers: path.write_bytes(pickle.dumps(layers["conv1_1"])), "complete HDF5 file"),
    "no-layers": (lambda path, layers: h5py.File(path, "w").close(), "complete HDF5 file"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_file_is_refused_and_changes_nothing(
    name: str, trunk: keras.Model, layers: Layers, tmp_path: Path
) -> None:
    write, words = CASES[name]
    write(tmp_path / "weights.h5", layers)
    before, memory = trunk.get_weights(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="`weights` must be") as error:
        load_weights(trunk, tmp_path / "weights.h5", "vgg16")
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1
    assert all(
        np.array_equal(received, expected) for received, expected in zip(trunk.get_weights(), before, strict=True)
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000  # KB


def test_weights_of_keras_3_are_refused_with_advice(trunk: keras.Model, tmp_path: Path) -> None:
    trunk.save_weights(tmp_path / "trunk.weights.h5")
    with pytest.raises(ValueError, match=r"use `trunk.load_weights`"):
        load_weights(trunk, tmp_path / "trunk.weights.h5", "vgg16")


def test_a_path_without_a_file_is_refused(tmp_path: Path) -> None:
    for weights in ("imagenet", tmp_path):
        with pytest.raises(ValueError, match=r"a file that exists. Received: weights="):
            vggface_trunk(weights=weights)


# --- published weights


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the server, and an empty Keras cache."""
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setattr(vggface_weights, "WEIGHTS_URL", f"{folder.as_uri()}/")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "cache"))
    return folder / "rcmalli_vggface_tf_notop_vgg16.h5"


def test_published_weights_are_downloaded_once_and_verified(server: Path, layers: Layers, tmp_path: Path) -> None:
    write_weights(server, layers)
    digest = hashlib.sha256(server.read_bytes()).hexdigest()
    for _ in range(2):
        assert_weights(vggface_trunk(image_size=48), layers)
        server.unlink(missing_ok=True)
    cached = tmp_path / "cache/models/vggface" / server.name
    assert cached.with_name(f"{cached.name}.sha256").read_text() == f"{digest}\n"
    write_weights(cached, {"conv1_1": [np.zeros(1)]})
    with pytest.raises(ValueError, match=r"has changed since it was first loaded.*Delete both.*Received: "):
        vggface_trunk(image_size=48)
    assert cached.is_file()


def test_a_published_file_that_does_not_fit_is_not_trusted(server: Path, layers: Layers, tmp_path: Path) -> None:
    cached = tmp_path / "cache/models/vggface" / server.name
    cached.parent.mkdir(parents=True)
    write_weights(cached, {"conv1_1": [np.zeros(1)]})
    with pytest.raises(ValueError, match="must be a file that keras-vggface saved"):
        vggface_trunk(image_size=48)
    shutil.copy(write_weights(server, layers), cached)
    assert_weights(vggface_trunk(image_size=48), layers)


def test_a_failed_download_says_what_to_do(server: Path, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError) as error:
        vggface_trunk(image_size=48)
    for words in (server.as_uri(), str(tmp_path / "cache/models/vggface"), "`weights=None`", "its path as `weights`"):
        assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert error.value.__suppress_context__  # the tracebacks of Keras and urllib are 60 lines


def test_weights_come_from_the_releases_of_keras_vggface() -> None:
    assert vggface_weights.WEIGHTS_URL == "https://github.com/rcmalli/keras-vggface/releases/download/v2.0/"
