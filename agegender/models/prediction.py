"""Predictions of a Keras model for one batch of aligned faces."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agegender.schema import AGE, MAX_AGE, MIN_AGE

if TYPE_CHECKING:
    import keras


def predict_batch(model: "keras.Model", images: NDArray[Any], *, flip: bool = False) -> dict[str, NDArray[Any]]:
    """Predicts age and gender for a batch of aligned faces, before any calibration.

    Args:
        model: a model from `build_model`.
        images: RGB values 0..255, shape `[batch, height, width, 3]`, of the model's input size.
        flip: whether to average the predictions for each image and its mirror image.

    Returns:
        A float32 array of shape `[batch]` for each head: `"age"` in years, clipped to 0..116, and `"gender"`, the
        probability of female.

    Example:

    >>> import agegender, keras
    >>> trunk = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.GlobalAveragePooling2D()])
    >>> predict_batch(agegender.build_model(trunk), np.zeros((2, 64, 64, 3), "uint8"))["age"]
    array([33., 33.], dtype=float32)
    """
    views = [images, images[:, :, ::-1]] if flip else [images]
    predictions = [model.predict_on_batch(view) for view in views]
    means = {head: np.mean([np.ravel(each[head]) for each in predictions], axis=0) for head in predictions[0]}
    if AGE in means:  # a regression head is unbounded
        means[AGE] = np.clip(means[AGE], MIN_AGE, MAX_AGE)
    return means
