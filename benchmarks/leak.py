r"""Whether the same photograph lies on both sides of a split, and what it costs if it does.

UTKFace holds near-identical photographs. This looks for them with means of its own, knowing nothing of the builder's: a
pair is twins if the cosine of their grey thumbnails of 16 x 16 pixels about their mean, one of them perhaps mirrored,
reaches a threshold; all pairs are compared. It ends with 1 if the builder's splits or folds part a pair of twins:

    python -m benchmarks.leak --data_dir=... --thresholds=0.99,0.98,0.975

With --train it also measures the cost. The images are cut into fifths twice, `leaky_random_80_20` image by image
and `grouped_80_20` by photograph group. Each round holds out one fifth of either cut and trains the same small model on
the other four, the same number of steps, without augmentation; its last epoch guesses the fifth. After five rounds each
image has been held out once in both cuts, so that the errors on the very same images can be compared. The intervals
are those of a bootstrap over photograph groups: they know of the choice of images, not of the luck of a training,
which is what the rounds differ by. 20 minutes to an hour on two CPU cores, with --rounds=1 a fifth of it:

    python -m benchmarks.leak --data_dir=... --train --out=leak.json
"""

import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from absl import app, flags, logging
from numpy.typing import NDArray

from agegender.environment import set_environment
from agegender.schema import AGE, FOLD, FOLDS, GENDER, GROUP, IMAGE, RACE, RACES, SPLITS

