"""Finds the prepared data set on disk and reads its shards."""

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from agegender.schema import (
    AGE,
    DATASET,
    FILE_NAME,
    FOLD,
    FOLDS,
    GENDER,
    GENDERS,
    GROUP,
    IMAGE,
    MAX_AGE,
    MIN_AGE,
    RACE,
    RACES,
)

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

LABELS: Final = (RACE, FILE_NAME, GROUP)  # what `load_utkface` can give beside the targets
_RANGES: Final = {
    AGE: (MIN_AGE, MAX_AGE),
    GENDER: (0, len(GENDERS) - 1),
    RACE: (0, len(RACES) - 1),
    FOLD: (0, FOLDS - 1),
}
_BATCH: Final = 256  # examples parsed at a time
_BUFFER: Final = 1 << 20  # bytes read from a shard at a time
_BUILD_AGAIN: Final = "Build it again, with --overwrite: `tfds build utkface --overwrite --manual_dir=...`"


def find_prepared(data_dir: str | os.PathLike | None) -> "tfds.core.DatasetBuilder":
    """Finds the prepared data set; the code that built it is not needed.

    Args:
        data_dir: the `--data_dir` of `tfds build`, or the folder of one version, wherever it was moved;
            `~/tensorflow_datasets` by default.

    Returns:
        A read-only TFDS builder.

    Raises:
        FileNotFoundError: if there is no prepared data set; the message says how to build it.
        ValueError: if its metadata are damaged, it is not stored as TFRecord, or `data_dir` is not a path.
    """
    import tensorflow_datasets as tfds

    if not isinstance(data_dir, str | os.PathLike | None) or "\0" in str(data_dir) or str(data_dir) == "":
        raise ValueError(f"`data_dir` must be the path of a folder, or None. Received: data_dir={data_dir!r}")
    folder = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        if folder and os.path.isfile(os.path.join(folder, "dataset_info.json")):
            builder = tfds.builder_from_directory(folder)
        else:
            builder = tfds.core.read_only_builder.builder_from_files(DATASET, data_dir=folder)
        _check_info(builder.info)
    except tfds.core.DatasetNotFoundError as error:
        if nearby := _find_nearby(folder):
            raise FileNotFoundError(
                f"No prepared data set '{DATASET}' directly in this folder, but there is one near it: pass "
                f"data_dir={nearby!r}. Received: data_dir={folder!r}"
            ) from None
        raise FileNotFoundError(
            f"No prepared data set '{DATASET}'. Build it once, in the folder datasets/ of the project: "
            f"`tfds build utkface --manual_dir=FOLDER_OF_THE_ARCHIVE --data_dir={folder or '...'}`. "
            f"Received: data_dir={folder!r} (None means ~/tensorflow_datasets)"
        ) from error
    except Exception as error:  # JSON, protocol buffers and TFDS each raise their own types
        raise _damaged(folder, f"{type(error).__name__}: {str(error).rstrip('.')}") from error
    file_format = builder.info.file_format.value
    if file_format != "tfrecord":
        raise ValueError(
            f"The data set in {builder.data_dir} is stored as {file_format}; only TFRecord can be read. Build it "
            f"without --file_format, or with `tfds build utkface --file_format=tfrecord --manual_dir=...`"
        )
    return builder


def _find_nearby(folder: str | None) -> str | None:
    """Finds the data set for a folder that is one or two levels too deep or too high."""
    path = pathlib.Path(os.path.abspath(folder or "."))
    if not os.path.isdir(path):
        return None
    for place in (path.parent, path.parent.parent) if DATASET in path.parts[-2:] else path.glob("*/"):
        if any((place / DATASET).glob("*/*/dataset_info.json")):
            return str(place)
    return None


def _check_info(info: "tfds.core.DatasetInfo") -> None:
    size = dict(info.metadata or {}).get("size")
    is_pair = isinstance(size, list | tuple) and len(size) == 2 and all(type(pixels) is int for pixels in size)
    if size is not None and not is_pair:
        raise ValueError(f"the size of its images must be two integers. Received: {size!r}")
    if not info.splits:
        raise ValueError("it has no splits")


def _damaged(folder: object, reason: str) -> ValueError:
    return ValueError(
        f"The prepared data set in {folder or '~/tensorflow_datasets'} is damaged: {reason}. {_BUILD_AGAIN}"
    )


