r"""Measures how much of a GPU's matrix rate the training step reaches on JAX, and whether it waits for its input.

    KERAS_BACKEND=jax python -m benchmarks.gpu --data_dir=...

VGG16 in bfloat16, all layers trained, augmented. The FLOPs of a step are those of its convolutions and Dense layers,
forward and twice that backward. They are compared with a large product of bfloat16 matrices, timed in the same rounds.
Without TensorFlow, `--nosteps_fed` uses random images and leaves out the input pipeline.
`--any_device --batch_size=4 --image_size=48` shows only that the script runs.
"""

import collections
import math
import os
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import timing, training_step


def measure(
    data_dir: str | None,
    *,
    rounds: int = 5,
    image_size: int = 200,
    batch_size: int = 256,
    matrix: int = 8192,
    repeats: int = 20,
    steps_per_fit: int = 10,
    steps_fed: bool = True,
    any_device: bool = False,
) -> timing.Result:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import jax
    import keras

    import agegender as ag

    if keras.backend.backend() != "jax":
        sys.exit(f"This benchmark needs KERAS_BACKEND=jax. Received: KERAS_BACKEND={keras.backend.backend()}")
    device = jax.devices()[0]
    if device.platform != "gpu" and not any_device:
        sys.exit(f"JAX finds no GPU: pip install 'jax[cuda12]' for NVIDIA's. Received: devices={jax.devices()}")
    learner = training_step.make_learner(
        image_size=image_size, augmentation=ag.Augmentation(seed=1), dtype="mixed_bfloat16"
    )
    steps: dict[str, list[float]] = collections.defaultdict(list)

    def fit(name: str, batches: Any) -> None:
        steps[name].append(training_step.time_fit(learner, batches, steps_per_fit))

    functions: dict[str, Callable[[], Any]] = {}
    if steps_fed:
        batch = training_step.load_batch(data_dir, batch_size=batch_size, image_size=image_size)
        fed = ag.load_utkface("train", batch_size=batch_size, training=True, image_size=image_size, data_dir=data_dir)
        functions["step, fed"] = lambda: fit("step, fed", fed)
    else:
        batch = training_step.draw_batch(batch_size=batch_size, image_size=image_size)
    images, augment = jax.device_put(batch[0]), training_step.jit(ag.Augmentation(seed=1))
    square = jax.random.normal(jax.random.key(0), (matrix, matrix), "bfloat16")
    product = jax.jit(lambda a: a @ a)
    functions |= {
        "step, in memory": lambda: fit("step, in memory", training_step.repeat(batch)),
        "augmentation": lambda: [augment(images) for _ in range(repeats)],
        "matrix product": lambda: jax.block_until_ready([product(square) for _ in range(repeats)]),
    }
    seconds = timing.time_in_turn(functions, rounds=rounds)
    seconds = {name: [each / repeats for each in times] for name, times in seconds.items()}
    seconds |= {name: times[1:] for name, times in steps.items()}  # the first call was the warm-up
    flops = {"step, in memory": 3 * batch_size * count_flops(learner), "matrix product": 2 * matrix**3}
    rates = {name: [count / each for each in seconds[name]] for name, count in flops.items()}
    ratios = [
        timing.Ratio("FLOP/s, step / matrix product", timing.divide(rates, *flops), at_least=0.45),
        timing.Ratio("augmentation / step", timing.divide(seconds, "augmentation", "step, in memory"), at_most=0.01),
    ]
    if steps_fed:
        waiting = timing.divide(seconds, "step, fed", "step, in memory")
        ratios.append(timing.Ratio("step, fed / in memory", waiting, at_most=1.03))
    title = f"{device.device_kind}, JAX {jax.__version__}, VGG16, {image_size} px, batches of {batch_size}, bfloat16"
    return timing.Result(title, timing.make_rows(seconds, count=1, unit="ms per call"), ratios)


def count_flops(model: Any) -> int:
    """Counts multiplications and additions of one image's forward pass through convolutions and Dense layers."""
    flops, models = 0, [model]
    while models:
        for layer in models.pop().layers:
            if hasattr(layer, "layers"):
                models.append(layer)
            elif (kernel := getattr(layer, "kernel", None)) is not None:
                positions = math.prod(layer.output.shape[1:-1])  # of a convolution's kernel; 1 for a Dense layer
                flops += 2 * math.prod(kernel.shape) * positions
    return flops


if __name__ == "__main__":
    timing.main(measure)
