"""The trunk: VGG16, ResNet-50 or SE-ResNet-50 as the package keras-vggface builds them, running on Keras 3.

keras-vggface 0.6 was written for Keras 2 and imports names that Keras 3 no longer has. They are lent to it for the
length of one private import; nothing of that stays behind in `sys.modules` or in Keras.

Sources: O. M. Parkhi, A. Vedaldi, A. Zisserman, "Deep Face Recognition", BMVC 2015 (vgg16); Q. Cao, L. Shen, W. Xie,
O. M. Parkhi, A. Zisserman, "VGGFace2: A dataset for recognising faces across pose and age", FG 2018 (resnet50,
senet50); https://github.com/rcmalli/keras-vggface (the architectures and the published weights).
"""

import contextlib
import functools
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final

import keras

from agegender import schema
from agegender.models.layers import VGGFaceNormalization
from agegender.models.vggface_weights import keras3_name, load_weights, remember, weights_path

# Mean of blue, green and red of the images each family was trained on, as keras_vggface.utils.preprocess_input
# subtracts them: version 1 (VGGFace) for vgg16, version 2 (VGGFace2) for the others.
_VGGFACE_MEAN: Final = (93.5940, 104.7624, 129.1863)
_VGGFACE2_MEAN: Final = (91.4953, 103.8827, 131.0912)
MEANS: Final = {"vgg16": _VGGFACE_MEAN, "resnet50": _VGGFACE2_MEAN, "senet50": _VGGFACE2_MEAN}
ARCHITECTURES: Final = tuple(MEANS)

_PACKAGE: Final = "keras_vggface"
_LAST_BLOCK: Final = "conv5_"  # how the layers of the last stage begin, in all three architectures
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
    """Build a model from images to features.

    The layers are those of keras-vggface, with "/" in their names replaced by "_". The preprocessing is a layer of the
    model. Under the dtype policy mixed_bfloat16 the convolutions, and with them the features, are bfloat16. The
    ResNets average the whole of their last map, whatever its size; in keras-vggface they need at least 197 pixels.

    Sources: Parkhi, Vedaldi and Zisserman 2015, "Deep Face Recognition" (vgg16); Cao et al. 2018 (arXiv 1710.08092,
    resnet50 and senet50); https://github.com/rcmalli/keras-vggface.

    Args:
        architecture: "vgg16" (VGGFace), "resnet50" or "senet50" (VGGFace2).
        image_size: height and width of the images in pixels, at least 48.
        weights: "vggface" for those that keras-vggface publishes, fetched once into Keras's cache, where their
            SHA-256 is kept beside them and checked from then on; or the path of such a file (HDF5, as Keras 2 saved
            it, with or without its classifier); or None for a random start (He et al., 2015).
        trainable: which layers learn: "all"; "last_block", those whose names begin with "conv5_"; "none"; or a number
            n >= 0 for the last n of `trunk.layers`, poolings and activations counted (5 is the last block of vgg16 with
            its two poolings). The batch normalisation of the other layers keeps its statistics.
        width: of each convolution, as a share of its published number of filters, from 1/64 to 1. Less than 1 is for
            vgg16 from a random start: arithmetic and weights fall with its square.
        seed: makes the random start repeatable; it has no effect on published weights.

    Returns:
        A model from images [batch, image_size, image_size, 3], uint8 or float32, RGB, 0..255, to features [batch,
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
    path = weights_path(architecture, weights)
    trunk = _build(architecture, image_size)
    if width < 1:
        trunk = keras.models.clone_model(trunk, clone_function=functools.partial(_narrowed, width=width))
    if path is None:
        _initialize(trunk, seed)
    else:
        load_weights(trunk, path, architecture)
        if weights == "vggface":
            remember(path)
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


def _build(architecture: str, image_size: int) -> keras.Model:
    image = keras.Input((image_size, image_size, 3), dtype="float32", name=schema.IMAGE)
    normalized = VGGFaceNormalization(MEANS[architecture], name="normalization")(image)
    built = _keras_vggface().VGGFace(
        include_top=False, model=architecture, weights=None, input_tensor=normalized, pooling="avg"
    )
    return keras.Model(image, built.output, name=f"vggface_{architecture}")


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
    return lambda *args, name, **kwargs: layer(*args, name=keras3_name(name), **kwargs)


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
