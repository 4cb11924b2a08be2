"""What a `Predictor` answers, as one graph that other runtimes can run: from bytes or images to calibrated answers.

    bytes -> decode -> turn -> resize -> image -> model (and its mirror image) -> temperature, interval -> answers

Every step is one that the Predictor takes in Python, and gives the same numbers.
"""

from collections.abc import Sequence
from typing import Any, Final

import keras
import numpy as np
from keras import ops

from agegender.calibration.calibration import Calibration
from agegender.export.exif import orientations, turn_upright
from agegender.models.batch_norm import fold_batch_norm
from agegender.schema import AGE, AGE_HIGH, AGE_LOW, GENDER, IMAGE, MAX_AGE, MIN_AGE

_SMALLEST: Final = 1e-7  # of a probability, as in `Calibration.probabilities`


def answering_model(model: keras.Model, calibration: Calibration | None = None, *, flip: bool = False) -> keras.Model:
    """Joins a model and its calibration into one model, which computes in float32.

    Args:
        model: from `build_model`, with one or both heads.
        calibration: of that model; None for the model's own answers.
        flip: whether to answer with the mean over a image and its mirror image.

    Returns:
        A model from images uint8 [batch, height, width, 3], RGB, 0..255, to a dictionary of float32 [batch, 1]: "age"
        in years, "gender" as the probability of female, and, where the calibration has them, "age_low" and "age_high",
        the ends of the interval in years.

    Example:

    >>> from agegender.models.heads import build_model
    >>> trunk = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.GlobalAveragePooling2D()])
    >>> sorted(answering_model(build_model(trunk)).output)
    ['age', 'gender']
    """
    plain = _in_float32(fold_batch_norm(model))
    images = keras.Input(model.input_shape[1:], dtype="uint8", name=IMAGE)
    answers = dict(_with_mirror_image(plain, images) if flip else plain(images))
    if AGE in answers:
        answers[AGE] = ops.clip(answers[AGE], MIN_AGE, MAX_AGE)
    if calibration is not None and calibration.ages is not None and AGE in answers:
        for name, ends in ((AGE_LOW, calibration.low), (AGE_HIGH, calibration.high)):
            answers[name] = _interpolate(answers[AGE], calibration.ages, ends)
    if calibration is not None and calibration.temperature is not None and GENDER in answers:
        answers[GENDER] = _cooled(answers[GENDER], calibration.temperature)
    return keras.Model(images, answers, name="agegender_answers")


