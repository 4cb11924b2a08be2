"""Random augmentation as one Keras layer: a single warp per image, compiled with XLA, a function of (seed, step).

`compose_transforms` joins rotation, shift, shear, zoom and flip into one matrix per image, `turn_heads` bends what it
shows around a head, `warp` resamples the pixels once, `blur_images`, `adjust_color` and `erase_rectangles` change
their values. These functions are pure; their random numbers are the columns of one uniform draw, named in `DRAWS`.
`Augmentation` makes the draw and counts the steps.

Keras has a layer for each of these changes, but its geometry has no XLA kernel on TensorFlow, so a model with one
loses XLA, and five layers in a row read and write each image five times.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import keras
from keras import ops

Tensor = Any

# The columns of the noise. Their order and number decide the images of every (seed, step).
DRAWS: Final = (
    *("rotation", "width_shift", "height_shift", "shear", "width_zoom", "height_zoom", "flip"),
    *("brightness", "contrast"),
    *("erase", "area", "aspect", "left", "top", "red", "green", "blue"),
    *("saturation", "red_gain", "green_gain", "blue_gain", "blur", "yaw"),
)
ERASED_AREA: Final = (0.02, 0.2)  # share of the image; the paper's 0.4 can hide a whole face
ERASED_ASPECT: Final = (0.3, 1 / 0.3)  # height / width, as in the paper
MID_GRAY: Final = 127.5
WHITE: Final = 255.0
HEAD_RADIUS: Final = 0.44  # of the width of an aligned image, from the middle of the face to its silhouette
MAX_SEED: Final = 2**31 - 3  # on TensorFlow Keras takes both numbers of a seed modulo 2**31 - 2

# The closed interval of each number; `Augmentation` describes them.
LIMITS: Final = {
    "rotation": (0, 180),
    "width_shift": (0, 1),
    "height_shift": (0, 1),
    "shear": (0, 89),
    "zoom": (0, 0.9),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "erasing": (0, 1),
    "saturation": (0, 1),
    "color": (0, 1),
    "blur": (0, 0.1),
    "yaw": (0, 60),
    "seed": (0, MAX_SEED),
}


class Settings(NamedTuple):
    """The strength of each change, as in `Augmentation`; 0 or False turns it off."""

    rotation: float = 0.0
    width_shift: float = 0.0
    height_shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    horizontal_flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    erasing: float = 0.0
    saturation: float = 0.0
    color: float = 0.0
    blur: float = 0.0
    yaw: float = 0.0


def _split_noise(noise: Tensor) -> dict[str, Tensor]:
    return {name: noise[:, column] for column, name in enumerate(DRAWS)}


def _scale_noise(noise: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * noise


def compose_transforms(noise: Tensor, settings: Settings, height: int, width: int) -> Tensor:
    """Composes rotation, shift, shear, zoom and flip into one affine matrix per image.

    A matrix maps a point of the new image to the point of the old image that is shown there. It is the product
    `center @ rotation @ shift @ shear @ zoom @ flip @ inverse(center)` with the center at
    `((width - 1) / 2, (height - 1) / 2)`, as in Keras's `ImageDataGenerator`. A rotation times that shear is the
    rotation with its second column turned further by the shear angle, so the product is written out below.

    Args:
        noise: as in `augment`.
        settings: the strength of each change.
        height: pixels.
        width: pixels.

    Returns:
        float32 `[batch, 2, 3]`; a row times `(x, y, 1)` is a coordinate in pixels, x to the right and y down.
    """
    draw, s = _split_noise(noise), settings
    angle = _scale_noise(draw["rotation"], -s.rotation, s.rotation) * (math.pi / 180)
    y_angle = angle + _scale_noise(draw["shear"], -s.shear, s.shear) * (math.pi / 180)
    x_shift = _scale_noise(draw["width_shift"], -s.width_shift, s.width_shift) * ops.cast(width, "float32")
    y_shift = _scale_noise(draw["height_shift"], -s.height_shift, s.height_shift) * ops.cast(height, "float32")
    x_zoom = _scale_noise(draw["width_zoom"], 1 - s.zoom, 1 + s.zoom)
    y_zoom = _scale_noise(draw["height_zoom"], 1 - s.zoom, 1 + s.zoom)
    if s.horizontal_flip:
        x_zoom = ops.where(draw["flip"] < 0.5, -x_zoom, x_zoom)

    a, b = ops.cos(angle) * x_zoom, -ops.sin(y_angle) * y_zoom
    c, d = ops.sin(angle) * x_zoom, ops.cos(y_angle) * y_zoom
    x, y = ops.cast(width - 1, "float32") / 2, ops.cast(height - 1, "float32") / 2
    e = x - (a * x + b * y) + ops.cos(angle) * x_shift - ops.sin(angle) * y_shift
    f = y - (c * x + d * y) + ops.sin(angle) * x_shift + ops.cos(angle) * y_shift
    return ops.reshape(ops.stack([a, b, e, c, d, f], axis=1), (-1, 2, 3))


def _make_gather(images: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns a function from flat places `[batch, height, width]` to the pixels there, with their channels."""
    batch, height, width, channels = ops.shape(images)
    pixels = ops.reshape(images, (batch, height * width, channels))

    def gather(places: Tensor) -> Tensor:
        gathered = ops.take_along_axis(pixels, ops.reshape(places, (batch, height * width, 1)), axis=1)
        return ops.reshape(gathered, (batch, height, width, channels))

    return gather


