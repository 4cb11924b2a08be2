"""The model that `fit` is called on: augmentation, resizing, trunk and heads, compiled with the joint loss."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from agegender.models.contract import is_valid, name_targets, name_weights
from agegender.models.keras_config import use_default_config
from agegender.models.losses import compile_losses
from agegender.schema import AGE, AGE_DISTRIBUTION, EMBEDDING, GENDER, IMAGE


def expose_distribution(model: keras.Model) -> keras.Model:
    """Returns the same model whose age output is [batch, 1 + 117], mean and distribution, if its age head has one."""
    if AGE_DISTRIBUTION not in {layer.name for layer in model.layers}:
        return model
    both = [model.output[AGE], model.get_layer(AGE_DISTRIBUTION).output]
    age = keras.layers.Concatenate(dtype="float32", name="age_and_distribution")(both)
    return keras.Model(model.inputs[0], {**model.output, AGE: age})


def add_embedding_head(model: keras.Model, width: int) -> keras.Model:
    """Returns the same model with one more output, "embedding" [batch, width], linear in the features of the trunk.

    It exists in training only: the trunk learns from it what a face recogniser knows.
    """
    features = model.get_layer("feature_batch_norm").output
    embedding = keras.layers.Dense(width, kernel_initializer="zeros", dtype="float32", name=EMBEDDING)(features)
    return keras.Model(model.inputs[0], {**model.output, EMBEDDING: embedding})


class Learner(keras.Model):
    """The model that `fit` is called on.

    Targets may be a dict or a tuple in the order of the heads. For a batch that breaks the data contract, the loss is
    NaN, at which training stops, and the gradients are 0.
    """

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """As in Keras."""
        targets, weights = _name_targets(y, y_pred), _name_weights(sample_weight, y_pred)
        heads = {head: targets[head] for head in _list_heads(y_pred)}
        valid = is_valid(x, heads, weights)
        # NaN in the batch would make the gradients NaN, whatever the last line returns.
        targets |= {head: _keep_if(valid, values) for head, values in heads.items()}
        weights = keras.tree.map_structure(lambda each: None if each is None else _keep_if(valid, each), weights)
        loss = super().compute_loss(x, targets, y_pred, weights, training)
        return ops.where(valid, loss, float("nan"))

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """As in Keras."""
        weights = _name_weights(sample_weight, y_pred)
        return super().compute_metrics(x, _name_targets(y, y_pred), y_pred, weights)


def _keep_if(valid: Any, values: Any) -> Any:
    return ops.where(valid, values, ops.zeros_like(values))


def _name_weights(sample_weight: Any, outputs: Mapping[str, Any]) -> Any:
    """The sample weights; if there are some for each head, embeddings get 1."""
    named = name_weights(sample_weight, _list_heads(outputs))
    if EMBEDDING in outputs and isinstance(named, dict):
        named[EMBEDDING] = ops.ones_like(outputs[EMBEDDING][:, :1])
    return named


def _list_heads(outputs: Mapping[str, Any]) -> list[str]:
    return [name for name in outputs if name != EMBEDDING]


def _name_targets(targets: Any, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The targets as a dict; data without embeddings, such as validation data, get NaN for them."""
    named = name_targets(targets, _list_heads(outputs))
    if EMBEDDING in outputs:
        given = targets.get(EMBEDDING) if isinstance(targets, Mapping) else None
        named[EMBEDDING] = ops.full_like(outputs[EMBEDDING], float("nan")) if given is None else given
    return named


@use_default_config()
def make_learner(
    model: keras.Model, *, augmentation: keras.layers.Layer | None = None, image_size: int | None = None
) -> Learner:
    """Puts augmentation and resizing in front of a model.

    Args:
        model: from `build_model`, with or without `expose_distribution`; the learner shares its weights.
        augmentation: layer applied to the images in training.
        image_size: size in pixels to which images are resized after the augmentation; None keeps their size.

    Returns:
        A learner from uint8 images [batch, size, size, 3] to the outputs of `model`.

    Raises:
        ValueError: if the trunk does not take images of `image_size`.
    """
    images = keras.Input(model.input_shape[1:], dtype="uint8", name=IMAGE)
    tensor = images if augmentation is None else augmentation(images)
    if image_size not in (None, model.input_shape[1]):
        tensor = keras.layers.Resizing(image_size, image_size, antialias=True, dtype="float32", name="resized")(tensor)
        try:
            model = _rebuild_at_size(model, image_size)
        except ValueError as error:
            raise ValueError(
                f"`image_sizes` must be large enough for the trunk: its layers leave nothing of {image_size} pixels. "
                f"Received: image_size={image_size}"
            ) from error
    return Learner(images, model(tensor), name="learner")


def _rebuild_at_size(model: keras.Model, size: int) -> keras.Model:
    """Applies the layers of a model to inputs of another size."""
    trunk = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    small = keras.models.clone_model(
        trunk, input_tensors=keras.Input((size, size, 3)), clone_function=lambda layer: layer
    )
    return keras.models.clone_model(
        model,
        input_tensors=keras.Input((size, size, 3)),
        clone_function=lambda layer: small if layer is trunk else layer,
    )


@use_default_config()
def compile_learner(
    learner: Learner,
    optimizer: keras.optimizers.Optimizer,
    loss_weights: Mapping[str, float] | None = None,
) -> Learner:
    """Compiles a learner with the joint loss and one metric per head; both honour `sample_weight`.

    Args:
        learner: from `make_learner`, or around the part of a model behind cached trunk features.
        optimizer: as in Keras.
        loss_weights: as in `losses.compile_losses`.
    """
    heads = list(learner.output)
    # Keras prefixes metric names with the head only if there are several heads.
    prefix = {head: "" if len(heads) > 1 else f"{head}_" for head in heads}
    metrics = {AGE: (_AgeMAE, "mae"), GENDER: (keras.metrics.BinaryAccuracy, "accuracy")}
    distribution = AGE in heads and learner.output[AGE].shape[-1] > 1
    learner.compile(
        optimizer=optimizer,
        weighted_metrics={
            head: metrics[head][0](name=prefix[head] + metrics[head][1]) for head in heads if head in metrics
        },
        **compile_losses(heads, loss_weights, distribution=distribution),
    )
    return learner


class _AgeMAE(keras.metrics.MeanAbsoluteError):
    """Mean absolute error of the first output column; the others are the distribution."""

    def update_state(self, ages: Any, outputs: Any, sample_weight: Any = None) -> Any:
        return super().update_state(ages, outputs[:, :1], sample_weight)
