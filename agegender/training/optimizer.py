"""The optimizer of a run, with its schedule."""

import math

import keras

from agegender.training.replicas import AdamW


def make_optimizer(
    *,
    steps: int,
    learning_rate: float = 3e-4,
    warmup: float = 0.05,
    weight_decay: float = 1e-4,
    clipnorm: float = 1.0,
    ema: float = 0.0,
) -> keras.optimizers.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with a linear warm-up and one cosine down to zero.

    Args:
        steps: batches of the whole run, 1 or more.
        learning_rate: at its highest, above 0.
        warmup: share of the steps in which the learning rate rises from 0, in [0, 1).
        weight_decay: of kernels; biases and normalisations are not decayed.
        clipnorm: the longest gradient of all weights together; without normalisation layers a trunk with random
            weights can otherwise be lost to a single batch; 0 leaves them as they are.
        ema: momentum, in [0, 1), of an exponential moving average of the weights, which `train` then measures and saves
            in their place (Polyak and Juditsky 1992; Tarvainen and Valpola 2017, arXiv 1703.01780); 0 for none.

    Returns:
        The optimizer, to be given to `train`.

    Raises:
        ValueError: for a number out of its range.

    Example:

    >>> optimizer = make_optimizer(steps=1000, learning_rate=1e-3, warmup=0.05)
    >>> _ = optimizer.iterations.assign(50)  # as many steps later
    >>> round(float(optimizer.learning_rate), 6)
    0.001
    """
    if steps < 1 or not 0 < learning_rate < math.inf or not 0 <= warmup < 1 or not 0 <= ema < 1:
        raise ValueError(
            "`steps` must be 1 or more, `learning_rate` above 0, `warmup` and `ema` in [0, 1). "
            f"Received: steps={steps}, learning_rate={learning_rate}, warmup={warmup}, ema={ema}"
        )
    if not 0 <= weight_decay < math.inf or not 0 <= clipnorm < math.inf:
        raise ValueError(
            "`weight_decay` and `clipnorm` must be finite and 0 or more. "
            f"Received: weight_decay={weight_decay}, clipnorm={clipnorm}"
        )
    rise = int(steps * warmup)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if rise else learning_rate,
        warmup_target=learning_rate if rise else None,
        warmup_steps=rise,
        decay_steps=steps - rise,
    )
    optimizer = AdamW(schedule, weight_decay=weight_decay, global_clipnorm=clipnorm, use_ema=ema > 0, ema_momentum=ema)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
