r"""VGG16 in the dtype that the library chooses for this machine, against float32: time and learning curves.

    python -m benchmarks.dtypes --data_dir=...                             # a step and a prediction in turn
    python -m benchmarks.dtypes --data_dir=... --curves=runs/dtype_curves  # half an hour of training

The second trains with each dtype from two seeds, with equal batches and augmentation, and tells whether the validation
curves of a seed differ more between the dtypes than those of a dtype between the seeds. Each run has a folder of its
own; what is finished is not trained again, and `--image=docs/dtype_curves.png` draws what there is.
"""

import csv
import math
import pathlib
import shutil
import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks import steps, turns

FLOAT32 = "float32"
SEEDS = (1, 2)  # of the curves
CURVES = {"val_age_mae": "validation age MAE, years", "val_gender_accuracy": "validation gender accuracy"}

Run = list[dict[str, float]]


def measure(
    data_dir: str | None,
    *,
    rounds: int = 3,
    image_size: int = 200,
    batch_size: int = 8,
    trainable: str = "all",
    curves: str = "",
    curve_size: int = 48,
    curve_epochs: int = 6,
    curve_steps: int = 80,
    image: str = "",
) -> turns.Result:
    import agegender as ag

    chosen = ag.fastest_dtype()
    if curves:
        return compare_curves(
            data_dir, (chosen, FLOAT32), pathlib.Path(curves), curve_size, curve_epochs, curve_steps, image
        )
    images, targets = steps.first_batch(data_dir, batch_size=batch_size, image_size=image_size)
    contestants: dict[str, Any] = {}
    for dtype in (chosen, FLOAT32):
        learner = steps.compiled_learner(image_size=image_size, trainable=trainable, dtype=dtype)
        contestants[f"train, {dtype}"] = lambda learner=learner: learner.train_on_batch(images, targets)
        contestants[f"predict, {dtype}"] = lambda learner=learner: learner.predict_on_batch(images)
    seconds = turns.in_turn(contestants, rounds=rounds)
    claims = [
        turns.Claim(
            f"{what}: float32 / {chosen}", turns.ratios(seconds, f"{what}, {FLOAT32}", f"{what}, {chosen}"), mark
        )
        for what, mark in (("train", 2.0), ("predict", 2.5))
    ]
    title = f"VGG16, {trainable} layers trained, {image_size} px, batches of {batch_size}"
    return turns.Result(title, turns.rows(seconds, count=batch_size), claims if chosen != FLOAT32 else ())


def compare_curves(
    data_dir: str | None,
    dtypes: tuple[str, str],
    folder: pathlib.Path,
    image_size: int,
    epochs: int,
    steps_per_epoch: int,
    image: str,
) -> turns.Result:
    """Trains with both dtypes from each seed, where that is not done yet, and compares the last validation."""
    runs: dict[tuple[str, int], Run] = {}
    for seed in SEEDS:
        for dtype in dtypes:
            workdir = folder / f"{dtype}-{seed}"
            if len(_read(workdir)) < epochs:
                shutil.rmtree(workdir, ignore_errors=True)  # a run that was cut off
                _fit(data_dir, workdir, dtype, seed, image_size, epochs, steps_per_epoch)
            runs[dtype, seed] = _read(workdir)
            if image:
                draw(runs, pathlib.Path(image))
    rows: list[turns.Row] = [
        {
            "dtype": dtype,
            "seed": seed,
            **{f"{name} {epoch + 1}": run[epoch][name] for name in CURVES for epoch in (0, epochs // 2, epochs - 1)},
        }
        for (dtype, seed), run in runs.items()
    ]
    claims = []
    for name, words in CURVES.items():
        by_dtype = [_distance(runs[dtypes[0], seed], runs[dtypes[1], seed], name) for seed in SEEDS]
        by_seed = statistics.mean(_distance(runs[dtype, SEEDS[0]], runs[dtype, SEEDS[1]], name) for dtype in dtypes)
        by_seed = by_seed or math.nan  # after very few steps the curves may not differ at all
        claims.append(turns.Claim(f"{words}: distance of dtypes / of seeds", [d / by_seed for d in by_dtype]))
    title = f"VGG16 from random weights, {image_size} px, batches of 32, {epochs} times {steps_per_epoch} steps"
    return turns.Result(title, rows, claims)


def draw(runs: Mapping[tuple[str, int], Run], image: pathlib.Path) -> None:
    """Draws the validation curves of all runs, a colour a dtype and a line style a seed."""
    from matplotlib.figure import Figure  # pyplot would keep every figure and look for a screen

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    dtypes, seeds = ([*dict.fromkeys(part)] for part in zip(*runs, strict=True))
    for axes, (name, words) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        for (dtype, seed), run in runs.items():
            style = {"color": f"C{dtypes.index(dtype)}", "linestyle": "-" if seed == seeds[0] else "--"}
            axes.plot([row["epoch"] + 1 for row in run], [row[name] for row in run], label=f"{dtype}, {seed}", **style)
        axes.set(title=words, xlabel="epoch")
        axes.grid(alpha=0.3)
    axes.legend(title="dtype, seed")
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=120)


def _fit(
    data_dir: str | None, workdir: pathlib.Path, dtype: str, seed: int, image_size: int, epochs: int, steps: int
) -> None:
    import keras

    import agegender as ag

    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(dtype)
    load: dict[str, Any] = {"image_size": image_size, "data_dir": data_dir}
    ag.train(
        ag.build_model(ag.vggface_trunk("vgg16", image_size=image_size, weights=None, trainable="all", seed=seed)),
        ag.load_utkface("train", batch_size=32, training=True, seed=seed, **load),
        ag.load_utkface("validation", batch_size=64, **load),
        workdir=workdir,
        epochs=epochs,
        steps_per_epoch=steps,
        # Mild, because there are few steps.
        augmentation=ag.Augmentation(seed=seed, width_shift=0.05, height_shift=0.05, zoom=0.05, erasing=0.0),
        verbose=2,
    )


def _read(workdir: pathlib.Path) -> Run:
    if not (workdir / "metrics.csv").exists():
        return []
    with open(workdir / "metrics.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _distance(one: Run, other: Run, name: str) -> float:
    return statistics.mean(abs(a[name] - b[name]) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    turns.main(measure)
