"""From prepared shards to batches: the one place where the order of steps is decided.

    read      serialized examples from all shards in a fixed order, so that the seed alone decides what comes next
    filter    by the labels alone, before a image is decoded and before the cache, which so holds what is wanted only
    cache     the examples as read: 200 px images take 5 KB each so, 120 KB as pixels; "pixels" decodes first, for
              images small enough, where decoding would cost more than memory
    shuffle   a window of 8,192 images, by seed, in another order each pass; the shards are in random order already
    repeat    without end, so that a batch may cross from one pass into the next and all batches are full
    skip      whole batches already trained on: (seed, step) alone decide the next batch, also after a resume
    batch     full batches when training, the rest too when not
    decode    a batch at a time, several batches in parallel, in order: after the shuffle, which so moves bytes and not
              pixels, and after the batch, because each element of a tf.data pipeline costs microseconds
    prefetch  the next batch while the accelerator works on this one

Images stay uint8 up to the accelerator; `augment.Augmentation` works there.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import tensorflow as tf

from agegender.data.filters import LabelFilter
from agegender.data.prepared import LABELS, count_images, find_prepared, parse, read_where, require, stored_size
from agegender.schema import HEADS, IMAGE, IMAGE_SIZE

_SHUFFLED: Final = 8192  # images: at 200 px 41 MB of bytes
# Batches at work at a time. A fixed number from the start: autotuning takes longer to find one than a pass of UTKFace
# lasts, and keeping its books costs a tenth of the decoding.
_PARALLEL: Final = (os.cpu_count() or 1) + 2
_AHEAD: Final = 2  # batches that are ready
_Decode = Callable[[tf.Tensor], tuple[tf.Tensor, dict[str, tf.Tensor]]]


def load_utkface(
    split: str,
    *,
    batch_size: int,
    training: bool = False,
    seed: int = 0,
    skip: int = 0,
    image_size: int = IMAGE_SIZE,
    heads: Sequence[str] = HEADS,
    labels: Sequence[str] = (),
    cache: Literal["bytes", "pixels"] | None = "bytes",
    ages: tuple[int, int] | None = None,
    genders: Sequence[str] | None = None,
    races: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
    conflicts: bool = True,
    shard: tuple[int, int] | None = None,
    data_dir: str | os.PathLike | None = None,
) -> tf.data.Dataset:
    """Loads a prepared split of UTKFace, or what satisfies conditions of it, as batches of images and targets.

    Args:
        split: "train", "validation" or "test", a slice of one as in TFDS, "train[:10%]", a sum, "train+validation", or
            "all". A slice is taken before the conditions.
        batch_size: images a batch, 1 or more.
        training: shuffled without end in full batches if true; else in a fixed order, once, with the last batch as
            large as what is left.
        seed: of the shuffling; the same seed gives the same batches.
        skip: number of batches to leave out at the start, to go on where a run stopped.
        image_size: pixels a side; images of another size are resized (bilinear, with antialiasing).
        heads: which targets to give, one or both of "age" and "gender".
        labels: what to give beside them, to evaluate and not to train with: some of "race" (a code of
            `schema.RACES`), "file_name" and "group", the name of the photograph that near-identical images share.
        cache: what stays in memory after the first pass: "bytes" as encoded, "pixels" as decoded, or None.
        ages: the youngest and the oldest wanted, both included, 0 to 116 years; papers on UTKFace take (21, 60).
        genders: those wanted, of `schema.GENDERS`.
        races: those wanted, of `schema.RACES`; "Others" is one of them.
        folds: those wanted, 0 to 4: with `split="all"`, four to train and one to test make a cross-validation, in
            which no photograph is on both sides.
        conflicts: false leaves out the images whose photograph group carries different ages or genders, one of
            which at least is wrong.
        shard: (k, n) gives, of each batch, the rows of the k-th of n processes that train together, k from 0;
            `processes.share()` says which. Only they are decoded. All batches are full then, also where not `training`:
            the last one is filled up with images that weigh nothing. None gives whole batches.
        data_dir: where `tfds build` wrote; by default TFDS's own folder.

    Returns:
        A dataset of `(images, targets)`: uint8 RGB [batch, image_size, image_size, 3], 0..255, and
        `{"age": float32 [batch, 1] in years, "gender": float32 [batch, 1], 0 = male, 1 = female}`; further labels
        are float32 or strings, [batch, 1]. Where `training`, its attribute `steps_per_epoch` is the number of full
        batches in one pass, and `from_step(steps)` gives the same dataset from a later step on; `train` uses both. With
        a shard of what is not for training, `(images, targets, weights)`, as Keras takes them.

    Raises:
        ValueError: for arguments out of range, for conditions that no image satisfies, for conditions and labels
            that look at what an older builder did not prepare, and for fewer images than one training batch.
        FileNotFoundError: if the data set is not prepared in `data_dir`.

    Example:

    >>> train = load_utkface("train", batch_size=8, training=True, seed=1)
    >>> images, targets = next(iter(train))
    >>> tuple(images.shape), tuple(targets["age"].shape)
    ((8, 200, 200, 3), (8, 1))
    >>> women = load_utkface("all", batch_size=8, genders=("female",), ages=(21, 60))
    >>> sum(len(images) for images, _ in women)
    16
    """
    _check(batch_size, seed, skip, image_size, heads, labels, cache)
    rows = _own_rows(shard, batch_size)
    conditions = LabelFilter(ages=ages, genders=genders, races=races, folds=folds, conflicts=conflicts)
    builder = find_prepared(data_dir)
    require(builder, "heads", (IMAGE, *heads), f"heads={heads!r}")
    require(builder, "labels", labels, f"labels={labels!r}")
    count = count_images(builder, split, conditions)
    if training and count < batch_size:
        left = f" with {conditions}" if conditions else ""
        raise ValueError(
            f"`batch_size` must be at most the split's {count} images{left}. Received: batch_size={batch_size}"
        )

    # Pixels are cached as whole batches.
    early = slice(None) if training and cache == "pixels" else rows

    @tf.autograph.experimental.do_not_convert
    def decode(examples: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        size = len(range(batch_size)[early])
        parsed = parse(builder, (IMAGE, *heads, *labels), examples[early])
        return _decode(parsed, size, stored_size(builder), image_size)

    examples = read_where(builder, split, conditions, count)
    if not training:
        if shard is None:
            return _ahead(_in_order(examples, decode, batch_size, skip, cache))
        filled = examples.concatenate(examples.take(1).repeat(-count % batch_size))
        return _ahead(_weigh(_in_order(filled, decode, batch_size, skip, cache), count, batch_size, rows, skip))

    def from_step(steps: int) -> tf.data.Dataset:
        """Made anew each time: the order of a dataset that shuffles depends on how often it was begun before."""
        start, window = skip + steps, min(count, _SHUFFLED)
        dataset = _without_end(examples, decode, batch_size, start, cache, window, seed)
        if early != rows:
            dataset = dataset.map(lambda *batch: tf.nest.map_structure(lambda tensor: tensor[rows], batch))
        dataset = _ahead(dataset)
        dataset.steps_per_epoch, dataset.from_step = count // batch_size, lambda later: from_step(steps + later)
        return dataset

    return from_step(0)


def _ahead(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.prefetch(_AHEAD).with_options(_options())


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False  # they take longer than they gain here
    options.experimental_optimization.noop_elimination = True
    return options


def _in_order(
    examples: tf.data.Dataset, decode: _Decode, batch_size: int, skip: int, cache: str | None
) -> tf.data.Dataset:
    """One pass; here whole batches are cached, which has no cost for each image."""
    batches = examples.skip(skip * batch_size).batch(batch_size)
    if cache == "bytes":
        batches = batches.cache()
    batches = batches.map(decode, num_parallel_calls=_PARALLEL)
    return batches.cache() if cache == "pixels" else batches


def _without_end(
    examples: tf.data.Dataset, decode: _Decode, batch_size: int, skip: int, cache: str | None, window: int, seed: int
) -> tf.data.Dataset:
    """Full batches of pass after pass, each shuffled in another way."""
    if cache == "bytes":
        examples = examples.cache()
    elif cache == "pixels":
        examples = examples.batch(batch_size).map(decode, num_parallel_calls=_PARALLEL).unbatch().cache()
    examples = examples.shuffle(window, seed=seed, reshuffle_each_iteration=True).repeat().skip(skip * batch_size)
    batches = examples.batch(batch_size, drop_remainder=True, num_parallel_calls=_PARALLEL)
    return batches if cache == "pixels" else batches.map(decode, num_parallel_calls=_PARALLEL)


def _own_rows(shard: tuple[int, int] | None, batch_size: int) -> slice:
    """Those of a batch that a process reads."""
    if shard is None:
        return slice(None)
    index, count = shard
    if not 0 <= index < count or batch_size % count:
        raise ValueError(
            "`shard` must be (k, n) with k in 0..n - 1, and `batch_size` divisible by n. "
            f"Received: shard={shard}, batch_size={batch_size}"
        )
    size = batch_size // count
    return slice(index * size, (index + 1) * size)


def _weigh(batches: tf.data.Dataset, count: int, batch_size: int, rows: slice, skip: int) -> tf.data.Dataset:
    """Weighs the first `count` images alike, and those that fill up the last batch nothing.

    Keras divides a sum of weighted losses by the number of images, those that weigh nothing included; so the others
    weigh a little more than 1.
    """
    weight = -(-count // batch_size) * batch_size / count

    def weigh(step: tf.Tensor, batch: tuple[tf.Tensor, dict[str, tf.Tensor]]) -> tuple[Any, ...]:
        places = step * batch_size + tf.range(batch_size, dtype=tf.int64)[rows]
        return *batch, tf.where(places < count, tf.constant(weight, tf.float32), 0.0)[:, None]

    return batches.enumerate(start=skip).map(weigh)


def _decode(
    examples: dict[str, tf.Tensor], batch_size: int, stored: tuple[int, int] | None, image_size: int
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Decodes up to `batch_size` examples; they are a batch already."""
    encoded = examples.pop(IMAGE)
    if stored is None:
        images = tf.map_fn(lambda e: _fit(_decode_jpeg(e), image_size), encoded, fn_output_signature=tf.uint8)
    else:
        # As many operations as images: `map_fn` would cost a tenth of the decoding again. The last batch of a pass
        # may be short; its last image fills it up.
        count = tf.shape(encoded)[0]
        filled = tf.cond(
            count == batch_size,
            lambda: encoded,
            lambda: tf.gather(encoded, tf.minimum(tf.range(batch_size), count - 1)),
        )
        decoded = tf.ensure_shape(
            tf.stack([_decode_jpeg(e) for e in tf.unstack(filled, batch_size)]), (None, *stored, 3)
        )
        fits = stored == (image_size, image_size)
        images = (decoded if fits else _resize(decoded, image_size))[:count]
    images.set_shape([encoded.shape[0], image_size, image_size, 3])
    return images, {key: _number(label)[:, None] for key, label in examples.items()}


