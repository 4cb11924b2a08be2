r"""Compares `load_utkface` and `Augmentation` with the generator of the notebook that this project replaces.

    python -m benchmarks.generator --data_dir=...

Ours reads prepared shards and augments in tf.data, with the images decoded again in each pass (`cache="bytes"`) or kept
as pixels. The notebook's is `ImageDataGenerator.flow_from_dataframe` with its seven settings, in its one thread and in
Keras's own queue of two threads, from the same JPEG files.
"""

import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import timing

TARGET = 25  # times as fast as the notebook's generator
NOTEBOOK: dict[str, Any] = {
    "rotation_range": 10,
    "width_shift_range": 0.2,
    "height_shift_range": 0.2,
    "shear_range": 0.2,
    "zoom_range": 0.2,
    "horizontal_flip": True,
    "fill_mode": "nearest",
}
ONE_THREAD, TWO_THREADS = "notebook, one thread", "notebook, two threads"


def measure(
    data_dir: str | None,
    *,
    rounds: int = 3,
    batch_size: int = 32,
    image_size: int = 200,
    images: int = 256,
    times: int = 40,
) -> timing.Result:
    """Times both in turn: `images` of the notebook's in a call, `times` as many of ours."""
    batches = max(images // batch_size, 1)
    with tempfile.TemporaryDirectory() as folder:
        generator = _make_generator(data_dir, pathlib.Path(folder), batches * batch_size, batch_size, image_size)
        functions = {
            ONE_THREAD: _take(generator, batches),
            TWO_THREADS: _take_queued(generator, batches),
            "ours, cache of bytes": _take(_load(data_dir, "bytes", batch_size, image_size), times * batches),
            "ours, cache of pixels": _take(_load(data_dir, "pixels", batch_size, image_size), times * batches),
        }
        seconds = timing.time_in_turn(functions, rounds=rounds)
    seconds |= {name: [t / times for t in seconds[name]] for name in seconds if name.startswith("ours")}
    ratios = [
        timing.Ratio(f"{notebook} / {ours}", timing.divide(seconds, notebook, ours), at_least=target)
        for notebook, target in ((ONE_THREAD, TARGET), (TWO_THREADS, None))
        for ours in seconds
        if ours.startswith("ours")
    ]
    title = f"From files to augmented float32: batches of {batch_size} images of {image_size} px"
    return timing.Result(title, timing.make_rows(seconds, count=batches * batch_size), ratios)


def _load(data_dir: str | None, cache: Any, batch_size: int, image_size: int) -> Iterator[Any]:
    import agegender as ag

    load: dict[str, Any] = {"batch_size": batch_size, "image_size": image_size, "data_dir": data_dir}
    dataset = ag.load_utkface("train", training=True, cache=cache, **load)
    augmentation = ag.Augmentation()
    return iter(dataset.map(lambda images, targets: (augmentation(images, training=True), targets)).prefetch(1))


def _make_generator(data_dir: str | None, folder: pathlib.Path, count: int, batch_size: int, image_size: int) -> Any:
    """Writes `count` images as files and returns the notebook's batches of them, without end."""
    import pandas as pd
    import tensorflow as tf

    from agegender.data.prepared import find_prepared, read_encoded
    from agegender.schema import AGE, IMAGE

    table: list[dict[str, Any]] = []
    for example in read_encoded(find_prepared(data_dir), f"train[:{count}]", (IMAGE, AGE)).as_numpy_iterator():
        file = folder / f"{len(table)}.jpg"
        file.write_bytes(example[IMAGE])
        table.append({"file": file.name, "age": float(example[AGE])})
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # Keras's legacy code uses an old name of scipy's
    return tf.keras.preprocessing.image.ImageDataGenerator(**NOTEBOOK).flow_from_dataframe(
        pd.DataFrame(table),
        directory=str(folder),
        x_col="file",
        y_col="age",
        class_mode="raw",
        target_size=(image_size, image_size),
        batch_size=batch_size,
        seed=1,
    )


def _take(batches: Iterator[Any], count: int) -> Callable[[], Any]:
    def call() -> None:
        for _ in range(count):
            next(batches)

    return call


def _take_queued(generator: Any, count: int) -> Callable[[], Any]:
    """Takes batches from Keras's own queue of two threads, as `fit` does."""
    # Private in Keras 3.15, but what `fit` itself uses: it is measured here, not relied on.
    from keras.src.trainers.data_adapters.py_dataset_adapter import OrderedEnqueuer

    def call() -> None:
        queue = OrderedEnqueuer(generator, workers=2, use_multiprocessing=False)
        queue.start()
        try:
            _take(queue.get(), count)()
        finally:
            queue.stop()

    return call


if __name__ == "__main__":
    timing.main(measure)
