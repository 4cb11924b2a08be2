r"""How much of a GPU's matrix rate the training step reaches on JAX, and whether it ever waits for its input.

    KERAS_BACKEND=jax python -m benchmarks.gpu --data_dir=...
    KERAS_BACKEND=jax python -m benchmarks.gpu --data_dir=... --any_device --batch_size=4 --image_size=48

VGG16 in bfloat16, all layers trained, augmented. The step's FLOPs are those of its convolutions and Dense layers,
forwards and twice that backwards; the rate to compare with is that of a large product of bfloat16 matrices, timed in
the same rounds. The second command only shows that the script runs.
"""

import math
import os
import sys
from typing import Any

from benchmarks import steps, turns


def measure(
    data_dir: str | None,
    *,
    rounds: int = 5,
    image_size: int = 200,
    batch_size: int = 256,
    matrix: int = 8192,
    products: int = 20,
    steps_per_fit: int = 10,
    any_device: bool = False,
) -> turns.Result:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import jax
    import keras

    import agegender as ag

    if keras.backend.backend() != "jax":
        sys.exit(f"This measures JAX: KERAS_BACKEND=jax. Received: KERAS_BACKEND={keras.backend.backend()}")
    device = jax.devices()[0]
    if device.platform != "gpu" and not any_device:
        sys.exit(
            f"JAX sees no GPU, only {jax.devices()}. `pip install 'jax[cuda12]'` brings what it needs for NVIDIA's."
        )
    augmentation = ag.Augmentation(seed=1)
    learner = steps.compiled_learner(image_size=image_size, augmentation=augmentation, dtype="mixed_bfloat16")
    batch = steps.first_batch(data_dir, batch_size=batch_size, image_size=image_size)
    fed = ag.load_utkface("train", batch_size=batch_size, training=True, image_size=image_size, data_dir=data_dir)
    images, augment = jax.device_put(batch[0]), steps.compiled(ag.Augmentation(seed=1))
    square = jax.random.normal(jax.random.key(0), (matrix, matrix), "bfloat16")
    product = jax.jit(lambda a: a @ a)
    timed: dict[str, list[float]] = {"fed": [], "in memory": []}

    def fit(name: str, batches: Any) -> None:
        timed[name].append(steps.seconds_of_fit(learner, batches, steps_per_fit))

    contestants = {
        "fed": lambda: fit("fed", fed),
        "in memory": lambda: fit("in memory", steps.repeated(batch)),
        "augmentation": lambda: [augment(images) for _ in range(products)],
        "matrices": lambda: jax.block_until_ready([product(square) for _ in range(products)]),
    }
    seconds = turns.in_turn(contestants, rounds=rounds)
    seconds = {name: [each / products for each in times] for name, times in seconds.items()}
    seconds |= {name: times[1:] for name, times in timed.items()}  # the first was the warm-up

    work = {"step": 3 * batch_size * forward_flops(learner), "matrices": 2 * matrix**3}
    rates = {
        "step": [work["step"] / each for each in seconds["in memory"]],
        "matrices": [work["matrices"] / each for each in seconds["matrices"]],
    }
    teraflops = {what: flops / 1e12 for what, flops in {**work, **dict.fromkeys(timed, work["step"])}.items()}
    rows = [
        {**row, "TFLOP": teraflops.get(what)}
        for what, row in zip(seconds, turns.rows(seconds, count=1, unit="ms a call"), strict=True)
    ]
    claims = [
        turns.Claim("FLOP/s of the step / of matrices", turns.ratios(rates, "step", "matrices"), at_least=0.45),
        turns.Claim("augmentation / step", turns.ratios(seconds, "augmentation", "in memory"), at_most=0.01),
        turns.Claim("step fed / in memory", turns.ratios(seconds, "fed", "in memory"), at_most=1.03),
    ]
    title = f"{device.device_kind}, JAX {jax.__version__}, VGG16, {image_size} px, batches of {batch_size}, bfloat16"
    return turns.Result(title, rows, claims)


def forward_flops(model: Any) -> int:
    """Multiplications and additions of a image's way through the convolutions and Dense layers of a model."""
    flops = 0
    for layer in model._flatten_layers():
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            places = math.prod(layer.output.shape[1:-1])  # where a convolution's kernel is put; 1 for a Dense layer
            flops += 2 * math.prod(kernel.shape) * places
    return flops


if __name__ == "__main__":
    turns.main(measure)