def turn_heads(x: Tensor, yaws: Tensor, width: int) -> Tensor:
    """Turns heads to a side: returns where in the old images the places in the new ones are.

    The head is modelled as an upright cylinder in the middle of the old image. The middle of the face stays in place,
    as in images aligned by landmarks, so the axis of the head and the background shift sideways. Where a side comes
    into view that the old image does not show, the edge of the head is repeated.

    Args:
        x: float32 `[batch, height, width]`, pixels from the left.
        yaws: float32 `[batch]`, radians, above 0 to the right of the image.
        width: pixels.

    Returns:
        float32 `[batch, height, width]`, pixels from the left.
    """
    width, yaws = ops.cast(width, "float32"), yaws[:, None, None]
    center, radius = (width - 1) / 2, HEAD_RADIUS * width
    across = (x - center) / radius + ops.sin(yaws)  # from -1 to 1 on the head
    angle = ops.clip(ops.arcsin(ops.clip(across, -1.0, 1.0)) - yaws, -math.pi / 2, math.pi / 2)
    return center + radius * ops.where(ops.abs(across) > 1, across, ops.sin(angle))


def warp(images: Tensor, transforms: Tensor, yaws: Tensor | None = None) -> Tensor:
    """Resamples images bilinearly; outside, the edge is repeated (`fill_mode="nearest"`).

    Args:
        images: uint8 or float `[batch, height, width, channels]`.
        transforms: float32 `[batch, 2, 3]` from `compose_transforms`.
        yaws: float32 `[batch]`, radians by which heads are turned before the transform, see `turn_heads`.

    Returns:
        float32 `[batch, height, width, channels]`, in the units of `images`.

    Example:

    >>> import numpy as np
    >>> shift_right_by_one = [[[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]]
    >>> warped = warp(np.array([[[[1], [2], [3]]]], "uint8"), np.array(shift_right_by_one, "float32"))
    >>> ops.convert_to_numpy(warped)[0, 0, :, 0].tolist()
    [1.0, 1.0, 2.0]
    """
    _, height, width, _ = ops.shape(images)
    m = ops.reshape(transforms, (-1, 2, 3, 1, 1))
    x, y = ops.arange(width, dtype="float32"), ops.arange(height, dtype="float32")[:, None]
    x, y = (m[:, row, 0] * x + m[:, row, 1] * y + m[:, row, 2] for row in range(2))
    if yaws is not None:
        x = turn_heads(x, yaws, width)
    # Clipping the coordinates repeats the edge.
    x, y = (ops.clip(places, 0.0, ops.cast(size - 1, "float32")) for places, size in ((x, width), (y, height)))
    left, top = ops.cast(x, "int32"), ops.cast(y, "int32")
    right, bottom = ops.minimum(left + 1, width - 1), ops.minimum(top + 1, height - 1)

    # Four gathers, because they fuse with the arithmetic; one gather of four pixels would be written out first.
    gather = _make_gather(images)

    def look_up(row: Tensor, column: Tensor) -> Tensor:
        return ops.cast(gather(row * width + column), "float32")

    x, y = (x - ops.cast(left, "float32"))[..., None], (y - ops.cast(top, "float32"))[..., None]
    above = look_up(top, left) * (1 - x) + look_up(top, right) * x
    below = look_up(bottom, left) * (1 - x) + look_up(bottom, right) * x
    return above * (1 - y) + below * y


def blur_images(images: Tensor, noise: Tensor, settings: Settings) -> Tensor:
    """Blurs each image with a Gaussian of its own width; outside, there is nothing, and the weights sum to one.

    A blur is a matrix product over the rows and one over the columns, which XLA has kernels for.

    Args:
        images: float32 `[batch, height, width, 3]`, 0..255, as the result.
        noise: as in `augment`.
        settings: `blur` is the largest standard deviation, as a share of the width.
    """
    height, width = ops.shape(images)[1:3]
    share = _scale_noise(_split_noise(noise)["blur"], 0.0, settings.blur)
    deviation = ops.maximum(share * ops.cast(width, "float32"), 1e-2)[:, None, None]

    def make_matrix(size: Tensor) -> Tensor:
        pixels = ops.arange(size, dtype="float32")
        weights = ops.exp(-ops.square((pixels[:, None] - pixels) / deviation) / 2)
        return weights / ops.sum(weights, axis=2, keepdims=True)

    images = ops.einsum("bij,bjwc->biwc", make_matrix(height), images)
    return ops.einsum("bij,bhjc->bhic", make_matrix(width), images)


