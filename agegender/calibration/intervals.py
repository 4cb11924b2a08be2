"""Age intervals with a nominal coverage at every recorded age, by conformal prediction.

Predicted ages are pulled to the mean, so an interval that is valid for every *predicted* age misses the old far too
often. The coverage is therefore valid for every *recorded* age y: of the images of age y, the share `coverage` is
predicted within centre(y) +- reach(y). The interval of a prediction f is the set of all ages y whose range contains f.

    centre(y)   local linear regression of predicted on recorded ages
    scale(y)    local mean of |f - centre(y)|
    reach(y)    scale(y) times the local conformal quantile of the scores |f - centre(y)| / scale(y); the centre and
                the scale of each score are fitted without its image, in five folds

"Local" is a Gaussian kernel over the recorded age, as wide as the distance to the 240th nearest image. Sources: split
conformal prediction with scaled scores (Lei et al. 2018, arXiv 1604.04173); a coverage for each label, "Mondrian"
(Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World; Vovk 2012, arXiv 1209.2673); localised by a
kernel (Guan 2023, arXiv 2106.08460). Separate quantiles for the two sides (Romano et al. 2019, arXiv 1905.03222) made
wider intervals of no better coverage.
"""

from typing import Final

import numpy as np

from agegender.schema import MAX_AGE, MIN_AGE

_NEIGHBOURS: Final = 240  # images within one kernel width
_FOLDS: Final = 5
_RECORDED: Final = np.arange(MIN_AGE, MAX_AGE + 1, dtype="float64")
_PREDICTED: Final = np.arange(MIN_AGE, MAX_AGE + 0.25, 0.5)


def fit_intervals(
    ages: np.ndarray, predicted: np.ndarray, coverage: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits intervals to pairs of recorded and predicted ages.

    Args:
        ages: recorded, in years, [n], of images that the model was not trained on.
        predicted: in years, [n].
        coverage: the share of intervals that should contain the recorded age, between 0 and 1.

    Returns:
        Predicted ages from 0 to 116 years, and the lower and the upper end of the interval at each. All increase, and
        every interval contains the prediction.

    >>> ages = np.arange(400.0) % 80
    >>> predicted, low, high = fit_intervals(ages, ages + np.repeat([-4.0, -2.0, 0.0, 2.0, 4.0], 80), 0.5)
    >>> [round(float(np.interp(40, predicted, ends))) for ends in (low, high)]
    [38, 42]
    """
    fold = np.arange(len(ages)) % _FOLDS
    scores = np.empty(len(ages))
    for held_out in (fold == number for number in range(_FOLDS)):
        centre, scale = _fit_centre_and_scale(ages[~held_out], predicted[~held_out])
        scores[held_out] = _compute_scores(ages[held_out], predicted[held_out], centre, scale)
    centre, scale = _fit_centre_and_scale(ages, predicted)
    reach = scale * _compute_local_quantiles(ages, scores, coverage)
    return _invert_ranges(centre - reach, centre + reach)


def _compute_kernel(ages: np.ndarray) -> np.ndarray:
    """Weights [117, n] of the images around each age: narrow where there are many images, wide where there are few."""
    neighbours = min(_NEIGHBOURS, len(ages) // 4)
    distance = np.abs(_RECORDED[:, None] - ages)
    width = np.sort(distance, axis=1)[:, neighbours - 1].clip(1, 15)
    smooth = np.exp(-0.5 * ((_RECORDED[:, None] - _RECORDED) / 3) ** 2)
    width = smooth @ width / smooth.sum(1)
    return np.exp(-0.5 * (distance / width[:, None]) ** 2)


def _fit_centre_and_scale(ages: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights = _compute_kernel(ages)
    weights /= weights.sum(1, keepdims=True)
    offset = ages - _RECORDED[:, None]
    first, second = (weights * offset).sum(1), (weights * offset**2).sum(1) + 0.01  # positive for images of one age
    level, slope = weights @ predicted, (weights * offset) @ predicted
    centre = (second * level - first * slope) / (second - first**2)
    error = np.abs(predicted - np.interp(ages, _RECORDED, centre))
    return centre, (weights @ error).clip(1e-3)


def _compute_scores(ages: np.ndarray, predicted: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.abs(predicted - np.interp(ages, _RECORDED, centre)) / np.interp(ages, _RECORDED, scale)


def _compute_local_quantiles(ages: np.ndarray, scores: np.ndarray, coverage: float) -> np.ndarray:
    """The ceil((n + 1) coverage)-th of n scores, where n is the kernel's effective number of images."""
    order = np.argsort(scores)
    weights = _compute_kernel(ages)[:, order]
    effective = weights.sum(1) ** 2 / (weights**2).sum(1)
    level = np.minimum(coverage * (1 + 1 / effective), 1)
    shares = np.cumsum(weights, axis=1) / weights.sum(1, keepdims=True)
    return scores[order][(shares < level[:, None] - 1e-9).sum(1)]


def _invert_ranges(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turns the range of predictions of each age into the range of ages of each prediction, made monotone."""
    rising = 1e-9 * _RECORDED  # a constant piece has no inverse
    low, high = np.maximum.accumulate(low) + rising, np.maximum.accumulate(high) + rising
    youngest = np.interp(_PREDICTED, high, _RECORDED)
    oldest = np.interp(_PREDICTED, low, _RECORDED)
    return _PREDICTED, np.minimum(youngest, _PREDICTED), np.maximum(oldest, _PREDICTED)
