"""Replicas of `tf.distribute` that together do what one device does with the whole batch.

Keras alone lets each replica draw the same numbers, normalise over its own images, and shorten its own gradient. With
what is here all draw for the whole batch and take their rows, normalise over the whole batch, and shorten the sum. JAX
needs none of it: there all devices see one batch.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


def replica_count() -> int:
    """Number of replicas of the strategy in whose scope this is called; 1 without one and on other backends."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf  # only in this branch: the other backends must not need TensorFlow

    return tf.distribute.get_strategy().num_replicas_in_sync


def own_rows(rows: Any, draw: Callable[[Any], Any]) -> Any:
    """Draws numbers for the batch of all replicas and gives those of this one, so that no two repeat each other.

    Args:
        rows: images of this replica.
        draw: from a number of images to a tensor with a row for each.
    """
    replicas, own = 1, 0
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # as above

        context = tf.distribute.get_replica_context()
        replicas, own = (context.num_replicas_in_sync, context.replica_id_in_sync_group) if context else (1, 0)
    return draw(replicas * rows)[own * rows : (own + 1) * rows]


def for_replicas(model: keras.Model) -> keras.Model:
    """The same layers and weights, whose dropout and batch normalisations work for the whole batch.

    Args:
        model: from `build_model`, made in the scope of the strategy; its batch normalisations are changed in place.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    return keras.models.clone_model(model, clone_function=_with_own_rows)


def keep_first_batch(learner: keras.Model) -> None:
    """Lets `fit` train on the first batch too, which Keras draws, under a strategy, to build what is built already."""
    learner._maybe_symbolic_build = lambda **_: None


def _with_own_rows(layer: keras.layers.Layer) -> keras.layers.Layer:
    return _OwnDropout(layer) if isinstance(layer, keras.layers.Dropout) and layer.rate else layer


class _OwnDropout(keras.layers.Layer):
    """A dropout that draws for the batch of all replicas, from the same random state as `dropout`."""

    def __init__(self, dropout: keras.layers.Dropout) -> None:
        super().__init__(name=dropout.name, dtype=dropout.dtype_policy)
        self._rate, self._seeds = dropout.rate, dropout.seed_generator

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs

        def draw(rows: Any) -> Any:
            ones = ops.ones((rows, *inputs.shape[1:]), inputs.dtype)
            return keras.random.dropout(ones, self._rate, seed=self._seeds)

        return inputs * own_rows(ops.shape(inputs)[0], draw)


@keras.saving.register_keras_serializable(package="agegender")
class AdamW(keras.optimizers.AdamW):
    """Keras's AdamW; with several replicas it sums their gradients before it shortens them, and not after."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """As Keras's."""
        if replica_count() > 1:
            variables = trainable_variables or self._trainable_variables
            pairs = super()._all_reduce_sum_gradients(zip(grads, variables, strict=True))
            grads = [grad for grad, _ in pairs]
        super().apply(grads, trainable_variables)

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars  # `apply` has done it
