"""Two heads on a trunk."""

from collections.abc import Sequence

import keras

from agegender.models.layers import MeanAge, MedianAge
from agegender.schema import AGE, AGE_DISTRIBUTION, AGE_MEAN, AGE_STD, AGES, GENDER, HEADS

AGE_HEADS = ("regression", "distribution", "median")
UNITS = (512, 256, 128)
AGE_DROPOUT = (0.3, 0.2, 0.2)
GENDER_DROPOUT = (0.5, 0.5, 0.5)


def build_model(
    trunk: keras.Model,
    *,
    heads: Sequence[str] = HEADS,
    age_head: str = "regression",
    units: Sequence[int] = UNITS,
    age_dropout: Sequence[float] = AGE_DROPOUT,
    gender_dropout: Sequence[float] = GENDER_DROPOUT,
) -> keras.Model:
    """Puts an age head and a gender head on a trunk.

    Each head is a row of Dense + ReLU + Dropout and one last Dense. Before them the trunk's features are brought to
    mean 0 and variance 1, first over a image's features (Ba, Kiros and Hinton 2016, arXiv 1607.06450), because those
    of VGGFace weights and of random ones differ a hundredfold in size, and then over the batch (Ioffe and Szegedy 2015,
    arXiv 1502.03167), because those of random weights are nearly the same for all faces. The large epsilon of the
    second keeps a feature that is nearly always zero from deciding alone on the day that it is not.

    The age head's last Dense answers in standard deviations from the mean age (`schema.AGE_STD`, `schema.AGE_MEAN`)
    which is turned into years. The last Dense of each head starts at zero, so that an untrained model
    answers the mean age and one half and its first steps are not spent on unlearning noise; docs/measurements has the
    measurements behind all this. The heads compute in float32 under every dtype policy.

    With a distribution as age head, the last Dense answers with the probability of each year from 0 to 116, and the age
    is the mean of that (Rothe, Timofte and Van Gool 2018, "Deep expectation of real and apparent age"); `train` then
    teaches the distribution too, which knows more of an age than its mean. Its median has the smaller mean absolute
    error, as its mean has the smaller squared one; the two heads have the same weights.

    Args:
        trunk: takes images [batch, height, width, 3], gives features [batch, width].
        heads: one or both of "age" and "gender".
        age_head: "regression" for one number; "distribution" for the mean of probabilities over the years, or "median"
            for their median.
        units: width of each hidden Dense layer of a head.
        age_dropout: share of units dropped after each hidden layer of the age head, each in [0, 1).
        gender_dropout: the same for the gender head.

    Returns:
        A model from images [batch, height, width, 3], uint8 or float, RGB, 0..255, to
        `{"age": float32 [batch, 1] in years, "gender": float32 [batch, 1], probability of female}`.

    Raises:
        ValueError: for unknown or repeated heads, a trunk whose output is not [batch, width], or numbers out of range.

    Example:

    >>> import keras
    >>> image = keras.Input((64, 64, 3))
    >>> trunk = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    >>> {head: output.shape for head, output in build_model(trunk).output.items()}
    {'age': (None, 1), 'gender': (None, 1)}
    """
    dropout = {AGE: tuple(age_dropout), GENDER: tuple(gender_dropout)}
    _check(trunk, heads, age_head, units, dropout)
    features = trunk(trunk.inputs[0])
    for norm in (
        keras.layers.LayerNormalization(name="feature_layer_norm", dtype="float32"),
        keras.layers.BatchNormalization(momentum=0.97, epsilon=0.1, name="feature_batch_norm", dtype="float32"),
    ):
        features = norm(features)
    ages = {"regression": _deviations, "distribution": _mean, "median": _median}
    last = {AGE: ages[age_head], GENDER: _probability}
    outputs = {head: last[head](_hidden(features, head, units, dropout[head])) for head in heads}
    return keras.Model(trunk.inputs[0], outputs, name="agegender")


def _hidden(
    features: keras.KerasTensor, head: str, units: Sequence[int], dropout: Sequence[float]
) -> keras.KerasTensor:
    for number, (width, rate) in enumerate(zip(units, dropout, strict=True), 1):
        features = keras.layers.Dense(
            width, activation="relu", kernel_initializer="he_normal", dtype="float32", name=f"{head}_dense_{number}"
        )(features)
        features = keras.layers.Dropout(rate, dtype="float32", name=f"{head}_dropout_{number}")(features)
    return features


def _probability(features: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Dense(1, "sigmoid", kernel_initializer="zeros", dtype="float32", name=GENDER)(features)


def _deviations(features: keras.KerasTensor) -> keras.KerasTensor:
    deviations = keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32", name="age_deviations")(features)
    # Not a Rescaling layer: on the JAX backend that one still asks for TensorFlow.
    return keras.layers.Identity(dtype="float32", name=AGE)(deviations * AGE_STD + AGE_MEAN)


def _mean(features: keras.KerasTensor) -> keras.KerasTensor:
    return MeanAge(dtype="float32", name=AGE)(_distribution(features))


def _median(features: keras.KerasTensor) -> keras.KerasTensor:
    return MedianAge(dtype="float32", name=AGE)(_distribution(features))


def _distribution(features: keras.KerasTensor) -> keras.KerasTensor:
    bell = [-(((year - AGE_MEAN) / AGE_STD) ** 2) / 2 for year in range(AGES)]  # the ages of the data, about
    return keras.layers.Dense(
        AGES,
        "softmax",
        kernel_initializer="zeros",
        bias_initializer=keras.initializers.Constant(bell),
        dtype="float32",
        name=AGE_DISTRIBUTION,
    )(features)


def _check(
    trunk: keras.Model, heads: Sequence[str], age_head: str, units: Sequence[int], dropout: dict[str, tuple]
) -> None:
    if age_head not in AGE_HEADS:
        raise ValueError(f"`age_head` must be one of {AGE_HEADS}. Received: age_head={age_head!r}")
    if isinstance(heads, str) or not heads or len(set(heads)) != len(heads) or not set(heads) <= set(HEADS):
        raise ValueError(f"`heads` must hold one or both of {HEADS}, each once. Received: heads={heads!r}")
    if [len(tensor.shape) for tensor in (*trunk.inputs, *trunk.outputs)] != [4, 2]:
        raise ValueError(
            "`trunk` must map images [batch, height, width, 3] to features [batch, width]. "
            f"Received: {trunk.input_shape} to {trunk.output_shape}"
        )
    if not all(width >= 1 for width in units):
        raise ValueError(f"`units` must be 1 or more each. Received: units={units}")
    for head, rates in dropout.items():
        if len(rates) != len(units) or not all(0 <= rate < 1 for rate in rates):
            raise ValueError(
                f"`{head}_dropout` must hold a number in [0, 1) for each of the {len(units)} hidden layers. "
                f"Received: {head}_dropout={rates}"
            )