def adjust_color(images: Tensor, noise: Tensor, settings: Settings) -> Tensor:
    """Scales saturation and each channel, then brightness, then contrast about the mid gray 127.5; clips to 0..255.

    Args:
        images: float32 `[batch, height, width, 3]`, 0..255, as the result.
        noise: as in `augment`.
        settings: the strength of each change.
    """
    draw = _split_noise(noise)
    brightness = _scale_noise(draw["brightness"], 1 - settings.brightness, 1 + settings.brightness)
    contrast = _scale_noise(draw["contrast"], 1 - settings.contrast, 1 + settings.contrast)
    if settings.saturation:
        saturation = ops.reshape(
            _scale_noise(draw["saturation"], 1 - settings.saturation, 1 + settings.saturation), (-1, 1, 1, 1)
        )
        gray = ops.mean(images, axis=3, keepdims=True)
        images = gray + (images - gray) * saturation
    if settings.color:
        gains = ops.stack([draw["red_gain"], draw["green_gain"], draw["blue_gain"]], axis=1)
        images = images * _scale_noise(gains, 1 - settings.color, 1 + settings.color)[:, None, None, :]
    gain = ops.reshape(brightness * contrast, (-1, 1, 1, 1))
    offset = ops.reshape(MID_GRAY * (1 - contrast), (-1, 1, 1, 1))
    return ops.clip(images * gain + offset, 0.0, WHITE)


def erase_rectangles(images: Tensor, noise: Tensor, settings: Settings) -> Tensor:
    """Fills a rectangle of some images with a random color: random erasing (Zhong et al. 2020).

    The paper (https://arxiv.org/abs/1708.04896) draws a color per pixel, up to 0.4 of the area, and draws again if the
    rectangle does not fit. This draws a color per rectangle, 0.02 to 0.2 of the area, the logarithm of the aspect
    uniformly, and cuts a side that does not fit, so that one draw is enough.

    Args:
        images: float32 `[batch, height, width, 3]`, 0..255, as the result.
        noise: as in `augment`.
        settings: `erasing` is the probability of a rectangle.
    """
    height, width = ops.shape(images)[1:3]
    x, y = ops.arange(width, dtype="float32"), ops.arange(height, dtype="float32")
    height, width = ops.cast(height, "float32"), ops.cast(width, "float32")
    draw = {name: column[:, None] for name, column in _split_noise(noise).items()}
    area = _scale_noise(draw["area"], *ERASED_AREA) * height * width
    aspect = ops.exp(_scale_noise(draw["aspect"], *map(math.log, ERASED_ASPECT)))
    rectangle_height = ops.minimum(ops.round(ops.sqrt(area * aspect)), height)
    rectangle_width = ops.minimum(ops.round(ops.sqrt(area / aspect)), width)
    top = ops.floor(draw["top"] * (height - rectangle_height + 1))
    left = ops.floor(draw["left"] * (width - rectangle_width + 1))

    is_erased = draw["erase"] < settings.erasing
    rows = ops.cast(is_erased & (y >= top) & (y < top + rectangle_height), "float32")
    columns = ops.cast((x >= left) & (x < left + rectangle_width), "float32")
    mask = rows[:, :, None, None] * columns[:, None, :, None]
    color = ops.concatenate([WHITE * draw[name] for name in ("red", "green", "blue")], axis=1)[:, None, None, :]
    # Exact, as the mask is 0 or 1. A `where` would make XLA's fused loop branch, and the whole warp half as fast.
    return images * (1 - mask) + color * mask


def augment(images: Tensor, noise: Tensor, settings: Settings) -> Tensor:
    """Warps, blurs, adjusts colors and erases: the whole augmentation as a pure function.

    Args:
        images: uint8 or float `[batch, height, width, 3]`, 0..255.
        noise: float32 `[batch, len(DRAWS)]` in [0, 1); a row decides everything about one image.
        settings: the strength of each change.

    Returns:
        float32 `[batch, height, width, 3]`, 0..255.
    """
    _, height, width, _ = ops.shape(images)
    yaws = None
    if settings.yaw:
        yaws = _scale_noise(_split_noise(noise)["yaw"], -settings.yaw, settings.yaw) * (math.pi / 180)
    images = warp(images, compose_transforms(noise, settings, height, width), yaws)
    images = blur_images(images, noise, settings) if settings.blur else images
    images = adjust_color(images, noise, settings)
    return erase_rectangles(images, noise, settings) if settings.erasing else images


