"""The joint loss as pure functions of `keras.ops`, and what `compile()` gets of them.

With ages t and outputs a in years, genders g (0 or 1) and probabilities p, over a batch of n images:

    age loss     = 1/n sum ((t - a) / AGE_STD)^2
    gender loss  = -1/n sum (g log p + (1 - g) log(1 - p))
    joint loss   = age_weight * age loss + gender_weight * gender loss

The division makes the age loss about 1 where the answer is always the mean, beside 0.69 for the gender loss where the
answer is always one half. In years squared the first would be 400 and the gender head would hardly be trained.

An age head that answers with a distribution (`build_model(..., age_head="distribution")`) has one more term in its age
loss, the cross-entropy to a bell around the recorded age; see `distribution_loss`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from agegender.schema import AGE, AGE_STD, AGES, GENDER, MAX_AGE

LABEL_SPREAD: Final = 2.0  # years, of the bell that a recorded age becomes
DISTRIBUTION_WEIGHT: Final = 0.5  # of the cross-entropy, beside 1 for the squared error of the mean


@keras.saving.register_keras_serializable(package="agegender")
def age_loss(ages: Any, outputs: Any) -> Any:
    """Squared error of each image's age, in units of `schema.AGE_STD` squared.

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
    """Cross-entropy between a bell around each recorded age and the distribution answered, in nats above its least.

    With bells q of the standard deviation `LABEL_SPREAD` and answers p over the years y: sum q(y) log(q(y) / p(y)).
    Source: Gao et al. 2017, "Deep label distribution learning with label ambiguity" (arXiv 1611.01731); together with
    the error of the mean: Gao et al. 2018, DLDL-v2, IJCAI.

    Args:
        ages: float [batch, 1], years.
        distributions: float [batch, 117], the probability of each year.

    Returns:
        float32 [batch], 0 or more.

    Example:

    >>> import numpy as np
    >>> all_alike = np.full([1, 117], 1 / 117)
    >>> round(float(distribution_loss([[50.0]], all_alike)[0]), 2)
    2.65
    """
    years = ops.arange(AGES, dtype="float32")
    exponent = -ops.square((years - ops.cast(ages, "float32")) / LABEL_SPREAD) / 2
    log_bell = exponent - ops.logsumexp(exponent, axis=-1, keepdims=True)
    log_answer = ops.log(ops.maximum(ops.cast(distributions, "float32"), keras.config.epsilon()))
    return ops.sum(ops.exp(log_bell) * (log_bell - log_answer), axis=-1)


def age_with_distribution_loss(ages: Any, outputs: Any) -> Any:
    """`age_loss` of the mean plus `DISTRIBUTION_WEIGHT` times `distribution_loss`.

    Args:
        ages: float [batch, 1], years.
        outputs: float [batch, 1 + 117], the mean in years and the probability of each year.

    Returns:
        float32 [batch].
    """
    return age_loss(ages, outputs[:, :1]) + DISTRIBUTION_WEIGHT * distribution_loss(ages, outputs[:, 1:])


def density_weights(ages: ArrayLike, *, power: float = 0.5, bandwidth: float = 2.0) -> np.ndarray:
    """How much a image of each age counts, so that frequent ages do not decide everything.

    The number of images of each year, smoothed by a bell, to the power -`power`; the mean over the given ages is 1.
    Source: Yang et al. 2021, "Delving into deep imbalanced regression" (arXiv 2102.09554).

    Args:
        ages: of the training images, in years, 0..116.
        power: 0 weighs all images alike, 1 all ages.
        bandwidth: standard deviation of the bell, in years, above 0.

    Returns:
        float32 [117], the weight of each year.

    Raises:
        ValueError: for ages out of range or none, and a power or a bandwidth out of its range.

    Example:

    >>> weights = density_weights([30] * 90 + [60] * 10, power=1.0)
    >>> round(float(weights[60] / weights[30]), 2)
    9.0
    """
    if not 0 <= power <= 1 or not 0 < bandwidth < float("inf"):
        raise ValueError(
            f"`power` must be in 0..1 and `bandwidth` above 0 years. Received: power={power}, bandwidth={bandwidth}"
        )
    rounded = np.rint(np.asarray(ages, "float64").ravel()).astype(int)
    if not rounded.size or rounded.min() < 0 or rounded.max() > MAX_AGE:
        raise ValueError(f"`ages` must be one or more in 0..{MAX_AGE} years. Received: ages={ages!r}")
    counts, years = np.bincount(rounded, minlength=AGES), np.arange(AGES)
    density = np.exp(-(((years[:, None] - years) / bandwidth) ** 2) / 2) @ counts
    weights = np.maximum(density, density[counts > 0].min()) ** -power  # no weight for an age that nobody has
    return (weights / np.average(weights, weights=counts)).astype("float32")