def _number(label: tf.Tensor) -> tf.Tensor:
    return label if label.dtype == tf.string else tf.cast(label, tf.float32)


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(encoded, channels=3)


def _fit(image: tf.Tensor, image_size: int) -> tf.Tensor:
    fits = tf.reduce_all(tf.shape(image)[:2] == image_size)
    return tf.cond(fits, lambda: image, lambda: _resize(image, image_size))


def _resize(images: tf.Tensor, image_size: int) -> tf.Tensor:
    resized = tf.image.resize(images, [image_size, image_size], antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(resized, 0, 255)), tf.uint8)


def _check(
    batch_size: int,
    seed: int,
    skip: int,
    image_size: int,
    heads: Sequence[str],
    labels: Sequence[str],
    cache: str | None,
) -> None:
    for name, value, least in (("batch_size", batch_size, 1), ("skip", skip, 0), ("image_size", image_size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"`{name}` must be a whole number, {least} or more. Received: {name}={value!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"`seed` must be a whole number. Received: seed={seed!r}")
    if isinstance(heads, str) or not heads or not set(heads) <= set(HEADS):
        raise ValueError(f"`heads` must hold one or both of {HEADS}. Received: heads={heads!r}")
    if isinstance(labels, str) or not set(labels) <= set(LABELS):
        raise ValueError(f"`labels` must hold some of {LABELS}, or nothing. Received: labels={labels!r}")
    if cache not in ("bytes", "pixels", None):
        raise ValueError(f"`cache` must be 'bytes', 'pixels' or None. Received: cache={cache!r}")