@functools.cache
def _compile_augment() -> Callable[[Tensor, Tensor, Settings], Tensor]:
    """Returns `augment`, compiled with XLA on its own on TensorFlow.

    On a CPU the training step runs without XLA, because oneDNN has the faster convolutions, but the warp is many times
    faster with it. In a step that has XLA this function is inlined. JAX compiles whole steps.
    """
    if keras.backend.backend() != "tensorflow":
        return augment
    import tensorflow as tf  # here only, because the other backends must not need TensorFlow

    return tf.function(augment, jit_compile=True, autograph=False)


def _check_arguments(arguments: dict[str, Any]) -> None:
    for name, (low, high) in LIMITS.items():
        value = arguments[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"`{name}` must be in [{low}, {high}]. Received: {name}={value!r}")
    flip = arguments["horizontal_flip"]
    if not isinstance(flip, bool):
        raise ValueError(f"`horizontal_flip` must be True or False. Received: horizontal_flip={flip!r}")


@keras.saving.register_keras_serializable(package="agegender")
class Augmentation(keras.layers.Layer):
    """Augments images with random geometry, color and erasing in training, and casts to float32 otherwise.

    The geometry is that of Keras's `ImageDataGenerator(rotation_range=10, width_shift_range=0.2,
    height_shift_range=0.2, shear_range=0.2, zoom_range=0.2, horizontal_flip=True, fill_mode="nearest")`, each number
    with the same meaning, drawn uniformly for each image. A shear is an angle in degrees there and here, so 0.2 is next
    to nothing. (The generator of Keras 3 swaps height and width shift; with equal shifts of square images that is the
    same.)

    What training call `step` makes of an image depends on `(seed, step)`, its place in the batch and the batch size,
    and on nothing else. Each backend draws its own numbers, and TensorFlow draws others in a step compiled with XLA.

    The layer computes in float32 under every dtype policy.

    Args:
        rotation: maximum angle in degrees, in [0, 180].
        width_shift: maximum horizontal shift as a share of the width, in [0, 1].
        height_shift: maximum vertical shift as a share of the height, in [0, 1].
        shear: maximum shear angle in degrees, in [0, 89].
        zoom: each axis is scaled by its own factor in [1 - zoom, 1 + zoom]; in [0, 0.9].
        horizontal_flip: whether to mirror half of the images.
        brightness: values are multiplied by a factor in [1 - brightness, 1 + brightness]; in [0, 1].
        contrast: distances to mid gray, 127.5, are multiplied by a factor in [1 - contrast, 1 + contrast]; in [0, 1].
        erasing: probability that a rectangle of the image is erased, in [0, 1]; see `erase_rectangles`.
        saturation: distances to the gray of a pixel are multiplied by a factor in [1 - saturation, 1 + saturation]; in
            [0, 1].
        color: each channel is multiplied by its own factor in [1 - color, 1 + color]; in [0, 1].
        blur: maximum standard deviation of a Gaussian blur as a share of the width, in [0, 0.1].
        yaw: maximum angle in degrees by which heads are turned to the left or right, in [0, 60]; see `turn_heads`.
        seed: int in [0, 2**31 - 3].
        **kwargs: `name` and `trainable`, as for every Keras layer.

    Raises:
        ValueError: if a number is out of range.

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
        saturation: float = 0.0,
        color: float = 0.0,
        blur: float = 0.0,
        yaw: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        settings = Settings(
            *(rotation, width_shift, height_shift, shear, zoom, horizontal_flip),
            *(brightness, contrast, erasing, saturation, color, blur, yaw),
        )
        _check_arguments({**settings._asdict(), "seed": seed})
        super().__init__(dtype="float32", **kwargs)
        self.settings = settings
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)  # its state is [seed, step]

    @property
    def step(self) -> int:
        """The number of training calls so far. On the JAX backend `fit` works on a copy, so read it afterwards."""
        return int(self.seed_generator.state.value[1])

    def call(self, images: Tensor, training: bool = False) -> Tensor:
        """Augments a batch and counts the step.

        Args:
            images: uint8 or float `[batch, height, width, 3]`, 0..255.
            training: whether to augment; otherwise the images are only cast.

        Returns:
            float32 `[batch, height, width, 3]`, 0..255.
        """
        if not training:
            return ops.cast(images, "float32")
        noise = keras.random.uniform([ops.shape(images)[0], len(DRAWS)], dtype="float32", seed=self.seed_generator)
        return _compile_augment()(images, noise, self.settings)

    def compute_output_spec(self, images: Any, training: bool = False) -> keras.KerasTensor:
        """Returns the shape of the images, as float32."""
        return keras.KerasTensor(images.shape, dtype="float32")

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the layer."""
        config = super().get_config()
        del config["dtype"]  # always float32
        return {**config, **self.settings._asdict(), "seed": self.seed}
