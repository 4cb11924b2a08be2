"""Random images for training: one Keras layer on the accelerator, one warp a image, a function of (seed, step).

The story is three lines long: `warp` moves the pixels (all geometry of a image in one matrix, one bilinear gather),
`recolour` and `erase` change their values, and every random number of a step comes from one uniform draw `[B, K]`
whose columns are named in `DRAWS`. Those functions are pure; `Augmentation` makes the draw and counts the steps.

Keras has a layer for each of these changes, but its geometry has no XLA kernel on TensorFlow, which turns XLA off for
every model that holds one, and five layers in a row read and write each image five times.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import keras
from keras import ops

Tensor = Any

# One column of the noise each. Another order or number of columns changes the images of every (seed, step).
DRAWS: Final = (
    *("rotation", "width_shift", "height_shift", "shear", "width_zoom", "height_zoom", "flip"),
    *("brightness", "contrast"),
    *("erase", "area", "aspect", "left", "top", "red", "green", "blue"),
)
ERASED_AREA: Final = (0.02, 0.2)  # fraction of the image; the paper goes to 0.4, which can hide a whole face
ERASED_ASPECT: Final = (0.3, 1 / 0.3)  # height / width, the paper's
MID_GREY: Final = 127.5
WHITE: Final = 255.0
LARGEST_SEED: Final = 2**31 - 3  # Keras takes both numbers of a seed modulo 2**31 - 2 on TensorFlow

# The closed interval each number must lie in; `Augmentation` says what each means.
LIMITS: Final = {
    "rotation": (0, 180),
    "width_shift": (0, 1),
    "height_shift": (0, 1),
    "shear": (0, 89),
    "zoom": (0, 0.9),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "erasing": (0, 1),
    "seed": (0, LARGEST_SEED),
}


class Settings(NamedTuple):
    """How far each change may go, in the units of `Augmentation`; 0 or False is off."""

    rotation: float = 0.0
    width_shift: float = 0.0
    height_shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    horizontal_flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    erasing: float = 0.0


def _columns(noise: Tensor) -> dict[str, Tensor]:
    return {name: noise[:, column] for column, name in enumerate(DRAWS)}


def _between(noise: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * noise


def matrices(noise: Tensor, settings: Settings, height: int, width: int) -> Tensor:
    """Compose rotation, shift, shear, zoom and flip into one affine matrix a image.

    A matrix takes a point of the new image to the point of the old one that is seen there. In the words of
    `keras.src.legacy.preprocessing.image.apply_affine_transform` it is `centre @ rotation @ shift @ shear @ zoom @
    flip @ centre^-1` with the centre at `((width - 1) / 2, (height - 1) / 2)`. A rotation times that shear is a
    rotation whose second column is turned further by the shear angle, so the product is written out below.

    Args:
        noise: float32 `[B, K]` in [0, 1), columns as in `DRAWS`.
        settings: how far each change may go.
        height: pixels.
        width: pixels.

    Returns:
        float32 `[B, 2, 3]`; a row times `(x, y, 1)` is a coordinate, x to the right and y down, in pixels.
    """
    drawn, s = _columns(noise), settings
    turn = _between(drawn["rotation"], -s.rotation, s.rotation) * (math.pi / 180)
    lean = turn + _between(drawn["shear"], -s.shear, s.shear) * (math.pi / 180)
    right = _between(drawn["width_shift"], -s.width_shift, s.width_shift) * ops.cast(width, "float32")
    down = _between(drawn["height_shift"], -s.height_shift, s.height_shift) * ops.cast(height, "float32")
    wide = _between(drawn["width_zoom"], 1 - s.zoom, 1 + s.zoom)
    high = _between(drawn["height_zoom"], 1 - s.zoom, 1 + s.zoom)
    if s.horizontal_flip:
        wide = ops.where(drawn["flip"] < 0.5, -wide, wide)

    a, b = ops.cos(turn) * wide, -ops.sin(lean) * high
    c, d = ops.sin(turn) * wide, ops.cos(lean) * high
    x, y = ops.cast(width - 1, "float32") / 2, ops.cast(height - 1, "float32") / 2
    e = x - (a * x + b * y) + ops.cos(turn) * right - ops.sin(turn) * down
    f = y - (c * x + d * y) + ops.sin(turn) * right + ops.cos(turn) * down
    return ops.reshape(ops.stack([a, b, e, c, d, f], axis=1), (-1, 2, 3))


def _gather_rows(images: Tensor) -> Callable[[Tensor], Tensor]:
    """Gathers pixels `[B, H, W, C]` of any kind of image from places `[B, H, W]`, which count row by row."""
    batch, height, width, channels = ops.shape(images)
    pixels = ops.reshape(images, (batch, height * width, channels))

    def gather(places: Tensor) -> Tensor:
        found = ops.take_along_axis(pixels, ops.reshape(places, (batch, height * width, 1)), axis=1)
        return ops.reshape(found, (batch, height, width, channels))

    return gather


def _gather_packed(images: Tensor) -> Callable[[Tensor], Tensor]:
    """Does the same for bytes, with the channels of a pixel in one number, which is one load instead of three.

    On the CPU no difference can be told from noise under TensorFlow; under JAX it is 2.6 times as fast at 200 px and
    3.7 times at 64 px.
    """
    shape = batch, height, width, channels = ops.shape(images)
    shifts = 8 * ops.arange(channels, dtype="int32")
    # XLA would compute a sum of three terms again at every use; what comes out of a `sum` along an axis it writes once.
    pixels = ops.sum(ops.left_shift(ops.cast(images, "int32"), shifts), axis=-1)
    pixels = ops.reshape(pixels, (batch, height * width))

    def gather(places: Tensor) -> Tensor:
        # Once a channel, though it is the same number: XLA writes out a gather that is used more than once, but drops
        # the repetition from the innermost loop.
        places = ops.reshape(ops.broadcast_to(places[..., None], shape), (batch, height * width * channels))
        found = ops.reshape(ops.take_along_axis(pixels, places, axis=1), shape)
        return ops.bitwise_and(ops.right_shift(found, shifts), 255)

    return gather


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Look every pixel of the new images up in the old ones, bilinearly, the edge repeated outside ("nearest").

    Args:
        images: uint8 or float `[B, H, W, C]`.
        matrices: float32 `[B, 2, 3]`, as `matrices` makes them.

    Returns:
        float32 `[B, H, W, C]`, in the units of `images`.

    Example:

    >>> import numpy as np
    >>> shift_right_by_one = [[[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]]
    >>> moved = warp(np.array([[[[1], [2], [3]]]], "uint8"), np.array(shift_right_by_one, "float32"))
    >>> ops.convert_to_numpy(moved)[0, 0, :, 0].tolist()
    [1.0, 1.0, 2.0]
    """
    _, height, width, _ = ops.shape(images)
    m = ops.reshape(matrices, (-1, 2, 3, 1, 1))
    x, y = ops.cast(ops.arange(width), "float32"), ops.cast(ops.arange(height), "float32")[:, None]
    # A coordinate clamped to the image is fill_mode="nearest".
    x, y = (
        ops.clip(m[:, row, 0] * x + m[:, row, 1] * y + m[:, row, 2], 0.0, ops.cast(size - 1, "float32"))
        for row, size in enumerate((width, height))
    )
    left, top = ops.cast(x, "int32"), ops.cast(y, "int32")
    right, bottom = ops.minimum(left + 1, width - 1), ops.minimum(top + 1, height - 1)

    # Four gathers that fuse with the arithmetic beat one gather of four pixels, which has to be written out first.
    packs = images.shape[-1] == 3 and keras.backend.standardize_dtype(images.dtype) == "uint8"
    gather = (_gather_packed if packs else _gather_rows)(images)

    def look_up(row: Tensor, column: Tensor) -> Tensor:
        return ops.cast(gather(row * width + column), "float32")

    x, y = (x - ops.cast(left, "float32"))[..., None], (y - ops.cast(top, "float32"))[..., None]
    above = look_up(top, left) * (1 - x) + look_up(top, right) * x
    below = look_up(bottom, left) * (1 - x) + look_up(bottom, right) * x
    return above * (1 - y) + below * y


