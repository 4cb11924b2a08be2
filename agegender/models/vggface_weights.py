"""The files of weights that keras-vggface publishes: where they are, whether they are whole, how they are loaded.

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


def weights_path(architecture: str, weights: object) -> Path | None:
    """The file that the argument `weights` of `vggface_trunk` stands for, fetched if need be; None for none.

    Raises:
        ValueError: if it is none of the three, or the published file has changed.
        ConnectionError: if the published file cannot be fetched.
    """
    if weights is None:
        return None
    if weights == "vggface":
        return _published_weights(architecture)
    if not isinstance(weights, (str, os.PathLike)) or not Path(weights).is_file():
        raise ValueError(
            f"`weights` must be 'vggface', None, or the path of a file that exists. Received: weights={weights!r}"
        )
    return Path(weights)


def _published_weights(architecture: str) -> Path:
    """The path of the published file, from Keras's cache or the net."""
    url = f"{WEIGHTS_URL}rcmalli_vggface_tf_notop_{architecture}.h5"
    path = _cache_folder() / url.rpartition("/")[2]
    if not path.is_file():
        path = _download(url, path)
    record = _hash_record(path)
    expected, received = (record.read_text().strip() if record.is_file() else None), _sha256(path)
    if expected not in (None, received):
        raise ValueError(
            f"{path} has changed since it was first loaded: its SHA-256 must be {expected}, as {record.name} says. "
            f"Delete both, to have it fetched again, or give the path of a file as `weights`. Received: {received}"
        )
    return path


def _hash_record(path: Path) -> Path:
    """Where the SHA-256 of a published file is kept.

    Nobody publishes the hashes of these three files, so the first one whose layers all fit is trusted, and every later
    one must be the same.
    """
    return path.with_name(f"{path.name}.sha256")


def remember(path: Path) -> None:
    """Keeps the SHA-256 of a published file beside it, unless one is kept already."""
    if not _hash_record(path).exists():
        _hash_record(path).write_text(_sha256(path) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cache_folder() -> Path:
    """Where keras-vggface itself keeps its weights."""
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    return Path(home, "models", "vggface").absolute()


def _download(url: str, path: Path) -> Path:
    try:
        return Path(keras.utils.get_file(path.name, url, cache_subdir=path.parent))
    except Exception as error:  # `get_file` raises a bare Exception if the address cannot be reached
        raise ConnectionError(
            f"The published weights could not be fetched from {url} ({error}). Fetch that file by hand and put it into "
            f"the folder {path.parent}, or pass its path as `weights`, or pass `weights=None` to start from random."
        ) from error


def load_weights(trunk: keras.Model, path: Path, architecture: str) -> None:
    """Loads a file by layer name, all layers or none.

    Raises:
        ValueError: if the file is damaged, or does not fit the architecture.
    """
    layers = {layer.name: layer for layer in trunk.layers if layer.weights}
    wanted = {name: [tuple(weight.shape) for weight in layer.weights] for name, layer in layers.items()}
    found = _read_weights(path, wanted)
    faults = _faults(wanted, found)
    if faults:
        raise ValueError(
            f"`weights` must be a file that keras-vggface saved for {architecture!r}, but {'; '.join(faults[:3])} "
            f"({len(faults)} faults in all). Give another file or another `architecture`. "
            f"Received: weights={str(path)!r}, with the layers {', '.join(list(found)[:4])}, ..."
        )
    for name, layer in layers.items():
        layer.set_weights(found[name])


def _faults(wanted: Mapping[str, list[tuple[int, ...]]], found: Mapping[str, list[np.ndarray]]) -> list[str]:
    """In what way the layers of a file differ from those wanted, in words."""
    received = {name: [value.shape for value in values] for name, values in found.items()}
    faults = [f"the layer {name} is missing" for name in wanted if name not in found]
    for name, shapes in wanted.items():
        if received.get(name, shapes) != shapes:
            faults.append(f"the layer {name} has the shapes {received[name]} instead of {shapes}")
        elif not all(value.dtype.kind == "f" and np.all(np.isfinite(value)) for value in found.get(name, ())):
            faults.append(f"the layer {name} has weights that are not finite numbers")
    # A classifier on top is welcome, but a further convolution means another architecture: all layers of resnet50 are
    # also in senet50, with the same shapes.
    extra = [name for name in found if name.startswith("conv") and name not in wanted]
    return faults + [f"the layer {name} is one too many" for name in extra]


def _read_weights(path: Path, wanted: Mapping[str, list[tuple[int, ...]]]) -> dict[str, list[np.ndarray]]:
    """The weights of an HDF5 file that Keras 2 saved, by layer name; of a whole model or of its weights alone."""
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            layers = {keras3_name(layer): root[layer] for layer in _texts(root.attrs["layer_names"])}
            return {name: _read_layer(layer, wanted.get(name)) for name, layer in layers.items()}
    except Exception as error:  # of a damaged file h5py lets any kind through
        raise ValueError(
            "`weights` must be a complete HDF5 file as Keras 2 and keras-vggface saved them; delete and fetch it again "
            "if a download broke off, and use `trunk.load_weights` for what Keras 3 saved. "
            f"Received: weights={str(path)!r}, which gives {type(error).__name__}: {error}"
        ) from error


def _read_layer(group: h5py.Group, shapes: list[tuple[int, ...]] | None) -> list[np.ndarray]:
    """Weights of other shapes as zeros that take no memory: a file of a kilobyte may claim any number of them."""
    values = [group[name] for name in _texts(group.attrs["weight_names"])]
    if any(value.external or value.is_virtual for value in values):
        raise ValueError("its weights lie in other files")
    if [value.shape for value in values] == shapes:
        return [np.asarray(value) for value in values]
    return [np.broadcast_to(np.float32(0), value.shape) for value in values]


def _texts(values: Sequence[bytes | str]) -> list[str]:
    """h5py gives bytes or str, depending on which version of it wrote them."""
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def keras3_name(name: str) -> str:
    """The name of a layer without the "/" that Keras 3 refuses."""
    return name.replace("/", "_")
