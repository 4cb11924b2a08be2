"""The prepared data set as it lies on the disk: found, counted and read, all of it or what satisfies conditions."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import numpy as np
import tensorflow as tf

from agegender.data.filters import LabelFilter
from agegender.schema import DATASET, FILE_NAME, GROUP, RACE

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

LABELS: Final = (RACE, FILE_NAME, GROUP)  # to evaluate with
_READ: Final = 256  # examples at a time where a batch is only a means
_BUFFER: Final = 1 << 20  # bytes of a shard read at once
_BUILD_AGAIN: Final = "Build it again, with --overwrite: `tfds build utkface --overwrite --manual_dir=...`"


def find_prepared(data_dir: str | os.PathLike | None) -> "tfds.core.DatasetBuilder":
    """Finds the data set as it lies on disk: the code that built it need not be there.

    Args:
        data_dir: where `tfds build` wrote; by default TFDS's own folder.

    Raises:
        FileNotFoundError: if it is not there; the message says how to build it.
        ValueError: if what is written about it is damaged, or `data_dir` is no path.
    """
    import tensorflow_datasets as tfds

    if not isinstance(data_dir, str | os.PathLike | None) or "\0" in str(data_dir):
        raise ValueError(f"`data_dir` must be the path of a folder, or None. Received: data_dir={data_dir!r}")
    where = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        return _checked(tfds.core.read_only_builder.builder_from_files(DATASET, data_dir=where))
    except tfds.core.DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"No prepared data set '{DATASET}'. Build it once, in the folder datasets/ of the project: "
            f"`tfds build utkface --manual_dir=FOLDER_OF_THE_ARCHIVE --data_dir={where or '...'}`. "
            f"Received: data_dir={where!r} (without one, TFDS looks in ~/tensorflow_datasets)"
        ) from error
    except Exception as error:  # the readers of JSON, of protocol buffers and of TFDS each have kinds of their own
        raise _damaged(where, f"{type(error).__name__}: {str(error).rstrip('.')}") from error


def _checked(builder: "tfds.core.DatasetBuilder") -> "tfds.core.DatasetBuilder":
    info = builder.info
    size = dict(info.metadata or {}).get("size")
    if size is not None and not (
        isinstance(size, list | tuple) and len(size) == 2 and all(type(n) is int for n in size)
    ):
        raise ValueError(f"the size of its images must be two numbers. Received: {size!r}")
    if info.file_format.value != "tfrecord" or not info.splits:
        raise ValueError(f"it must hold splits as TFRecord. Received: {sorted(info.splits)}, {info.file_format.value}")
    return builder


def _damaged(where: object, words: str) -> ValueError:
    return ValueError(
        f"The prepared data set in {where or '~/tensorflow_datasets'} is damaged: {words}. {_BUILD_AGAIN}"
    )


def known_labels(data_dir: str | os.PathLike | None) -> tuple[str, ...]:
    """Those of `LABELS` that a prepared data set has; an older one has fewer. For `find_prepared`'s `data_dir`."""
    features = find_prepared(data_dir).info.features
    return tuple(label for label in LABELS if label in features)


def read_encoded(builder: "tfds.core.DatasetBuilder", split: str, keys: Iterable[str]) -> tf.data.Dataset:
    """Reads the features at `keys` of a split's examples, in a fixed order; a image comes as its JPEG bytes."""
    keys = tuple(keys)
    return _read(builder, split).batch(_READ).map(lambda examples: parse(builder, keys, examples)).unbatch()


def _read(builder: "tfds.core.DatasetBuilder", split: str) -> tf.data.Dataset:
    """The serialized examples of a split, shard after shard: TFDS's own reader parses each on its own, and slower."""
    parts = builder.info.splits[split].file_instructions
    for part in parts:
        if not tf.io.gfile.exists(part.filename) or tf.io.gfile.isdir(part.filename):
            raise _damaged(builder.data_dir, f"the file {os.path.basename(part.filename)} is missing")
    spans = np.array([(part.skip, part.take) for part in parts], np.int64)
    files = tf.data.Dataset.from_tensor_slices(([part.filename for part in parts], spans))
    return files.flat_map(
        lambda file, span: tf.data.TFRecordDataset(file, buffer_size=_BUFFER).skip(span[0]).take(span[1])
    )


