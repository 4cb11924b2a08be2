"""The joint loss as pure functions of `keras.ops`, and what `compile()` gets of them.

With ages t and outputs a in years, genders g (0 or 1) and probabilities p, over a batch of n pictures:

    age loss     = 1/n sum ((t - a) / AGE_STD)^2
    gender loss  = -1/n sum (g log p + (1 - g) log(1 - p))
    joint loss   = age_weight * age loss + gender_weight * gender loss

The division makes the age loss about 1 where the answer is always the mean, beside 0.69 for the gender loss where the
answer is always one half. In years squared the first would be 400 and the gender head would hardly be trained.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from agegender.schema import AGE, AGE_STD, GENDER


@keras.saving.register_keras_serializable(package="agegender")
def age_loss(ages: Any, outputs: Any) -> Any:
    """Squared error of each picture's age, in units of `schema.AGE_STD` squared.

    Args:
        ages: float [batch, 1], years.
        outputs: float [batch, 1], years.

    Returns:
        float32 [batch].
    """
    difference = (ops.cast(outputs, "float32") - ops.cast(ages, "float32")) / AGE_STD
    return ops.mean(ops.square(difference), axis=-1)


@keras.saving.register_keras_serializable(package="agegender")
def gender_loss(genders: Any, outputs: Any) -> Any:
    """Binary cross-entropy of each picture's gender, in nats.

    Args:
        genders: float [batch, 1], 0 = male, 1 = female.
        outputs: float [batch, 1], the probability of female.

    Returns:
        float32 [batch].
    """
    genders, outputs = ops.cast(genders, "float32"), ops.cast(outputs, "float32")
    return ops.mean(ops.binary_crossentropy(genders, outputs), axis=-1)


_LOSSES = {AGE: age_loss, GENDER: gender_loss}


def joint_loss(
    targets: Mapping[str, Any], outputs: Mapping[str, Any], *, age_weight: float = 1.0, gender_weight: float = 1.0
) -> Any:
    """The number that training makes small: `age_weight * MSE + gender_weight * BCE`, ages scaled (see above).

    The default weights are 1 and 1. Because the loss is scaled and the model's age output starts near the mean age,
    they suit random weights and VGGFace weights alike.

    Args:
        targets: `{"age": float [batch, 1] in years, "gender": float [batch, 1], 0 or 1}`.
        outputs: the same keys; ages in years and probabilities of female. A model with one head has one key.
        age_weight: weight of the age loss, 0 or more.
        gender_weight: weight of the gender loss, 0 or more.

    Returns:
        float32 scalar.

    Example:

    >>> import numpy as np
    >>> targets = {"age": np.array([[30.0]]), "gender": np.array([[1.0]])}
    >>> outputs = {"age": np.array([[50.0]]), "gender": np.array([[0.5]])}
    >>> round(float(joint_loss(targets, outputs, age_weight=2.0)), 4)
    2.6931
    """
    weights = {AGE: age_weight, GENDER: gender_weight}
    return sum(weights[head] * ops.mean(_LOSSES[head](targets[head], outputs[head])) for head in outputs)


def compile_losses(heads: Sequence[str], *, age_weight: float = 1.0, gender_weight: float = 1.0) -> dict[str, Any]:
    """The same loss as keyword arguments of `keras.Model.compile`.

    Args:
        heads: the model's output names, of `schema.HEADS`.
        age_weight: weight of the age loss, finite, 0 or more.
        gender_weight: weight of the gender loss, finite, 0 or more.

    Returns:
        `{"loss": {head: function}, "loss_weights": {head: float}}`.

    Raises:
        ValueError: for a weight that is negative or not finite, or when every weight is 0.
    """
    weights = {AGE: age_weight, GENDER: gender_weight}
    for head, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"`{head}_weight` must be finite and 0 or more. Received: {head}_weight={weight}")
    if not any(weights[head] for head in heads):
        raise ValueError(f"At least one head must have a weight above 0. Received: heads={list(heads)}, {weights}")
    return {"loss": {head: _LOSSES[head] for head in heads}, "loss_weights": {head: weights[head] for head in heads}}
