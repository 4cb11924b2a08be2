"""The default optimizer: AdamW with linear warm-up and cosine decay."""

import math

import keras


def make_optimizer(
    *,
    steps: int,
    learning_rate: float = 3e-4,
    warmup: float = 0.05,
    weight_decay: float = 1e-4,
    clipnorm: float = 1.0,
) -> keras.optimizers.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with a linear warm-up and a cosine decay to zero.

    Args:
        steps: number of training steps of the whole run, 1 or more.
        learning_rate: peak learning rate, above 0.
        warmup: fraction of the steps in which the learning rate rises from 0, in [0, 1).
        weight_decay: weight decay of kernels; biases and normalisation weights are not decayed.
        clipnorm: maximum global norm of the gradients; 0 does not clip. Without normalisation layers, a single batch
            can otherwise ruin a trunk with random weights.

    Returns:
        The optimizer, for `train`.

    Raises:
        ValueError: if a number is out of range.

    Example:

    >>> optimizer = make_optimizer(steps=1000, learning_rate=1e-3, warmup=0.05)
    >>> _ = optimizer.iterations.assign(50)  # after 50 steps
    >>> round(float(optimizer.learning_rate), 6)
    0.001
    """
    if steps < 1 or not 0 < learning_rate < math.inf or not 0 <= warmup < 1:
        raise ValueError(
            "`steps` must be 1 or more, `learning_rate` above 0, `warmup` in [0, 1). "
            f"Received: steps={steps}, learning_rate={learning_rate}, warmup={warmup}"
        )
    if not 0 <= weight_decay < math.inf or not 0 <= clipnorm < math.inf:
        raise ValueError(
            "`weight_decay` and `clipnorm` must be finite and 0 or more. "
            f"Received: weight_decay={weight_decay}, clipnorm={clipnorm}"
        )
    warmup_steps = int(steps * warmup)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else learning_rate,
        warmup_target=learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
        decay_steps=steps - warmup_steps,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=weight_decay, global_clipnorm=clipnorm)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
