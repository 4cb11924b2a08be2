r"""Epochs after the first: `load_utkface` with both caches, against the same from tensors in memory.

    python -m benchmarks.cached_epochs --data_dir=...

`cache="pixels"` is held against `from_tensor_slices(decoded).shuffle.batch`, and `cache="bytes"` against
`from_tensor_slices(encoded).shuffle.batch` and parallel decoding, each in the fastest of several ways to write it. All
shuffle and are drawn from one iterator that goes on, epoch after epoch. Memory is what the process holds more once the
dataset has gone through its first epoch, after what others have given back.
"""

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks import turns


def measure(data_dir: str | None, *, rounds: int = 7, batch_size: int = 64, split: str = "train") -> turns.Result:
    import tensorflow as tf

    import agegender as ag
    from agegender.data.prepared import find_prepared, read_encoded
    from agegender.schema import IMAGE

    encoded = tf.constant([e[IMAGE] for e in read_encoded(find_prepared(data_dir), split, [IMAGE]).as_numpy_iterator()])
    height, width, _ = tf.io.extract_jpeg_shape(encoded[0]).numpy()
    count = len(encoded)

    def decode(image: Any) -> Any:
        return tf.ensure_shape(tf.io.decode_jpeg(image, channels=3), [height, width, 3])

    def decode_all(images: Any) -> Any:
        return tf.stack([decode(image) for image in tf.unstack(images)])

    def decoded() -> Any:
        images = tf.data.Dataset.from_tensor_slices(encoded).map(decode, 16).batch(count).get_single_element()
        return tf.data.Dataset.from_tensor_slices((images, tf.zeros([count, 1]))).shuffle(count, seed=1).repeat()

    def bare_bytes() -> Any:
        return tf.data.Dataset.from_tensor_slices(encoded).shuffle(count, seed=1).repeat()

    def load(cache: Any) -> Any:
        options: dict[str, Any] = {"batch_size": batch_size, "image_size": int(height), "data_dir": data_dir}
        return ag.load_utkface(split, training=True, cache=cache, **options)

    makers: dict[str, Callable[[], Any]] = {
        'load_utkface, cache="pixels"': lambda: load("pixels"),
        'load_utkface, cache="bytes"': lambda: load("bytes"),
        "bare pixels: batch": lambda: decoded().batch(batch_size, True).prefetch(2),
        "bare pixels: batch (2)": lambda: decoded().batch(batch_size, True, 2).prefetch(2),
        "bare bytes: map (16), batch": lambda: bare_bytes().map(decode, 16).batch(batch_size, True).prefetch(2),
        "bare bytes: batch, unrolled (4)": lambda: bare_bytes().batch(batch_size, True).map(decode_all, 4).prefetch(2),
    }
    steps = count // batch_size
    streams, memory = {}, {}
    for name, make in makers.items():
        before = turns.resident()
        streams[name] = iter(make())
        for _ in range(steps):
            next(streams[name])
        memory[name] = turns.resident() - before

    def epoch(stream: Any) -> None:
        for _ in range(steps):
            next(stream)

    seconds = turns.in_turn({name: lambda s=s: epoch(s) for name, s in streams.items()}, rounds=rounds)
    claims = []
    for kind in ("pixels", "bytes"):
        bare = [name for name in makers if name.startswith(f"bare {kind}")]
        best = min(bare, key=lambda name: statistics.median(seconds[name]))
        ours = f'load_utkface, cache="{kind}"'
        claims.append(turns.Claim(f"{best} / {ours}", turns.ratios(seconds, best, ours), at_least=0.9))
    rows = [
        {**row, "MB held": memory[name]}
        for name, row in zip(makers, turns.rows(seconds, count=steps * batch_size, unit="us a image"), strict=True)
    ]
    return turns.Result(f"{count:,} images of {height} x {width} px, batches of {batch_size}", rows, claims)


if __name__ == "__main__":
    turns.main(measure)
