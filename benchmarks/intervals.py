r"""Compares ways to make age intervals: do they keep the promise in each ten years of recorded age?

    python -m benchmarks.intervals --predictions=runs/1/predictions.csv

The file has the columns age and predicted_age, of images that the model was not trained on. It is halved at random
again and again; each way is fitted on one half and measured on the other. Kept: within 2 points of the promise for all,
and within 5 in each band of ten years with 100 images or more.
"""

import csv
import pathlib

import numpy as np
from absl import app, flags

from agegender.calibration import intervals

_PREDICTIONS = flags.DEFINE_string("predictions", None, "A CSV file with columns age and predicted_age.", required=True)
_SPLITS = flags.DEFINE_integer("splits", 100, "Random halvings.", lower_bound=1)

Tables = tuple[np.ndarray, np.ndarray, np.ndarray]


def by_predicted_age(ages: np.ndarray, predicted: np.ndarray, coverage: float) -> Tables:
    """Split conformal in ten groups of predicted age: +- the quantile of the absolute errors."""
    edges = np.quantile(predicted, np.arange(0.1, 0.95, 0.1))
    grid, errors = intervals._PREDICTED, np.abs(ages - predicted)
    reach = [_quantile(errors[np.searchsorted(edges, predicted) == part], coverage) for part in range(10)]
    reach_at = np.array(reach)[np.searchsorted(edges, grid)]
    return grid, np.clip(grid - reach_at, 0, 116), np.clip(grid + reach_at, 0, 116)


def by_recorded_age_one_quantile(ages: np.ndarray, predicted: np.ndarray, coverage: float) -> Tables:
    """|f - centre(y)| / spread(y) with one conformal quantile for all ages; fitted on one half, scored on the other."""
    centre, spread = intervals._centre_and_spread(ages[::2], predicted[::2])
    reach = spread * _quantile(intervals._scores(ages[1::2], predicted[1::2], centre, spread), coverage)
    return intervals._invert(centre - reach, centre + reach)


def by_recorded_age_two_quantiles(ages: np.ndarray, predicted: np.ndarray, coverage: float) -> Tables:
    """A local quantile of f - centre(y) on each side, without a conformal correction."""
    centre, _ = intervals._centre_and_spread(ages, predicted)
    errors = predicted - np.interp(ages, intervals._RECORDED, centre)
    above, below = (intervals._local_quantiles(ages, side * errors, (1 + coverage) / 2) for side in (1, -1))
    return intervals._invert(centre - below, centre + above)


WAYS = {
    "by predicted age": by_predicted_age,
    "by recorded age, one quantile": by_recorded_age_one_quantile,
    "by recorded age, two sides": by_recorded_age_two_quantiles,
    "by recorded age, local (ours)": intervals.age_tables,
}


def _quantile(scores: np.ndarray, coverage: float) -> float:
    rank = int(np.ceil((len(scores) + 1) * coverage))
    return float(np.sort(scores)[min(rank, len(scores)) - 1])


def measure(tables: Tables, ages: np.ndarray, predicted: np.ndarray, coverage: float) -> tuple[float, float, float]:
    """Coverage of all, the largest deviation from the promise in a band of ten years, and the mean width in years."""
    low, high = (np.interp(predicted, tables[0], ends) for ends in tables[1:])
    inside, band = (low <= ages) & (ages <= high), ages // 10
    bands = [number for number in range(12) if (band == number).sum() >= 100]
    worst = max((abs(inside[band == number].mean() - coverage) for number in bands), default=np.nan)
    return float(inside.mean()), float(worst), float((high - low).mean())


def main(_: list[str]) -> None:
    with pathlib.Path(_PREDICTIONS.value).open() as file:
        pairs = np.array([(float(row["age"]), float(row["predicted_age"])) for row in csv.DictReader(file)])
    columns = ("promise", "way", "coverage", "worst band, mean", "90th percentile", "width, years", "kept")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for coverage in (0.9, 0.95):
        for name, fit in WAYS.items():
            random, rows = np.random.default_rng(0), []
            for _split in range(_SPLITS.value):
                one, other = np.array_split(random.permutation(pairs), 2)
                rows.append(measure(fit(one[:, 0], one[:, 1], coverage), other[:, 0], other[:, 1], coverage))
            whole, worst, width = np.array(rows).T
            kept = (np.abs(whole - coverage) <= 0.02) & (worst <= 0.05 + 1e-9)
            print(f"| {coverage} | {name} | {whole.mean():.1%} | {100 * worst.mean():.1f} points | "
                  f"{100 * np.quantile(worst, 0.9):.1f} points | {width.mean():.1f} | {kept.mean():.0%} |")  # fmt: skip


if __name__ == "__main__":
    app.run(main)
