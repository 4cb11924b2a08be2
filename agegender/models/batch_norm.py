"""Batch normalisation in a trunk that has none, for the length of a training from random weights.

VGG16 is from before batch normalisation, and thirteen plain convolutions learn slowly from random weights. Here each is
normalised over the batch (Ioffe and Szegedy 2015, arXiv 1502.03167) before its ReLU, the last of a block behind the
pooling:

    as published    convolution -> ReLU                    convolution -> ReLU -> pooling
    to train        convolution -> normalisation -> ReLU   convolution -> pooling -> normalisation, gamma >= 0 -> ReLU
    folded          convolution' -> ReLU                   convolution' -> ReLU -> pooling

A maximum commutes with every function that does not fall, so a pooling may come first and leave a quarter of the pixels
to normalise. After training a normalisation is one factor and one term a channel, which go into the convolution before
it: the folded trunk is a VGG16 as published again, with the same answers, and nothing to pay when it predicts.
"""

from collections.abc import Iterable
from typing import Any, Final

import keras
import numpy as np
from keras import layers

MOMENTUM: Final = 0.95  # Keras's 0.99 would take a third of a short run to forget the random start
_NORM: Final = "_batch_norm"
_RELU: Final = "_relu"


def add_batch_norm(trunk: keras.Model) -> keras.Model:
    """Puts a batch normalisation behind each convolution of a chain of layers.

    Args:
        trunk: such as `vggface_trunk("vgg16", weights=None)`: a chain, whose convolutions have a ReLU.

    Returns:
        A new trunk with copies of the weights. Images and features keep their shapes.

    Raises:
        ValueError: if no convolution of the trunk has a ReLU of its own, as in the ResNets, which have batch
            normalisation anyway.

    Example:

    >>> trunk = keras.Sequential(
    ...     [keras.Input((24, 24, 3)), layers.Conv2D(8, 3, activation="relu", name="conv")])
    >>> [layer.name for layer in add_batch_norm(trunk).layers[1:]]
    ['conv', 'conv_batch_norm', 'conv_relu']
    """
    chain = _chain(trunk)
    if not any(map(_has_relu, chain)):
        raise ValueError(
            "A batch normalisation goes between a convolution and its ReLU; 'vgg16' has thirteen such layers. "
            f"Received: the trunk {trunk.name!r}, which has none"
        )
    tensor = trunk.inputs[0]
    for before, layer, after in zip([None, *chain[:-1]], chain, [*chain[1:], None], strict=True):
        tensor = _copy(layer, **({"activation": "linear"} if _has_relu(layer) else {}))(tensor)
        if isinstance(layer, layers.MaxPooling2D) and _has_relu(before):
            tensor = _normalise(tensor, before.name, gamma_constraint="non_neg")
        elif _has_relu(layer) and not isinstance(after, layers.MaxPooling2D):
            tensor = _normalise(tensor, layer.name)
    return _with_weights(keras.Model(trunk.inputs[0], tensor, name=trunk.name), trunk)


def _normalise(tensor: keras.KerasTensor, name: str, **options: Any) -> keras.KerasTensor:
    tensor = layers.BatchNormalization(momentum=MOMENTUM, name=name + _NORM, **options)(tensor)
    return layers.Activation("relu", name=name + _RELU)(tensor)


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Puts the batch normalisation of a model's trunk into its convolutions.

    Args:
        model: from `build_model`, on a trunk from `add_batch_norm` or on any other.

    Returns:
        A new model with the same answers, of the layers that the trunk had before `add_batch_norm`; `model` itself if
        its trunk has nothing to fold.
    """
    trunk = next((layer for layer in model.layers if isinstance(layer, keras.Model)), None)
    if trunk is None or not any(layer.name.endswith(_NORM) for layer in trunk.layers):
        return model
    folded = _folded(trunk)
    heads = keras.models.clone_model(
        model, clone_function=lambda layer: folded if layer is trunk else type(layer).from_config(layer.get_config())
    )
    return _with_weights(heads, model, but=(trunk.name,))


def renew_statistics(model: keras.Model, batches: Iterable[Any]) -> None:
    """Measures what all batch normalisations know of the images anew, on images as they are when predicted.

    Training leaves running averages over images that were turned, shifted and partly erased, and of weights that
    changed meanwhile: ages then come out a year or two too high. Here each is the plain mean over the batches (Wu and
    Johnson 2021, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576).

    Args:
        model: from `build_model`, changed in place; nothing but these means and variances changes.
        batches: of images [batch, height, width, 3] that were trained on, 0..255, not augmented.

    Raises:
        ValueError: if there is no batch.
    """
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    count = 0
    try:
        for count, images in enumerate(batches, 1):
            for layer in norms:
                layer.momentum = 1 - 1 / count  # the first batch takes the place of all before, the last has its share
            model(images, training=True)
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
    if count == 0:
        raise ValueError("`batches` must hold a batch of images or more. Received none")


def _folded(trunk: keras.Model) -> keras.Model:
    norms = {layer.name.removesuffix(_NORM): layer for layer in trunk.layers if layer.name.endswith(_NORM)}
    tensor = trunk.inputs[0]
    for layer in _chain(trunk):
        if not layer.name.endswith((_NORM, _RELU)):
            tensor = _copy(layer, **({"activation": "relu"} if layer.name in norms else {}))(tensor)
    folded = _with_weights(keras.Model(trunk.inputs[0], tensor, name=trunk.name), trunk)
    for name, norm in norms.items():
        gamma, beta, mean, variance = (np.asarray(weight, "float64") for weight in norm.get_weights())
        kernel, bias = trunk.get_layer(name).get_weights()
        factor = gamma / np.sqrt(variance + norm.epsilon)
        folded.get_layer(name).set_weights([kernel * factor, (bias - mean) * factor + beta])
    return folded


def _chain(trunk: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in trunk.layers if not isinstance(layer, layers.InputLayer)]


def _has_relu(layer: keras.layers.Layer | None) -> bool:
    return isinstance(layer, layers.Conv2D) and layer.activation is keras.activations.relu


def _copy(layer: keras.layers.Layer, **changed: Any) -> keras.layers.Layer:
    copy = type(layer).from_config({**layer.get_config(), **changed})
    copy.trainable = layer.trainable
    return copy


def _with_weights(new: keras.Model, old: keras.Model, *, but: tuple[str, ...] = ()) -> keras.Model:
    """`new`, with the weights that `old` has in layers of the same name."""
    names = {layer.name for layer in old.layers if layer.weights} - set(but)
    for layer in new.layers:
        if layer.name in names:
            layer.set_weights(old.get_layer(layer.name).get_weights())
    return new