if TYPE_CHECKING:
    import keras

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_OUT = flags.DEFINE_string("out", None, "JSON file for all numbers; with --train written anew after each round.")
_THRESHOLDS = flags.DEFINE_list("thresholds", ["0.99"], "Cosines that make a pair twins; --train takes the first.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Random splits to find the share of twins of.", lower_bound=1)
_TRAIN = flags.DEFINE_bool("train", False, "Also train on a leaky and on a grouped split.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Fifths to hold out, of each of the two splits.", 1, 5)
_SEED = flags.DEFINE_integer("seed", 1, "Of the cuts into fifths; each round trains with the next.", lower_bound=0)
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Passes over the training images.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images a step.", lower_bound=1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Of AdamW at its highest, then a cosine to 0.")
_WIDTHS = flags.DEFINE_list("widths", ["48", "96", "192", "192"], "Channels of the convolutions of the trunk.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 64, "Pixels a side to train with.", lower_bound=16)
_RESAMPLES = flags.DEFINE_integer("resamples", 2000, "Of the bootstrap.", lower_bound=10)
_SETTINGS: Final = (_ROUNDS, _SEED, _EPOCHS, _BATCH_SIZE, _LEARNING_RATE, _WIDTHS, _IMAGE_SIZE, _THRESHOLDS)


def _all(values: Sequence[str], kind: type, highest: float) -> bool:
    try:
        return bool(values) and all(0 < kind(value) <= highest for value in values)
    except ValueError:
        return False


flags.register_validator(_THRESHOLDS, lambda values: _all(values, float, 1), "Numbers above 0, 1 at most, are needed.")
flags.register_validator(_WIDTHS, lambda values: _all(values, int, 1 << 12), "Whole numbers, 1 or more, are needed.")
flags.register_validator(_LEARNING_RATE, lambda value: value > 0, "It must be above 0.")

Pairs = NDArray[np.intp]  # [pairs, 2], indices of images, the smaller first
Labels = Mapping[str, np.ndarray]  # [images] each

SIDE: Final = 16  # pixels of a thumbnail
LEAKY, GROUPED = "leaky_random_80_20", "grouped_80_20"
_BLOCK: Final = 1024  # images compared with all others at a time
_KEYS: Final = (AGE, GENDER, RACE, GROUP, FOLD)
_MEASURED: Final = ("age_mae", "gender_accuracy", "seen_age_mae", "seen_gender_accuracy", "seconds")  # a round
_WANTED: Final = {"train": 0.8, "validation": 0.1, "test": 0.1}


def read(data_dir: str | None, image_size: int | None) -> tuple[np.ndarray, Labels, np.ndarray | None]:
    """Reads all prepared images.

    Returns:
        Thumbnails float32 [images, 16, 16]; labels, of which "split" is an index into `SPLITS`; and with an image
        size the images themselves, uint8 [images, image_size, image_size, 3].
    """
    import tensorflow as tf

    from agegender.data.prepared import find_prepared, read_encoded, require_features

    def decode(example: dict) -> dict:
        image = tf.cast(tf.io.decode_jpeg(example.pop(IMAGE), channels=3), tf.float32)
        example["thumbnail"] = tf.image.resize(tf.image.rgb_to_grayscale(image), [SIDE, SIDE], "area")[..., 0]
        if image_size:
            image = tf.image.resize(image, [image_size, image_size], antialias=True)
            example[IMAGE] = tf.cast(tf.round(tf.clip_by_value(image, 0, 255)), tf.uint8)
        return example

    builder = find_prepared(data_dir)
    require_features(builder, "leak", _KEYS, f"data_dir={data_dir!r}")
    read_parts: list[dict[str, np.ndarray]] = []
    for index, split in enumerate(SPLITS):
        if split in builder.info.splits:
            dataset = read_encoded(builder, split, (IMAGE, *_KEYS))
            for batch in dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(512).as_numpy_iterator():
                read_parts.append({**batch, "split": np.full(len(batch[AGE]), index)})
    whole = {key: np.concatenate([part[key] for part in read_parts]) for key in read_parts[0]}
    return whole.pop("thumbnail"), whole, whole.pop(IMAGE, None)


def find_twins(thumbnails: np.ndarray, threshold: float) -> tuple[Pairs, np.ndarray]:
    """Compares all pairs, upright and with one mirrored.

    Args:
        thumbnails: float32 [images, height, width].
        threshold: the least cosine, above 0.

    Returns:
        The pairs that reach it, and the cosine of each.
    """
    upright, mirrored = _unit(thumbnails), _unit(thumbnails[:, :, ::-1])
    pairs, cosines = [np.empty((0, 2), np.intp)], [np.empty(0, np.float32)]
    for start in range(0, len(upright), _BLOCK):
        block = upright[start : start + _BLOCK]
        cosine = np.maximum(block @ upright[start:].T, block @ mirrored[start:].T)
        first, second = np.nonzero(np.triu(cosine >= threshold, 1))
        pairs.append(np.stack([first, second], 1) + start)
        cosines.append(cosine[first, second])
    return np.concatenate(pairs), np.concatenate(cosines)


def _unit(thumbnails: np.ndarray) -> np.ndarray:
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(length > 1, flat / np.maximum(length, 1), 0)  # a image of one grey is nobody's twin


def parted(pairs: Pairs, parts: np.ndarray) -> Pairs:
    """Returns the pairs whose images lie in different parts, of which `parts` names each image's."""
    return pairs[parts[pairs[:, 0]] != parts[pairs[:, 1]]]


def with_twin(pairs: Pairs, count: int) -> np.ndarray:
    """Says for each of `count` images whether it is in one of the pairs."""
    found = np.zeros(count, bool)
    found[pairs.ravel()] = True
    return found


def leaky_fifths(count: int, seed: int) -> np.ndarray:
    """Cuts images into random fifths, one by one: 0..4 for each. Splits so are what this benchmark warns of."""
    return np.random.default_rng(seed).permutation(count) * 5 // count


def grouped_fifths(groups: np.ndarray, seed: int) -> np.ndarray:
    """Cuts images into random fifths, group by group: 0..4 for each."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    before = np.empty(len(sizes), np.intp)
    before[order] = np.cumsum(sizes[order]) - sizes[order]
    return (before * 5 // len(groups))[group]


def measure_leak(pairs: Pairs, labels: Labels, seeds: int) -> dict[str, dict[str, float]]:
    """Counts twins on both sides of the builder's splits and folds, and of random splits.

    Returns:
        For each of the three the number of "pairs", of pairs "between" parts, of images "held_out" at a time, and the
        "share" of those that have a twin in training. Random splits: means over seeds.
    """
    count, split = len(labels["split"]), labels["split"]

    def row(parts: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
        leaked = with_twin(parted(pairs, held_out), count) & held_out
        share = leaked.sum() / max(1, held_out.sum())  # a small data set may have no test split
        return {"between": len(parted(pairs, parts)), "held_out": int(held_out.sum()), "share": share}

    def mean(rows: list[dict[str, float]]) -> dict[str, float]:
        return {"pairs": len(pairs), **{key: float(np.mean([row[key] for row in rows])) for key in rows[0]}}

    random = [leaky_fifths(count, seed) == 0 for seed in range(seeds)]
    return {
        "train/validation/test": mean([row(split, split != SPLITS.index("train"))]),
        "five folds": mean([row(labels[FOLD], labels[FOLD] == fold) for fold in np.unique(labels[FOLD])]),
        LEAKY: mean([row(held_out, held_out) for held_out in random]),
    }


def describe(labels: Labels, part: np.ndarray) -> dict[str, float]:
    """Measures a part of the images: its share, ages, genders and races."""
    races = {race: np.mean(labels[RACE][part] == index) for index, race in enumerate(RACES)}
    ages = labels[AGE][part]
    numbers = {"share": part.mean(), "mean age": ages.mean(), "median age": np.median(ages)}
    numbers |= {"female": labels[GENDER][part].mean(), **races}
    return {"images": int(part.sum()), **{key: float(value) for key, value in numbers.items()}}


def make_trunk(image_size: int, widths: Sequence[int]) -> "keras.Model":
    """A small trunk that can learn its images by heart: one convolution over patches, the others in steps of two."""
    import keras

    convolutions = [
        keras.layers.Conv2D(
            width,
            3 if index else 4,
            strides=2 if index else 4,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
        )
        for index, width in enumerate(widths)
    ]
    scale = keras.layers.Rescaling(1 / 127.5, -1)
    return keras.Sequential(
        [keras.Input((image_size, image_size, 3), name=IMAGE), scale, *convolutions, keras.layers.Flatten()]
    )


def guess_held_out(images: np.ndarray, labels: Labels, held_out: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Trains on the images that are not held out and guesses those that are.

    Returns:
        For each image held out, in order, "age" in years and "gender" as the probability of female; and "seen", the
        age MAE and the gender accuracy in the last epoch of training.
    """
    import keras
    import tensorflow as tf

    import agegender as ag

    keras.utils.set_random_seed(seed)
    targets = {head: labels[head][:, None].astype(np.float32) for head in (AGE, GENDER)}
    everything = tf.nest.map_structure(tf.constant, (images, targets))
    rows = np.flatnonzero(~held_out)
    batch_size = min(_BATCH_SIZE.value, len(rows))
    dataset = tf.data.Dataset.from_tensor_slices(rows).shuffle(len(rows), seed=seed).repeat()
    dataset = dataset.batch(batch_size, drop_remainder=True)
    dataset = dataset.map(lambda row: tf.nest.map_structure(lambda values: tf.gather(values, row), everything))
    steps = len(rows) // batch_size
    model = ag.build_model(make_trunk(_IMAGE_SIZE.value, [int(width) for width in _WIDTHS.value]))
    optimizer = ag.make_optimizer(steps=_EPOCHS.value * steps, learning_rate=_LEARNING_RATE.value)
    with tempfile.TemporaryDirectory() as workdir:
        history = ag.train(
            model,
            dataset.prefetch(2),
            workdir=workdir,
            epochs=_EPOCHS.value,
            steps_per_epoch=steps,
            optimizer=optimizer,
            verbose=0,
        ).history
    outputs = {head: values.ravel() for head, values in model.predict(images[held_out], 512, verbose=0).items()}
    return {**outputs, "seen": np.array([history["age_mae"][-1], history["gender_accuracy"][-1]])}


def kinds_of_images(pairs: Pairs, labels: Labels, fifths: np.ndarray) -> dict[str, np.ndarray]:
    """Sorts the images by what a leaky split lets a model see before it is asked about them.

    Args:
        pairs: twins.
        labels: of all images.
        fifths: 0..4 for each image, the leaky cut.

    Returns:
        For each kind bool [images]: all; those with a twin in another fifth, by whether one such twin carries the
        same age; those without, by whether one of their photograph group is in another fifth all the same.
    """
    ages, count = labels[AGE], len(fifths)
    apart = parted(pairs, fifths)
    twin = with_twin(apart, count)
    same_age = with_twin(apart[ages[apart[:, 0]] == ages[apart[:, 1]]], count)
    _, group = np.unique(labels[GROUP], return_inverse=True)
    met = np.zeros((group.max() + 1, 5), bool)
    met[group, fifths] = True
    group_apart = met.sum(1)[group] > 1
    return {
        "all": np.ones(count, bool),
        "a twin in training": twin,
        "- of the same age": same_age,
        "- of other ages only": twin & ~same_age,
        "no twin in training": ~twin,
        "- but one of the group": ~twin & group_apart,
        "- and none of the group": ~twin & ~group_apart,
    }


def compare(
    errors: Mapping[str, np.ndarray], kinds: Mapping[str, np.ndarray], groups: np.ndarray, resamples: int
) -> dict[str, dict[str, Any]]:
    """Compares mean errors on each kind of image, with intervals.

    Args:
        errors: of the images for both `LEAKY` and `GROUPED`, float [images], NaN where not held out.
        kinds: bool [images] each, "all" and "a twin in training" among them.
        groups: photograph group of each image; the bootstrap draws these.
        resamples: how many times it draws.

    Returns:
        For each kind that is there in both, the number of "images" held out in the leaky cut, the mean for each of
        the cuts, their "difference" (leaky minus grouped) and its "interval" of 95 %. As "through the twins", the
        difference on the images with a twin times their share: what they add to that of all.
    """
    _, group = np.unique(groups, return_inverse=True)
    known = {cut: ~np.isnan(values) for cut, values in errors.items()}
    held = {name: {cut: kind & known[cut] for cut in (LEAKY, GROUPED)} for name, kind in kinds.items()}
    names = [name for name in kinds if all(held[name][cut].any() for cut in (LEAKY, GROUPED))]
    columns = [
        np.where(held[name][cut], values, 0.0)
        for name in names
        for cut in (LEAKY, GROUPED)
        for values in (np.nan_to_num(errors[cut]), np.ones(len(group)))
    ]
    sums = np.stack([np.bincount(group, column) for column in columns], 1)  # [groups, kinds * cuts * (error, count)]
    count, random = len(sums), np.random.default_rng(0)
    drawn = (np.bincount(random.integers(count, size=count), minlength=count) for _ in range(resamples))
    totals = np.stack([sums.sum(0), *(weights @ sums for weights in drawn)]).reshape(-1, len(names), 2, 2)
    with np.errstate(invalid="ignore"):  # a kind of few images may not be drawn at all
        means = totals[..., 0] / totals[..., 1]
    differences = means[..., 0] - means[..., 1]
    rows = {
        name: {
            "images": int(held[name][LEAKY].sum()),
            LEAKY: float(means[0, index, 0]),
            GROUPED: float(means[0, index, 1]),
            **_interval(differences[:, index]),
        }
        for index, name in enumerate(names)
    }
    if "a twin in training" in names:
        twin = names.index("a twin in training")
        share = totals[:, twin, 0, 1] / totals[:, names.index("all"), 0, 1]
        rows["through the twins"] = _interval(share * differences[:, twin])
    return rows


def _interval(values: np.ndarray) -> dict[str, Any]:
    """The first value is the estimate, the others are those of the bootstrap."""
    low, high = np.nanquantile(values[1:], (0.025, 0.975))
    return {"difference": float(values[0]), "interval": [float(low), float(high)]}


def measure_cost(
    images: np.ndarray, labels: Labels, pairs: Pairs, report: dict[str, Any], out: pathlib.Path | None
) -> None:
    """Trains round by round and adds what was measured to the report."""
    cuts = {
        LEAKY: leaky_fifths(len(images), _SEED.value),
        GROUPED: grouped_fifths(labels[GROUP], _SEED.value),
    }
    wrong = {head: {cut: np.full(len(images), np.nan) for cut in cuts} for head in (AGE, GENDER)}
    kinds = kinds_of_images(pairs, labels, cuts[LEAKY])
    print(f"\n{'round':<6}{'split':<20}{'age MAE':>10}{'gender':>9}{'seen: age MAE':>16}{'gender':>9}{'seconds':>10}")
    report["cost"] = {"rounds": [], "flags": {flag.name: flag.value for flag in _SETTINGS}}
    for number in range(_ROUNDS.value):
        for cut, fifths in cuts.items():
            before, held_out = time.perf_counter(), fifths == number
            guesses = guess_held_out(images, labels, held_out, _SEED.value + number)
            wrong[AGE][cut][held_out] = np.abs(guesses[AGE] - labels[AGE][held_out])
            wrong[GENDER][cut][held_out] = (guesses[GENDER] >= 0.5) != (labels[GENDER][held_out] == 1)
            error, accuracy = wrong[AGE][cut][held_out].mean(), 1 - wrong[GENDER][cut][held_out].mean()
            row = [float(each) for each in (error, accuracy, *guesses["seen"], time.perf_counter() - before)]
            report["cost"]["rounds"].append({"split": cut, **dict(zip(_MEASURED, row, strict=True))})
            print("{:<6}{:<20}{:>10.3f}{:>9.4f}{:>16.3f}{:>9.4f}{:>10.0f}".format(number + 1, cut, *row), flush=True)
        for head, errors in wrong.items():
            report["cost"][head] = compare(errors, kinds, labels[GROUP], _RESAMPLES.value)
        _write(out, report)


def _write(out: pathlib.Path | None, report: Mapping[str, Any]) -> None:
    if out:
        out.write_text(json.dumps(report, indent=2) + "\n")


def print_leak(leak: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    print(f"{'cosine':<8}{'split':<24}{'pairs':>7}{'between parts':>15}{'held out':>10}{'with a twin in training':>25}")
    for threshold, rows in leak.items():
        for name, row in rows.items():
            form = "{:<8}{:<24}{pairs:>7,}{between:>15,.0f}{held_out:>10,.0f}{share:>25.2%}"
            print(form.format(threshold, name, **row))


def print_balance(balance: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{'':<12}" + "".join(f"{key:>11}" for key in balance["all"]))
    for name, row in balance.items():
        form = {"images": "{:>11,}", "mean age": "{:>11.2f}", "median age": "{:>11.0f}"}
        print(f"{name:<12}" + "".join(form.get(key, "{:>11.1%}").format(value) for key, value in row.items()))
    off = {name: abs(balance.get(name, {"share": 0})["share"] - share) for name, share in _WANTED.items()}
    worst = max(off, key=lambda name: off[name])
    print(f"Farthest from 80/10/10: {worst}, by {100 * off[worst]:.2f} points")


def print_cost(cost: Mapping[str, Any]) -> None:
    for head, title, scale in ((AGE, "age MAE, years", 1), (GENDER, "gender errors, %", 100)):
        print(f"\n{title:<26}{'images':>9}{'leaky':>9}{'grouped':>9}   leaky - grouped, 95 %")
        for name, row in cost[head].items():
            means = "".join(f"{scale * row[cut]:>9.2f}" if cut in row else " " * 9 for cut in (LEAKY, GROUPED))
            low, high = (scale * end for end in row["interval"])
            difference = f"{scale * row['difference']:+.3f}  [{low:+.3f}, {high:+.3f}]"
            noise = "  within noise" if low <= 0 <= high else ""
            print(f"{name:<26}{row.get('images', ''):>9}{means}   {difference}{noise}")


def main(_: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)  # TFDS tells of each file it opens
    set_environment()
    thresholds = [float(each) for each in _THRESHOLDS.value]
    out = pathlib.Path(_OUT.value) if _OUT.value else None

    before = time.perf_counter()
    try:
        thumbnails, labels, images = read(_DATA_DIR.value, _IMAGE_SIZE.value if _TRAIN.value else None)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)  # the words say it all; a traceback would hide them
        return 2  # not 1, which says that there is a leak
    pairs, cosines = find_twins(thumbnails, min(thresholds))
    leak = {str(each): measure_leak(pairs[cosines >= each], labels, _SEEDS.value) for each in thresholds}
    parts = {split: labels["split"] == index for index, split in enumerate(SPLITS)}
    parts |= {f"fold {fold}": labels[FOLD] == fold for fold in range(FOLDS)}
    parts["all"] = np.ones(len(thumbnails), bool)
    balance = {name: describe(labels, part) for name, part in parts.items() if part.any()}
    report: dict[str, Any] = {"leak": leak, "balance": balance}
    print_leak(leak)
    print_balance(balance)
    print(f"{len(thumbnails):,} images read and compared in {time.perf_counter() - before:.0f} s")
    _write(out, report)

    if images is not None:
        import keras

        import agegender as ag

        keras.config.set_dtype_policy(ag.fastest_dtype())
        measure_cost(images, labels, pairs[cosines >= thresholds[0]], report, out)
        print_cost(report["cost"])
    leaks = any(rows[name]["between"] for rows in leak.values() for name in rows if name != LEAKY)
    if leaks:
        print("\nLEAK: the builder's splits or folds part images that are twins.")
    return 1 if leaks else 0


if __name__ == "__main__":
    app.run(main)
