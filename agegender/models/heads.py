"""Builds the model: an age head and a gender head on a trunk."""

from collections.abc import Mapping, Sequence

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
    """Builds an age head and a gender head on a trunk.

    The features of the trunk are normalized twice: over the features of an image (Ba, Kiros and Hinton 2016, arXiv
    1607.06450), because those of VGGFace weights and of random weights differ a hundredfold in size, and over the batch
    (Ioffe and Szegedy 2015, arXiv 1502.03167), because those of random weights are nearly equal for all faces. The
    large epsilon of the second limits the effect of a feature that is nearly always zero.

    Each head has hidden layers of Dense, ReLU and Dropout and one last Dense. The last kernel starts at zero, so that
    an untrained model answers the mean age and one half. The heads compute in float32 under every dtype policy.

    The age head answers one of:

    - "regression": one number, in standard deviations from the mean age (`schema.AGE_STD`, `schema.AGE_MEAN`) inside
      and in years outside;
    - "distribution": the mean of a probability for each year from 0 to 116 (Rothe, Timofte and Van Gool 2018, "Deep
      expectation of real and apparent age"); `train` then also fits the distribution;
    - "median": the median of that distribution, which has the smaller mean absolute error. The weights are the same.

    Args:
        trunk: a model from images `[batch, height, width, 3]` to features `[batch, width]`.
        heads: one or both of "age" and "gender".
        age_head: "regression", "distribution" or "median".
        units: width of each hidden layer of a head.
        age_dropout: dropout rate after each hidden layer of the age head, each in [0, 1).
        gender_dropout: the same for the gender head.

    Returns:
        A model from images `[batch, height, width, 3]`, uint8 or float, RGB, 0..255, to
        `{"age": float32 [batch, 1] in years, "gender": float32 [batch, 1], probability of female}`.

    Raises:
        ValueError: if an argument is invalid, or the output of the trunk is not `[batch, width]`.

    Example:

    >>> image = keras.Input((64, 64, 3))
    >>> trunk = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    >>> {head: output.shape for head, output in build_model(trunk).output.items()}
    {'age': (None, 1), 'gender': (None, 1)}
    """
    dropout = {AGE: tuple(age_dropout), GENDER: tuple(gender_dropout)}
    _check_arguments(trunk, heads, age_head, units, dropout)
    features = trunk(trunk.inputs[0])
    for norm in (
        keras.layers.LayerNormalization(name="feature_layer_norm", dtype="float32"),
        keras.layers.BatchNormalization(momentum=0.97, epsilon=0.1, name="feature_batch_norm", dtype="float32"),
    ):
        features = norm(features)
    hidden = {head: _add_hidden_layers(features, head, units, dropout[head]) for head in heads}
    outputs = {
        head: _add_age(features, age_head) if head == AGE else _add_gender(features)
        for head, features in hidden.items()
    }
    return keras.Model(trunk.inputs[0], outputs, name="agegender")


def _add_hidden_layers(
    features: keras.KerasTensor, head: str, units: Sequence[int], dropout: Sequence[float]
) -> keras.KerasTensor:
    for number, (width, rate) in enumerate(zip(units, dropout, strict=True), 1):
        features = keras.layers.Dense(
            width, activation="relu", kernel_initializer="he_normal", dtype="float32", name=f"{head}_dense_{number}"
        )(features)
        features = keras.layers.Dropout(rate, dtype="float32", name=f"{head}_dropout_{number}")(features)
    return features


def _add_gender(features: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Dense(1, "sigmoid", kernel_initializer="zeros", dtype="float32", name=GENDER)(features)


def _add_age(features: keras.KerasTensor, age_head: str) -> keras.KerasTensor:
    if age_head == "regression":
        deviations = keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32", name="age_deviations")(features)
        # Not a Rescaling layer: on the JAX backend that one needs TensorFlow.
        return keras.layers.Identity(dtype="float32", name=AGE)(deviations * AGE_STD + AGE_MEAN)
    normal = [-(((year - AGE_MEAN) / AGE_STD) ** 2) / 2 for year in range(AGES)]  # roughly the ages of the data
    distribution = keras.layers.Dense(
        AGES,
        "softmax",
        kernel_initializer="zeros",
        bias_initializer=keras.initializers.Constant(normal),
        dtype="float32",
        name=AGE_DISTRIBUTION,
    )(features)
    layer = MeanAge if age_head == "distribution" else MedianAge
    return layer(dtype="float32", name=AGE)(distribution)


def _check_arguments(
    trunk: keras.Model,
    heads: Sequence[str],
    age_head: str,
    units: Sequence[int],
    dropout: Mapping[str, Sequence[float]],
) -> None:
    if age_head not in AGE_HEADS:
        raise ValueError(f"`age_head` must be one of {AGE_HEADS}. Received: age_head={age_head!r}")
    if isinstance(heads, str) or not heads or len(set(heads)) != len(heads) or not set(heads) <= set(HEADS):
        raise ValueError(f"`heads` must contain one or both of {HEADS}, each once. Received: heads={heads!r}")
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
                f"`{head}_dropout` must contain a number in [0, 1) for each of the {len(units)} hidden layers. "
                f"Received: {head}_dropout={rates}"
            )
