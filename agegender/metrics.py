"""What is measured, in words and in code.

- MAE: the mean of |predicted - true| age, in years.
- RMSE: the square root of the mean of (predicted - true)^2, in years. Larger errors count more.
- CS@k, the cumulative score: the share of pictures whose age error is k years or less.
- Gender accuracy: the share of pictures where the more probable gender is the recorded one; a probability of exactly
  one half counts as female.

All functions take numpy arrays of any shape with as many ages as predictions, and return a float.
"""

import numpy as np
from numpy.typing import ArrayLike


def mean_absolute_error(ages: ArrayLike, predicted: ArrayLike) -> float:
    """MAE in years.

    >>> mean_absolute_error([20, 40], [25, 39])
    3.0
    """
    return float(np.mean(_errors(ages, predicted)))


def root_mean_squared_error(ages: ArrayLike, predicted: ArrayLike) -> float:
    """RMSE in years.

    >>> root_mean_squared_error([20, 40], [21, 47])
    5.0
    """
    return float(np.sqrt(np.mean(np.square(_errors(ages, predicted)))))


def cumulative_score(ages: ArrayLike, predicted: ArrayLike, *, years: float = 5.0) -> float:
    """CS@years, between 0 and 1. An error of exactly `years` counts as within.

    >>> cumulative_score([20, 40, 60], [25, 46, 60])
    0.6666666666666666
    """
    return float(np.mean(_errors(ages, predicted) <= years))


def gender_accuracy(genders: ArrayLike, probabilities: ArrayLike) -> float:
    """Share of genders (0 = male, 1 = female) that the probabilities of female get right.

    >>> gender_accuracy([0, 1, 1, 0], [0.2, 0.5, 0.4, 0.9])
    0.5
    """
    genders, probabilities = _pair(genders, probabilities)
    return float(np.mean((probabilities >= 0.5) == (genders >= 0.5)))


def _errors(ages: ArrayLike, predicted: ArrayLike) -> np.ndarray:
    ages, predicted = _pair(ages, predicted)
    return np.abs(predicted - ages)


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [n]: columns [n, 1] against rows [n] would broadcast to [n, n] without a word."""
    first, second = np.asarray(first, "float64").ravel(), np.asarray(second, "float64").ravel()
    if first.size != second.size or not first.size:
        raise ValueError(f"Give as many predictions as labels, at least one. Received: {second.size} and {first.size}")
    return first, second
