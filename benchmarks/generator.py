r"""The whole way to augmented batches, against the generator of the notebook that this project replaces.

    python -m benchmarks.generator --data_dir=...

Ours is `load_utkface(training=True)` and then `Augmentation` in tf.data, from prepared shards to batches of float32,
with the images decoded anew in each pass (`cache="bytes"`) or kept as pixels. The notebook's is `ImageDataGenerator`
with its seven settings and `flow_from_dataframe`, from JPEG files; those are written from the shards, the same bytes,
into a folder that is deleted afterwards. It ran in one thread; Keras's own queue with two threads or two processes is
the best that can be made of it, and that ratio is told too.

All read what the system has in memory; a first turn of each, which fills caches and compiles, is outside of the clock.
Ours goes on where its last turn stopped, with the few batches of its queue ready, of hundreds in a turn; the notebook's
queue starts anew in each turn, which takes the processes a few tenths of a second of it.
"""

import pathlib
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import turns

FASTER = 25  # times as fast as the notebook's own way: the mark
NOTEBOOK: dict[str, Any] = {
    "rotation_range": 10,
    "width_shift_range": 0.2,
    "height_shift_range": 0.2,
    "shear_range": 0.2,
    "zoom_range": 0.2,
    "horizontal_flip": True,
    "fill_mode": "nearest",
}


def measure(
    data_dir: str | None,
    *,
    rounds: int = 3,
    batch_size: int = 32,
    image_size: int = 200,
    images: int = 256,
    times: int = 40,
) -> turns.Result:
    """Times ours and the notebook's in turn.

    Args:
        data_dir: where `tfds build` wrote.
        rounds: turns of each.
        batch_size: images a batch; the notebook's is 32.
        image_size: pixels a side.
        images: how many the generator makes in a turn.
        times: how many times as many ours makes in one.
    """
    batches = max(images // batch_size, 1)
    with tempfile.TemporaryDirectory() as folder:
        generator = _generator(data_dir, pathlib.Path(folder), batches * batch_size, batch_size, image_size)
        contestants = {
            "notebook, one thread": _take(generator, batches),
            "notebook, two threads": _queued(generator, batches, use_multiprocessing=False),
            "notebook, two processes": _queued(generator, batches, use_multiprocessing=True),
            "ours, cache of bytes": _take(_ours(data_dir, "bytes", batch_size, image_size), times * batches),
            "ours, cache of pixels": _take(_ours(data_dir, "pixels", batch_size, image_size), times * batches),
        }
        seconds = turns.in_turn(contestants, rounds=rounds)
    seconds |= {name: [t / times for t in seconds[name]] for name in seconds if name.startswith("ours")}
    notebook, *queued = (name for name in seconds if name.startswith("notebook"))
    best = min((notebook, *queued), key=lambda name: statistics.median(seconds[name]))
    claims = [
        turns.Claim(f"{over} / {name}", turns.ratios(seconds, over, name), at_least=mark)
        for over, mark in ((notebook, FASTER), (best, None))
        for name in seconds
        if name.startswith("ours")
    ]
    title = f"From the disk to augmented float32: batches of {batch_size} images of {image_size} px"
    return turns.Result(title, turns.rows(seconds, count=batches * batch_size), claims)


def _ours(data_dir: str | None, cache: Any, batch_size: int, image_size: int) -> Iterator[Any]:
    import agegender as ag

    dataset = ag.load_utkface(
        "train", batch_size=batch_size, training=True, image_size=image_size, cache=cache, data_dir=data_dir
    )
    augmentation = ag.Augmentation()
    return iter(dataset.map(lambda images, targets: (augmentation(images, training=True), targets)).prefetch(1))


def _generator(data_dir: str | None, folder: pathlib.Path, count: int, batch_size: int, image_size: int) -> Any:
    """Writes so many images as files and returns the notebook's batches of them, without end."""
    import pandas as pd
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    from agegender.data.prepared import find_prepared, read_encoded
    from agegender.schema import IMAGE

    table: list[dict[str, Any]] = []
    examples = read_encoded(find_prepared(data_dir), f"train[:{count}]", (IMAGE, "age"))
    for example in examples.as_numpy_iterator():
        file = folder / f"{len(table)}.jpg"
        file.write_bytes(example[IMAGE])
        table.append({"file": file.name, "age": float(example["age"])})
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # the legacy code uses an old name of scipy's
    return ImageDataGenerator(**NOTEBOOK).flow_from_dataframe(
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


def _queued(generator: Any, count: int, *, use_multiprocessing: bool) -> Callable[[], Any]:
    """Lets two workers make so many batches, as `fit` does where a data set asks for them."""
    from keras.src.trainers.data_adapters.py_dataset_adapter import OrderedEnqueuer

    def call() -> None:
        queue = OrderedEnqueuer(generator, workers=2, use_multiprocessing=use_multiprocessing)
        queue.start()
        try:
            _take(queue.get(), count)()
        finally:
            queue.stop()

    return call


if __name__ == "__main__":
    turns.main(measure)
