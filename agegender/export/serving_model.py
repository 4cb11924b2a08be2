"""Builds one graph from images to calibrated answers, which other runtimes can run.

    image -> model (and its mirror image) -> clip, interval, temperature -> answers

Each step is one that `Predictor` takes in NumPy, with the same numbers.
"""

from collections.abc import Sequence
from typing import Any, Final

import keras
import numpy as np
from keras import ops

from agegender.calibration.calibration import Calibration
from agegender.models.batch_norm import fold_batch_norm
from agegender.models.dtypes import cast_model
from agegender.schema import AGE, AGE_HIGH, AGE_LOW, GENDER, IMAGE, MAX_AGE, MIN_AGE

RAW_GENDER: Final = "gender_uncalibrated"
_MAX_PIXELS: Final = 4096 * 4096  # of a file, which shows one face; a file of a kilobyte may claim billions
_EPSILON: Final = 1e-7  # of a probability, as in `Calibration.probabilities`


def build_serving_model(
    model: keras.Model, calibration: Calibration | None = None, *, flip: bool = False, raw_gender: bool = False
) -> keras.Model:
    """Joins a model and its calibration into one float32 model.

    Args:
        model: a model from `build_model`, with one or both heads.
        calibration: the calibration of that model; None for uncalibrated answers.
        flip: whether to average the predictions for each image and its mirror image.
        raw_gender: whether to add the output `"gender_uncalibrated"` if the calibration changes `"gender"`.

    Returns:
        A model from uint8 images `[batch, height, width, 3]`, RGB, 0..255, to a dict of float32 `[batch, 1]`: `"age"`
        in years, `"gender"` as the probability of female and, if the calibration has intervals, `"age_low"` and
        `"age_high"` in years.

    Example:

    >>> from agegender.models.heads import build_model
    >>> trunk = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.GlobalAveragePooling2D()])
    >>> sorted(build_serving_model(build_model(trunk)).output)
    ['age', 'gender']
    """
    float_model = cast_model(fold_batch_norm(model), "float32")
    images = keras.Input(model.input_shape[1:], dtype="uint8", name=IMAGE)
    answers = dict(_average_over_flip(float_model, images) if flip else float_model(images))
    if AGE in answers:
        answers[AGE] = ops.clip(answers[AGE], MIN_AGE, MAX_AGE)
    if calibration is not None and calibration.ages is not None and AGE in answers:
        for name, ends in ((AGE_LOW, calibration.low), (AGE_HIGH, calibration.high)):
            answers[name] = interpolate(answers[AGE], calibration.ages, ends)
    if calibration is not None and calibration.temperature is not None and GENDER in answers:
        if raw_gender:
            answers[RAW_GENDER] = answers[GENDER]
        answers[GENDER] = apply_temperature(answers[GENDER], calibration.temperature)
    return keras.Model(images, answers, name="agegender_answers")


def decode_images(encoded: Any, height: int, width: int) -> Any:
    """Decodes and resizes JPEG or PNG files within a TensorFlow graph.

    The pixels are those of Pillow. EXIF orientation and transparency are ignored, because aligned faces have neither.

    Args:
        encoded: string tensor `[batch]`, each the bytes of a JPEG or PNG file of at most 4096 x 4096 pixels; the graph
            raises InvalidArgumentError for others.
        height: pixels of the result.
        width: pixels of the result.

    Returns:
        A uint8 tensor `[batch, height, width, 3]`, RGB.
    """
    import tensorflow as tf

    def read_png_size(file: Any) -> Any:
        return tf.cast(tf.io.decode_raw(tf.strings.substr(file, 16, 8), tf.int32, little_endian=False), tf.int64)

    def read_jpeg_size(file: Any) -> Any:
        return tf.cast(tf.io.extract_jpeg_shape(file)[:2], tf.int64)

    def decode(file: Any) -> Any:
        size = tf.cond(
            tf.strings.substr(file, 0, 4) == b"\x89PNG", lambda: read_png_size(file), lambda: read_jpeg_size(file)
        )
        words = f"An image must have at most {_MAX_PIXELS:,} pixels. Received:"
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_prod(size) <= _MAX_PIXELS, [words, size])]):
            # The op decodes PNG as well. The accurate transform is Pillow's; the default changes two values in three.
            image = tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")
        return resize_images(image, height, width)

    return tf.map_fn(decode, encoded, fn_output_signature=tf.TensorSpec((height, width, 3), tf.uint8))


def resize_images(images: Any, height: int, width: int) -> Any:
    """Resizes with antialiased bilinear interpolation, as Pillow does, within a TensorFlow graph.

    Args:
        images: uint8 tensor `[..., height, width, 3]` of three or four dimensions, of any size.
        height: pixels of the result.
        width: pixels of the result.

    Returns:
        A uint8 tensor `[..., height, width, 3]`; up to 2 % of the values are a grey level or two off Pillow's.
    """
    import tensorflow as tf

    # Pillow resizes the rows, rounds to whole grey levels, then resizes the columns. A single pass would change more
    # than a tenth of the values.
    for size in ((tf.shape(images)[-3], width), (height, width)):
        resized = tf.image.resize(images, size, method="bilinear", antialias=True)
        images = tf.cast(tf.floor(tf.clip_by_value(resized, 0, 255) + 0.5), tf.uint8)
    return images


def interpolate(tensor: Any, points: Sequence[float], values: Sequence[float] | None) -> Any:
    """Computes `np.interp(tensor, points, values)` with ops that every runtime has; `tensor` is `[batch, 1]`."""
    x, y = np.asarray(points, "float32"), np.asarray(values, "float32")
    width = np.diff(x)
    passed = ops.minimum(ops.relu(tensor - x[:-1]), width)  # [batch, segments]: how much of each lies below
    return ops.matmul(passed, (np.diff(y) / width)[:, None]) + y[0]


def apply_temperature(probabilities: Any, temperature: float) -> Any:
    """Divides the logits of probabilities by a temperature."""
    log_p, log_q = (ops.log(ops.maximum(p, _EPSILON)) for p in (probabilities, 1 - probabilities))
    return ops.sigmoid((log_p - log_q) / temperature)


def _average_over_flip(model: keras.Model, images: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
    # One pass over twice the images: two passes would store the weights twice in some formats.
    outputs = model(ops.concatenate([images, images[:, :, ::-1]], axis=0))
    # [2 * batch, 1] to [batch, 2], in a way that also works for an empty batch.
    return {head: ops.mean(ops.concatenate(ops.split(out, 2), axis=1), axis=1, keepdims=True)
            for head, out in outputs.items()}  # fmt: skip