def recolour(images: Tensor, noise: Tensor, settings: Settings) -> Tensor:
    """Scale brightness, then contrast about the mid grey 127.5, and clip.

    Args:
        images: float32 `[B, H, W, 3]`, 0..255.
        noise: float32 `[B, K]` in [0, 1), columns as in `DRAWS`.
        settings: brightness is a factor in [1 - brightness, 1 + brightness], contrast likewise.

    Returns:
        float32 `[B, H, W, 3]`, 0..255.
    """
    drawn = _columns(noise)
    brightness = _between(drawn["brightness"], 1 - settings.brightness, 1 + settings.brightness)
    contrast = _between(drawn["contrast"], 1 - settings.contrast, 1 + settings.contrast)
    gain = ops.reshape(brightness * contrast, (-1, 1, 1, 1))
    offset = ops.reshape(MID_GREY * (1 - contrast), (-1, 1, 1, 1))
    return ops.clip(images * gain + offset, 0.0, WHITE)


def erase(images: Tensor, noise: Tensor, settings: Settings) -> Tensor:
    """Paint a rectangle of one random colour over some of the images: random erasing, Zhong et al. 2020.

    The paper (https://arxiv.org/abs/1708.04896) draws a colour a pixel, up to 0.4 of the area, and draws again when
    the rectangle does not fit. Here: a colour a rectangle, 0.02 to 0.2 of the area, the logarithm of the aspect
    uniform, a side that does not fit cut to the image's. So one draw is enough, whatever its values.

    Args:
        images: float32 `[B, H, W, 3]`, 0..255.
        noise: float32 `[B, K]` in [0, 1), columns as in `DRAWS`.
        settings: `erasing` is the probability of a rectangle.

    Returns:
        float32 `[B, H, W, 3]`, 0..255.
    """
    height, width = ops.shape(images)[1:3]
    x, y = ops.cast(ops.arange(width), "float32"), ops.cast(ops.arange(height), "float32")
    height, width = ops.cast(height, "float32"), ops.cast(width, "float32")
    drawn = {name: column[:, None] for name, column in _columns(noise).items()}
    area = _between(drawn["area"], *ERASED_AREA) * height * width
    aspect = ops.exp(_between(drawn["aspect"], *map(math.log, ERASED_ASPECT)))
    tall = ops.minimum(ops.round(ops.sqrt(area * aspect)), height)
    wide = ops.minimum(ops.round(ops.sqrt(area / aspect)), width)
    top = ops.floor(drawn["top"] * (height - tall + 1))
    left = ops.floor(drawn["left"] * (width - wide + 1))

    rows = ops.cast((drawn["erase"] < settings.erasing) & (y >= top) & (y < top + tall), "float32")
    columns = ops.cast((x >= left) & (x < left + wide), "float32")
    inside = rows[:, :, None, None] * columns[:, None, :, None]
    colour = ops.concatenate([WHITE * drawn[name] for name in ("red", "green", "blue")], axis=1)[:, None, None, :]
    # Exact, as `inside` is 0 or 1. A `where` here makes XLA's fused loop branch, and the whole warp half as fast.
    return images * (1 - inside) + colour * inside