def known_labels(data_dir: str | os.PathLike | None) -> tuple[str, ...]:
    """Returns those of `LABELS` that the prepared data set in `data_dir` has; older ones have fewer."""
    features = find_prepared(data_dir).info.features
    return tuple(label for label in LABELS if label in features)


def require_features(builder: "tfds.core.DatasetBuilder", option: str, needed: Iterable[str], received: str) -> None:
    """Raises ValueError if a prepared data set lacks features.

    Args:
        builder: of the data set.
        option: the argument that needs the features.
        needed: their keys.
        received: the argument and its value, for the message.
    """
    missing = sorted(set(needed) - set(builder.info.features))
    if missing:
        raise ValueError(
            f"`{option}` needs {missing}, which the data set in {builder.data_dir} does not have: an older builder "
            f"prepared it. {_BUILD_AGAIN}. Received: {received}"
        )


def stored_size(builder: "tfds.core.DatasetBuilder") -> tuple[int, int] | None:
    """Returns the height and width in pixels that all stored images share, or None if they differ."""
    size = (builder.info.metadata or {}).get("size")  # older builders did not write it
    return size and tuple(size)


def count_images(builder: "tfds.core.DatasetBuilder", split: str) -> int:
    """Returns the number of images in a split, a slice or a sum of splits.

    Raises:
        ValueError: if there is no such split or it is empty.
    """
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError, AttributeError, NotImplementedError, RecursionError) as error:
        # It is not a string, for one, or "all[:5]+nosuch", or a sum of thousands.
        raise ValueError(
            f"`split` must be one of {tuple(builder.info.splits)}, 'all', or a slice or a sum of them; a split without "
            f"images is not stored. Received: split={split!r:.200}"
        ) from error
    if count < 1:
        raise ValueError(f"`split` must have at least one image. Received: split={split!r}")
    return count


def read_labels(builder: "tfds.core.DatasetBuilder", split: str, keys: Iterable[str]) -> dict[str, NDArray]:
    """Reads the labels of a split and checks its shards: one pass, about 0.1 s for 7,000 images.

    Args:
        builder: of the data set.
        split: as for `count_images`.
        keys: features to return; `file_name` and those with a range are always read and checked.

    Returns:
        An array [images] for each key, numbers as int64.

    Raises:
        ValueError: if a shard is missing, damaged or short, or a label is out of its range; names the file.
    """
    known = [key for key in (*_RANGES, FILE_NAME) if key in builder.info.features]
    keys = tuple(dict.fromkeys([*known, *keys]))
    parts = builder.info.splits[split].file_instructions
    try:
        labels = _read_columns(builder, parts, keys)
        complete = len(labels[keys[0]]) == sum(part.take for part in parts)
    except tf.errors.OpError:
        complete = False
    if not complete:
        raise _find_damage(builder, parts, keys)
    for key in _RANGES.keys() & labels:
        low, high = _RANGES[key]
        wrong = np.flatnonzero((labels[key] < low) | (labels[key] > high))
        if len(wrong):
            image = labels[FILE_NAME][wrong[0]].decode() if FILE_NAME in labels else f"image {wrong[0]}"
            shard = np.searchsorted(np.cumsum([part.take for part in parts]), wrong[0], side="right")
            raise _damaged(
                builder.data_dir,
                f"`{key}` must be in {low}..{high}, but is {labels[key][wrong[0]]} for {image} in the file "
                f"{os.path.basename(parts[shard].filename)}",
            )
    return labels


def _read_columns(builder: Any, parts: Sequence, keys: tuple[str, ...]) -> dict[str, NDArray]:
    batches = _read_shards(parts).batch(_BATCH).map(lambda examples: _parse_stored(builder, keys, examples))
    columns = list(batches.as_numpy_iterator())
    return {key: np.concatenate([batch[key] for batch in columns]) if columns else np.empty(0) for key in keys}


