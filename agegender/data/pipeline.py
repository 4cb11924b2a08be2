"""Loads prepared shards as batches of images and targets: `load_utkface`.

The path of one example:

    shard     all shards in a fixed order, so that the seed alone decides what comes next
    filter    by labels, before any image is decoded and before the cache
    cache     encoded bytes (5 KB for an image of 200 px, 120 KB as pixels), or pixels where decoding costs more
    shuffle   in a window of 8,192 images, reshuffled in each pass; the shards are in random order already
    repeat    without end, so that batches cross from one pass into the next and are all full
    skip      steps already trained on: (seed, step) decide the next batch, also after a resume
    batch     full batches for training; evaluation keeps the last, smaller one
    decode    a batch at a time, several batches in parallel, in order
    resize    where the stored size differs from `image_size`
    prefetch  the next batch while the accelerator works on this one

Images stay uint8 up to the accelerator; `agegender.models.augmentation` works there.
"""

import math
import operator
import os
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import tensorflow as tf

from agegender.data.embeddings import read_embeddings
from agegender.data.filters import LabelFilter
from agegender.data.prepared import (
    LABELS,
    count_images,
    find_prepared,
    parse_examples,
    read_examples,
    read_labels,
    require_features,
    stored_size,
)
from agegender.schema import EMBEDDING, FILE_NAME, HEADS, IMAGE, IMAGE_SIZE, MAX_PIXELS

_SHUFFLE_WINDOW: Final = 8192  # images; 41 MB of bytes at 200 px
# Batches decoded at a time. Autotuning takes longer than a pass over UTKFace to find a number, and costs a tenth of
# the decoding.
_PARALLEL: Final = (os.cpu_count() or 1) + 2
_PREFETCH: Final = 2  # batches
_Batch = tuple[tf.Tensor, dict[str, tf.Tensor]]