def augment(images: Tensor, noise: Tensor, settings: Settings) -> Tensor:
    """Warp, recolour and erase: the whole augmentation as a pure function.

    Args:
        images: uint8 or float `[B, H, W, 3]`, 0..255.
        noise: float32 `[B, K]` in [0, 1), columns as in `DRAWS`; a row decides everything about one image.
        settings: how far each change may go.

    Returns:
        float32 `[B, H, W, 3]`, 0..255.
    """
    _, height, width, _ = ops.shape(images)
    warped = warp(images, matrices(noise, settings, height, width))
    recoloured = recolour(warped, noise, settings)
    return erase(recoloured, noise, settings) if settings.erasing else recoloured


@functools.cache
def _compiled() -> Callable[[Tensor, Tensor, Settings], Tensor]:
    """`augment`, compiled with XLA on its own where the rest of the training step is not.

    On the CPU the step is compiled without XLA, because oneDNN is faster for convolutions; the warp is many times
    faster with it. Inside a step that has XLA, the inner function melts into the outer. JAX compiles whole steps.
    """
    if keras.backend.backend() != "tensorflow":
        return augment
    import tensorflow as tf  # only in this branch: the other backends must not need TensorFlow

    return tf.function(augment, jit_compile=True, autograph=False)


def _draw(batch: Any, seeds: keras.random.SeedGenerator) -> Tensor:
    """Uniform noise `[batch, K]` in [0, 1) for this step; the step counter advances by one."""
    return keras.random.uniform([batch, len(DRAWS)], dtype="float32", seed=seeds)


def _check(values: dict[str, Any]) -> None:
    for name, (low, high) in LIMITS.items():
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"`{name}` must be in [{low}, {high}]. Received: {name}={value!r}")
    flip = values["horizontal_flip"]
    if not isinstance(flip, bool):
        raise ValueError(f"`horizontal_flip` must be True or False. Received: horizontal_flip={flip!r}")