def _find_damage(builder: "tfds.core.DatasetBuilder", parts: Sequence, keys: tuple[str, ...]) -> ValueError:
    """Reads shard after shard and returns the error that names the first damaged one."""
    for part in parts:
        name = os.path.basename(part.filename)
        if not tf.io.gfile.exists(part.filename) or tf.io.gfile.isdir(part.filename):
            return _damaged(builder.data_dir, f"the file {name} is missing")
        try:
            count = len(_read_columns(builder, [part], keys)[keys[0]])
        except tf.errors.OpError as error:
            reason = error.message.splitlines()[0].split("}} ")[-1].partition(" [Op:")[0]
            return _damaged(builder.data_dir, f"the file {name} cannot be read ({reason})")
        if count != part.take:
            return _damaged(builder.data_dir, f"the file {name} has {count} of {part.take} expected images")
    return _damaged(builder.data_dir, "it changed while it was read")


@contextlib.contextmanager
def name_undecodable_image(data_dir: str | os.PathLike | None, *splits: str) -> Iterator[None]:
    """Names the image and its shard where TensorFlow, reading a prepared data set, only says that one is damaged.

    Args:
        data_dir: of the data set.
        splits: what is read.

    Raises:
        ValueError: in place of TensorFlow's error, if one of the images cannot be decoded.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        builder = find_prepared(data_dir)
        for part in (part for split in splits for part in builder.info.splits[split].file_instructions):
            if name := _find_undecodable(builder, part):
                reason = f"{name} in the file {os.path.basename(part.filename)} is not a JPEG image that decodes"
                damaged = _damaged(builder.data_dir, reason)
                for note in getattr(error, "__notes__", ()):
                    damaged.add_note(note)
                raise damaged from error
        raise


def _find_undecodable(builder: "tfds.core.DatasetBuilder", part: Any) -> str | None:
    for example in _read_shards([part]).batch(1):
        features = _parse_stored(builder, (IMAGE, FILE_NAME), example)
        try:
            tf.io.decode_jpeg(features[IMAGE][0])
        except tf.errors.InvalidArgumentError:
            return str(features[FILE_NAME][0].numpy().decode())
    return None


def read_encoded(builder: "tfds.core.DatasetBuilder", split: str, keys: Iterable[str]) -> tf.data.Dataset:
    """Reads features of a split's examples in a fixed order; images stay JPEG bytes."""
    keys = tuple(keys)
    shards = _read_shards(builder.info.splits[split].file_instructions)
    return shards.batch(_BATCH).map(lambda examples: parse_examples(builder, keys, examples)).unbatch()


def read_examples(builder: "tfds.core.DatasetBuilder", split: str, selected: NDArray[np.bool_]) -> tf.data.Dataset:
    """Reads the serialized examples of a split for which `selected` [images] is true, in a fixed order."""
    examples = _read_shards(builder.info.splits[split].file_instructions)
    if not selected.all():
        masks = tf.data.Dataset.from_tensor_slices(selected).batch(_BATCH)
        examples = tf.data.Dataset.zip((examples.batch(_BATCH), masks)).map(tf.boolean_mask).unbatch()
    return examples.apply(tf.data.experimental.assert_cardinality(int(selected.sum())))  # for len()


def _read_shards(parts: Sequence) -> tf.data.Dataset:
    """Reads the serialized examples of one shard after another. TFDS's own reader parses each alone, and is slower."""
    spans = np.array([(part.skip, part.take) for part in parts], np.int64)
    files = tf.data.Dataset.from_tensor_slices(([part.filename for part in parts], spans))
    return files.flat_map(
        lambda file, span: tf.data.TFRecordDataset(file, buffer_size=_BUFFER).skip(span[0]).take(span[1])
    )


def parse_examples(
    builder: "tfds.core.DatasetBuilder", keys: Iterable[str], examples: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Parses features of serialized examples [batch]."""
    parsed = _parse_stored(builder, keys, examples)
    return {key: tf.cast(values, _dtype_of(builder, key)) for key, values in parsed.items()}


def _parse_stored(builder: Any, keys: Iterable[str], examples: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses features as TFDS stores them: strings as such, all numbers as int64."""
    dtypes = {key: tf.string if _dtype_of(builder, key) == tf.string else tf.int64 for key in keys}
    return tf.io.parse_example(examples, {key: tf.io.FixedLenFeature([], dtype) for key, dtype in dtypes.items()})


def _dtype_of(builder: Any, key: str) -> tf.DType:
    return builder.info.features.get_serialized_info()[key].tf_dtype