def load_utkface(
    split: str,
    *,
    batch_size: int,
    training: bool = False,
    seed: int = 0,
    image_size: int = IMAGE_SIZE,
    heads: Sequence[str] = HEADS,
    labels: Sequence[str] = (),
    cache: Literal["bytes", "pixels"] | None = "bytes",
    ages: tuple[int, int] | None = None,
    genders: Sequence[str] | None = None,
    races: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
    conflicts: bool = True,
    embeddings: str | os.PathLike | None = None,
    shard: tuple[int, int] | None = None,
    data_dir: str | os.PathLike | None = None,
) -> tf.data.Dataset:
    """Loads a split of the prepared UTKFace as batches of images and targets.

    Args:
        split: "train", "validation", "test" or "all", or a slice or a sum as in TFDS: "train[:10%]",
            "train+validation". Slices are taken before the filters below.
        batch_size: images per batch.
        training: if True, shuffles, repeats without end and gives only full batches. If False, gives each image once,
            in a fixed order; the last batch may be smaller.
        seed: of the shuffling. The same seed gives the same batches.
        image_size: pixels a side. Images of another size are resized (bilinear, antialiased).
        heads: targets to give, one or both of "age" and "gender".
        labels: further labels to give beside the targets, to evaluate by: "race" (an index into `schema.RACES`),
            "file_name", "group" (the photograph that near-identical images share).
        cache: what to keep in memory after the first pass: "bytes" (encoded images), "pixels" (decoded) or None.
        ages: lowest and highest age to load, both included. Papers on UTKFace use (21, 60).
        genders: genders to load, from `schema.GENDERS`.
        races: races to load, from `schema.RACES`.
        folds: folds to load, in 0..4. `split="all"` with four folds to train and one to test makes a
            cross-validation in which no photograph is on both sides.
        conflicts: if False, leaves out images whose photograph group has several ages or both genders.
        embeddings: file of `experiments.embeddings`. Training batches then have one more target, "embedding", which
            `train` teaches the trunk; rows of NaN for images that are not in the file.
        shard: (index, num_shards): gives only this process's rows of each batch, for data-parallel training in
            several processes; see `agegender.training.processes`. Without `training`, images of weight 0 fill the
            last batch up.
        data_dir: the `--data_dir` of `tfds build`; `~/tensorflow_datasets` by default.

    Returns:
        A dataset of `(images, targets)`: uint8 RGB [batch, image_size, image_size, 3] in 0..255, and a dict of
        float32 [batch, 1]: "age" in years, "gender" 0 = male and 1 = female. Further labels are float32 or string
        [batch, 1]. With `shard` and without `training`, `(images, targets, sample_weight)`. With `training`, the
        dataset has two more attributes, which `train` uses: `steps_per_epoch`, the full batches of one pass, and
        `from_step(step)`, the same dataset from a later step on.

    Raises:
        ValueError: if an argument is out of range, no image matches the filters, there are fewer images than one
            training batch, a shard is damaged, or the data set lacks a feature because an older builder prepared it.
        FileNotFoundError: if the data set is not prepared in `data_dir`.
        tf.errors.InvalidArgumentError: from iterating, if an image cannot be decoded. Inside
            `with agegender.data.prepared.name_undecodable_image(data_dir, split):` it is a ValueError that names the
            image and its shard.

    Example:

    >>> train = load_utkface("train", batch_size=8, training=True, seed=1)
    >>> images, targets = next(iter(train))
    >>> tuple(images.shape), tuple(targets["age"].shape)
    ((8, 200, 200, 3), (8, 1))
    >>> women = load_utkface("all", batch_size=8, genders=["female"], ages=(21, 60))
    >>> sum(len(images) for images, _ in women)
    16
    """
    batch_size = _check_int("batch_size", batch_size, minimum=1)
    image_size = _check_int("image_size", image_size, minimum=1)
    if image_size**2 > MAX_PIXELS:
        raise ValueError(f"`image_size` must be at most {math.isqrt(MAX_PIXELS)}. Received: image_size={image_size}")
    seed = _check_int("seed", seed)
    heads, labels = _check_names("heads", heads, HEADS), _check_names("labels", labels, LABELS)
    if not heads:
        raise ValueError(f"`heads` must contain one or both of {HEADS}. Received: heads={heads!r}")
    if cache not in ("bytes", "pixels", None):
        raise ValueError(f"`cache` must be 'bytes', 'pixels' or None. Received: cache={cache!r}")
    rows = _shard_rows(shard, batch_size)
    label_filter = LabelFilter(ages=ages, genders=genders, races=races, folds=folds, conflicts=conflicts)

    builder = find_prepared(data_dir)
    require_features(builder, "heads", (IMAGE, FILE_NAME, *heads), f"heads={heads!r}")
    require_features(builder, "labels", labels, f"labels={labels!r}")
    for name, features in label_filter.features().items():
        require_features(builder, name, features, str(label_filter))
    count_images(builder, split)
    filtered_by = [key for features in label_filter.features().values() for key in features]
    selected = label_filter.matches(read_labels(builder, split, filtered_by))
    count = int(selected.sum())
    _check_count(count, split, label_filter, batch_size=batch_size, training=training)
    if not training and shard is None:
        batch_size = min(batch_size, count)  # each image of a batch has a decoding operation of its own

    examples = read_examples(builder, split, selected)
    look_up = read_embeddings(embeddings) if embeddings and training else None
    size, stored, keys = len(range(batch_size)[rows]), stored_size(builder), (*heads, *labels)

    @tf.autograph.experimental.do_not_convert
    def decode(batch: tf.Tensor) -> _Batch:
        features = parse_examples(builder, {IMAGE, FILE_NAME, *keys}, batch)
        images = _decode_images(features[IMAGE], features[FILE_NAME], size, stored, image_size)
        targets = {key: _to_column(features[key]) for key in keys}
        if look_up:
            targets[EMBEDDING] = look_up(features[FILE_NAME])
        return images, targets

    def training_batches(step: int) -> tf.data.Dataset:
        """Built anew for each step: the order of a shuffled dataset depends on how often it was iterated before."""
        dataset = examples
        if cache == "bytes":
            dataset = dataset.cache()
        elif cache == "pixels":
            dataset = dataset.batch(size).map(decode, num_parallel_calls=_PARALLEL).unbatch().cache()
        dataset = dataset.shuffle(min(count, _SHUFFLE_WINDOW), seed=seed, reshuffle_each_iteration=True).repeat()
        dataset = dataset.skip(step * batch_size)
        dataset = dataset.batch(batch_size, drop_remainder=True, num_parallel_calls=_PARALLEL)
        if cache == "pixels":
            dataset = dataset.map(lambda *batch: tf.nest.map_structure(lambda values: values[rows], batch))
        else:
            dataset = dataset.map(lambda batch: decode(batch[rows]), num_parallel_calls=_PARALLEL)
        dataset = _prefetch(dataset)
        dataset.steps_per_epoch = count // batch_size
        dataset.from_step = lambda later: training_batches(step + _check_int("step", later, minimum=0))
        return dataset

    def evaluation_batches() -> tf.data.Dataset:
        padding = 0 if shard is None else -count % batch_size
        dataset = examples.concatenate(examples.take(1).repeat(padding))
        dataset = dataset.batch(batch_size)
        if cache == "bytes":
            dataset = dataset.cache()
        dataset = dataset.map(lambda batch: decode(batch[rows]), num_parallel_calls=_PARALLEL)
        if cache == "pixels":
            dataset = dataset.cache()
        return _prefetch(dataset if shard is None else _add_weights(dataset, count, batch_size, rows))

    return training_batches(0) if training else evaluation_batches()


