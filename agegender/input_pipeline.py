"""From prepared shards to batches: the one place where the order of steps is decided.

    read      encoded JPEG bytes from all shards in a fixed order, so that the seed alone decides what comes next
    filter    by the labels alone, before a picture is decoded and before the cache, which so holds what is wanted only
    cache     the bytes as read: 200 px pictures take 5 KB each so, 120 KB as pixels; "pixels" decodes first, for
              pictures small enough, where decoding would cost more than memory
    shuffle   all that is left of the split, by seed, in another order each pass
    repeat    without end, so that a batch may cross from one pass into the next and all batches are full
    skip      whole batches already trained on: (seed, step) alone decide the next batch, also after a resume
    decode    after the shuffle, which so moves bytes and not pixels; in parallel, in order
    batch     full batches when training, the rest too when not
    prefetch  the next batch while the accelerator works on this one

Pictures stay uint8 up to the accelerator; `augment.Augmentation` works there.
"""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal

import tensorflow as tf

from agegender.conditions import Conditions
from agegender.schema import DATASET, HEADS, IMAGE_SIZE, PICTURE

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_COUNTED: Final = 1024  # labels at a time


def load_utkface(
    split: str,
    *,
    batch_size: int,
    training: bool = False,
    seed: int = 0,
    skip: int = 0,
    image_size: int = IMAGE_SIZE,
    heads: Sequence[str] = HEADS,
    cache: Literal["bytes", "pixels"] | None = "bytes",
    ages: tuple[int, int] | None = None,
    genders: Sequence[str] | None = None,
    races: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
    conflicts: bool = True,
    data_dir: str | os.PathLike | None = None,
) -> tf.data.Dataset:
    """Loads a prepared split of UTKFace, or what satisfies conditions of it, as batches of pictures and targets.

    Args:
        split: "train", "validation" or "test", a slice of one as in TFDS, "train[:10%]", a sum, "train+validation", or
            "all". A slice is taken before the conditions.
        batch_size: pictures a batch, 1 or more.
        training: shuffled without end in full batches if true; else in a fixed order, once, with the last batch as
            large as what is left.
        seed: of the shuffling; the same seed gives the same batches.
        skip: number of batches to leave out at the start, to go on where a run stopped.
        image_size: pixels a side; pictures of another size are resized (bilinear, with antialiasing).
        heads: which targets to give, one or both of "age" and "gender".
        cache: what stays in memory after the first pass: "bytes" as encoded, "pixels" as decoded, or None.
        ages: the youngest and the oldest wanted, both included, 0 to 116 years; papers on UTKFace take (21, 60).
        genders: those wanted, of `schema.GENDERS`.
        races: those wanted, of `schema.RACES`; "Others" is one of them.
        folds: those wanted, 0 to 4: with `split="all"`, four to train and one to test make a cross-validation, in
            which no photograph is on both sides.
        conflicts: false leaves out the pictures whose photograph group carries different ages or genders, one of
            which at least is wrong.
        data_dir: where `tfds build` wrote; by default TFDS's own folder.

    Returns:
        A dataset of `(pictures, targets)`: uint8 RGB [batch, image_size, image_size, 3], 0..255, and
        `{"age": float32 [batch, 1] in years, "gender": float32 [batch, 1], 0 = male, 1 = female}`. Where `training`,
        its attribute `steps_per_epoch` is the number of full batches in one pass, which `train` reads.

    Raises:
        ValueError: for arguments out of range, for conditions that no picture satisfies or that look at what an older
            builder did not prepare, and for fewer pictures than one training batch.
        FileNotFoundError: if the data set is not prepared in `data_dir`.

    Examples: `load_utkface("train", batch_size=64, training=True, seed=1)`,
    `load_utkface("all", batch_size=64, training=True, folds=(0, 1, 2, 3), ages=(21, 60))`
    """
    _check(batch_size, seed, skip, image_size, heads, cache)
    conditions = Conditions(ages=ages, genders=genders, races=races, folds=folds, conflicts=conflicts)
    builder = find_prepared(data_dir)
    count = _count(builder, split, conditions)
    if training and count < batch_size:
        left = f" with {conditions}" if conditions else ""
        raise ValueError(
            f"`batch_size` must be at most the split's {count} pictures{left}. Received: batch_size={batch_size}"
        )

    def decode(example: dict) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        return _decode(example, image_size, heads)

    dataset = _read_where(builder, split, conditions, count)
    if cache == "bytes":
        dataset = dataset.cache()
    elif cache == "pixels":
        dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE).cache()
    if training:
        dataset = dataset.shuffle(count, seed=seed, reshuffle_each_iteration=True).repeat()
    dataset = dataset.skip(skip * batch_size)
    if cache != "pixels":
        dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(batch_size, drop_remainder=training).prefetch(tf.data.AUTOTUNE)
    if training:
        dataset.steps_per_epoch = count // batch_size
    return dataset


