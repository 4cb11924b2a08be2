"""Two heads on a trunk."""

from collections.abc import Sequence

import keras

from agegender.schema import AGE, AGE_MEAN, AGE_STD, GENDER, HEADS

UNITS = (512, 256, 128)
AGE_DROPOUT = (0.3, 0.2, 0.2)
GENDER_DROPOUT = (0.5, 0.5, 0.5)


def build_model(
    trunk: keras.Model,
    *,
    heads: Sequence[str] = HEADS,
    units: Sequence[int] = UNITS,
    age_dropout: Sequence[float] = AGE_DROPOUT,
    gender_dropout: Sequence[float] = GENDER_DROPOUT,
) -> keras.Model:
    """Puts an age head and a gender head on a trunk.

    Each head is a row of Dense + ReLU + Dropout and one last Dense. Before them the trunk's features are brought to
    mean 0 and variance 1, first over a picture's features (Ba, Kiros and Hinton 2016, arXiv 1607.06450), because those
    of VGGFace weights and of random ones differ a hundredfold in size, and then over the batch (Ioffe and Szegedy 2015,
    arXiv 1502.03167), because those of random weights are nearly the same for all faces. The large epsilon of the
    second keeps a feature that is nearly always zero from deciding alone on the day that it is not.

    The age head's last Dense answers in standard deviations from the mean age (`schema.AGE_STD`, `schema.AGE_MEAN`)
    which is turned into years. The last Dense of each head starts at zero, so that an untrained model
    answers the mean age and one half and its first steps are not spent on unlearning noise; BENCHMARKS.md has the
    measurements behind all this. The heads compute in float32 under every dtype policy.

    Args:
        trunk: takes pictures [batch, height, width, 3], gives features [batch, width].
        heads: one or both of "age" and "gender".
        units: width of each hidden Dense layer of a head.
        age_dropout: share of units dropped after each hidden layer of the age head, each in [0, 1).
        gender_dropout: the same for the gender head.

    Returns:
        A model from pictures [batch, height, width, 3], uint8 or float, RGB, 0..255, to
        `{"age": float32 [batch, 1] in years, "gender": float32 [batch, 1], probability of female}`.

    Raises:
        ValueError: for unknown or repeated heads, a trunk whose output is not [batch, width], or numbers out of range.

    Example:

    >>> trunk = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.GlobalAveragePooling2D()])
    >>> {head: output.shape for head, output in build_model(trunk).output.items()}
    {'age': (None, 1), 'gender': (None, 1)}
    """
    dropout = {AGE: tuple(age_dropout), GENDER: tuple(gender_dropout)}
    _check(trunk, heads, units, dropout)
    features = trunk(trunk.inputs[0])
    for norm in (
        keras.layers.LayerNormalization(name="feature_layer_norm", dtype="float32"),
        keras.layers.BatchNormalization(momentum=0.97, epsilon=0.1, name="feature_batch_norm", dtype="float32"),
    ):
        features = norm(features)
    outputs = {head: _head(features, head, units, dropout[head]) for head in heads}
    return keras.Model(trunk.inputs[0], outputs, name="agegender")


def _head(features: keras.KerasTensor, head: str, units: Sequence[int], dropout: Sequence[float]) -> keras.KerasTensor:
    for number, (width, rate) in enumerate(zip(units, dropout, strict=True), 1):
        features = keras.layers.Dense(
            width, activation="relu", kernel_initializer="he_normal", dtype="float32", name=f"{head}_dense_{number}"
        )(features)
        features = keras.layers.Dropout(rate, dtype="float32", name=f"{head}_dropout_{number}")(features)
    if head == GENDER:
        return keras.layers.Dense(1, "sigmoid", kernel_initializer="zeros", dtype="float32", name=GENDER)(features)
    deviations = keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32", name="age_deviations")(features)
    # Not a Rescaling layer: on the JAX backend that one still asks for TensorFlow.
    return keras.layers.Identity(dtype="float32", name=AGE)(deviations * AGE_STD + AGE_MEAN)


def _check(trunk: keras.Model, heads: Sequence[str], units: Sequence[int], dropout: dict[str, tuple]) -> None:
    if isinstance(heads, str) or not heads or len(set(heads)) != len(heads) or not set(heads) <= set(HEADS):
        raise ValueError(f"`heads` must hold one or both of {HEADS}, each once. Received: heads={heads!r}")
    if [len(tensor.shape) for tensor in (*trunk.inputs, *trunk.outputs)] != [4, 2]:
        raise ValueError(
            "`trunk` must map pictures [batch, height, width, 3] to features [batch, width]. "
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