def _add_weights(batches: tf.data.Dataset, count: int, batch_size: int, rows: slice) -> tf.data.Dataset:
    """Adds sample weights: equal for the first `count` images, 0 for those that fill the last batch up.

    Keras divides the sum of weighted losses by the number of images, those of weight 0 included. So that it gives the
    mean over `count` images, their weights are a little over 1.
    """
    weight = -(-count // batch_size) * batch_size / count

    def add_weight(step: tf.Tensor, batch: _Batch) -> tuple[Any, ...]:
        positions = step * batch_size + tf.range(batch_size, dtype=tf.int64)[rows]
        return *batch, tf.where(positions < count, tf.constant(weight, tf.float32), 0.0)[:, None]

    return batches.enumerate().map(add_weight)


def _prefetch(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False  # they take longer than they save here
    options.experimental_optimization.noop_elimination = True
    return dataset.prefetch(_PREFETCH).with_options(options)


def _decode_images(
    encoded: tf.Tensor, names: tf.Tensor, size: int, stored: tuple[int, int] | None, image_size: int
) -> tf.Tensor:
    """Decodes and resizes up to `size` images: string [batch] to uint8 [batch, image_size, image_size, 3]."""
    if stored is None:
        images = tf.map_fn(
            lambda each: _decode_image(each[0], each[1], image_size), (encoded, names), fn_output_signature=tf.uint8
        )
    else:
        # One decoding operation per image: `map_fn` costs a tenth more. The last image fills a short batch up.
        count = tf.shape(encoded)[0]
        filled = tf.gather(encoded, tf.minimum(tf.range(size), count - 1))
        separate = tf.unstack(filled, size)
        shapes = tf.stack([tf.io.extract_jpeg_shape(each) for each in separate])[:count, :2]
        wrong = tf.reduce_any(shapes != tf.constant(stored), axis=1)
        with tf.control_dependencies([_require(~wrong, names, f"be {stored[0]} x {stored[1]} pixels as all others")]):
            decoded = tf.stack([tf.io.decode_jpeg(each, channels=3) for each in separate])
        decoded = tf.ensure_shape(decoded, (size, *stored, 3))
        images = (decoded if stored == (image_size, image_size) else _resize(decoded, image_size))[:count]
    images.set_shape([encoded.shape[0], image_size, image_size, 3])
    return images


def _decode_image(encoded: tf.Tensor, name: tf.Tensor, image_size: int) -> tf.Tensor:
    height, width, _ = tf.unstack(tf.cast(tf.io.extract_jpeg_shape(encoded), tf.int64))
    with tf.control_dependencies([_require(height * width <= MAX_PIXELS, name, f"have at most {MAX_PIXELS:,} pixels")]):
        image = tf.io.decode_jpeg(encoded, channels=3)
    fits = tf.reduce_all(tf.shape(image)[:2] == image_size)
    return tf.cond(fits, lambda: image, lambda: _resize(image, image_size))


def _require(passed: tf.Tensor, names: tf.Tensor, requirement: str) -> tf.Operation:
    """Returns an operation that raises InvalidArgumentError with the names of the images that did not pass."""
    failed = tf.boolean_mask(tf.reshape(names, [-1]), ~tf.reshape(passed, [-1]))
    message = f"An image in the prepared data set must {requirement}. Build the data set again. Received: "
    return tf.debugging.Assert(tf.reduce_all(passed), [message, failed])


def _resize(images: tf.Tensor, image_size: int) -> tf.Tensor:
    resized = tf.image.resize(images, [image_size, image_size], antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(resized, 0, 255)), tf.uint8)


def _to_column(label: tf.Tensor) -> tf.Tensor:
    return (label if label.dtype == tf.string else tf.cast(label, tf.float32))[:, None]


def _shard_rows(shard: tuple[int, int] | None, batch_size: int) -> slice:
    """Returns the rows of a batch that belong to a shard."""
    if shard is None:
        return slice(None)
    pair = shard if isinstance(shard, Sequence | np.ndarray) and len(shard) == 2 else ()
    is_pair = pair and all(isinstance(each, int | np.integer) for each in pair)
    index, num_shards = map(int, pair if is_pair else (0, 0))
    if not 0 <= index < num_shards or batch_size % num_shards:
        raise ValueError(
            "`shard` must be (index, num_shards) with index in 0..num_shards - 1, and `batch_size` divisible by "
            f"num_shards. Received: shard={shard}, batch_size={batch_size}"
        )
    size = batch_size // num_shards
    return slice(index * size, (index + 1) * size)


def _check_int(name: str, value: Any, minimum: int | None = None) -> int:
    is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_int or (minimum is not None and value < minimum):
        least = "" if minimum is None else f" of at least {minimum}"
        raise ValueError(f"`{name}` must be an integer{least}. Received: {name}={value!r}")
    return operator.index(value)


def _check_names(name: str, values: Any, allowed: Sequence[str]) -> tuple[str, ...]:
    is_sequence = isinstance(values, Sequence | np.ndarray) and not isinstance(values, str)
    if not is_sequence or not all(isinstance(value, str) and value in allowed for value in values):
        raise ValueError(f"`{name}` must be a sequence of values from {tuple(allowed)}. Received: {name}={values!r}")
    return tuple(map(str, values))


def _check_count(count: int, split: str, label_filter: LabelFilter, *, batch_size: int, training: bool) -> None:
    if count == 0:
        raise ValueError(f"No image matches all filters. Received: split={split!r}, {label_filter}")
    if training and count < batch_size:
        where = f" with {label_filter}" if label_filter.conditions() else ""
        raise ValueError(
            f"`batch_size` must be at most the {count} images of the split{where}. Received: batch_size={batch_size}"
        )
