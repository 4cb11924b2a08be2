"""Keras's global settings, which keras.json and the caller set: what the library builds does not depend on them."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def use_default_config() -> Iterator[None]:
    """Makes channels_last and float32 Keras's defaults inside; the dtype policy stays as it is.

    Losses and metrics follow the default float type: in float16 they are wrong by percents, or overflow.
    """
    keras.config.dtype_policy()  # if nobody has set it, it follows `floatx` from the first use on
    before = keras.config.image_data_format(), keras.config.floatx()
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    try:
        yield
    finally:
        keras.config.set_image_data_format(before[0])
        keras.config.set_floatx(before[1])
