"""Age intervals that hold the recorded age as often as promised: conformal prediction, recorded age by recorded age.

Predicted ages are pulled to the mean, so an interval that holds for every *predicted* age misses the old far too often.
The promise is therefore made for every *recorded* age y: of the images of age y, the share `coverage` is predicted
within centre(y) +- reach(y). The interval of a prediction f is the set of all ages y whose range holds f.

    centre(y)   local linear regression of predicted on recorded ages
    spread(y)   local mean of |f - centre(y)|
    reach(y)    spread(y) times the local conformal quantile of the scores |f - centre(y)| / spread(y), each score
                taken from a centre and a spread that were fitted without its image, in five folds

"Local" is a Gaussian kernel over the recorded age, as wide as the distance to the 240th nearest image. Sources: split
conformal prediction with scaled scores (Lei et al. 2018, arXiv 1604.04173); one promise a label, "Mondrian" (Vovk,
Gammerman and Shafer 2005, Algorithmic Learning in a Random World; Vovk 2012, arXiv 1209.2673); localised by a kernel
(Guan 2023, arXiv 2106.08460). Quantiles of each side (Romano et al. 2019, arXiv 1905.03222) were wider and no truer.
"""

from typing import Final

import numpy as np

from agegender.schema import MAX_AGE, MIN_AGE

_NEIGHBOURS: Final = 240  # images within one kernel width; benchmarks/intervals.py
_FOLDS: Final = 5
_RECORDED: Final = np.arange(MIN_AGE, MAX_AGE + 1, dtype="float64")
_PREDICTED: Final = np.arange(MIN_AGE, MAX_AGE + 0.25, 0.5)


def age_tables(ages: np.ndarray, predicted: np.ndarray, coverage: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits intervals to pairs of recorded and predicted ages.

    Args:
        ages: recorded, in years, [n], of images that the model was not trained on.
        predicted: in years, [n].
        coverage: the share of intervals that are to hold the recorded age, between 0 and 1.

    Returns:
        Predicted ages from 0 to 116 years, and the lower and the upper end of the interval at each; all rise, and the
        prediction itself is always inside.

    >>> ages = np.arange(400.0) % 80
    >>> predicted, low, high = age_tables(ages, ages + np.repeat([-4.0, -2.0, 0.0, 2.0, 4.0], 80), 0.5)
    >>> [round(float(np.interp(40, predicted, ends))) for ends in (low, high)]
    [38, 42]
    """
    fold = np.arange(len(ages)) % _FOLDS
    scores = np.empty(len(ages))
    for held_out in (fold == number for number in range(_FOLDS)):
        centre, spread = _centre_and_spread(ages[~held_out], predicted[~held_out])
        scores[held_out] = _scores(ages[held_out], predicted[held_out], centre, spread)
    centre, spread = _centre_and_spread(ages, predicted)
    reach = spread * _local_quantiles(ages, scores, coverage)
    return _invert(centre - reach, centre + reach)


def _kernel(ages: np.ndarray) -> np.ndarray:
    """Weights [117, n] of the images around each age. Images are many around 26 and few around 80."""
    neighbours = min(_NEIGHBOURS, len(ages) // 4)
    distance = np.abs(_RECORDED[:, None] - ages)
    width = np.sort(distance, axis=1)[:, neighbours - 1].clip(1, 15)
    smooth = np.exp(-0.5 * ((_RECORDED[:, None] - _RECORDED) / 3) ** 2)
    width = smooth @ width / smooth.sum(1)
    return np.exp(-0.5 * (distance / width[:, None]) ** 2)


def _centre_and_spread(ages: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights = _kernel(ages)
    weights /= weights.sum(1, keepdims=True)
    away = ages - _RECORDED[:, None]
    first, second = (weights * away).sum(1), (weights * away**2).sum(1) + 0.01  # a hundredth: images of one age only
    level, slope = weights @ predicted, (weights * away) @ predicted
    centre = (second * level - first * slope) / (second - first**2)
    error = np.abs(predicted - np.interp(ages, _RECORDED, centre))
    return centre, (weights @ error).clip(1e-3)


def _scores(ages: np.ndarray, predicted: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return np.abs(predicted - np.interp(ages, _RECORDED, centre)) / np.interp(ages, _RECORDED, spread)


def _local_quantiles(ages: np.ndarray, scores: np.ndarray, coverage: float) -> np.ndarray:
    """Of n scores the ceil((n + 1) coverage)-th, with the kernel's effective number of images for n."""
    order = np.argsort(scores)
    weights = _kernel(ages)[:, order]
    effective = weights.sum(1) ** 2 / (weights**2).sum(1)
    level = np.minimum(coverage * (1 + 1 / effective), 1)
    shares = np.cumsum(weights, axis=1) / weights.sum(1, keepdims=True)
    return scores[order][(shares < level[:, None] - 1e-9).sum(1)]


def _invert(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From the predictions that an age gets to the ages that get a prediction, made monotone."""
    rising = 1e-9 * _RECORDED  # so that a flat piece has an inverse
    low, high = np.maximum.accumulate(low) + rising, np.maximum.accumulate(high) + rising
    youngest = np.interp(_PREDICTED, high, _RECORDED)
    oldest = np.interp(_PREDICTED, low, _RECORDED)
    return _PREDICTED, np.minimum(youngest, _PREDICTED), np.maximum(oldest, _PREDICTED)