@keras.saving.register_keras_serializable(package="agegender")
class Augmentation(keras.layers.Layer):
    """Random geometry, colour and erasing in training; the same images, as float32, otherwise.

    The geometry is that of Keras's `ImageDataGenerator(rotation_range=10, width_shift_range=0.2,
    height_shift_range=0.2, shear_range=0.2, zoom_range=0.2, horizontal_flip=True, fill_mode="nearest")`, with the
    same meaning of each number, uniform in its range and drawn for each image. Note that a shear is an angle in
    degrees there and here, so 0.2 is next to nothing. (The generator in Keras 3 applies the height shift along the
    width and the width shift along the height; with equal shifts of square images that is the same.)

    The image that training call `step` makes of another depends on `(seed, step)`, its place in the batch and the
    size of the batch, and on nothing else. Each backend draws numbers of its own, and TensorFlow others when the step
    around is compiled with XLA.

    The layer computes in float32 whatever the global dtype policy says.

    Args:
        rotation: largest angle, degrees, in [0, 180].
        width_shift: largest shift along the width, fraction of the width, in [0, 1].
        height_shift: largest shift along the height, fraction of the height, in [0, 1].
        shear: largest shear angle, degrees, in [0, 89].
        zoom: each axis is scaled by its own factor in [1 - zoom, 1 + zoom]; zoom in [0, 0.9].
        horizontal_flip: mirror half of the images.
        brightness: values are multiplied by a factor in [1 - brightness, 1 + brightness]; in [0, 1].
        contrast: the distance to mid grey, 127.5, is multiplied by a factor in [1 - contrast, 1 + contrast]; in [0, 1].
        erasing: probability that a rectangle of the image is painted over, in [0, 1]
            (random erasing, Zhong et al. 2020, arXiv 1708.04896; `augment.erase` says what is different).
        seed: integer in [0, 2**31 - 3].
        **kwargs: "name" and "trainable", as every Keras layer has them.

    Raises:
        ValueError: if a number is outside its range.

    Example:

    >>> import numpy as np
    >>> layer = Augmentation(rotation=5, erasing=0, seed=1)
    >>> tuple(layer(np.zeros([2, 24, 24, 3], "uint8"), training=True).shape), layer.step
    ((2, 24, 24, 3), 1)
    """

    def __init__(
        self,
        *,
        rotation: float = 10.0,
        width_shift: float = 0.2,
        height_shift: float = 0.2,
        shear: float = 0.2,
        zoom: float = 0.2,
        horizontal_flip: bool = True,
        brightness: float = 0.1,
        contrast: float = 0.1,
        erasing: float = 0.25,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        settings = Settings(
            rotation, width_shift, height_shift, shear, zoom, horizontal_flip, brightness, contrast, erasing
        )
        _check({**settings._asdict(), "seed": seed})
        super().__init__(dtype="float32", **kwargs)
        self.settings = settings
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)  # its state is [seed, step]

    @property
    def step(self) -> int:
        """The number of training calls so far, which is the step of the next one; `layer.step = k` goes to step k.

        Set it before `fit` to resume there: a `.keras` file does not hold it. On the JAX backend `fit` works on a
        copy, so read it after.

        Raises:
            ValueError: for a step outside [0, 2**31 - 3].
        """
        return int(self.seed_generator.state.value[1])

    @step.setter
    def step(self, step: int) -> None:
        if not 0 <= step <= LARGEST_SEED:
            raise ValueError(f"`step` must be in [0, {LARGEST_SEED}]. Received: step={step!r}")
        self.seed_generator.state.assign([self.seed, operator.index(step)])

    def call(self, images: Tensor, training: bool = False) -> Tensor:
        """Makes new images of a batch; `layer(images, training=True)` does it and counts the step.

        Args:
            images: uint8 or float `[B, H, W, 3]`, 0..255.
            training: whether to change anything.

        Returns:
            float32 `[B, H, W, 3]`, 0..255.
        """
        if not training:
            return ops.cast(images, "float32")
        noise = keras.random.uniform([ops.shape(images)[0], len(DRAWS)], dtype="float32", seed=self.seed_generator)
        return _compiled()(images, noise, self.settings)

    def compute_output_spec(self, images: Any, training: bool = False) -> keras.KerasTensor:
        """The shape of the images, as float32."""
        return keras.KerasTensor(images.shape, dtype="float32")

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape stays."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments that it was made with."""
        config = super().get_config()
        del config["dtype"]  # always float32
        return {**config, **self.settings._asdict(), "seed": self.seed}
