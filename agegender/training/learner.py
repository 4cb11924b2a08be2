"""What `train` fits: augmentation, reduction, trunk and heads in one step, compiled with all that training asks for."""

from typing import Any

import keras

from agegender.models import losses
from agegender.schema import AGE, AGE_DISTRIBUTION, GENDER, IMAGE


def with_distribution(model: keras.Model) -> keras.Model:
    """The same model, whose age output is [batch, 1 + 117] where it has a distribution: the mean, and what it is of."""
    if AGE_DISTRIBUTION not in {layer.name for layer in model.layers}:
        return model
    both = [model.output[AGE], model.get_layer(AGE_DISTRIBUTION).output]
    age = keras.layers.Concatenate(dtype="float32", name="age_and_distribution")(both)
    return keras.Model(model.inputs[0], {**model.output, AGE: age})


def make_learner(
    model: keras.Model,
    *,
    augmentation: keras.layers.Layer | None = None,
    size: int | None = None,
    learned: losses.LearnedWeights | None = None,
) -> keras.Model:
    """The model that is fitted, from images as they are read to the outputs that are compared with the targets.

    Args:
        model: from `build_model`, perhaps `with_distribution`; the learner shares its weights.
        augmentation: comes before it, in training only.
        size: to which the images are reduced after that, in pixels; by default they stay.
        learned: hands the outputs on and learns their weights.
    """
    images = keras.Input(model.input_shape[1:], dtype="uint8", name=IMAGE)
    tensor = images if augmentation is None else augmentation(images)
    if size not in (None, model.input_shape[1]):
        tensor = keras.layers.Resizing(size, size, antialias=True, dtype="float32", name="reduced")(tensor)
        model = _at_size(model, size)
    outputs = model(tensor)
    return keras.Model(images, outputs if learned is None else learned(outputs), name="learner")


def _at_size(model: keras.Model, size: int) -> keras.Model:
    """The same layers over images of another size."""
    trunk = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    small = keras.models.clone_model(
        trunk, input_tensors=keras.Input((size, size, 3)), clone_function=lambda layer: layer
    )
    return keras.models.clone_model(
        model,
        input_tensors=keras.Input((size, size, 3)),
        clone_function=lambda layer: small if layer is trunk else layer,
    )


def compile_learner(learner: keras.Model, optimizer: keras.optimizers.Optimizer, **weights: Any) -> keras.Model:
    """Compiles with the joint loss and a measure for each head.

    Args:
        learner: from `make_learner`, or what learns behind a cached trunk.
        optimizer: as for Keras.
        **weights: as for `losses.compile_losses`.
    """
    heads = list(learner.output)
    # Keras puts the head before the name of a metric only where there are several heads.
    prefix = {head: "" if len(heads) > 1 else f"{head}_" for head in heads}
    measures = {AGE: (_MeanAgeError, "mae"), GENDER: (keras.metrics.BinaryAccuracy, "accuracy")}
    distribution = AGE in heads and learner.output[AGE].shape[-1] > 1
    learner.compile(
        optimizer=optimizer,
        # Weighted: what fills up the last batch of `load_utkface(shard=...)` counts nothing.
        weighted_metrics={head: measures[head][0](name=prefix[head] + measures[head][1]) for head in heads},
        **losses.compile_losses(heads, distribution=distribution, **weights),
    )
    return learner


class _MeanAgeError(keras.metrics.MeanAbsoluteError):
    def update_state(self, ages: Any, outputs: Any, sample_weight: Any = None) -> Any:
        return super().update_state(ages, outputs[:, :1], sample_weight)  # behind the mean may be its distribution
