r"""Counts near-identical photographs on both sides of a split: of the builder's splits and folds, and of random ones.

    python -m benchmarks.leak --data_dir=... --threshold=0.99

It does not use the builder's own search. Two images are twins if their grey thumbnails of 16 x 16 pixels, one perhaps
mirrored, have a cosine of `threshold` or more about their mean; all pairs are compared. The exit code is 1 if twins lie
on both sides of one of the builder's splits or folds.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agegender.schema import FOLD, IMAGE, SPLITS
from benchmarks import timing

Pairs = NDArray[np.intp]  # [pairs, 2], indices of images, the smaller first
SIDE: Final = 16  # pixels of a thumbnail
RANDOM: Final = "random 80/20 split"
_BLOCK: Final = 1024  # images compared with all others at a time


def measure(data_dir: str | None, *, threshold: float = 0.99, seeds: int = 5) -> timing.Result:
    thumbnails, columns = read(data_dir)
    rows = count_leaks(find_twins(thumbnails, threshold), columns, seeds)
    ratios = [
        timing.Ratio(f"twins between parts of {row['split']}", [row["between"]], at_most=0)
        for row in rows
        if row["split"] != RANDOM
    ]
    return timing.Result(f"{len(thumbnails):,} images, cosine {threshold}", rows, ratios)


def read(data_dir: str | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Reads all prepared images.

    Returns:
        Thumbnails, float32 [images, 16, 16]; and int arrays [images]: "split", an index into `SPLITS`, and "fold".
    """
    import tensorflow as tf

    from agegender.data.prepared import find_prepared, read_encoded

    def decode(example: dict) -> dict:
        image = tf.cast(tf.io.decode_jpeg(example.pop(IMAGE), channels=3), tf.float32)
        grey = tf.image.rgb_to_grayscale(image)
        return {**example, "thumbnail": tf.image.resize(grey, [SIDE, SIDE], "area")[..., 0]}

    builder = find_prepared(data_dir)
    batches: list[dict[str, np.ndarray]] = []
    for index, split in enumerate(SPLITS):
        if split in builder.info.splits:
            dataset = read_encoded(builder, split, (IMAGE, FOLD)).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
            for batch in dataset.batch(512).as_numpy_iterator():
                batches.append({**batch, "split": np.full(len(batch[FOLD]), index)})
    columns = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    return columns.pop("thumbnail"), columns


def find_twins(thumbnails: np.ndarray, threshold: float) -> Pairs:
    """Compares all pairs, upright and with one mirrored, and returns those that reach the cosine `threshold`."""
    upright, mirrored = _normalize(thumbnails), _normalize(thumbnails[:, :, ::-1])
    pairs = [np.empty((0, 2), np.intp)]
    for start in range(0, len(upright), _BLOCK):
        block = upright[start : start + _BLOCK]
        cosine = np.maximum(block @ upright[start:].T, block @ mirrored[start:].T)
        pairs.append(np.argwhere(np.triu(cosine >= threshold, 1)) + start)
    return np.concatenate(pairs)


def _normalize(thumbnails: np.ndarray) -> np.ndarray:
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(length > 1, flat / np.maximum(length, 1), 0)  # an image of a single grey has no twin


def count_leaks(pairs: Pairs, columns: Mapping[str, np.ndarray], seeds: int) -> list[dict[str, Any]]:
    """Counts twins on both sides of the builder's splits and folds, and of random splits.

    Returns:
        A row for each of the three: the number of "pairs", of pairs "between" parts, of images "held out" at a time,
        and the "share" of those that have a twin in training; means over folds and over seeds.
    """
    split, fold = columns["split"], columns[FOLD]
    count = len(split)

    def row(parts: np.ndarray, held_out: np.ndarray) -> tuple[int, int, float]:
        leaked = np.zeros(count, bool)
        leaked[_between(pairs, held_out).ravel()] = True
        return len(_between(pairs, parts)), int(held_out.sum()), (leaked & held_out).sum() / max(1, held_out.sum())

    random = [np.random.default_rng(seed).permutation(count) < count // 5 for seed in range(seeds)]
    rows = {
        "/".join(SPLITS): [row(split, split != SPLITS.index("train"))],
        "five folds": [row(fold, fold == each) for each in np.unique(fold)],
        RANDOM: [row(held_out, held_out) for held_out in random],
    }
    keys = ("between", "held out", "share")
    return [
        {"split": name, "pairs": len(pairs), **dict(zip(keys, np.mean(each, axis=0).tolist(), strict=True))}
        for name, each in rows.items()
    ]


def _between(pairs: Pairs, parts: np.ndarray) -> Pairs:
    """Returns the pairs whose images lie in different parts."""
    return pairs[parts[pairs[:, 0]] != parts[pairs[:, 1]]]


if __name__ == "__main__":
    timing.main(measure, strict=True)