@keras.saving.register_keras_serializable(package="agegender")
def gender_loss(genders: Any, outputs: Any) -> Any:
    """Binary cross-entropy of each image's gender, in nats.

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


_LOSSES = {AGE: age_loss, GENDER: gender_loss}


def joint_loss(
    targets: Mapping[str, Any], outputs: Mapping[str, Any], *, age_weight: float = 1.0, gender_weight: float = 1.0
) -> Any:
    """The number that training makes small: `age_weight * MSE + gender_weight * BCE`, both means over the batch.

    The squared error is in units of `schema.AGE_STD` squared, 400 years squared, and the cross-entropy in nats; the top
    of `agegender.models.losses` has the formulas. Because the loss is scaled and the model's age output starts near
    the mean age, the default weights suit random weights and VGGFace weights alike.

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


@keras.saving.register_keras_serializable(package="agegender")
class LearnedWeights(keras.layers.Layer):
    """Hands the outputs on, and holds how much each head's loss counts, learned together with the model.

    Each head's loss L becomes exp(-s) L + s / 2 with a learned s, half of exp(-s) L where L is a squared error: the
    larger a head's noise exp(s) is found to be, the less the head counts. Source: Kendall, Gal and Cipolla 2018,
    "Multi-task learning using uncertainty to weigh losses" (arXiv 1705.07115), equations 7 to 10.

    Args:
        heads: the names of the outputs.
        **kwargs: as for every Keras layer.
    """

    def __init__(self, heads: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.heads = tuple(heads)

    def build(self, _: Any) -> None:
        """One number a head, at first 0."""
        self.log_variances = {head: self.add_weight((), "zeros", name=f"{head}_log_variance") for head in self.heads}

    def call(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs as they are."""
        return {head: ops.copy(output) for head, output in outputs.items()}

    def weigh(self, head: str, loss: Any) -> Any:
        """The loss of one head, float32 [batch], as it counts."""
        share = 0.5 if head == AGE else 1.0
        return share * ops.exp(-self.log_variances[head]) * loss + self.log_variances[head] / 2


def compile_losses(
    heads: Sequence[str],
    *,
    age_weight: float = 1.0,
    gender_weight: float = 1.0,
    distribution: bool = False,
    age_weights: ArrayLike | None = None,
    learned: LearnedWeights | None = None,
) -> dict[str, Any]:
    """The same loss as keyword arguments of `keras.Model.compile`.

    Args:
        heads: the model's output names, of `schema.HEADS`.
        age_weight: weight of the age loss, finite, 0 or more.
        gender_weight: weight of the gender loss, finite, 0 or more.
        distribution: whether the age output is [batch, 1 + 117], see `age_with_distribution_loss`.
        age_weights: float [117], how much a image counts in the age loss, by its age: see `density_weights`.
        learned: the layer that holds learned weights; the others then are factors of its losses.

    Returns:
        `{"loss": {head: function}, "loss_weights": {head: float}}`.

    Raises:
        ValueError: for a weight that is negative or not finite, when every weight is 0, or for `age_weights` that are
            not 117 numbers of 0 or more.

    Example:

    >>> compile_losses(["age", "gender"], age_weight=2.0)["loss_weights"]
    {'age': 2.0, 'gender': 1.0}
    """
    weights = {AGE: age_weight, GENDER: gender_weight}
    for head, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"`{head}_weight` must be finite and 0 or more. Received: {head}_weight={weight}")
    if not any(weights[head] for head in heads):
        raise ValueError(f"At least one head must have a weight above 0. Received: heads={list(heads)}, {weights}")
    functions: dict[str, Any] = dict(_LOSSES)
    if distribution:
        functions[AGE] = age_with_distribution_loss
    if age_weights is not None:
        functions[AGE] = _by_age(functions[AGE], age_weights)
    if learned is not None:
        functions = {head: _learned(function, head, learned) for head, function in functions.items()}
    return {"loss": {head: functions[head] for head in heads}, "loss_weights": {head: weights[head] for head in heads}}


def _by_age(loss: Callable[[Any, Any], Any], age_weights: ArrayLike) -> Callable[[Any, Any], Any]:
    table = np.asarray(age_weights, "float32")
    if table.shape != (AGES,) or not np.all(np.isfinite(table) & (table >= 0)) or not table.any():
        raise ValueError(
            f"`age_weights` must be {AGES} numbers of 0 or more, not all 0. Received: age_weights={age_weights!r}"
        )

    def weighted(ages: Any, outputs: Any) -> Any:
        years = ops.cast(ops.clip(ops.round(ages[:, 0]), 0, MAX_AGE), "int32")
        return ops.take(ops.convert_to_tensor(table), years) * loss(ages, outputs)

    return weighted


def _learned(loss: Callable[[Any, Any], Any], head: str, learned: LearnedWeights) -> Callable[[Any, Any], Any]:
    return lambda targets, outputs: learned.weigh(head, loss(targets, outputs))
