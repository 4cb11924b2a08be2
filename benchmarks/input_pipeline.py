r"""Compares `load_utkface` with bare JPEG decoding: the first epoch from shards, later epochs from both caches.

    python -m benchmarks.input_pipeline --data_dir=...

The baselines keep the images in memory, encoded or decoded, and do nothing but shuffle, decode and batch. Each is
written in several ways; the fastest of this run counts. The shards are in the system's cache, and images are not
resized. A first epoch includes making its iterator; later epochs come from one iterator that repeats.
"""

from collections.abc import Callable
from typing import Any

from benchmarks import timing

TARGET = 0.9  # of the speed of bare decoding


def measure(data_dir: str | None, *, rounds: int = 5, batch_size: int = 64, split: str = "train") -> timing.Result:
    import tensorflow as tf

    import agegender as ag
    from agegender.data.prepared import find_prepared, read_encoded
    from agegender.schema import IMAGE

    builder = find_prepared(data_dir)
    encoded = tf.constant([e[IMAGE] for e in read_encoded(builder, split, [IMAGE]).as_numpy_iterator()])
    height, width, _ = tf.io.extract_jpeg_shape(encoded[0]).numpy()
    steps = len(encoded) // batch_size

    def decode(image: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.io.decode_jpeg(image, channels=3), [height, width, 3])

    def decode_all(images: tf.Tensor) -> tf.Tensor:
        return tf.stack([decode(image) for image in tf.unstack(images)])

    def slices(values: Any, *, shuffled: bool = True) -> Any:
        dataset = tf.data.Dataset.from_tensor_slices(values)
        return dataset.shuffle(len(encoded), seed=1).repeat() if shuffled else dataset

    def decoded() -> Any:
        return slices(encoded, shuffled=False).map(decode, 16).batch(len(encoded)).get_single_element()

    def load(**options: Any) -> Any:
        options = {"batch_size": batch_size, "image_size": int(height), "data_dir": data_dir, **options}
        return ag.load_utkface(split, **options)

    def draw(batches: Any) -> None:
        for _ in range(steps):
            next(batches)

    in_order = slices(encoded, shuffled=False)
    first: dict[str, Callable[[], Any]] = {
        "bare first: map, batch": lambda: in_order.map(decode, 16).batch(batch_size, True, 2),
        "bare first: batch, unrolled": lambda: in_order.batch(batch_size, True).map(decode_all, 4),
        "first epoch, in order": load,
        "first epoch, no cache": lambda: load(cache=None),
        "first epoch, shuffled": lambda: load(training=True),
    }
    later: dict[str, Callable[[], Any]] = {
        "bare bytes: map, batch": lambda: slices(encoded).map(decode, 16).batch(batch_size, True, 2),
        "bare bytes: batch, unrolled": lambda: slices(encoded).batch(batch_size, True).map(decode_all, 4),
        "bare pixels: batch": lambda: slices((decoded(), tf.zeros([len(encoded), 1]))).batch(batch_size, True, 2),
        'cache="bytes"': lambda: load(training=True, cache="bytes"),
        'cache="pixels"': lambda: load(training=True, cache="pixels"),
    }
    setup = {name: lambda make=make: iter(make().prefetch(2)) for name, make in first.items()}
    seconds = timing.time_in_turn(dict.fromkeys(first, draw), rounds=rounds, setup=setup)
    streams = {name: iter(make().prefetch(2)) for name, make in later.items()}
    seconds |= timing.time_in_turn({n: lambda s=s: draw(s) for n, s in streams.items()}, rounds=rounds)
    pairs = [("bare first", name) for name in first if not name.startswith("bare")]
    pairs += [("bare bytes", 'cache="bytes"'), ("bare pixels", 'cache="pixels"')]
    ratios = []
    for prefix, ours in pairs:
        best = timing.fastest(seconds, prefix)
        ratios.append(timing.Ratio(f"{best} / {ours}", timing.divide(seconds, best, ours), at_least=TARGET))
    title = f"{len(encoded):,} images of {height} x {width} px, batches of {batch_size}"
    return timing.Result(title, timing.make_rows(seconds, count=steps * batch_size, unit="us per image"), ratios)


if __name__ == "__main__":
    timing.main(measure)
