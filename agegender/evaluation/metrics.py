"""What is measured, in words and in code.

- MAE: the mean of |predicted - recorded| age, in years.
- RMSE: the square root of the mean of (predicted - recorded)^2, in years. Larger errors count more.
- Median error: the median of |predicted - recorded| age, in years. Half of the images are guessed better.
- Bias: the mean of predicted - recorded age, in years. Positive where faces are guessed too old.
- CS@k, the cumulative score: the share of images whose age error is k years or less.
- Gender accuracy: the share of images where the more probable gender is the recorded one; a probability of exactly
  one half counts as female.
- AUC, the area under the ROC curve: how often, of all pairs of a image recorded as female and one recorded as male,
  the first has the higher probability of female; ties count one half. Without both genders there is none: NaN.
- Log loss: the mean of -log(probability given to the recorded gender), in nats; probabilities are moved to at least
  1e-7 from 0 and 1 before. Always answering one half has 0.693.
- ECE, the expected calibration error: images in ten bins of equal width by their probability of female; the mean over
  the images of |mean probability - share recorded as female| of their bin. Chance alone makes it larger than 0, and
  resampling makes it larger still: its interval lies rather high.
- Coverage: the share of images whose recorded age lies in the predicted interval, both ends included.
- 95 % interval: from the 2.5th to the 97.5th percentile of the measure over resampled images.
  There is none where every resampling gives the same, as of few images without an error.

Every measure takes arrays of any shape with as many labels as predictions, and returns a float. With `weights`, how
often each image counts, [repetitions, images], it returns an array [repetitions]: one for each row.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS: Final = 10  # of the reliability diagram and the ECE
_EPSILON: Final = 1e-7  # of the log loss; as in Keras


def mean_absolute_error(ages: ArrayLike, predicted: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """MAE in years.

    >>> mean_absolute_error([20, 40], [25, 39])
    3.0
    """
    return _mean(np.abs(_errors(ages, predicted)), weights)


def root_mean_squared_error(ages: ArrayLike, predicted: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """RMSE in years.

    >>> root_mean_squared_error([20, 40], [21, 47])
    5.0
    """
    return _plain(np.sqrt(_mean(np.square(_errors(ages, predicted)), weights)))


def median_absolute_error(ages: ArrayLike, predicted: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """Median error in years; of an even number of images, the mean of the two in the middle.

    >>> median_absolute_error([20, 40, 60, 80], [21, 42, 64, 90])
    3.0
    """
    errors = np.abs(_errors(ages, predicted))
    if weights is None:
        return float(np.median(errors))
    order = np.argsort(errors)
    counted = np.cumsum(np.asarray(weights)[..., order], -1)
    half = counted[..., -1:] / 2
    middle = (np.argmax(counted >= half, -1), np.argmax(counted > half, -1))
    return np.where(half[..., 0] > 0, (errors[order][middle[0]] + errors[order][middle[1]]) / 2, np.nan)


def bias(ages: ArrayLike, predicted: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """Mean of predicted - recorded age in years.

    >>> bias([20, 40], [25, 39])
    2.0
    """
    return _mean(_errors(ages, predicted), weights)


def cumulative_score(
    ages: ArrayLike, predicted: ArrayLike, *, years: float = 5.0, weights: ArrayLike | None = None
) -> Any:
    """CS@years, between 0 and 1. An error of exactly `years` counts as within.

    >>> cumulative_score([20, 40, 60], [25, 46, 60])
    0.6666666666666666
    """
    return _mean(np.abs(_errors(ages, predicted)) <= years, weights)


def gender_accuracy(genders: ArrayLike, probabilities: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """Share of genders (0 = male, 1 = female) that the probabilities of female get right.

    >>> gender_accuracy([0, 1, 1, 0], [0.2, 0.5, 0.4, 0.9])
    0.5
    """
    genders, probabilities = _pair(genders, probabilities)
    return _mean((probabilities >= 0.5) == (genders >= 0.5), weights)


def area_under_curve(genders: ArrayLike, probabilities: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """AUC, between 0 and 1; NaN where only one gender is there.

    The rank form of the area: Hanley and McNeil, Radiology 143 (1982).

    >>> area_under_curve([0, 1, 1, 0], [0.2, 0.5, 0.4, 0.4])
    0.875
    """
    genders, probabilities = _pair(genders, probabilities)
    order = np.argsort(probabilities)
    ranked, female = probabilities[order], genders[order] >= 0.5
    counts = np.ones(len(order)) if weights is None else np.asarray(weights)[..., order]
    women = counts[..., female]
    men = np.cumsum(np.where(female, 0, counts), -1, dtype="float64")
    men = np.concatenate([np.zeros_like(men[..., :1]), men], -1)  # [i]: how many among the i lowest
    below, through = (men[..., np.searchsorted(ranked, ranked[female], side)] for side in ("left", "right"))
    pairs = women.sum(-1, dtype="float64") * men[..., -1]
    with np.errstate(invalid="ignore"):
        return _plain(np.sum(women * (below + through), -1) / 2 / pairs)


def log_loss(genders: ArrayLike, probabilities: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """Log loss in nats.

    >>> round(log_loss([0, 1], [0.5, 1.0]), 4)
    0.3466
    """
    genders, probabilities = _pair(genders, probabilities)
    given = np.where(genders >= 0.5, probabilities, 1 - probabilities)
    return _mean(-np.log(np.clip(given, _EPSILON, 1 - _EPSILON)), weights)


def calibration_error(genders: ArrayLike, probabilities: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """ECE, between 0 and 1 (Guo et al., arXiv 1706.04599, for the probability of female instead of the confidence).

    >>> round(calibration_error([0, 1, 1, 1], [0.52, 0.54, 0.95, 0.97]), 4)
    0.035
    """
    genders, probabilities = _pair(genders, probabilities)
    too_high = (probabilities - genders)[:, None] * np.eye(BINS)[_bins(probabilities)]
    counts = np.ones(len(genders)) if weights is None else np.asarray(weights)
    with np.errstate(invalid="ignore"):
        return _plain(np.abs(np.einsum("...n,nb->...b", counts, too_high)).sum(-1) / counts.sum(-1, dtype="float64"))


def reliability(genders: ArrayLike, probabilities: ArrayLike) -> list[dict[str, float]]:
    """For each bin of the ECE that holds a image its edges, its count, the mean probability and the share of women.

    >>> reliability([0, 1], [0.52, 0.54])
    [{'low': 0.5, 'high': 0.6, 'count': 2, 'predicted': 0.53, 'observed': 0.5}]
    """
    genders, probabilities = _pair(genders, probabilities)
    bins = _bins(probabilities)
    return [
        {
            "low": index / BINS,
            "high": (index + 1) / BINS,
            "count": int(np.sum(bins == index)),
            "predicted": float(np.mean(probabilities[bins == index])),
            "observed": float(np.mean(genders[bins == index])),
        }
        for index in np.unique(bins).tolist()
    ]


def coverage(ages: ArrayLike, low: ArrayLike, high: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """Share of ages within [low, high].

    >>> coverage([20, 40], [20, 41], [30, 50])
    0.5
    """
    return _mean((_errors(ages, low) <= 0) & (_errors(ages, high) >= 0), weights)


def resample(units: ArrayLike, *, repetitions: int = 1000, seed: int = 0) -> NDArray[np.float32]:
    """The weights of a bootstrap: each row draws as many units as there are, with replacement.

    Args:
        units: [images], which unit each belongs to. Images of one photograph are drawn together, for their errors
            are alike; without groups, every image is a unit.
        repetitions: rows.
        seed: the same units and seed give the same weights, which is what makes intervals on differences paired.

    Returns:
        How often each image counts in each row, [repetitions, images].

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 13.
    """
    names, index = np.unique(np.asarray(units).ravel(), return_inverse=True)
    generator = np.random.default_rng(seed)
    drawn = np.empty((repetitions, len(index)), "float32")
    for row in drawn:
        row[:] = np.bincount(generator.integers(0, len(names), len(names)), minlength=len(names))[index]
    return drawn


def interval(values: ArrayLike) -> tuple[float, float] | None:
    """The 95 % percentile interval of a measure over the rows of `resample`; None where all rows agree, or have none.

    Among few images without an error every row is without one, and says nothing about the images not seen.

    >>> interval(range(41))
    (1.0, 39.0)
    """
    drawn = np.asarray(values, "float64")
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size or drawn.min() == drawn.max():
        return None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _errors(ages: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    ages, predicted = _pair(ages, predicted)
    return predicted - ages


def _bins(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum(probabilities * BINS, BINS - 1).astype("int64")


def _mean(values: NDArray[Any], weights: ArrayLike | None) -> Any:
    if weights is None:
        return float(np.mean(values))
    weights = np.asarray(weights)
    with np.errstate(invalid="ignore"):  # a row may have drawn none of these images: NaN
        return np.einsum("...n,n->...", weights, values.astype("float64")) / weights.sum(-1, dtype="float64")


def _plain(value: Any) -> Any:
    return value if np.ndim(value) else float(value)


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as float64 [n]: columns [n, 1] against rows [n] would broadcast to [n, n] without a word."""
    first, second = np.asarray(first, "float64").ravel(), np.asarray(second, "float64").ravel()
    if first.size != second.size or not first.size:
        raise ValueError(f"Give as many predictions as labels, at least one. Received: {second.size} and {first.size}")
    return first, second
