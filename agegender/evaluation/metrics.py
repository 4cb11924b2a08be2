"""The measures of a report, with definitions.

- MAE: the mean of |predicted - recorded| age, in years.
- RMSE: the square root of the mean of (predicted - recorded)^2, in years. It weights larger errors more.
- Median error: the median of |predicted - recorded| age, in years. Half of the images have a smaller error.
- Bias: the mean of predicted - recorded age, in years. It is positive where faces are predicted too old.
- CS@k, the cumulative score: the share of images with an age error of k years or less.
- Gender accuracy: the share of images where the more probable gender is the recorded one. A probability of exactly
  one half counts as female.
- AUC, the area under the ROC curve: of all pairs of a female and a male image, the share where the female one has the
  higher probability of female. Ties count one half. It needs both genders; otherwise it is NaN.
- Log loss: the mean of -log(probability of the recorded gender), in nats. Probabilities are clipped to 1e-7 from 0
  and 1. A constant probability of one half has 0.693.
- ECE, the expected calibration error: images fall into ten bins of equal width by their probability of female; the
  ECE is the mean over the images of |mean probability - share of women| of their bin. It is above 0 by chance alone,
  and resampling raises it further, so its interval lies too high.
- Coverage: the share of images with the recorded age inside the predicted interval, both ends included.
- 95 % interval: from the 2.5th to the 97.5th percentile of the measure over bootstrap samples. There is none if
  every sample gives the same value, as with few images without an error.

Every measure takes arrays of any shape, as many predictions as labels, and returns a float. With `weights`
[samples, images], how often each bootstrap sample contains each image, it returns an array [samples].
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
    return _weighted_mean(np.abs(_signed_errors(ages, predicted)), weights)


def root_mean_squared_error(ages: ArrayLike, predicted: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """RMSE in years.

    >>> root_mean_squared_error([20, 40], [21, 47])
    5.0
    """
    return _to_float(np.sqrt(_weighted_mean(np.square(_signed_errors(ages, predicted)), weights)))


def median_absolute_error(ages: ArrayLike, predicted: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """Median error in years; the mean of the two middle errors if there is an even number.

    >>> median_absolute_error([20, 40, 60, 80], [21, 42, 64, 90])
    3.0
    """
    errors = np.abs(_signed_errors(ages, predicted))
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
    return _weighted_mean(_signed_errors(ages, predicted), weights)


def cumulative_score(
    ages: ArrayLike, predicted: ArrayLike, *, years: float = 5.0, weights: ArrayLike | None = None
) -> Any:
    """CS@years, between 0 and 1. An error of exactly `years` counts as within.

    >>> cumulative_score([20, 40, 60], [25, 46, 60])
    0.6666666666666666
    """
    return _weighted_mean(np.abs(_signed_errors(ages, predicted)) <= years, weights)


def gender_accuracy(genders: ArrayLike, probabilities: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """Share of genders (0 = male, 1 = female) that the probabilities of female predict correctly.

    >>> gender_accuracy([0, 1, 1, 0], [0.2, 0.5, 0.4, 0.9])
    0.5
    """
    genders, probabilities = _flatten_pair(genders, probabilities)
    return _weighted_mean((probabilities >= 0.5) == (genders >= 0.5), weights)


def area_under_curve(genders: ArrayLike, probabilities: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """AUC, between 0 and 1; NaN with one gender only.

    Source: Hanley and McNeil, Radiology 143 (1982), the rank form of the area.

    >>> area_under_curve([0, 1, 1, 0], [0.2, 0.5, 0.4, 0.4])
    0.875
    """
    genders, probabilities = _flatten_pair(genders, probabilities)
    order = np.argsort(probabilities)
    ranked, female = probabilities[order], genders[order] >= 0.5
    counts = np.ones(len(order)) if weights is None else np.asarray(weights)[..., order]
    women = counts[..., female]
    men = np.cumsum(np.where(female, 0, counts), -1, dtype="float64")
    men = np.concatenate([np.zeros_like(men[..., :1]), men], -1)  # men[..., i]: men among the i lowest
    # For each woman, the men below her plus the men below or equal: twice her share of the pairs, ties one half.
    below, up_to = (men[..., np.searchsorted(ranked, ranked[female], side)] for side in ("left", "right"))
    pairs = women.sum(-1, dtype="float64") * men[..., -1]
    with np.errstate(invalid="ignore"):
        return _to_float(np.sum(women * (below + up_to), -1) / 2 / pairs)


def log_loss(genders: ArrayLike, probabilities: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """Log loss in nats.

    >>> round(log_loss([0, 1], [0.5, 1.0]), 4)
    0.3466
    """
    genders, probabilities = _flatten_pair(genders, probabilities)
    given = np.where(genders >= 0.5, probabilities, 1 - probabilities)
    return _weighted_mean(-np.log(np.clip(given, _EPSILON, 1 - _EPSILON)), weights)


def calibration_error(genders: ArrayLike, probabilities: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """ECE, between 0 and 1 (Guo et al., arXiv 1706.04599, for the probability of female instead of the confidence).

    >>> round(calibration_error([0, 1, 1, 1], [0.52, 0.54, 0.95, 0.97]), 4)
    0.035
    """
    genders, probabilities = _flatten_pair(genders, probabilities)
    too_high = (probabilities - genders)[:, None] * np.eye(BINS)[_assign_bins(probabilities)]
    counts = np.ones(len(genders)) if weights is None else np.asarray(weights)
    with np.errstate(invalid="ignore"):
        return _to_float(np.abs(np.einsum("...n,nb->...b", counts, too_high)).sum(-1) / counts.sum(-1, dtype="float64"))


def reliability(genders: ArrayLike, probabilities: ArrayLike) -> list[dict[str, float]]:
    """Edges, count, mean probability and share of women of each bin of the ECE that has images.

    >>> reliability([0, 1], [0.52, 0.54])
    [{'low': 0.5, 'high': 0.6, 'count': 2, 'predicted': 0.53, 'observed': 0.5}]
    """
    genders, probabilities = _flatten_pair(genders, probabilities)
    bins = _assign_bins(probabilities)
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
    return _weighted_mean((_signed_errors(ages, low) <= 0) & (_signed_errors(ages, high) >= 0), weights)


def resample(units: ArrayLike, *, repetitions: int = 1000, seed: int = 0) -> NDArray[np.float32]:
    """Draws bootstrap samples: each draws as many units as there are, with replacement.

    Args:
        units: [images], the unit of each image. Images of one photograph have similar errors and form one unit;
            without groups, every image is a unit.
        repetitions: number of samples.
        seed: the same units and seed give the same samples, which pairs the intervals of differences.

    Returns:
        How often each sample contains each image, [repetitions, images].

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 13.
    """
    names, index = np.unique(np.asarray(units).ravel(), return_inverse=True)
    generator = np.random.default_rng(seed)
    weights = np.empty((repetitions, len(index)), "float32")
    for row in weights:
        row[:] = np.bincount(generator.integers(0, len(names), len(names)), minlength=len(names))[index]
    return weights


def interval(values: ArrayLike) -> tuple[float, float] | None:
    """The 95 % percentile interval of a measure over bootstrap samples; None if all samples agree or none has a value.

    >>> interval(range(41))
    (1.0, 39.0)
    """
    samples = np.asarray(values, "float64")
    samples = samples[np.isfinite(samples)]
    if not samples.size or samples.min() == samples.max():
        return None
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def _signed_errors(ages: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    ages, predicted = _flatten_pair(ages, predicted)
    return predicted - ages


def _assign_bins(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum(probabilities * BINS, BINS - 1).astype("int64")


def _weighted_mean(values: NDArray[Any], weights: ArrayLike | None) -> Any:
    if weights is None:
        return float(np.mean(values))
    weights = np.asarray(weights)
    with np.errstate(invalid="ignore"):  # NaN for a sample without any of these images
        return np.einsum("...n,n->...", weights, values.astype("float64")) / weights.sum(-1, dtype="float64")


def _to_float(value: Any) -> Any:
    return value if np.ndim(value) else float(value)


def _flatten_pair(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as float64 [n]: [n, 1] minus [n] would silently broadcast to [n, n]."""
    first, second = np.asarray(first, "float64").ravel(), np.asarray(second, "float64").ravel()
    if first.size != second.size or not first.size:
        raise ValueError(f"There must be as many predictions as labels. Received: {second.size} and {first.size}")
    return first, second