def decode_images(encoded: Any, height: int, width: int) -> Any:
    """Decodes, turns upright and resizes images as a `Predictor` does, within a TensorFlow graph.

    Args:
        encoded: a tensor of strings [batch], each the bytes of a JPEG or PNG file, of any colours and bits. Behind what
            is transparent is white; a PNG of 2 or 4 bits of grey, or 16 of colour, which names one value that is
            transparent, is shown so, and by Pillow as if it did not.
        height: pixels, of what is returned.
        width: the same.

    Returns:
        A tensor uint8 [batch, height, width, 3], RGB.

    Raises:
        tensorflow.errors.InvalidArgumentError: when the graph runs, if bytes are no image. It names the places of
            those that are neither JPEG nor PNG, but not of one that is damaged.
    """
    import tensorflow as tf

    is_png = tf.strings.regex_full_match(tf.strings.substr(encoded, 0, 26), r"\CPNG\r\n\x1a\n\C{18}")
    other = tf.where(~(is_png | (tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff")))[:, 0]
    known = tf.debugging.Assert(tf.size(other) == 0, ["`encoded` must be JPEG or PNG files. Received others at", other])

    def decode(one: tuple[Any, Any, Any]) -> Any:
        file, is_png, orientation = one
        # The accurate transform is Pillow's; with TensorFlow's own choice two values in three are another.
        image = tf.cond(
            is_png,
            lambda: _decode_png(file),
            lambda: tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE"),
        )
        return resize_images(turn_upright(image, orientation), height, width)

    with tf.control_dependencies([known]):
        each, size = (encoded, is_png, orientations(encoded)), tf.TensorSpec((height, width, 3), tf.uint8)
        return tf.map_fn(decode, each, fn_output_signature=size)


def resize_images(images: Any, height: int, width: int) -> Any:
    """Resizes as Pillow does, bilinear with antialiasing, but for a grey level here and there; in a TensorFlow graph.

    Args:
        images: a tensor uint8 [..., height, width, 3] of three or four dimensions, of any size.
        height: pixels, of what is returned.
        width: the same.

    Returns:
        A tensor uint8 [..., height, width, 3].
    """
    import tensorflow as tf

    # Pillow resizes the rows, rounds to whole grey levels, and then the columns. In one pass a tenth and more of the
    # values would be another grey level, and not a hundredth.
    for size in ((tf.shape(images)[-3], width), (height, width)):
        resized = tf.image.resize(images, size, method="bilinear", antialias=True)
        images = tf.cast(tf.floor(tf.clip_by_value(resized, 0, 255) + 0.5), tf.uint8)
    return images


def _decode_png(file: Any) -> Any:
    """What shows of a PNG file, uint8 [height, width, 3], as `images.read_image` has it."""
    import tensorflow as tf

    def grey_of_16_bits() -> Any:
        return tf.cast(tf.io.decode_png(file, channels=3, dtype=tf.uint16) // 257, tf.uint8)  # else 8 bits are cut off

    def others() -> Any:
        image = tf.io.decode_png(file, channels=4)
        # Where nothing is transparent TensorFlow fills in the largest number of the file's bits: of 4 bits, 15.
        bits = tf.cast(tf.io.decode_raw(tf.strings.substr(file, 24, 1), tf.uint8)[0], tf.int32)
        opaque = tf.reduce_all(image[..., 3] == tf.saturate_cast(2**bits - 1, tf.uint8))
        return tf.cond(opaque, lambda: image[..., :3], lambda: _over_white(image))

    return tf.cond(tf.strings.substr(file, 24, 2) == b"\x10\x00", grey_of_16_bits, others)


def _over_white(image: Any) -> Any:
    import tensorflow as tf

    colours, opacity = tf.cast(image[..., :3], tf.float32), tf.cast(image[..., 3:], tf.float32) / 255
    return tf.cast(tf.floor(colours * opacity + 255 * (1 - opacity) + 0.5), tf.uint8)


def _in_float32(model: keras.Model) -> keras.Model:
    """The model, or a copy if it computes in half precision, which few other runtimes have."""

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"} if _is_half(layer) else
                                       layer.get_config())  # fmt: skip

    if not any(map(_is_half, model._flatten_layers())):
        return model
    full = keras.models.clone_model(model, clone_function=copy, recursive=True)
    full.set_weights(model.get_weights())
    return full


def _is_half(layer: keras.layers.Layer) -> bool:
    return getattr(layer, "compute_dtype", None) in ("float16", "bfloat16")


def _with_mirror_image(model: keras.Model, images: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
    # One pass over twice the images: two passes would put the model twice into some formats.
    both = model(ops.concatenate([images, images[:, :, ::-1]], axis=0))
    return {head: ops.mean(ops.reshape(values, (2, -1, 1)), axis=0) for head, values in both.items()}


def _interpolate(tensor: keras.KerasTensor, places: Sequence[float], values: Sequence[float] | None) -> Any:
    """`np.interp`, as a sum over the pieces: each runtime has what that takes."""
    at, of = np.asarray(places, "float32"), np.asarray(values, "float32")
    width = np.diff(at)
    passed = ops.minimum(ops.relu(tensor - at[:-1]), width)  # [batch, pieces], how much of each piece lies below
    return ops.matmul(passed, (np.diff(of) / width)[:, None]) + of[0]


def _cooled(probabilities: keras.KerasTensor, temperature: float) -> Any:
    yes, no = (ops.log(ops.maximum(p, _SMALLEST)) for p in (probabilities, 1 - probabilities))
    return ops.sigmoid((yes - no) / temperature)
