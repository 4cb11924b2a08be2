"""Finds, checks and loads the weight files that keras-vggface publishes.

Keras 2 saved them as HDF5; source: https://github.com/rcmalli/keras-vggface.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import h5py
import keras
import numpy as np

WEIGHTS_URL: Final = "https://github.com/rcmalli/keras-vggface/releases/download/v2.0/"


def find_weights(architecture: str, weights: object) -> Path | None:
    """Returns the file for the argument `weights` of `vggface_trunk`, downloaded if necessary, or None.

    Raises:
        ValueError: if `weights` is invalid, or the published file has changed.
        ConnectionError: if the published file cannot be downloaded.
    """
    if weights is None:
        return None
    if weights == "vggface":
        return _find_published_weights(architecture)
    if not isinstance(weights, (str, os.PathLike)) or not Path(weights).is_file():
        raise ValueError(
            "`weights` must be 'vggface' (for architecture='dlib': 'dlib'), None, or the path of a file that exists. "
            f"Received: weights={weights!r}"
        )
    return Path(weights)


def record_hash(path: Path) -> None:
    """Writes the SHA-256 of a published file beside it, unless one is there.

    Nobody publishes the hashes of these three files, so the first one whose layers all fit is trusted, and every later
    one must be the same.
    """
    if not _hash_file(path).exists():
        _hash_file(path).write_text(_compute_sha256(path) + "\n")


def _find_published_weights(architecture: str) -> Path:
    url = f"{WEIGHTS_URL}rcmalli_vggface_tf_notop_{architecture}.h5"
    path = _cache_folder() / url.rpartition("/")[2]
    if not path.is_file():
        path = _download(url, path)
    record = _hash_file(path)
    expected, received = (record.read_text().strip() if record.is_file() else None), _compute_sha256(path)
    if expected not in (None, received):
        raise ValueError(
            f"{path} has changed since it was first loaded: its SHA-256 must be {expected}, as {record.name} says. "
            f"Delete both to download it again, or give the path of a file as `weights`. Received: {received}"
        )
    return path


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _compute_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cache_folder() -> Path:
    """Returns the folder in which keras-vggface itself keeps its weights."""
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    return Path(home, "models", "vggface").absolute()


def _download(url: str, path: Path) -> Path:
    try:
        return Path(keras.utils.get_file(path.name, url, cache_subdir=path.parent))
    except Exception as error:  # `get_file` raises a bare Exception if the address cannot be reached
        raise ConnectionError(
            f"The published weights could not be downloaded from {url} ({error}). Download that file by hand into the "
            f"folder {path.parent}, or pass its path as `weights`, or pass `weights=None` for random weights."
        ) from None  # the tracebacks of Keras and of urllib say nothing more


def load_weights(trunk: keras.Model, path: Path, architecture: str) -> None:
    """Loads a file by layer name: all layers or none.

    Raises:
        ValueError: if the file is damaged, or does not fit the architecture.
    """
    layers = {layer.name: layer for layer in trunk.layers if layer.weights}
    expected = {name: [tuple(weight.shape) for weight in layer.weights] for name, layer in layers.items()}
    weights = _read_weights(path, expected)
    if faults := _compare_layers(expected, weights):
        raise ValueError(
            f"`weights` must be a file that keras-vggface saved for {architecture!r}, but {'; '.join(faults[:3])} "
            f"({len(faults)} differences in all). Give another file or another `architecture`. "
            f"Received: weights={str(path)!r}, with the layers {', '.join(list(weights)[:4])}, ..."
        )
    for name, layer in layers.items():
        layer.set_weights(weights[name])


def _compare_layers(
    expected: Mapping[str, list[tuple[int, ...]]], weights: Mapping[str, list[np.ndarray]]
) -> list[str]:
    """Describes how the layers of a file differ from the expected ones."""
    received = {name: [value.shape for value in values] for name, values in weights.items()}
    faults = [f"the layer {name} is missing" for name in expected if name not in weights]
    for name, shapes in expected.items():
        if received.get(name, shapes) != shapes:
            faults.append(f"the layer {name} has the shapes {received[name]} instead of {shapes}")
        elif not all(value.dtype.kind == "f" and np.all(np.isfinite(value)) for value in weights.get(name, ())):
            faults.append(f"the layer {name} has weights that are not finite numbers")
        elif not all(map(np.any, weights.get(name, ())[:1])):  # of a convolution or a batch normalization
            faults.append(f"all weights of the layer {name} are zero")
    # A classifier is ignored, but a further convolution means another architecture: all layers of resnet50 are also in
    # senet50, with the same shapes.
    extra = [name for name in weights if name.startswith("conv") and name not in expected]
    return faults + [f"the layer {name} is unknown" for name in extra]


def _read_weights(path: Path, expected: Mapping[str, list[tuple[int, ...]]]) -> dict[str, list[np.ndarray]]:
    """Reads an HDF5 file that Keras 2 saved, of a whole model or of its weights alone, by layer name."""
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            layers = {keras3_name(layer): root[layer] for layer in _decode_names(root.attrs["layer_names"])}
            return {name: _read_layer(layer, expected.get(name)) for name, layer in layers.items()}
    except Exception as error:  # h5py raises any kind for a damaged file
        raise ValueError(
            "`weights` must be a complete HDF5 file as Keras 2 and keras-vggface saved them; delete and download it "
            "again if a download broke off, and use `trunk.load_weights` for what Keras 3 saved. "
            f"Received: weights={str(path)!r}, which raises {type(error).__name__}: {error}"
        ) from None


def _read_layer(group: h5py.Group, shapes: list[tuple[int, ...]] | None) -> list[np.ndarray]:
    """Reads weights of the given shapes; others become zeros without memory, as a small file may claim any shape."""
    values = [group[name] for name in _decode_names(group.attrs["weight_names"])]
    if any(value.external or value.is_virtual for value in values):
        raise ValueError("its weights are in other files")
    if [value.shape for value in values] == shapes:
        return [np.asarray(value) for value in values]
    return [np.broadcast_to(np.float32(0), value.shape) for value in values]


def _decode_names(values: Sequence[bytes | str]) -> list[str]:
    """Decodes names that h5py returns as bytes or str, depending on the version that wrote them."""
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def keras3_name(name: str) -> str:
    """Returns the name of a layer without the "/" that Keras 3 refuses."""
    return name.replace("/", "_")
