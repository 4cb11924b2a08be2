"""The trunk: VGG16, ResNet-50 or SE-ResNet-50 as the package keras-vggface builds them, running on Keras 3.

keras-vggface 0.6 was written for Keras 2 and imports names that Keras 3 no longer has. They are lent to it for the
length of one private import; nothing of that stays behind in `sys.modules` or in Keras.

Sources: O. M. Parkhi, A. Vedaldi, A. Zisserman, "Deep Face Recognition", BMVC 2015 (vgg16); Q. Cao, L. Shen, W. Xie,
O. M. Parkhi, A. Zisserman, "VGGFace2: A dataset for recognising faces across pose and age", FG 2018 (resnet50,
senet50); https://github.com/rcmalli/keras-vggface (the architectures and the published weights).
"""

import contextlib
import functools
import hashlib
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import h5py
import keras
import numpy as np

from agegender import schema

# Mean of blue, green and red of the pictures each family was trained on, as keras_vggface.utils.preprocess_input
# subtracts them: version 1 (VGGFace) for vgg16, version 2 (VGGFace2) for the others.
_VGGFACE_MEAN: Final = (93.5940, 104.7624, 129.1863)
_VGGFACE2_MEAN: Final = (91.4953, 103.8827, 131.0912)
MEANS: Final = {"vgg16": _VGGFACE_MEAN, "resnet50": _VGGFACE2_MEAN, "senet50": _VGGFACE2_MEAN}
ARCHITECTURES: Final = tuple(MEANS)

WEIGHTS_URL: Final = "https://github.com/rcmalli/keras-vggface/releases/download/v2.0/"

_PACKAGE: Final = "keras_vggface"
_LAST_BLOCK: Final = "conv5_"  # how the layers of the last stage begin, in all three architectures
_IMPORT_LOCK: Final = threading.Lock()


