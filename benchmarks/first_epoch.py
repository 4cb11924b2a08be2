r"""The first pass of `load_utkface`, from shards to uint8 batches, against bare decoding of the same bytes in memory.

    python -m benchmarks.first_epoch --data_dir=...

The bare loop holds the images' JPEG bytes in one tensor and does nothing but `tf.io.decode_jpeg` and batch: no file,
no label, no order. Of several ways to write it in tf.data the fastest median of this run is the baseline. Timed is a
pass over a new dataset, from asking for an iterator to the last batch; what it takes to make the dataset, once a run,
stands below. The shards are in the system's cache, and images are not resized.
"""

import statistics
from typing import Any

from benchmarks import turns


def measure(data_dir: str | None, *, rounds: int = 5, batch_size: int = 64, split: str = "train") -> turns.Result:
    import tensorflow as tf

    import agegender as ag
    from agegender.data.prepared import find_prepared, read_encoded
    from agegender.schema import IMAGE

    builder = find_prepared(data_dir)
    encoded = tf.constant([e[IMAGE] for e in read_encoded(builder, split, [IMAGE]).as_numpy_iterator()])
    height, width, _ = tf.io.extract_jpeg_shape(encoded[0]).numpy()
    count = len(encoded) // batch_size * batch_size

    def decode(image: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.io.decode_jpeg(image, channels=3), [height, width, 3])

    def decode_all(images: tf.Tensor) -> tf.Tensor:
        return tf.stack([decode(image) for image in tf.unstack(images)])

    def decode_in_a_loop(images: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(decode, images, fn_output_signature=tf.uint8)

    bare = tf.data.Dataset.from_tensor_slices(encoded)
    full = bare.batch(batch_size, drop_remainder=True)
    auto = tf.data.AUTOTUNE
    baselines = {
        "bare: map (autotuned), batch": lambda: bare.map(decode, auto).batch(batch_size, True),
        "bare: map (16), batch": lambda: bare.map(decode, 16).batch(batch_size, True),
        "bare: map (16), batch (2)": lambda: bare.map(decode, 16).batch(batch_size, True, 2),
        "bare: batch, map_fn (4)": lambda: full.map(decode_in_a_loop, 4),
        "bare: batch, unrolled (2)": lambda: full.map(decode_all, 2),
        "bare: batch, unrolled (4)": lambda: full.map(decode_all, 4),
        "bare: batch, unrolled (autotuned)": lambda: full.map(decode_all, auto),
    }
    load: dict[str, Any] = {"batch_size": batch_size, "image_size": int(height), "data_dir": data_dir}
    ours = {
        "load_utkface": lambda: ag.load_utkface(split, **load),
        "load_utkface, training": lambda: ag.load_utkface(split, training=True, **load),
        "load_utkface, no cache": lambda: ag.load_utkface(split, cache=None, **load),
    }

    def drain(dataset: tf.data.Dataset) -> None:
        for _ in dataset:
            pass

    make = {name: lambda made=made: made().prefetch(2) for name, made in baselines.items()}
    make |= {name: lambda made=made: made().take(count // batch_size) for name, made in ours.items()}
    seconds = turns.in_turn(dict.fromkeys(make, drain), rounds=rounds, prepare=make)
    start = turns.in_turn({"making it: load_utkface": make["load_utkface"]}, rounds=rounds)
    best = min(baselines, key=lambda name: statistics.median(seconds[name]))
    claims = [turns.Claim(f"{best} / {name}", turns.ratios(seconds, best, name), at_least=0.9) for name in ours]
    title = f"{count:,} images of {height} x {width} px, batches of {batch_size}"
    rows = turns.rows({**seconds, **start}, count=count, unit="us a image")
    return turns.Result(title, rows, claims)


if __name__ == "__main__":
    turns.main(measure)
