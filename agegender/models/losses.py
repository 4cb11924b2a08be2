"""The losses of the two heads, and the joint loss that `compile()` gets from them.

For ages t and predictions a in years, genders g (0 or 1) and probabilities p, over a batch of n images:

    age loss     = 1/n sum ((t - a) / AGE_STD)^2
    gender loss  = -1/n sum (g log p + (1 - g) log(1 - p))
    joint loss   = loss_weights["age"] * age loss + loss_weights["gender"] * gender loss

Dividing by `AGE_STD` brings both losses to the same scale: predicting the mean age for everybody gives an age loss of
about 1, and predicting one half gives a gender loss of 0.69. In squared years the age loss would be 400.

A distribution head (`build_model(..., age_head="distribution")`) adds a cross-entropy to its age loss; see
`distribution_loss`.
"""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Final

import keras
from keras import ops

from agegender.schema import AGE, AGE_STD, AGES, EMBEDDING, GENDER

LABEL_STD: Final = 2.0  # years: standard deviation of the normal distribution that a recorded age becomes
DISTRIBUTION_WEIGHT: Final = 0.5  # of the cross-entropy, relative to the squared error of the mean


@keras.saving.register_keras_serializable(package="agegender")
def age_loss(ages: Any, outputs: Any) -> Any:
    """Squared age error of each image, in units of `schema.AGE_STD` squared.

    Args:
        ages: float [batch, 1], years.
        outputs: float [batch, 1], years.

    Returns:
        float32 [batch].

    Example:

    >>> float(age_loss([[30.0]], [[50.0]])[0])
    1.0
    """
    difference = (ops.cast(outputs, "float32") - ops.cast(ages, "float32")) / AGE_STD
    return ops.mean(ops.square(difference), axis=-1)


def distribution_loss(ages: Any, distributions: Any) -> Any:
    """Kullback-Leibler divergence of the predicted age distribution from the label distribution, in nats.

    The label distribution q is normal around the recorded age, with the standard deviation `LABEL_STD`. With the
    prediction p over the years y, the loss is sum q(y) log(q(y) / p(y)). Source: Gao et al. 2017, "Deep label
    distribution learning with label ambiguity" (arXiv 1611.01731); combined with the error of the mean in Gao et al.
    2018, DLDL-v2, IJCAI.

    Args:
        ages: float [batch, 1], years.
        distributions: float [batch, 117], the probability of each year.

    Returns:
        float32 [batch], 0 or more.

    Example:

    >>> import numpy as np
    >>> uniform = np.full([1, 117], 1 / 117)
    >>> round(float(distribution_loss([[50.0]], uniform)[0]), 2)
    2.65
    """
    years = ops.arange(AGES, dtype="float32")
    exponent = -ops.square((years - ops.cast(ages, "float32")) / LABEL_STD) / 2
    log_labels = exponent - ops.logsumexp(exponent, axis=-1, keepdims=True)
    log_outputs = ops.log(ops.maximum(ops.cast(distributions, "float32"), keras.config.epsilon()))
    return ops.sum(ops.exp(log_labels) * (log_labels - log_outputs), axis=-1)


def age_with_distribution_loss(ages: Any, outputs: Any) -> Any:
    """`age_loss` of the mean plus `DISTRIBUTION_WEIGHT` times `distribution_loss`.

    Args:
        ages: float [batch, 1], years.
        outputs: float [batch, 1 + 117], the mean in years and the probability of each year.

    Returns:
        float32 [batch].
    """
    return age_loss(ages, outputs[:, :1]) + DISTRIBUTION_WEIGHT * distribution_loss(ages, outputs[:, 1:])


@keras.saving.register_keras_serializable(package="agegender")
def gender_loss(genders: Any, outputs: Any) -> Any:
    """Binary cross-entropy of each image, in nats.

    Args:
        genders: float [batch, 1], 0 = male, 1 = female.
        outputs: float [batch, 1], the probability of female.

    Returns:
        float32 [batch].

    Example:

    >>> round(float(gender_loss([[1.0]], [[0.5]])[0]), 4)
    0.6931
    """
    genders, outputs = ops.cast(genders, "float32"), ops.cast(outputs, "float32")
    return ops.mean(ops.binary_crossentropy(genders, outputs), axis=-1)


