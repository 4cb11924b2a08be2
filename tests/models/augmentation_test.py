"""The pure functions against numbers by hand and scipy, then the layer."""

import os
import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from keras import ops

from agegender.models import augmentation
from agegender.models.augmentation import DRAWS, Augmentation, Settings

IDENTITY = [[1, 0, 0], [0, 1, 0]]
STRONG = Settings(10, 0.2, 0.2, 0.2, 0.2, True, 0.1, 0.1, 0.5, yaw=40)


def make_images(batch: int = 4, height: int = 24, width: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def make_noise(batch: int = 1, **columns: float) -> np.ndarray:
    """Noise of 0.5, the middle of each range, but for the named columns."""
    noise = np.full((batch, len(DRAWS)), 0.5, "float32")
    for name, value in columns.items():
        noise[:, DRAWS.index(name)] = value
    return noise


def draw_noise(batch: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(batch, len(DRAWS))).astype("float32")


def gray(value: float, height: int = 8, width: int = 8) -> np.ndarray:
    return np.full((1, height, width, 3), value, "float32")


def run(layer: Augmentation, images: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(layer(images, training=True))


# --- warp


def warp(images: np.ndarray, transforms: Any) -> np.ndarray:
    return ops.convert_to_numpy(augmentation.warp(images, np.array(transforms, "float32").reshape(-1, 2, 3)))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_warp_moves_whole_pixels_exactly(dtype: str) -> None:
    images = make_images(2).astype(dtype)
    np.testing.assert_array_equal(warp(images, [IDENTITY] * 2), images)
    flip_and_quarter_turn = [[-1, 0, 23], [0, 1, 0]], [[0, -1, 23], [1, 0, 0]]
    flipped, turned = warp(images, flip_and_quarter_turn)
    np.testing.assert_array_equal(flipped, images[0, :, ::-1])
    np.testing.assert_array_equal(turned, np.rot90(images[1]))
    rows, columns = np.clip(np.arange(24) + 4, 0, 23), np.clip(np.arange(24) - 5, 0, 23)
    np.testing.assert_array_equal(warp(images[:1], [[1, 0, -5], [0, 1, 4]]), images[:1, rows][:, :, columns])


def test_warp_interpolates_bilinearly() -> None:
    image = np.array([[0, 10], [20, 70]], "uint8").reshape(1, 2, 2, 1)
    # A quarter right and half down: 0.75 * 0.5 * 0 + 0.25 * 0.5 * 10 + 0.75 * 0.5 * 20 + 0.25 * 0.5 * 70.
    assert warp(image, [[0, 0, 0.25], [0, 0, 0.5]])[0, 0, 0, 0] == 17.5


@pytest.mark.parametrize("shape", [(0, 24, 24), (2, 1, 1), (2, 1, 5), (2, 5, 1)])
def test_any_size_is_augmented(shape: tuple[int, int, int]) -> None:
    output = run(Augmentation(erasing=1), make_images(*shape))
    assert output.shape == (*shape, 3) and np.isfinite(output).all()


# --- transforms


def compose(settings: Settings, height: int = 24, width: int = 24, **columns: float) -> np.ndarray:
    return ops.convert_to_numpy(augmentation.compose_transforms(make_noise(**columns), settings, height, width))[0]


def test_each_transform_by_hand() -> None:
    flip = Settings(horizontal_flip=True)
    np.testing.assert_array_equal(compose(flip, width=200, flip=0.49), [[-1, 0, 199], [0, 1, 0]])
    np.testing.assert_array_equal(compose(flip, width=200, flip=0.5), IDENTITY)
    shift = Settings(width_shift=0.25, height_shift=0.5)
    shifted = compose(shift, height=10, width=40, width_shift=1.0, height_shift=0.0)
    np.testing.assert_array_equal(shifted, [[1, 0, 10], [0, 1, -5]])
    # A factor of 1.5 along ten pixels with the center at 4.5: 4.5 - 1.5 * 4.5 = -2.25.
    zoomed = compose(Settings(zoom=0.5), height=10, width=10, width_zoom=1.0, height_zoom=0.0)
    np.testing.assert_allclose(zoomed, [[1.5, 0, -2.25], [0, 0.5, 2.25]])
    np.testing.assert_allclose(compose(Settings(rotation=90), rotation=1.0), [[0, -1, 23], [1, 0, 0]], atol=1e-5)
    # tan(45 degrees) = 1: the second column (0, 1) turns to (-sin, cos) of 45 degrees.
    sheared = compose(Settings(shear=45), height=1, width=1, shear=1.0)
    np.testing.assert_allclose(sheared, [[1, -(0.5**0.5), 0], [0, 0.5**0.5, 0]], atol=1e-6)


def test_all_settings_off_give_the_identity_exactly() -> None:
    transforms = ops.convert_to_numpy(augmentation.compose_transforms(draw_noise(50), Settings(), 200, 201))
    np.testing.assert_array_equal(transforms, np.broadcast_to(np.float32(IDENTITY), (50, 2, 3)))


# angle, x shift, y shift (pixels), shear, x zoom, y zoom, flip
@pytest.mark.parametrize(
    "parameters",
    [(-7, 2.5, 4, 0.2, 1.1, 0.9, True), (170, -1.5, 3, -30, 0.7, 1.3, False), (30, 0, 0, 20, 1, 1, True)],
)
def test_geometry_equals_scipy(parameters: tuple) -> None:
    """Composes the product of the docstring in NumPy and resamples each channel with scipy, in (row, column) order."""
    angle, x_shift, y_shift, shear, x_zoom, y_zoom, flip = parameters
    size = 24
    smooth = np.cumsum(np.cumsum(make_images(1), 1), 2)[0] % 256.0
    theta, phi = np.radians([angle, shear])
    rotation = [[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]]
    shift = [[1, 0, x_shift], [0, 1, y_shift], [0, 0, 1]]
    slant = [[1, -np.sin(phi), 0], [0, np.cos(phi), 0], [0, 0, 1]]
    zoom = np.diag([-x_zoom if flip else x_zoom, y_zoom, 1])
    center = np.array([[1, 0, 11.5], [0, 1, 11.5], [0, 0, 1]])
    product = center @ rotation @ shift @ slant @ zoom @ np.linalg.inv(center)
    swapped = product[[1, 0, 2]][:, [1, 0, 2]]
    expected = np.stack(
        [scipy.ndimage.affine_transform(smooth[..., i], swapped, order=1, mode="nearest") for i in range(3)], axis=-1
    )

    noise = make_noise(
        rotation=0.5 + angle / 360, width_shift=0.5 + x_shift / size / 0.5, height_shift=0.5 + y_shift / size / 0.5,
        shear=0.5 + shear / 90, width_zoom=x_zoom - 0.5, height_zoom=y_zoom - 0.5, flip=0.0 if flip else 0.9,
    )  # fmt: skip
    transforms = augmentation.compose_transforms(noise, Settings(180, 0.25, 0.25, 45, 0.5, True), size, size)
    np.testing.assert_allclose(warp(smooth[None], transforms)[0], expected, atol=0.02)


@pytest.mark.parametrize("yaw", [-50, -20, 35])
def test_a_point_on_a_turned_head_is_where_a_cylinder_has_it(yaw: float) -> None:
    """A point at an angle to the line of sight is at the sine of that angle, and turns with the head."""
    width, turn = 101, np.radians(yaw)
    radius = 0.44 * width
    angles = np.radians(np.linspace(-80, 80, 33))
    angles = angles[np.abs(angles + turn) < np.pi / 2]  # those that stay in view
    new_places = 50 + radius * (np.sin(angles + turn) - np.sin(turn))
    old_places = augmentation.turn_heads(np.float32(new_places)[None, None], np.float32([turn]), width)
    np.testing.assert_allclose(old_places[0, 0], 50 + radius * np.sin(angles), atol=1e-3)


def test_a_turned_head_has_a_silhouette() -> None:
    # The head reaches from 5.6 to 94.4 pixels. Turned by 30 degrees, the middle of the face lies half a radius, 22.2
    # pixels, right of the axis: the head now reaches from -16.7 to 72.2, and what is right of it is from behind it.
    x = np.array([72.0, 73.0, 100.0, -12.0], "float32")[None, None]
    places = ops.convert_to_numpy(augmentation.turn_heads(x, np.radians(np.float32([30])), 101))
    inside, behind, edge, new_side = places[0, 0]
    assert inside < 50 + 0.44 * 101 * np.sin(np.radians(60)) and inside > 80
    np.testing.assert_allclose([behind, edge], [73 + 22.22, 100 + 22.22], atol=1e-3)
    assert new_side == pytest.approx(50 - 0.44 * 101, abs=1e-3)


def test_images_are_turned_before_the_other_changes() -> None:
    images, settings = make_images(2), Settings(yaw=40, horizontal_flip=True)
    noise = make_noise(2, yaw=0.75, flip=0.0)  # 20 degrees to the right, then mirrored
    turned = augmentation.warp(images, np.float32([IDENTITY] * 2), np.radians(np.float32([20, 20])))
    assert (ops.convert_to_numpy(turned) != images).any()
    augmented = augmentation.augment(images, noise, settings)
    np.testing.assert_allclose(augmented, ops.convert_to_numpy(turned)[:, :, ::-1], atol=1e-2)
    np.testing.assert_allclose(augmentation.augment(images, make_noise(2), Settings(yaw=40)), images, atol=1e-2)


# --- color and erasing


def adjust(image: np.ndarray, settings: Settings, **columns: float) -> np.ndarray:
    return ops.convert_to_numpy(augmentation.adjust_color(image, make_noise(**columns), settings))


def test_color_by_hand() -> None:
    brightness, contrast = Settings(brightness=0.5), Settings(contrast=0.5)
    np.testing.assert_array_equal(adjust(gray(100), brightness, brightness=0.0), gray(50))
    np.testing.assert_array_equal(adjust(gray(100), brightness, brightness=0.75), gray(125))
    np.testing.assert_array_equal(adjust(gray(107.5), contrast, contrast=0.0), gray(117.5))
    np.testing.assert_array_equal(adjust(gray(147.5), contrast, contrast=1.0), gray(157.5))
    # Brightness first: 100 * 1.5 = 150, then 127.5 + (150 - 127.5) * 0.5 = 138.75.
    both = Settings(brightness=0.5, contrast=0.5)
    np.testing.assert_array_equal(adjust(gray(100), both, brightness=1.0, contrast=0.0), gray(138.75))
    strong = Settings(brightness=1, contrast=1)
    np.testing.assert_array_equal(adjust(gray(200), strong, brightness=1.0), gray(255))
    np.testing.assert_array_equal(adjust(gray(10), strong, contrast=1.0), gray(0))


def test_saturation_and_channel_gains_by_hand() -> None:
    pixel = np.array([[[[60.0, 90.0, 150.0]]]], "float32")  # its gray is 100
    saturation = Settings(saturation=1)
    np.testing.assert_array_equal(adjust(pixel, saturation, saturation=0.0), np.full_like(pixel, 100))
    np.testing.assert_array_equal(adjust(pixel, saturation, saturation=1.0), [[[[20, 80, 200]]]])
    gained = adjust(pixel, Settings(color=0.5), red_gain=0.0, green_gain=0.5, blue_gain=1.0)
    np.testing.assert_array_equal(gained, [[[[30, 90, 225]]]])


def test_blur_by_hand() -> None:
    # The largest blur of 10 pixels with a share of 0.1 has the standard deviation 1: the weights at the distances 0 to
    # 4 are 1, 0.60653, 0.13534, 0.01111 and 0.00034. From column 0 their sum is 1.75331, from column 1 2.35984.
    row = np.zeros((1, 1, 10, 3), "float32")
    row[0, 0, 0] = 255
    for image in (row, row.transpose(0, 2, 1, 3)):
        width = Settings(blur=0.1 * 10 / image.shape[2])
        blurred = ops.convert_to_numpy(augmentation.blur_images(image, make_noise(blur=1.0), width))[0].reshape(10, 3)
        np.testing.assert_allclose(blurred[:2], [[255 / 1.75331] * 3, [255 * 0.60653 / 2.35984] * 3], rtol=1e-4)
    np.testing.assert_array_equal(augmentation.blur_images(row, make_noise(blur=0.0), Settings(blur=0.1)), row)


def test_blur_matches_scipy_inside() -> None:
    noise = make_noise(blur=0.5)  # a standard deviation of 0.5 * 0.05 * 40 = 1
    image = np.random.default_rng(0).uniform(0, 255, (1, 30, 40, 3)).astype("float32")
    blurred = ops.convert_to_numpy(augmentation.blur_images(image, noise, Settings(blur=0.05)))
    expected = scipy.ndimage.gaussian_filter(image[0], (1, 1, 0), truncate=8)
    np.testing.assert_allclose(blurred[0, 9:-9, 9:-9], expected[9:-9, 9:-9], atol=1e-2)


def erase(image: np.ndarray, noise: np.ndarray, probability: float) -> np.ndarray:
    return ops.convert_to_numpy(augmentation.erase_rectangles(image, noise, Settings(erasing=probability)))


def test_erasing_by_hand() -> None:
    # Area (0.02 + 0.5 * 0.18) * 20 * 40 = 88 pixels, aspect exp(0) = 1: a square of round(9.38) = 9 pixels, its corner
    # at row floor(0.5 * (20 - 9 + 1)) = 6 and column floor(0.25 * (40 - 9 + 1)) = 8.
    noise = make_noise(erase=0.2, left=0.25, red=1.0, green=0.2, blue=0.0)
    expected = gray(100, 20, 40)
    expected[:, 6:15, 8:17] = [255, 51, 0]
    np.testing.assert_allclose(erase(gray(100, 20, 40), noise, 0.25), expected, rtol=1e-6)
    np.testing.assert_array_equal(erase(gray(100, 20, 40), noise, 0.2), gray(100, 20, 40))
    # Area 0.2 * 80 = 16, aspect 3.33: round(7.3) = 7 rows and round(2.19) = 2 columns, at row 1 and column 9.
    tall = make_noise(erase=0.0, area=1.0, aspect=1.0, top=0.9, left=0.999, red=0.0, green=0.0, blue=0.0)
    expected = gray(200, 8, 10)
    expected[:, 1:, 8:] = 0
    np.testing.assert_array_equal(erase(gray(200, 8, 10), tall, 1.0), expected)
    # Area 0.2 * 40 = 8, aspect 3.33: 5.16 x 1.55 pixels, cut to 4 x 2.
    cut = make_noise(erase=0.0, area=1.0, aspect=1.0, red=0.0, green=0.0, blue=0.0)
    expected = gray(200, 4, 10)
    expected[:, :, 4:6] = 0
    np.testing.assert_array_equal(erase(gray(200, 4, 10), cut, 1.0), expected)


def test_augment_warps_then_blurs_then_adjusts_then_erases() -> None:
    settings = Settings(horizontal_flip=True, brightness=0.5, contrast=0.5, erasing=0.25)
    noise = make_noise(flip=0, brightness=0, contrast=0, erase=0.2, left=0, top=0, red=1.0, green=0.2, blue=0)
    images = make_images(1, 20, 40).astype("float32")
    expected = 127.5 + (images[:, :, ::-1] * 0.5 - 127.5) * 0.5
    expected[:, :9, :9] = [255, 51, 0]
    np.testing.assert_allclose(augmentation.augment(images, noise, settings), expected, rtol=1e-5)
    every, noise = Settings(10, 0.2, 0.2, 0.2, 0.2, True, 0.5, 0.5, 1.0, 0.5, 0.5, 0.05, 30), draw_noise(4)
    yaws = np.radians(60 * noise[:, DRAWS.index("yaw")] - 30)
    changed = augmentation.warp(make_images(), augmentation.compose_transforms(noise, every, 24, 24), yaws)
    for change in (augmentation.blur_images, augmentation.adjust_color, augmentation.erase_rectangles):
        changed = change(changed, noise, every)
    np.testing.assert_allclose(augmentation.augment(make_images(), noise, every), changed, rtol=1e-5)


def test_every_draw_has_its_own_column() -> None:
    """Another order would change the images of every seed."""
    assert list(DRAWS) == [
        *("rotation", "width_shift", "height_shift", "shear", "width_zoom", "height_zoom", "flip"),
        *("brightness", "contrast", "erase", "area", "aspect", "left", "top", "red", "green", "blue"),
        *("saturation", "red_gain", "green_gain", "blue_gain", "blur", "yaw"),
    ]


# --- layer


def test_layer_only_casts_outside_training() -> None:
    layer = Augmentation()
    output = layer(make_images())
    assert keras.backend.standardize_dtype(output.dtype) == "float32" and layer.step == 0
    np.testing.assert_array_equal(output, make_images())


@pytest.mark.parametrize("option", Settings._fields)
def test_each_option_alone_changes_images(option: str) -> None:
    off: dict[str, Any] = Settings()._asdict()
    value = True if option == "horizontal_flip" else 0.5
    strong = {"rotation": 10.0, "shear": 10.0, "yaw": 10.0, "blur": 0.1}.get(option, value)
    assert (run(Augmentation(**{**off, option: strong}), make_images(8)) != make_images(8)).any()
    np.testing.assert_array_equal(run(Augmentation(**off), make_images()), make_images())
    default = Augmentation()
    assert (default.settings, default.seed) == (Settings(10, 0.2, 0.2, 0.2, 0.2, True, 0.1, 0.1, 0.25), 0)


def test_images_are_a_function_of_seed_and_step() -> None:
    layer, other = Augmentation(seed=5), Augmentation(seed=6)
    first, second = run(layer, make_images()), run(layer, make_images())
    assert (first != second).any() and layer.step == 2 and (run(other, make_images()) != first).any()
    keras.utils.set_random_seed(123)
    resumed = Augmentation(seed=5)
    resumed(make_images())  # does not count outside training
    np.testing.assert_array_equal(run(resumed, make_images()), first)
    np.testing.assert_array_equal(run(resumed, make_images()), second)


def test_images_of_a_batch_are_independent() -> None:
    equal = run(Augmentation(), np.repeat(make_images(1), 3, axis=0))
    assert all((equal[i] != equal[j]).mean() > 0.5 for i, j in ((0, 1), (0, 2), (1, 2)))
    changed = make_images()
    changed[1:] = 0
    np.testing.assert_array_equal(run(Augmentation(), changed)[0], run(Augmentation(), make_images())[0])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_layer_computes_in_float32_under_every_policy(policy: str) -> None:
    expected = run(Augmentation(), make_images())
    keras.config.set_dtype_policy(policy)
    keras.config.set_floatx("float16")
    try:
        inputs = keras.Input([24, 24, 3], dtype="uint8")
        output = keras.Model(inputs, Augmentation()(inputs))(make_images(), training=True)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    np.testing.assert_array_equal(output, expected)


def make_model(layer: Augmentation) -> keras.Model:
    pool, head = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, kernel_initializer="ones")
    return keras.Sequential([keras.Input([24, 24, 3], dtype="uint8"), layer, pool, head])


@pytest.mark.parametrize("jit", [False, True])
def test_fit_counts_one_step_per_batch(jit: bool) -> None:
    layer = Augmentation()
    model = make_model(layer)
    model.compile("sgd", "mse", jit_compile=jit)
    model.fit(make_images(5), np.zeros([5, 1]), batch_size=2, epochs=2, verbose=0)
    assert layer.step == 6 and model.jit_compile == jit and layer.supports_jit
    model.predict(make_images(5), verbose=0)
    assert layer.step == 6


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras 3.15 under NumPy 2
def test_a_saved_model_keeps_its_augmentation(tmp_path: pathlib.Path) -> None:
    arguments = {
        **Settings(1, 0.11, 0.12, 2, 0.13, False, 0.14, 0.15, 0.16, 0.17, 0.18, 0.019, 20)._asdict(),
        **{"seed": 17, "name": "random", "trainable": False},
    }
    layer = Augmentation(**arguments)
    assert layer.get_config() == arguments
    make_model(layer).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").layers[0]
    assert loaded.get_config() == arguments
    np.testing.assert_array_equal(run(loaded, make_images()), run(layer, make_images()))


def test_a_symbolic_call_has_shape_and_dtype() -> None:
    output = Augmentation()(keras.Input([24, 32, 3], dtype="uint8"))
    assert (output.shape, output.dtype) == ((None, 24, 32, 3), "float32")
    assert Augmentation().compute_output_shape((None, 24, 32, 3)) == (None, 24, 32, 3)


def test_graph_of_any_shape_gives_the_eager_images() -> None:
    layer, any_shape = Augmentation(), [tf.TensorSpec((None, None, None, 3), tf.uint8)]
    function = tf.function(lambda images: layer(images, training=True), input_signature=any_shape)
    eager = Augmentation()
    for images in (make_images(), make_images(3, 5, 7)):
        np.testing.assert_array_equal(function(images), run(eager, images))
    assert layer.step == 2


def test_xla_gives_the_images_of_plain_ops() -> None:
    images, noise = make_images(), draw_noise(4)
    compiled = tf.function(augmentation.augment, jit_compile=True)(images, noise, STRONG)
    np.testing.assert_allclose(compiled, augmentation.augment(images, noise, STRONG), atol=0.01)


ON_JAX = """
import sys
sys.modules["tensorflow"] = None  # an import of it fails
import jax, keras, numpy as np
from agegender.models.augmentation import Augmentation, Settings, augment
images, noise = (np.load(sys.argv[1] + name) for name in ("/images.npy", "/noise.npy"))
settings = Settings(10, 0.2, 0.2, 0.2, 0.2, True, 0.1, 0.1, 0.5, yaw=40)
np.save(sys.argv[1] + "/outputs.npy", jax.jit(augment, static_argnums=2)(images, noise, settings))
layer = Augmentation(seed=1)
head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)]
model = keras.Sequential([keras.Input([24, 24, 3], dtype="uint8"), layer, *head])
model.compile("sgd", "mse")
model.fit(images, np.zeros([len(images), 1]), batch_size=2, verbose=0)
assert model.jit_compile and layer.step == 2
"""


@pytest.mark.slow
def test_jax_gives_the_same_images_without_tensorflow(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "images.npy", make_images())
    np.save(tmp_path / "noise.npy", draw_noise(4))
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-c", ON_JAX, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = augmentation.augment(make_images(), draw_noise(4), STRONG)
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), expected, atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rotation": -3}, "`rotation` must be in [0, 180]. Received: rotation=-3"),
        ({"width_shift": 1.5}, "`width_shift` must be in [0, 1]. Received: width_shift=1.5"),
        ({"height_shift": float("nan")}, "`height_shift` must be in [0, 1]. Received: height_shift=nan"),
        ({"shear": 90}, "`shear` must be in [0, 89]. Received: shear=90"),
        ({"zoom": 1}, "`zoom` must be in [0, 0.9]. Received: zoom=1"),
        ({"brightness": "0.1"}, "`brightness` must be in [0, 1]. Received: brightness='0.1'"),
        ({"contrast": None}, "`contrast` must be in [0, 1]. Received: contrast=None"),
        ({"saturation": 1.1}, "`saturation` must be in [0, 1]. Received: saturation=1.1"),
        ({"color": 1.1}, "`color` must be in [0, 1]. Received: color=1.1"),
        ({"blur": 0.11}, "`blur` must be in [0, 0.1]. Received: blur=0.11"),
        ({"yaw": 61}, "`yaw` must be in [0, 60]. Received: yaw=61"),
        ({"erasing": True}, "`erasing` must be in [0, 1]. Received: erasing=True"),
        ({"horizontal_flip": 0.5}, "`horizontal_flip` must be True or False. Received: horizontal_flip=0.5"),
        ({"seed": -1}, "`seed` must be in [0, 2147483645]. Received: seed=-1"),
        ({"seed": 1.5}, "`seed` must be an integer. Received: seed=1.5"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        Augmentation(**arguments)
    assert message in str(error.value)