def parse(builder: "tfds.core.DatasetBuilder", keys: Iterable[str], examples: tf.Tensor) -> dict[str, tf.Tensor]:
    """The features at `keys` of serialized examples [batch]."""
    dtypes = {key: builder.info.features.get_serialized_info()[key].tf_dtype for key in keys}
    stored = {key: tf.string if dtype == tf.string else tf.int64 for key, dtype in dtypes.items()}
    parsed = tf.io.parse_example(examples, {key: tf.io.FixedLenFeature([], dtype) for key, dtype in stored.items()})
    return {key: parsed[key] if dtype == tf.string else tf.cast(parsed[key], dtype) for key, dtype in dtypes.items()}


def count_images(builder: "tfds.core.DatasetBuilder", split: str, conditions: LabelFilter) -> int:
    """How many images there will be; with conditions that takes a pass over the labels, about a second.

    Raises:
        ValueError: if there is no such split, or no image in it that satisfies the conditions.
    """
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError, AttributeError, NotImplementedError) as error:  # of what is no text, or "all[:5]"
        raise ValueError(
            f"`split` must be one of {tuple(builder.info.splits)}, 'all', or a slice or a sum of them; a split into "
            f"which no image fell is not there. "
            f"Received: split={split!r}"
        ) from error
    if count < 1:
        raise ValueError(f"`split` must hold at least one image. Received: split={split!r}")
    if not conditions:
        return count
    held = _read(builder, split).batch(_READ).map(lambda examples: _hold(builder, conditions, examples))
    held = held.map(tf.math.count_nonzero)
    count = int(held.reduce(tf.constant(0, tf.int64), tf.add))
    if count == 0:
        raise ValueError(f"No image satisfies all of the conditions. Received: split={split!r}, {conditions}")
    return count


def _keys(builder: "tfds.core.DatasetBuilder", conditions: LabelFilter) -> list[str]:
    """The features that the conditions look at, if the data set has them all."""
    keys = conditions.keys()
    for name, needed in keys.items():
        require(builder, name, needed, str(conditions))
    return [key for needed in keys.values() for key in needed]


def require(builder: "tfds.core.DatasetBuilder", name: str, needed: Iterable[str], received: str) -> None:
    """Raises ValueError if a prepared data set lacks features.

    Args:
        builder: of the data set.
        name: what needs them.
        needed: their keys.
        received: what was asked for, in words.
    """
    missing = sorted(set(needed) - set(builder.info.features))
    if missing:
        raise ValueError(
            f"`{name}` needs {missing}, which the data set in {builder.data_dir} does not have: an older builder "
            f"prepared it. {_BUILD_AGAIN}. Received: {received}"
        )


def _hold(builder: "tfds.core.DatasetBuilder", conditions: LabelFilter, examples: tf.Tensor) -> tf.Tensor:
    return conditions.matches(parse(builder, _keys(builder, conditions), examples))


def read_where(builder: "tfds.core.DatasetBuilder", split: str, conditions: LabelFilter, count: int) -> tf.data.Dataset:
    """Reads the `count` examples for which the conditions hold."""
    dataset = _read(builder, split)
    if conditions:
        batches = dataset.batch(_READ)
        dataset = batches.map(lambda examples: examples[_hold(builder, conditions, examples)]).unbatch()
    return dataset.apply(tf.data.experimental.assert_cardinality(count))  # len() needs it


def stored_size(builder: "tfds.core.DatasetBuilder") -> tuple[int, int] | None:
    """Height and width of all images as they lie on the disk, in pixels; None if they differ or nobody knows."""
    size = (builder.info.metadata or {}).get("size")  # an older builder did not write it
    return size and tuple(size)