def embedding_loss(embeddings: Any, outputs: Any) -> Any:
    """Squared distance to the embedding of a face recogniser: distillation (Romero et al. 2015, arXiv 1412.6550).

    Args:
        embeddings: float [batch, width]; a row of NaN has the loss 0.
        outputs: float [batch, width].

    Returns:
        float32 [batch].

    Example:

    >>> nan = float("nan")
    >>> embedding_loss([[1.0, 2.0], [nan, nan]], [[1.0, 4.0], [3.0, 3.0]]).numpy().tolist()
    [4.0, 0.0]
    """
    embeddings, outputs = ops.cast(embeddings, "float32"), ops.cast(outputs, "float32")
    # Not a product with a mask: NaN times 0 is NaN, in the gradient too.
    embeddings = ops.where(ops.isnan(embeddings), outputs, embeddings)
    return ops.sum(ops.square(outputs - embeddings), axis=-1)


_LOSSES = {AGE: age_loss, GENDER: gender_loss, EMBEDDING: embedding_loss}


def joint_loss(
    targets: Mapping[str, Any], outputs: Mapping[str, Any], loss_weights: Mapping[str, float] | None = None
) -> Any:
    """The loss that `train` minimises: the weighted sum of the heads' losses, each a mean over the batch.

    The age loss is in units of `schema.AGE_STD` squared (400 years squared), the gender loss in nats; the top of
    `agegender.models.losses` has the formulas. Both are about 1 for an untrained model, so the default weights suit
    random weights and VGGFace weights alike.

    Args:
        targets: `{"age": float [batch, 1] in years, "gender": float [batch, 1], 0 or 1}`.
        outputs: the same keys; ages in years and probabilities of female. A model with one head has one key.
        loss_weights: weight of each head's loss, 0 or more; 1 for a head that is not named.

    Returns:
        float32 scalar.

    Raises:
        ValueError: for a weight of an unknown head, a weight that is negative or not finite, or only weights of 0.

    Example:

    >>> import numpy as np
    >>> targets = {"age": np.array([[30.0]]), "gender": np.array([[1.0]])}
    >>> outputs = {"age": np.array([[50.0]]), "gender": np.array([[0.5]])}
    >>> round(float(joint_loss(targets, outputs, {"age": 2.0})), 4)
    2.6931
    """
    weights = complete_loss_weights(list(outputs), loss_weights)
    return sum(weights[head] * ops.mean(_LOSSES[head](targets[head], outputs[head])) for head in outputs)


def compile_losses(
    heads: Sequence[str], loss_weights: Mapping[str, float] | None = None, *, distribution: bool = False
) -> dict[str, Any]:
    """The joint loss as keyword arguments of `keras.Model.compile`.

    Args:
        heads: the model's output names, of `schema.HEADS`.
        loss_weights: weight of each head's loss, finite, 0 or more; 1 for a head that is not named.
        distribution: whether the age output is [batch, 1 + 117], see `age_with_distribution_loss`.

    Returns:
        `{"loss": {head: function}, "loss_weights": {head: float}}`.

    Raises:
        ValueError: for a weight of an unknown head, a weight that is negative or not finite, or only weights of 0.

    Example:

    >>> compile_losses(["age", "gender"], {"age": 2.0})["loss_weights"]
    {'age': 2.0, 'gender': 1.0}
    """
    functions = {**_LOSSES, AGE: age_with_distribution_loss} if distribution else _LOSSES
    return {
        "loss": {head: functions[head] for head in heads},
        "loss_weights": complete_loss_weights(heads, loss_weights),
    }


def complete_loss_weights(heads: Sequence[str], loss_weights: Mapping[str, float] | None) -> dict[str, float]:
    """A weight for each head: the given one, or 1.

    Raises:
        ValueError: as `compile_losses`.
    """
    given = loss_weights or {}
    are_of_heads = isinstance(given, Mapping) and set(given) <= set(heads)
    weights = dict.fromkeys(heads, 1.0) | (dict(given) if are_of_heads else {})
    are_numbers = all(isinstance(weight, numbers.Real) and 0 <= weight < math.inf for weight in weights.values())
    if not are_of_heads or not are_numbers or not any(weights.values()):
        raise ValueError(
            f"`loss_weights` must map heads of the model, {list(heads)}, to finite numbers of 0 or more, one of them "
            f"above 0. Received: loss_weights={loss_weights!r}"
        )
    return weights