def find_prepared(data_dir: str | os.PathLike | None) -> "tfds.core.DatasetBuilder":
    """Finds the data set as it lies on disk: the code that built it need not be there.

    Args:
        data_dir: where `tfds build` wrote; by default TFDS's own folder.

    Raises:
        FileNotFoundError: if it is not there; the message says how to build it.
    """
    import tensorflow_datasets as tfds

    where = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        return tfds.core.read_only_builder.builder_from_files(DATASET, data_dir=where)
    except tfds.core.DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"No prepared data set '{DATASET}'. Build it once, in the folder datasets/ of the project: "
            f"`tfds build utkface --manual_dir=FOLDER_OF_THE_ARCHIVE --data_dir={where or '...'}`. "
            f"Received: data_dir={where!r} (without one, TFDS looks in ~/tensorflow_datasets)"
        ) from error


def read_encoded(builder: "tfds.core.DatasetBuilder", split: str, keys: Iterable[str]) -> tf.data.Dataset:
    """Reads the features at `keys` of a split's examples, in a fixed order; a picture comes as its JPEG bytes."""
    import tensorflow_datasets as tfds

    read_config = tfds.ReadConfig(try_autocache=False)  # TFDS would cache what it decodes
    decoders = {PICTURE: tfds.decode.SkipDecoding()}
    dataset = builder.as_dataset(split=split, shuffle_files=False, decoders=decoders, read_config=read_config)
    return dataset.map(lambda example: {key: example[key] for key in keys})


def _count(builder: "tfds.core.DatasetBuilder", split: str, conditions: Conditions) -> int:
    """How many pictures there will be; with conditions that takes a pass over the labels, about a second."""
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"`split` must be one of {tuple(builder.info.splits)}, 'all', or a slice or a sum of them. "
            f"Received: split={split!r}"
        ) from error
    if not conditions:
        return count
    labels = read_encoded(builder, split, _keys(builder, conditions)).batch(_COUNTED)
    held = labels.map(lambda batch: tf.math.count_nonzero(conditions.hold(batch)))
    count = int(held.reduce(tf.constant(0, tf.int64), tf.add))
    if count == 0:
        raise ValueError(f"No picture satisfies all of the conditions. Received: split={split!r}, {conditions}")
    return count


def _keys(builder: "tfds.core.DatasetBuilder", conditions: Conditions) -> list[str]:
    """The features that the conditions look at, if the data set has them all."""
    keys = conditions.keys()
    for name, needed in keys.items():
        missing = sorted(set(needed) - set(builder.info.features))
        if missing:
            raise ValueError(
                f"`{name}` needs {missing}, which the data set in {builder.data_dir} does not have: an older builder "
                "prepared it. Build it again, with --overwrite: `tfds build utkface --overwrite --manual_dir=...`. "
                f"Received: {conditions}"
            )
    return [key for needed in keys.values() for key in needed]


def _read_where(builder: "tfds.core.DatasetBuilder", split: str, conditions: Conditions, count: int) -> tf.data.Dataset:
    """Reads pictures and targets of the `count` pictures for which the conditions hold."""
    wanted = (PICTURE, *HEADS)
    if not conditions:
        return read_encoded(builder, split, wanted)
    dataset = read_encoded(builder, split, {*wanted, *_keys(builder, conditions)})
    dataset = dataset.filter(conditions.hold).apply(tf.data.experimental.assert_cardinality(count))  # len() needs it
    return dataset.map(lambda example: {key: example[key] for key in wanted})


def _decode(example: dict, image_size: int, heads: Sequence[str]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    picture = tf.io.decode_jpeg(example[PICTURE], channels=3)
    fits = tf.reduce_all(tf.shape(picture)[:2] == image_size)
    picture = tf.cond(fits, lambda: picture, lambda: _resize(picture, image_size))
    picture.set_shape([image_size, image_size, 3])
    return picture, {head: tf.cast(example[head], tf.float32)[None] for head in heads}


def _resize(picture: tf.Tensor, image_size: int) -> tf.Tensor:
    resized = tf.image.resize(picture, [image_size, image_size], antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(resized, 0, 255)), tf.uint8)


def _check(batch_size: int, seed: int, skip: int, image_size: int, heads: Sequence[str], cache: str | None) -> None:
    for name, value, least in (("batch_size", batch_size, 1), ("skip", skip, 0), ("image_size", image_size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"`{name}` must be a whole number, {least} or more. Received: {name}={value!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"`seed` must be a whole number. Received: seed={seed!r}")
    if isinstance(heads, str) or not heads or not set(heads) <= set(HEADS):
        raise ValueError(f"`heads` must hold one or both of {HEADS}. Received: heads={heads!r}")
    if cache not in ("bytes", "pixels", None):
        raise ValueError(f"`cache` must be 'bytes', 'pixels' or None. Received: cache={cache!r}")
