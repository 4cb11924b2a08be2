"""The labels of all images as columns, and the encoded images at a few of its rows.

21,419 rows of labels are a few megabytes, the images 100 times as much: they are passed over and never held.
"""

import dataclasses
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agegender.schema import (
    AGE,
    AGE_CONFLICT,
    FILE_NAME,
    FOLD,
    GENDER,
    GENDER_CONFLICT,
    GROUP,
    IMAGE,
    RACE,
    SPLITS,
)

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

READ_KEYS = (AGE, GENDER, RACE, FILE_NAME, GROUP, FOLD, AGE_CONFLICT, GENDER_CONFLICT)
SPLIT, SIZE, BYTES = "split", "size", "bytes"  # columns beside those of the schema
_CHUNK = 1024  # images at a time


@dataclasses.dataclass(frozen=True)
class Table:
    """The labels of the images, in the order in which they are read.

    Attributes:
        columns: at each key of `READ_KEYS`, at "split" (the name) and at "bytes" (of the encoded image) an array
            [images]; at "size" int32 [images, 3], height, width and channels. Names are strings.
        parts: the splits, or slices of them, that were read one after the other.
    """

    columns: dict[str, NDArray[Any]]
    parts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.columns[AGE])

    def __getitem__(self, key: str) -> NDArray[Any]:
        return self.columns[key]


def read_table(builder: "tfds.core.DatasetBuilder", split: str) -> Table:
    """Reads the labels and sizes of a split's images without decoding one.

    Args:
        builder: of the prepared data set.
        split: "all", or one or more of "train", "validation" and "test" or slices of them, joined by "+".

    Raises:
        ValueError: for an unknown split, and for data that an older builder prepared.
    """
    from agegender.data.prepared import require

    require(builder, "explore", READ_KEYS, f"split={split!r}")
    known = tuple(name for name in SPLITS if name in builder.info.splits)
    parts = known if split == "all" else tuple(part.strip() for part in split.split("+"))
    columns: dict[str, list[Any]] = {key: [] for key in (*READ_KEYS, SIZE, BYTES, SPLIT)}
    for part in parts:
        _check(builder, part)
        for chunk in _read(builder, part):
            for key, values in chunk.items():
                columns[key].append(_words(values) if values.dtype == object else values)
            columns[SPLIT].append(np.full(len(chunk[AGE]), part.split("[")[0]))
    return Table({key: np.concatenate(chunks) for key, chunks in columns.items()}, parts)


def read_images(builder: "tfds.core.DatasetBuilder", table: Table, rows: Collection[int]) -> dict[int, bytes]:
    """Returns the encoded images at these rows of the table: one more pass over the shards."""
    from agegender.data.prepared import read_encoded

    wanted, images, row = set(rows), {}, 0
    for part in table.parts:
        for chunk in read_encoded(builder, part, [IMAGE]).batch(_CHUNK).as_numpy_iterator():
            images.update({row + i: chunk[IMAGE][i] for i in range(len(chunk[IMAGE])) if row + i in wanted})
            row += len(chunk[IMAGE])
    return images


def _check(builder: "tfds.core.DatasetBuilder", part: str) -> None:
    try:
        empty = part.split("[")[0] not in SPLITS or builder.info.splits[part].num_examples == 0
    except (KeyError, ValueError):
        empty = True
    if empty:
        raise ValueError(
            f"`split` must be 'all', or some of {SPLITS} or of their slices, joined by '+', with a image or more in "
            f"each. Received: split={part!r}"
        )


def _read(builder: "tfds.core.DatasetBuilder", part: str) -> Iterator[dict[str, NDArray[Any]]]:
    import tensorflow as tf

    from agegender.data.prepared import read_encoded

    def measure(example: dict[str, Any]) -> dict[str, Any]:
        image = example.pop(IMAGE)
        return {**example, SIZE: tf.io.extract_jpeg_shape(image), BYTES: tf.strings.length(image)}

    dataset = read_encoded(builder, part, (IMAGE, *READ_KEYS)).map(measure, num_parallel_calls=tf.data.AUTOTUNE)
    yield from dataset.batch(_CHUNK).prefetch(1).as_numpy_iterator()


def _words(values: NDArray[Any]) -> NDArray[Any]:
    return np.array([value.decode() for value in values])
