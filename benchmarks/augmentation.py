r"""Compares `Augmentation` with five Keras layers in a row that do the same geometry.

    python -m benchmarks.augmentation --data_dir=...

Batches of uint8 images in memory become batches of float32, in a `tf.function` as in training. "geometry" is
`Augmentation` without colour and erasing: the work of RandomRotation, RandomTranslation, RandomShear, RandomZoom and
RandomFlip at the same ranges. The layers run in each way that makes sense; the fastest of this run counts.
"""

from collections.abc import Callable
from typing import Any

from benchmarks import timing

TARGET = 10  # times as fast as the five layers
FAST, SLOW = 24, 3  # batches in one timed call
SHEAR = 0.0035  # the sine of 0.2 degrees; Keras's layer takes no angle


def measure(data_dir: str | None, *, rounds: int = 5, batch_size: int = 64, image_size: int = 200) -> timing.Result:
    import tensorflow as tf

    import agegender as ag

    load: dict[str, Any] = {"batch_size": batch_size, "image_size": image_size, "data_dir": data_dir}
    images, _ = next(iter(ag.load_utkface("train", training=True, **load)))
    five = _make_keras_layers()
    geometry = ag.Augmentation(brightness=0.0, contrast=0.0, erasing=0.0)
    functions = {
        "Keras layers, a batch": _call(tf.function(five), images, SLOW),
        "Keras layers, a batch of float32": _call(tf.function(five), tf.cast(images, "float32"), SLOW),
        "Keras layers in tf.data, a batch": _map(five, images, SLOW),
        "Keras layers in tf.data, an image": _map(five, images, SLOW, each_image=True),
        "Augmentation, geometry": _call(tf.function(_training(geometry)), images, FAST),
        "Augmentation": _call(tf.function(_training(ag.Augmentation())), images, FAST),
    }
    seconds = timing.time_in_turn(functions, rounds=rounds)
    seconds = {n: [t / (SLOW if n.startswith("Keras") else FAST) for t in times] for n, times in seconds.items()}
    best = timing.fastest(seconds, "Keras")
    ratios = [
        timing.Ratio(f"{best} / {name}", timing.divide(seconds, best, name), at_least=TARGET)
        for name in ("Augmentation, geometry", "Augmentation")
    ]
    title = f"Batches of {batch_size} images of {image_size} px, in memory"
    return timing.Result(title, timing.make_rows(seconds, count=batch_size), ratios)


def _make_keras_layers() -> Callable[[Any], Any]:
    """Returns Keras's layers at the ranges of `Augmentation`, one after the other."""
    from keras import layers

    options: dict[str, Any] = {"fill_mode": "nearest", "interpolation": "bilinear"}
    five = (
        layers.RandomRotation(10 / 360, **options),
        layers.RandomTranslation(0.2, 0.2, **options),
        layers.RandomShear(SHEAR, **options),
        layers.RandomZoom(0.2, 0.2, **options),
        layers.RandomFlip("horizontal"),
    )

    def call(images: Any) -> Any:
        for layer in five:
            images = layer(images, training=True)
        return images

    return call


def _training(layer: Any) -> Callable[[Any], Any]:
    return lambda images: layer(images, training=True)


def _call(function: Callable[[Any], Any], images: Any, count: int) -> Callable[[], Any]:
    """Returns a function that augments `count` batches and waits for the last pixel."""

    def call() -> Any:
        for _ in range(count):
            last = function(images)
        return last[-1, -1, -1].numpy()

    return call


def _map(function: Callable[[Any], Any], images: Any, count: int, *, each_image: bool = False) -> Callable[[], Any]:
    """Returns a function that lets tf.data augment `count` batches, in parallel."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensors(images).repeat(count)
    dataset = dataset.unbatch() if each_image else dataset
    dataset = dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(len(images)) if each_image else dataset
    return lambda: [batch[-1, -1, -1].numpy() for batch in dataset.prefetch(1)]


if __name__ == "__main__":
    timing.main(measure)
