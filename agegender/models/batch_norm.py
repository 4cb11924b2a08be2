"""Adds batch normalization to a trunk for training from random weights, and folds it away afterwards.

VGG16 predates batch normalization, and thirteen plain convolutions learn slowly from random weights. Here each is
normalized over the batch (Ioffe and Szegedy 2015, arXiv 1502.03167) before its ReLU; in the last of a block, after the
pooling:

    as published    convolution -> ReLU                    convolution -> ReLU -> pooling
    in training     convolution -> normalization -> ReLU   convolution -> pooling -> normalization, gamma >= 0 -> ReLU
    folded          convolution' -> ReLU                   convolution' -> ReLU -> pooling

A maximum commutes with every non-decreasing function, so the pooling may come first, which leaves a quarter of the
pixels to normalize. After training a normalization is a factor and an offset per channel, which go into the
convolution before it: the folded trunk is a published VGG16 again, with the same answers and no cost in prediction.
"""

from collections.abc import Iterable
from typing import Any, Final

import keras
import numpy as np
from keras import layers

from agegender.models.layers import iterate_layers

MOMENTUM: Final = 0.95  # with Keras's 0.99 a third of a short run would pass before the random start is forgotten
_NORM: Final = "_batch_norm"
_RELU: Final = "_relu"


def add_batch_norm(trunk: keras.Model) -> keras.Model:
    """Adds a batch normalization after each convolution of a chain of layers.

    Args:
        trunk: a chain of layers whose convolutions have a ReLU, such as `vggface_trunk("vgg16", weights=None)`.

    Returns:
        A new trunk with copies of the weights and the same input and output shapes.

    Raises:
        ValueError: if no convolution has a ReLU, or layers are added up, as in the ResNets.

    Example:

    >>> trunk = keras.Sequential(
    ...     [keras.Input((24, 24, 3)), layers.Conv2D(8, 3, activation="relu", name="conv")])
    >>> [layer.name for layer in add_batch_norm(trunk).layers[1:]]
    ['conv', 'conv_batch_norm', 'conv_relu']
    """
    chain = _list_layers(trunk)
    if not any(map(_has_relu, chain)) or any(isinstance(layer, layers.Add) for layer in chain):
        raise ValueError(
            "`trunk` must be a chain of layers whose convolutions have a ReLU, as 'vgg16' is. "
            f"Received: the trunk {trunk.name!r}, which is not"
        )
    tensor = trunk.inputs[0]
    for before, layer, after in zip([None, *chain[:-1]], chain, [*chain[1:], None], strict=True):
        tensor = _copy_layer(layer, **({"activation": "linear"} if _has_relu(layer) else {}))(tensor)
        if isinstance(layer, layers.MaxPooling2D) and before is not None and _has_relu(before):
            tensor = _normalize(tensor, before.name, gamma_constraint="non_neg")
        elif _has_relu(layer) and not isinstance(after, layers.MaxPooling2D):
            tensor = _normalize(tensor, layer.name)
    return _copy_weights(trunk, keras.Model(trunk.inputs[0], tensor, name=trunk.name))


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Folds the batch normalization of a model's trunk into its convolutions.

    Args:
        model: a model from `build_model`, on a trunk from `add_batch_norm` or on any other.

    Returns:
        A new model with the same answers and the layers that the trunk had before `add_batch_norm`; `model` itself if
        there is nothing to fold.
    """
    trunk = next((layer for layer in model.layers if isinstance(layer, keras.Model)), None)
    if trunk is None or not any(layer.name.endswith(_NORM) for layer in trunk.layers):
        return model
    folded = _fold_trunk(trunk)
    new = keras.models.clone_model(
        model, clone_function=lambda layer: folded if layer is trunk else type(layer).from_config(layer.get_config())
    )
    return _copy_weights(model, new, skip=trunk.name)


def renew_statistics(model: keras.Model, batches: Iterable[Any]) -> None:
    """Measures the mean and variance of all batch normalizations anew, on images as in prediction.

    Training leaves running averages over augmented images and changing weights, which make ages one or two years too
    high. Here each statistic is the plain mean over the batches (Wu and Johnson 2021, "Rethinking 'Batch' in
    BatchNorm", arXiv 2105.07576).

    Args:
        model: a model from `build_model`. Only these statistics are changed, in place.
        batches: images of the training split, `[batch, height, width, 3]`, 0..255, without augmentation.

    Raises:
        ValueError: if there is no batch.
    """
    norms = [layer for layer in iterate_layers(model) if isinstance(layer, layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    count = 0
    try:
        for count, images in enumerate(batches, 1):
            for layer in norms:
                layer.momentum = 1 - 1 / count  # the first batch replaces the old value, and the mean runs from there
            model(images, training=True)
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
    if count == 0:
        raise ValueError("`batches` must contain at least one batch of images. Received none")


def _normalize(tensor: keras.KerasTensor, name: str, **options: Any) -> keras.KerasTensor:
    tensor = layers.BatchNormalization(momentum=MOMENTUM, name=name + _NORM, **options)(tensor)
    return layers.Activation("relu", name=name + _RELU)(tensor)


def _fold_trunk(trunk: keras.Model) -> keras.Model:
    norms = {layer.name.removesuffix(_NORM): layer for layer in trunk.layers if layer.name.endswith(_NORM)}
    tensor = trunk.inputs[0]
    for layer in _list_layers(trunk):
        if not layer.name.endswith((_NORM, _RELU)):
            tensor = _copy_layer(layer, **({"activation": "relu"} if layer.name in norms else {}))(tensor)
    folded = _copy_weights(trunk, keras.Model(trunk.inputs[0], tensor, name=trunk.name))
    for name, norm in norms.items():
        gamma, beta, mean, variance = (np.asarray(weight, "float64") for weight in norm.get_weights())
        kernel, bias = trunk.get_layer(name).get_weights()
        factor = gamma / np.sqrt(variance + norm.epsilon)
        folded.get_layer(name).set_weights([kernel * factor, (bias - mean) * factor + beta])
    return folded


def _list_layers(trunk: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in trunk.layers if not isinstance(layer, layers.InputLayer)]


def _has_relu(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, layers.Conv2D) and layer.activation is keras.activations.relu


def _copy_layer(layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
    copy = type(layer).from_config({**layer.get_config(), **changes})
    copy.trainable = layer.trainable
    return copy


def _copy_weights(source: keras.Model, target: keras.Model, *, skip: str = "") -> keras.Model:
    """Copies weights between layers of the same name, but for the layer `skip`, and returns the target."""
    names = {layer.name for layer in source.layers if layer.weights} - {skip}
    for layer in target.layers:
        if layer.name in names:
            layer.set_weights(source.get_layer(layer.name).get_weights())
    return target
