"""The library's own layers that a saved model is made of; importing this file registers them with Keras."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import keras
from keras import ops

_EPSILON: Final = 1e-12  # of a probability


@keras.saving.register_keras_serializable(package="agegender")
class VGGFaceNormalization(keras.layers.Layer):
    """Converts RGB to BGR, subtracts a mean and scales, in float32 under every dtype policy.

    Args:
        mean: the means of blue, green and red, in grey levels 0..255.
        scale: factor after the subtraction.
        **kwargs: `name` and other arguments of `keras.layers.Layer`.
    """

    def __init__(self, mean: Sequence[float], scale: float = 1.0, **kwargs: Any) -> None:
        # bfloat16 keeps 8 bits: it would round the image before the mean is subtracted.
        super().__init__(**{"dtype": "float32", **kwargs})
        self.mean = tuple(float(value) for value in mean)
        self.scale = float(scale)

    def call(self, images: Any) -> Any:
        """Normalizes images `[..., 3]`, RGB 0..255, of any dtype."""
        # Split and concatenate, because every export format supports them and not every one can reverse an axis.
        red, green, blue = ops.split(ops.cast(images, self.compute_dtype), 3, axis=-1)
        bgr = ops.concatenate([blue, green, red], axis=-1)
        return (bgr - ops.convert_to_tensor(self.mean, dtype=self.compute_dtype)) * self.scale

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments for `from_config`."""
        return {**super().get_config(), "mean": self.mean, "scale": self.scale}


@keras.saving.register_keras_serializable(package="agegender")
class Resize(keras.layers.Layer):
    """Resizes images to a square, bilinearly; unlike `keras.layers.Resizing` it needs no TensorFlow.

    Args:
        size: side of the square in pixels.
        **kwargs: `name` and other arguments of `keras.layers.Layer`.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.size = int(size)

    def call(self, images: Any) -> Any:
        """Resizes images `[batch, height, width, channels]`."""
        return ops.image.resize(images, (self.size, self.size), "bilinear", data_format="channels_last")

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns `[batch, size, size, channels]`."""
        return (input_shape[0], self.size, self.size, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments for `from_config`."""
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable(package="agegender")
class PadChannels(keras.layers.Layer):
    """Appends channels of zeros to features `[batch, height, width, channels]`.

    Args:
        count: number of channels to append.
        **kwargs: `name` and other arguments of `keras.layers.Layer`.
    """

    def __init__(self, count: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = int(count)

    def call(self, features: Any) -> Any:
        """Pads the last axis."""
        return ops.pad(features, [[0, 0], [0, 0], [0, 0], [0, self.count]])

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input shape with more channels."""
        return (*input_shape[:-1], input_shape[-1] + self.count)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments for `from_config`."""
        return {**super().get_config(), "count": self.count}


@keras.saving.register_keras_serializable(package="agegender")
class MeanAge(keras.layers.Layer):
    """Maps probabilities of the years from 0 on, `[batch, 117]`, to their mean in years, `[batch, 1]`."""

    def call(self, probabilities: Any) -> Any:
        """Sums each year times its probability."""
        years = ops.arange(probabilities.shape[-1], dtype=self.compute_dtype)
        return ops.sum(probabilities * years, axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns `[batch, 1]`."""
        return (*input_shape[:-1], 1)


@keras.saving.register_keras_serializable(package="agegender")
class MedianAge(keras.layers.Layer):
    """Maps probabilities of the years from 0 on, `[batch, 117]`, to their median in years, `[batch, 1]`.

    The probability of year `n` is spread evenly from `n - 0.5` to `n + 0.5`.
    """

    def call(self, probabilities: Any) -> Any:
        """Sums the share of each year that lies below the median."""
        years = ops.arange(probabilities.shape[-1], dtype="int32")  # the default follows floatx
        # A matrix product instead of a cumulative sum, because every export format supports it.
        is_earlier = ops.cast(years[:, None] < years[None, :], self.compute_dtype)
        cumulative = ops.matmul(probabilities, is_earlier)
        share = ops.clip((0.5 - cumulative) / ops.maximum(probabilities, _EPSILON), 0.0, 1.0)
        return ops.sum(share, axis=-1, keepdims=True) - 0.5

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns `[batch, 1]`."""
        return (*input_shape[:-1], 1)


def iterate_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yields the layers of a model and, after each model among them, the layers of that."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from iterate_layers(layer)
