r"""What the augmentation costs by itself, against five of Keras's layers in a row that do the same geometry.

    python -m benchmarks.augmentation --data_dir=...

Batches of uint8 images that lie in memory become batches of float32. `Augmentation` is timed with its draw, in a
tf.function as in training; "geometry" is without colour and erasing, which is the work of the five layers
RandomRotation, RandomTranslation, RandomShear, RandomZoom and RandomFlip at the same ranges, bilinear, fill_mode
"nearest" (`tests/augment_test.py` shows that the same transforms give the same images). The layers are run in each
way that makes sense, and the ratios are over the way whose median is best.

"One op" is what can be had without XLA: the geometry of a image in one matrix, as ours, and TensorFlow's own
projective transform. JAX runs in a process of its own, after the others.
"""

import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import turns

ROOT = pathlib.Path(__file__).parents[1]
GEOMETRY: Mapping[str, Any] = {"brightness": 0.0, "contrast": 0.0, "erasing": 0.0}
SHEAR = 0.0035  # the sine of 0.2 degrees: that layer of Keras takes no angle
FASTER = 10  # times as fast as the five layers: the mark
FAST, SLOW = 24, 3  # batches a turn, of what is fast and of what is slow
ON_JAX = """
import json, sys, time
sys.modules["tensorflow"] = None  # an import of it would fail
import jax, numpy as np
from agegender.models.augmentation import Augmentation
images, rounds, calls = jax.numpy.asarray(np.load(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
for options in json.loads(sys.argv[4]):
    layer = Augmentation(**options)
    layer(images)  # builds it
    step = jax.jit(lambda state, x: layer.stateless_call([], state, x, training=True))
    state, seconds = [variable.value for variable in layer.non_trainable_variables], []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for _ in range(calls):
            output, state = jax.block_until_ready(step(state, images))
        seconds.append((time.perf_counter() - start) / calls)
    print(json.dumps(seconds[1:]))
"""


def measure(
    data_dir: str | None, *, rounds: int = 5, batch_size: int = 64, image_size: int = 200, jax: bool = True
) -> turns.Result:
    """Times the augmentation by itself.

    Args:
        data_dir: where `tfds build` wrote.
        rounds: turns of each.
        batch_size: images a batch.
        image_size: pixels a side.
        jax: also run it on JAX, which has to be installed.
    """
    import tensorflow as tf

    import agegender as ag

    loaded = ag.load_utkface("train", batch_size=batch_size, training=True, image_size=image_size, data_dir=data_dir)
    images, _ = next(iter(loaded))
    five, parallel = _five_layers(), tf.data.AUTOTUNE
    geometry, full, mapped = (ag.Augmentation(**options) for options in (GEOMETRY, {}, {}))
    without_xla, one_op = (
        tf.function(functools.partial(call, settings=geometry.settings)) for call in (_without_xla, _one_op)
    )
    layers = {
        "five layers, a batch": _batches(tf.function(five), images, SLOW),
        "five layers, a batch of float32": _batches(tf.function(five), tf.cast(images, tf.float32), SLOW),
        "five layers, tf.data, a batch": _mapped(five, images, SLOW, 1),
        "five layers, tf.data, batches in parallel": _mapped(five, images, SLOW, parallel),
        "five layers, tf.data, images in parallel": _mapped(five, images, SLOW, parallel, one_by_one=True),
        "ours without XLA, geometry": _batches(without_xla, images, SLOW),
    }
    fast = {
        "one op": _batches(one_op, images, FAST),
        "Augmentation, geometry": _batches(tf.function(_training(geometry)), images, FAST),
        "Augmentation": _batches(tf.function(_training(full)), images, FAST),
        "Augmentation, tf.data, batches in parallel": _mapped(_training(mapped), images, FAST, parallel),
    }
    times = turns.in_turn(layers | fast, rounds=rounds)
    times = {name: [t / (FAST if name in fast else SLOW) for t in seconds] for name, seconds in times.items()}
    if jax:
        times |= _on_jax(images.numpy(), rounds)
    best = min((name for name in times if name.startswith("five")), key=lambda name: statistics.median(times[name]))
    claims = [
        turns.Claim(f"{best} / {name}", turns.ratios(times, best, name), at_least=FASTER)
        for name in ("Augmentation, geometry", "Augmentation")
    ]
    claims.append(
        turns.Claim("one op / Augmentation, geometry", turns.ratios(times, "one op", "Augmentation, geometry"))
    )
    title = f"Augmentation by itself: batches of {batch_size} images of {image_size} px, in memory"
    return turns.Result(title, turns.rows(times, count=batch_size), claims)