@keras.saving.register_keras_serializable(package="agegender")
class VGGFaceNormalization(keras.layers.Layer):
    """RGB to BGR, minus a mean; in float32, whatever the global dtype policy is.

    Args:
        mean: the mean of blue, green and red, in grey levels 0..255.
        **kwargs: as for every Keras layer.
    """

    def __init__(self, mean: Sequence[float], **kwargs: Any) -> None:
        # bfloat16 keeps 8 bits: it would round the picture before the mean is taken off.
        super().__init__(**{"dtype": "float32", **kwargs})
        self.mean = tuple(float(value) for value in mean)

    def call(self, pictures: Any) -> Any:
        """Normalise pictures [..., 3], RGB 0..255, of any dtype."""
        # Split and concatenate, because every export format has these two and not every one can reverse an axis.
        red, green, blue = keras.ops.split(keras.ops.cast(pictures, self.compute_dtype), 3, axis=-1)
        bgr = keras.ops.concatenate([blue, green, red], axis=-1)
        return bgr - keras.ops.convert_to_tensor(self.mean, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape stays."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs."""
        return {**super().get_config(), "mean": self.mean}


def vggface_trunk(
    architecture: str = "vgg16",
    *,
    image_size: int = schema.IMAGE_SIZE,
    weights: str | os.PathLike[str] | None = "vggface",
    trainable: str | int = "last_block",
    width: float = 1.0,
    seed: int | None = None,
    name: str | None = None,
) -> keras.Model:
    """Build a model from pictures to features.

    The layers are those of keras-vggface, with "/" in their names replaced by "_". The preprocessing is a layer of the
    model. Under the dtype policy mixed_bfloat16 the convolutions, and with them the features, are bfloat16. The
    ResNets average the whole of their last map, whatever its size; in keras-vggface they need at least 197 pixels.

    Sources: Parkhi, Vedaldi and Zisserman 2015, "Deep Face Recognition" (vgg16); Cao et al. 2018 (arXiv 1710.08092,
    resnet50 and senet50); https://github.com/rcmalli/keras-vggface.

    Args:
        architecture: "vgg16" (VGGFace), "resnet50" or "senet50" (VGGFace2).
        image_size: height and width of the pictures in pixels, at least 48.
        weights: "vggface" for those that keras-vggface publishes, fetched once into Keras's cache, where their
            SHA-256 is kept beside them and checked from then on; or the path of such a file (HDF5, as Keras 2 saved
            it, with or without its classifier); or None for a random start (He et al., 2015).
        trainable: which layers learn: "all"; "last_block", those whose names begin with "conv5_"; "none"; or a number
            n >= 0 for the last n of `trunk.layers`, poolings and activations counted (5 is the last block of vgg16 with
            its two poolings). The batch normalisation of the other layers keeps its statistics.
        width: of each convolution, as a share of its published number of filters, from 1/64 to 1. Less than 1 is for
            vgg16 from a random start: arithmetic and weights fall with its square.
        seed: makes the random start repeatable; it has no effect on published weights.
        name: of the model; "vggface_" and the architecture if not given.

    Returns:
        A model from pictures [batch, image_size, image_size, 3], uint8 or float32, RGB, 0..255, to features [batch,
        512 * width] (vgg16) or [batch, 2048].

    Raises:
        ValueError: if an argument is not as above, or the file of weights does not fit the architecture. The file is
            read and checked as a whole before the first weight is set.
        ConnectionError: if the published weights are neither in the cache nor to be had.

    Example:
        >>> trunk = vggface_trunk("vgg16", image_size=64, weights=None, seed=1)
        >>> trunk.output_shape
        (None, 512)
    """
    _check_arguments(architecture, image_size, trainable, seed)
    _check_width(width, architecture, weights)
    path = _weights_path(architecture, weights)
    trunk = _build(architecture, image_size, name or f"vggface_{architecture}")
    if width < 1:
        trunk = keras.models.clone_model(trunk, clone_function=functools.partial(_narrowed, width=width))
    if path is None:
        _initialize(trunk, seed)
    else:
        _load_weights(trunk, path, architecture)
        if weights == "vggface" and not _hash_record(path).exists():
            _hash_record(path).write_text(_sha256(path) + "\n")
    _set_trainable(trunk, trainable)
    return trunk


def _check_arguments(architecture: object, image_size: object, trainable: object, seed: object) -> None:
    if architecture not in ARCHITECTURES:
        raise ValueError(f"`architecture` must be one of {ARCHITECTURES}. Received: architecture={architecture!r}")
    if not _is_int(image_size, minimum=schema.MIN_IMAGE_SIZE):
        raise ValueError(
            f"`image_size` must be an int of at least {schema.MIN_IMAGE_SIZE} pixels. Received: {image_size=}"
        )
    if trainable not in ("all", "last_block", "none") and not _is_int(trainable):
        raise ValueError(
            f"`trainable` must be 'all', 'last_block', 'none' or a number of layers >= 0. Received: {trainable=}"
        )
    if seed is not None and not _is_int(seed):
        raise ValueError(f"`seed` must be None or an int >= 0. Received: {seed=}")
    if (received := keras.config.image_data_format()) != "channels_last":
        raise ValueError(f"keras.config.image_data_format() must be 'channels_last'. Received: {received!r}")


def _check_width(width: object, architecture: str, weights: object) -> None:
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 1 / 64 <= width <= 1:
        raise ValueError(f"`width` must be a number in [1/64, 1]. Received: {width=}")
    if width < 1 and (architecture != "vgg16" or weights is not None):
        raise ValueError(
            "`width` below 1 is for architecture='vgg16' with weights=None: the published weights have one width. "
            f"Received: {width=}, {architecture=}, {weights=}"
        )


def _is_int(value: object, *, minimum: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _build(architecture: str, image_size: int, name: str) -> keras.Model:
    picture = keras.Input((image_size, image_size, 3), dtype="float32", name=schema.PICTURE)
    normalized = VGGFaceNormalization(MEANS[architecture], name="normalization")(picture)
    built = _keras_vggface().VGGFace(
        include_top=False, model=architecture, weights=None, input_tensor=normalized, pooling="avg"
    )
    return keras.Model(picture, built.output, name=name)


def _narrowed(layer: keras.layers.Layer, *, width: float) -> keras.layers.Layer:
    config = layer.get_config()
    if isinstance(layer, keras.layers.Conv2D):
        config["filters"] = round(width * config["filters"])
    return type(layer).from_config(config)


def _initialize(trunk: keras.Model, seed: int | None) -> None:
    """He et al., "Delving Deep into Rectifiers", 2015; keras-vggface leaves it at Glorot's, which is for tanh."""
    # A generator, because an initializer with a plain seed gives equal kernels to all layers of one shape.
    initializer = keras.initializers.HeNormal(seed=keras.random.SeedGenerator(seed))
    for layer in trunk.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.kernel.assign(initializer(layer.kernel.shape, dtype=layer.kernel.dtype))


def _set_trainable(trunk: keras.Model, trainable: str | int) -> None:
    layers = trunk.layers
    if isinstance(trainable, int):
        chosen = layers[max(0, len(layers) - trainable) :]
    else:
        prefix = {"all": "", "last_block": _LAST_BLOCK}.get(trainable)
        chosen = [layer for layer in layers if prefix is not None and layer.name.startswith(prefix)]
    for layer in layers:
        layer.trainable = layer in chosen


# ---- The files of weights


def _weights_path(architecture: str, weights: object) -> Path | None:
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


def _load_weights(trunk: keras.Model, path: Path, architecture: str) -> None:
    """Load by layer name, all layers or none."""
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
            layers = {_keras3_name(layer): root[layer] for layer in _texts(root.attrs["layer_names"])}
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


def _keras3_name(name: str) -> str:
    return name.replace("/", "_")


# ---- keras-vggface on Keras 3


@functools.cache
def _keras_vggface() -> ModuleType:
    """A private copy of keras_vggface, adapted to Keras 3."""
    with _IMPORT_LOCK, _lent(_stand_ins()):
        package = importlib.import_module(_PACKAGE)
        models = importlib.import_module(f"{_PACKAGE}.models")
    vars(models).update(
        Conv2D=_renaming(keras.layers.Conv2D),
        BatchNormalization=_renaming(keras.layers.BatchNormalization),
        # The ResNets' pooling of 7 x 7 fits the 7 x 7 map of 197 to 228 pixels. The global average that follows it
        # gives the same features there, and features at any other size.
        AveragePooling2D=lambda _, name: keras.layers.Identity(name=name),
    )
    return package


def _renaming(layer: Callable[..., Any]) -> Callable[..., Any]:
    """The same layer class, but without the "/" in names, which Keras 3 refuses."""
    return lambda *args, name, **kwargs: layer(*args, name=_keras3_name(name), **kwargs)


def _stand_ins() -> dict[str, ModuleType]:
    """What keras_vggface imports and Keras 3 lacks, by module name."""
    contents: dict[str, dict[str, Any]] = {
        "keras.engine.topology": {"get_source_inputs": keras.utils.get_source_inputs},
        "keras.utils.data_utils": {"get_file": keras.utils.get_file},
        "keras.utils.layer_utils": {},
        # An abandoned package that keras_vggface needs and does not ask for. Our own input brings the shape.
        "keras_applications.imagenet_utils": {"_obtain_input_shape": lambda *_, **__: None},
    }
    modules = {name: ModuleType(name) for name in contents}
    for name, module in modules.items():
        vars(module).update(contents[name])
    return modules


@contextlib.contextmanager
def _lent(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """Put modules into `sys.modules`; afterwards take them and keras_vggface out, and what was there in again."""

    def taken_out() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name in modules or name.partition(".")[0] == _PACKAGE]
        return {name: sys.modules.pop(name) for name in names}

    before = taken_out()
    sys.modules.update(modules)
    try:
        yield
    finally:
        taken_out()
        sys.modules.update(before)