def _five_layers() -> Callable[[Any], Any]:
    """Keras's layers at the ranges of `Augmentation`, one after the other."""
    from keras import layers

    how: dict[str, Any] = {"fill_mode": "nearest", "interpolation": "bilinear"}
    five = (
        layers.RandomRotation(10 / 360, **how),
        layers.RandomTranslation(0.2, 0.2, **how),
        layers.RandomShear(SHEAR, **how),
        layers.RandomZoom(0.2, 0.2, **how),
        layers.RandomFlip("horizontal"),
    )

    def call(images: Any) -> Any:
        for layer in five:
            images = layer(images, training=True)
        return images

    return call


def _training(layer: Any) -> Callable[[Any], Any]:
    return lambda images: layer(images, training=True)


def _noise(images: Any) -> Any:
    import keras

    from agegender.models import augmentation

    return keras.random.uniform([images.shape[0], len(augmentation.DRAWS)])


def _without_xla(images: Any, settings: Any) -> Any:
    from agegender.models import augmentation

    return augmentation.augment(images, _noise(images), settings)


def _one_op(images: Any, settings: Any) -> Any:
    """All geometry in one matrix, as ours is, through the op that each of the five layers calls."""
    from keras import ops

    from agegender.models import augmentation

    transforms = augmentation.compose_transforms(_noise(images), settings, *images.shape[1:3])
    eight = ops.pad(ops.reshape(transforms, (-1, 6)), [[0, 0], [0, 2]])
    images = ops.cast(images, "float32")
    return ops.image.affine_transform(images, eight, interpolation="bilinear", fill_mode="nearest")


def _batches(function: Callable[[Any], Any], images: Any, count: int) -> Callable[[], Any]:
    """Calls the function on the batch so many times, and waits for the last pixel."""

    def call() -> Any:
        for _ in range(count):
            last = function(images)
        return last[-1, -1, -1].numpy()

    return call


def _mapped(
    function: Callable[[Any], Any], images: Any, count: int, parallel: int, *, one_by_one: bool = False
) -> Callable[[], Any]:
    """Lets tf.data do it to so many batches; with `one_by_one` to each image, before it is batched.

    Each turn is a pass of its own: an iterator left standing would have its next batches ready before the clock starts.
    """
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensors(images).repeat(count)
    dataset = dataset.unbatch() if one_by_one else dataset
    dataset = dataset.map(function, num_parallel_calls=parallel)
    dataset = dataset.batch(len(images)) if one_by_one else dataset

    def call() -> Any:
        return [batch[-1, -1, -1].numpy() for batch in dataset.prefetch(1)]

    return call


def _on_jax(images: Any, rounds: int) -> dict[str, list[float]]:
    """Seconds a batch under `jax.jit`, as Keras calls the layer there."""
    import numpy as np

    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    with tempfile.TemporaryDirectory() as folder:
        np.save(file := pathlib.Path(folder) / "images.npy", images)
        options = json.dumps([GEOMETRY, {}])
        command = [sys.executable, "-c", ON_JAX, str(file), str(rounds), str(FAST), options]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"JAX failed: {done.stderr[-2000:]}")
    geometry, full = map(json.loads, done.stdout.splitlines())
    return {"Augmentation on JAX, geometry": geometry, "Augmentation on JAX": full}


if __name__ == "__main__":
    turns.main(measure)
