"""`Augmentation`: hand-computed numbers, the oracle in Keras's legacy code, and every place the layer is used."""

import os
import pathlib
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from keras.src.legacy.preprocessing import image as legacy

from agegender.models import augmentation

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
tensorflow_only = pytest.mark.skipif(not ON_TENSORFLOW, reason="about tf.function and tf.data")
OFF = augmentation.Settings()
IDENTITY = [[1, 0, 0], [0, 1, 0]]


def images(batch: int = 4, height: int = 24, width: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
    return np.arange(height * width * 3, dtype="float32").reshape(1, height, width, 3) % 251


def noise(batch: int = 1, **columns: float) -> np.ndarray:
    """Every column 0.5, the middle of its range, but for those named."""
    table = np.full((batch, len(augmentation.DRAWS)), 0.5, "float32")
    for name, value in columns.items():
        table[:, augmentation.DRAWS.index(name)] = value
    return table


def warp(images: np.ndarray, matrices: object) -> np.ndarray:
    return ops.convert_to_numpy(augmentation.warp(images, np.array(matrices, "float32").reshape(-1, 2, 3)))


def run(layer: augmentation.Augmentation, images: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(layer(images, training=True))


def grey(value: float, size: int = 8) -> np.ndarray:
    return np.full((1, size, size, 3), value, "float32")


# --- warp ------------------------------------------------------------------------------------------------------------


def test_the_identity_matrix_returns_the_very_pixels():
    np.testing.assert_array_equal(warp(images(), [IDENTITY] * 4), images())


def test_a_mirror_is_numpys_flip_exactly():
    np.testing.assert_array_equal(warp(images(1), [[-1, 0, 23], [0, 1, 0]]), images(1)[:, :, ::-1])


@pytest.mark.parametrize(("right", "down"), [(3, 0), (-3, 0), (0, 2), (0, -2), (5, -4), (40, 40)])
def test_a_whole_pixel_shift_moves_pixels_and_repeats_the_edge(right, down):
    rows, columns = np.clip(np.arange(24) - down, 0, 23), np.clip(np.arange(24) - right, 0, 23)
    expected = images(1)[:, rows][:, :, columns]
    np.testing.assert_array_equal(warp(images(1), [[1, 0, -right], [0, 1, -down]]), expected)


def test_a_shift_inside_the_image_is_numpys_roll():
    shifted = warp(images(1), [[1, 0, -3], [0, 1, 0]])
    np.testing.assert_array_equal(shifted[:, :, 3:], np.roll(images(1), 3, axis=2)[:, :, 3:])


def test_between_four_pixels_the_value_is_bilinear():
    image = np.array([[0, 10], [20, 70]], "uint8").reshape(1, 2, 2, 1)
    # A quarter right and half down of the corner: 0.75 * 0.5 * 0 + 0.25 * 0.5 * 10 + 0.75 * 0.5 * 20 + 0.25 * 0.5 * 70.
    assert warp(image, [[0, 0, 0.25], [0, 0, 0.5]])[0, 0, 0, 0] == 17.5


def test_a_quarter_turn_is_numpys_rot90():
    turned = warp(images(1), [[0, -1, 23], [1, 0, 0]])
    np.testing.assert_array_equal(turned, np.rot90(images(1), axes=(1, 2)))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 3)])
def test_tiny_images_are_warped_too(size):
    image = images(2, *size)
    np.testing.assert_array_equal(warp(image, [IDENTITY] * 2), image)
    output = run(augmentation.Augmentation(erasing=1), image)
    assert output.shape == image.shape and np.isfinite(output).all()


def test_an_empty_batch_stays_empty():
    assert run(augmentation.Augmentation(), images(0)).shape == (0, 24, 24, 3)


# --- matrices --------------------------------------------------------------------------------------------------------


def matrix(settings: augmentation.Settings, height: int = 24, width: int = 24, **columns: float) -> np.ndarray:
    return ops.convert_to_numpy(augmentation.matrices(noise(**columns), settings, height, width))[0]


def test_settings_that_are_off_give_the_identity_matrix_exactly():
    drawn = np.random.default_rng(0).uniform(size=(50, len(augmentation.DRAWS))).astype("float32")
    matrices = ops.convert_to_numpy(augmentation.matrices(drawn, OFF, 200, 201))
    np.testing.assert_array_equal(matrices, np.broadcast_to(np.array(IDENTITY, "float32"), (50, 2, 3)))


def test_a_flip_is_an_exact_mirror_about_the_middle():
    settings = augmentation.Settings(horizontal_flip=True)
    np.testing.assert_array_equal(matrix(settings, width=200, flip=0.49), [[-1, 0, 199], [0, 1, 0]])
    np.testing.assert_array_equal(matrix(settings, width=200, flip=0.5), IDENTITY)


def test_a_width_shift_moves_along_the_width_and_a_height_shift_along_the_height():
    settings = augmentation.Settings(width_shift=0.25, height_shift=0.5)
    shifted = matrix(settings, height=10, width=40, width_shift=1.0, height_shift=0.0)
    np.testing.assert_array_equal(shifted, [[1, 0, 10], [0, 1, -5]])


def test_a_zoom_keeps_the_middle_in_place():
    # 1.5 times as much is seen along the width: from -2.5 to 13 - 0.5 of ten pixels, about the centre 4.5.
    zoomed = matrix(augmentation.Settings(zoom=0.5), height=10, width=10, width_zoom=1.0, height_zoom=0.0)
    np.testing.assert_allclose(zoomed, [[1.5, 0, -2.25], [0, 0.5, 2.25]])


def test_a_rotation_by_ninety_degrees_is_a_quarter_turn():
    np.testing.assert_allclose(
        matrix(augmentation.Settings(rotation=90), rotation=1.0), [[0, -1, 23], [1, 0, 0]], atol=1e-5
    )


# theta (degrees), tx, ty (pixels), shear (degrees), zx, zy, flip
TRANSFORMS = [
    (10, 0, 0, 0, 1, 1, False),
    (0, 4.8, -3.2, 0, 1, 1, False),
    (0, 0, 0, 20, 1, 1, False),
    (0, 0, 0, 0, 0.8, 1.2, False),
    (0, 0, 0, 0, 1, 1, True),
    (-7, 2.5, 4, 0.2, 1.1, 0.9, True),
    (170, -1.5, 3, -30, 0.7, 1.3, True),
]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_geometry_is_that_of_the_legacy_image_data_generator(transform):
    theta, tx, ty, shear, zx, zy, flip = transform
    size, image = 24, np.cumsum(np.cumsum(images(1), 1), 2)[0] % 256.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the legacy code uses an old name of scipy's
        expected = legacy.apply_affine_transform(image, theta, tx, ty, shear, zx, zy, 0, 1, 2)
    expected = expected[:, ::-1] if flip else expected

    settings = augmentation.Settings(180, 0.25, 0.25, 45, 0.5, True)
    drawn = noise(
        rotation=0.5 + theta / 360,
        width_shift=0.5 + tx / size / 0.5,
        height_shift=0.5 + ty / size / 0.5,
        shear=0.5 + shear / 90,
        width_zoom=zx - 0.5,
        height_zoom=zy - 0.5,
        flip=0.0 if flip else 0.9,
    )
    np.testing.assert_allclose(
        warp(image[None], augmentation.matrices(drawn, settings, size, size))[0], expected, atol=0.02
    )


def test_sampled_parameters_fill_their_ranges_and_stay_inside():
    settings = augmentation.Settings(10, 0.2, 0.1, 5, 0.2, True)
    drawn = np.random.default_rng(0).uniform(size=(4000, len(augmentation.DRAWS))).astype("float32")
    m = ops.convert_to_numpy(augmentation.matrices(drawn, settings, 100, 200)).astype("float64")
    flipped = np.linalg.det(m[:, :, :2]) < 0
    m[flipped, :, 0] *= -1
    across, along = m[:, :, 0], m[:, :, 1]
    turn = np.degrees(np.arctan2(across[:, 1], across[:, 0]))
    lean = np.degrees(np.arctan2(-along[:, 0], along[:, 1])) - turn
    # What is seen in the middle of the new image, turned back, is the shift.
    middle = np.einsum(
        "bij,j->bi", ops.convert_to_numpy(augmentation.matrices(drawn, settings, 100, 200)), [99.5, 49.5, 1]
    )
    offset, angle = middle - [99.5, 49.5], np.radians(turn)
    right = np.cos(angle) * offset[:, 0] + np.sin(angle) * offset[:, 1]
    down = np.cos(angle) * offset[:, 1] - np.sin(angle) * offset[:, 0]
    for values, low, high in [
        (turn, -10, 10),
        (lean, -5, 5),
        (np.linalg.norm(across, axis=1), 0.8, 1.2),
        (np.linalg.norm(along, axis=1), 0.8, 1.2),
        (right, -40, 40),
        (down, -10, 10),
    ]:
        slack = 0.01 * (high - low)
        assert low - 1e-3 <= values.min() < low + slack
        assert high - slack < values.max() <= high + 1e-3
    assert 0.45 < flipped.mean() < 0.55


# --- Keras's five layers ---------------------------------------------------------------------------------------------

SHEARED = [[1, 0.1, 0], [0.05, 1, 0]]  # about the corner and not the middle, hence by hand


def geometry(settings: augmentation.Settings, **columns: float) -> np.ndarray:
    return matrix(settings, height=24, width=40, **columns)


@pytest.mark.parametrize(
    ("layer", "arguments", "fixed", "expected"),
    [
        ("RandomRotation", [(10 / 360, 10 / 360)], {}, geometry(augmentation.Settings(rotation=10), rotation=1.0)),
        (
            "RandomTranslation",
            [0.0, (0.13, 0.13)],
            {},
            geometry(augmentation.Settings(width_shift=0.13), width_shift=0.0),
        ),
        (
            "RandomTranslation",
            [(0.13, 0.13), 0.0],
            {},
            geometry(augmentation.Settings(height_shift=0.13), height_shift=0.0),
        ),
        (
            "RandomZoom",
            [(-0.2, -0.2), (0.1, 0.1)],
            {},
            geometry(augmentation.Settings(zoom=0.2), width_zoom=0.75, height_zoom=0),
        ),
        ("RandomShear", [(0.1, 0.1), (0.05, 0.05)], {"shear_factor": [[0.1, 0.05]] * 2}, SHEARED),
        (
            "RandomFlip",
            ["horizontal"],
            {"flips": np.ones([2, 1, 1, 1], bool)},
            geometry(augmentation.Settings(horizontal_flip=True), flip=0.0),
        ),
    ],
    ids=["rotation", "width_shift", "height_shift", "zoom", "shear", "flip"],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_each_of_keras_layers_makes_the_same_image_of_the_same_transform(layer, arguments, fixed, expected, dtype):
    # Ranges closed to a point leave nothing to chance but the sign of a shear and whether to flip: those are given.
    options = {} if layer == "RandomFlip" else {"fill_mode": "nearest", "interpolation": "bilinear"}
    changes = getattr(keras.layers, layer)(*arguments, **options)
    before = images(2, 24, 40).astype(dtype)
    drawn = changes.get_random_transformation(before, training=True)
    drawn |= {name: ops.convert_to_tensor(values) for name, values in fixed.items()}
    after = ops.convert_to_numpy(changes.transform_images(before, drawn))
    assert (after != before).mean() > 0.5
    np.testing.assert_allclose(warp(before, [expected] * 2), after, atol=0.01)


# --- colour and erasing ----------------------------------------------------------------------------------------------


def recolour(image: np.ndarray, settings: augmentation.Settings, **columns: float) -> np.ndarray:
    return ops.convert_to_numpy(augmentation.recolour(image, noise(**columns), settings))


def test_brightness_is_a_factor():
    settings = augmentation.Settings(brightness=0.5)
    np.testing.assert_array_equal(recolour(grey(100), settings, brightness=0.0), grey(50))
    np.testing.assert_array_equal(recolour(grey(100), settings, brightness=0.5), grey(100))
    np.testing.assert_array_equal(recolour(grey(100), settings, brightness=0.75), grey(125))


def test_contrast_is_a_factor_about_the_mid_grey():
    settings = augmentation.Settings(contrast=0.5)
    np.testing.assert_array_equal(recolour(grey(107.5), settings, contrast=0.0), grey(117.5))
    np.testing.assert_array_equal(recolour(grey(127.5), settings, contrast=0.0), grey(127.5))
    np.testing.assert_array_equal(recolour(grey(147.5), settings, contrast=1.0), grey(157.5))


def test_brightness_comes_before_contrast():
    # 100 * 1.5 = 150, then 127.5 + (150 - 127.5) * 0.5 = 138.75.
    settings = augmentation.Settings(brightness=0.5, contrast=0.5)
    np.testing.assert_array_equal(recolour(grey(100), settings, brightness=1.0, contrast=0.0), grey(138.75))


def test_values_are_clipped_to_the_range_of_a_image():
    settings = augmentation.Settings(brightness=1, contrast=1)
    np.testing.assert_array_equal(recolour(grey(200), settings, brightness=1.0), grey(255))
    np.testing.assert_array_equal(recolour(grey(10), settings, contrast=1.0), grey(0))


def test_erasing_paints_one_rectangle_of_one_colour():
    # Area (0.02 + 0.5 * 0.18) * 20 * 40 = 88 pixels, aspect exp(0) = 1: a square of round(9.38) = 9 pixels, with its
    # corner at row floor(0.5 * (20 - 9 + 1)) = 6 and column floor(0.25 * (40 - 9 + 1)) = 8.
    drawn = noise(erase=0.2, left=0.25, red=1.0, green=0.2, blue=0.0)
    erased = ops.convert_to_numpy(augmentation.erase(ramp(20, 40), drawn, augmentation.Settings(erasing=0.25)))
    expected = ramp(20, 40)
    expected[:, 6:15, 8:17] = [255, 51, 0]
    np.testing.assert_allclose(erased, expected, rtol=1e-6)


def test_erasing_happens_with_its_probability():
    drawn = noise(erase=0.25)
    for probability in (0.0, 0.25):
        untouched = augmentation.erase(ramp(20, 40), drawn, augmentation.Settings(erasing=probability))
        np.testing.assert_array_equal(ops.convert_to_numpy(untouched), ramp(20, 40))
    certain = augmentation.erase(ramp(20, 40), noise(erase=0.999), augmentation.Settings(erasing=1.0))
    assert (ops.convert_to_numpy(certain) != ramp(20, 40)).any()


def test_a_rectangle_that_would_not_fit_is_cut_to_the_image():
    tallest = noise(erase=0.0, area=1.0, aspect=1.0, red=0.0, green=0.0, blue=0.0)
    erased = ops.convert_to_numpy(augmentation.erase(grey(200, 10)[:, :4], tallest, augmentation.Settings(erasing=1)))
    # Area 0.2 * 40 = 8, aspect 3.33: 5.16 x 1.55 pixels, so 4 x 2, in the middle of the columns.
    expected = grey(200, 10)[:, :4].copy()
    expected[:, :, 4:6] = 0
    np.testing.assert_array_equal(erased, expected)


def test_a_image_is_warped_then_recoloured_then_painted_over():
    settings = augmentation.Settings(horizontal_flip=True, brightness=0.5, contrast=0.5, erasing=0.25)
    drawn = noise(flip=0.0, brightness=0.0, contrast=0.0, erase=0.2, left=0.0, top=0.0, red=1.0, green=0.2, blue=0.0)
    expected = 127.5 + (ramp(20, 40)[:, :, ::-1] * 0.5 - 127.5) * 0.5
    expected[:, :9, :9] = [255, 51, 0]
    np.testing.assert_allclose(
        ops.convert_to_numpy(augmentation.augment(ramp(20, 40), drawn, settings)), expected, rtol=1e-5
    )


# --- the layer: a function of (seed, step) ---------------------------------------------------------------------------


def test_outside_training_the_images_are_returned_as_float32():
    layer = augmentation.Augmentation()
    for output in (layer(images()), layer(images(), training=False)):
        assert keras.backend.standardize_dtype(output.dtype) == "float32"
        np.testing.assert_array_equal(ops.convert_to_numpy(output), images())
    assert layer.step == 0


def test_a_layer_with_everything_off_changes_nothing_in_training():
    layer = augmentation.Augmentation(**OFF._asdict())
    np.testing.assert_array_equal(run(layer, images()), images())


def test_equal_seed_and_step_give_equal_images_and_others_do_not():
    one, two, other = (
        augmentation.Augmentation(seed=5),
        augmentation.Augmentation(seed=5),
        augmentation.Augmentation(seed=6),
    )
    first, second = run(one, images()), run(one, images())
    assert (first != second).any() and one.step == 2
    np.testing.assert_array_equal(run(two, images()), first)
    np.testing.assert_array_equal(run(two, images()), second)
    assert (run(other, images()) != first).any()


def test_setting_the_step_goes_to_that_step_in_both_directions():
    layer, resumed = augmentation.Augmentation(seed=5), augmentation.Augmentation(seed=5)
    outputs = [run(layer, images()) for _ in range(4)]
    resumed.step = np.int64(3)
    np.testing.assert_array_equal(run(resumed, images()), outputs[3])
    resumed.step = 1
    np.testing.assert_array_equal(run(resumed, images()), outputs[1])
    assert resumed.step == 2


def test_the_seed_of_keras_and_calls_outside_training_do_not_matter():
    layer, disturbed = augmentation.Augmentation(seed=5), augmentation.Augmentation(seed=5)
    keras.utils.set_random_seed(123)
    disturbed(images())
    keras.random.uniform([3])
    np.testing.assert_array_equal(run(disturbed, images()), run(layer, images()))


def test_each_image_of_a_batch_is_changed_in_its_own_way():
    output = run(augmentation.Augmentation(), np.repeat(images(1), 6, axis=0))
    for i in range(6):
        for j in range(i):
            assert (output[i] != output[j]).mean() > 0.5


def test_a_image_does_not_depend_on_its_neighbours():
    changed = images()
    changed[1:] = 0
    layer = augmentation.Augmentation()
    one = run(layer, images())
    layer.step = 0
    np.testing.assert_array_equal(run(layer, changed)[0], one[0])


def test_uint8_and_float_images_give_the_same():
    one, two = augmentation.Augmentation(), augmentation.Augmentation()
    np.testing.assert_array_equal(run(one, images()), run(two, images().astype("float32")))


def test_the_output_is_float32_between_0_and_255():
    output = run(augmentation.Augmentation(brightness=1, contrast=1, erasing=1), images(32))
    assert output.dtype == np.float32 and output.min() >= 0 and output.max() <= 255 and output.std() > 10


def test_it_computes_in_float32_under_mixed_bfloat16():
    expected = run(augmentation.Augmentation(), images())
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        for dtype in ("uint8", "float32"):
            layer = augmentation.Augmentation()
            np.testing.assert_array_equal(run(layer, images().astype(dtype)), expected)
            inputs = keras.Input([24, 24, 3], dtype=dtype)
            model = keras.Model(inputs, augmentation.Augmentation()(inputs))
            output = ops.convert_to_numpy(model(images().astype(dtype), training=True))
            assert output.dtype == np.float32
            np.testing.assert_array_equal(output, expected)
    finally:
        keras.config.set_dtype_policy("float32")


# --- the layer: in its places ----------------------------------------------------------------------------------------


def small_model(layer: augmentation.Augmentation) -> keras.Model:
    pool, head = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, kernel_initializer="ones")
    return keras.Sequential([keras.Input([24, 24, 3], dtype="uint8"), layer, pool, head])


def test_a_symbolic_call_knows_its_shape_and_type():
    output = augmentation.Augmentation()(keras.Input([24, 32, 3], dtype="uint8"))
    assert (output.shape, output.dtype) == ((None, 24, 32, 3), "float32")
    assert augmentation.Augmentation().compute_output_shape((None, 24, 32, 3)) == (None, 24, 32, 3)


@pytest.mark.parametrize("jit", [False, True])
def test_fit_advances_one_step_a_batch_and_keeps_its_compilation(jit):
    layer = augmentation.Augmentation()
    model = small_model(layer)
    model.compile("sgd", "mse", jit_compile=jit)
    history = model.fit(images(5), np.zeros([5, 1]), batch_size=2, epochs=2, verbose=0)
    assert layer.step == 6 and model.jit_compile == jit and layer.supports_jit
    assert np.isfinite(history.history["loss"]).all()
    model.predict(images(5), verbose=0)
    assert layer.step == 6


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras 3.15 reads its own variables so under NumPy 2
def test_a_saved_model_comes_back_with_its_augmentation(tmp_path: pathlib.Path):
    layer = augmentation.Augmentation(rotation=5, erasing=0, seed=9)
    model = small_model(layer)
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    assert restored.layers[0].get_config() == layer.get_config()
    np.testing.assert_array_equal(restored.predict(images(), verbose=0), model.predict(images(), verbose=0))
    np.testing.assert_array_equal(run(restored.layers[0], images()), run(layer, images()))


def test_the_config_holds_every_argument():
    arguments = {
        **augmentation.Settings(1, 0.11, 0.12, 2, 0.13, False, 0.14, 0.15, 0.16)._asdict(),
        "seed": 17,
        "name": "blur",
        "trainable": False,
    }
    layer = augmentation.Augmentation(**arguments)
    assert layer.get_config() == arguments
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == arguments and isinstance(again, augmentation.Augmentation)


def test_the_defaults_are_those_of_the_image_data_generator_and_a_little_colour_and_erasing():
    assert augmentation.Augmentation().settings == augmentation.Settings(10, 0.2, 0.2, 0.2, 0.2, True, 0.1, 0.1, 0.25)


def test_the_order_of_the_draws_is_kept_for_it_decides_the_images_of_every_seed():
    geometry = ("rotation", "width_shift", "height_shift", "shear", "width_zoom", "height_zoom", "flip")
    erasing = ("erase", "area", "aspect", "left", "top", "red", "green", "blue")
    assert list(augmentation.DRAWS) == [*geometry, "brightness", "contrast", *erasing]


@tensorflow_only
@pytest.mark.parametrize("shape", [(4, 24, 24, 3), (None, 24, 24, 3), (None, None, None, 3)])
def test_inside_a_tf_function_it_gives_the_same_as_eagerly(shape):
    import tensorflow as tf

    layer, eager = augmentation.Augmentation(), augmentation.Augmentation()
    function = tf.function(lambda x: layer(x, training=True), input_signature=[tf.TensorSpec(shape, tf.uint8)])
    for _ in range(2):
        np.testing.assert_array_equal(function(images()), run(eager, images()))
    assert layer.step == 2


@tensorflow_only
def test_inside_a_compiled_tf_function_it_is_a_function_of_seed_and_step_as_well():
    import tensorflow as tf

    layer = augmentation.Augmentation()
    function = tf.function(lambda x: layer(x, training=True), jit_compile=True)
    first, second = function(images()).numpy(), function(images()).numpy()
    layer.step = 1
    np.testing.assert_array_equal(function(images()), second)
    assert layer.step == 2 and (first != second).any() and (second != images()).any()


@tensorflow_only
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_xla_makes_the_images_that_are_made_without_it(dtype):
    import tensorflow as tf

    settings = augmentation.Settings(10, 0.2, 0.2, 0.2, 0.2, True, 0.1, 0.1, 0.5)
    drawn = np.random.default_rng(0).uniform(size=(4, len(augmentation.DRAWS))).astype("float32")
    compiled = tf.function(augmentation.augment, jit_compile=True)(images().astype(dtype), drawn, settings)
    np.testing.assert_allclose(compiled, augmentation.augment(images().astype(dtype), drawn, settings), atol=0.01)


@tensorflow_only
def test_inside_tf_data_it_gives_the_same_as_eagerly():
    import tensorflow as tf

    layer, eager = augmentation.Augmentation(), augmentation.Augmentation()
    batches = tf.data.Dataset.from_tensor_slices(images(5)).batch(3).map(lambda x: layer(x, training=True))
    for start, batch in zip((0, 3), batches, strict=True):
        np.testing.assert_array_equal(batch, run(eager, images(5)[start : start + 3]))


def in_another_process(script: str, backend: str, folder: pathlib.Path) -> None:
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


ON_JAX = """
import sys
sys.modules["tensorflow"] = None  # an import of it would fail
import jax, keras, numpy as np
from agegender.models.augmentation import Augmentation, Settings, augment
images, noise = (np.load(sys.argv[1] + name) for name in ("/images.npy", "/noise.npy"))
settings = Settings(10, 0.2, 0.2, 0.2, 0.2, True, 0.1, 0.1, 0.5)
np.save(sys.argv[1] + "/outputs.npy", jax.jit(augment, static_argnums=2)(images, noise, settings))
layer = Augmentation(seed=1)
eager = layer(images, training=True)
assert layer.step == 1 and eager.dtype == "float32" and (eager != images).any()
layer.step = 0
state = [variable.value for variable in layer.non_trainable_variables]
output, state = jax.jit(lambda state, x: layer.stateless_call([], state, x, training=True))(state, images)
assert state[0].tolist() == [1, 1]
np.testing.assert_allclose(eager, output, atol=0.01)
head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)]
model = keras.Sequential([keras.Input([24, 24, 3], dtype="uint8"), layer, *head])
model.compile("sgd", "mse")
model.fit(images, np.zeros([len(images), 1]), batch_size=2, verbose=0)
assert model.jit_compile and layer.step == 2
"""


def test_on_jax_without_tensorflow_the_same_noise_makes_the_same_images(tmp_path: pathlib.Path):
    drawn = np.random.default_rng(0).uniform(size=(4, len(augmentation.DRAWS))).astype("float32")
    np.save(tmp_path / "images.npy", images())
    np.save(tmp_path / "noise.npy", drawn)
    in_another_process(ON_JAX, "jax", tmp_path)
    settings = augmentation.Settings(10, 0.2, 0.2, 0.2, 0.2, True, 0.1, 0.1, 0.5)
    here = ops.convert_to_numpy(augmentation.augment(images(), drawn, settings))
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), here, atol=0.01)


# --- arguments -------------------------------------------------------------------------------------------------------


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
        ({"erasing": True}, "`erasing` must be in [0, 1]. Received: erasing=True"),
        ({"horizontal_flip": 0.5}, "`horizontal_flip` must be True or False. Received: horizontal_flip=0.5"),
        ({"seed": -1}, "`seed` must be in [0, 2147483645]. Received: seed=-1"),
        ({"seed": 1.5}, "`seed` must be an integer. Received: seed=1.5"),
    ],
)
def test_a_wrong_argument_is_named_in_the_error(arguments, message):
    with pytest.raises(ValueError) as error:
        augmentation.Augmentation(**arguments)
    assert message in str(error.value)


def test_a_wrong_step_is_refused():
    layer = augmentation.Augmentation()
    with pytest.raises(ValueError, match=r"`step` must be in \[0, 2147483645\]. Received: step=-1"):
        layer.step = -1
    with pytest.raises(TypeError):
        layer.step = 1.5


def test_positional_options_are_refused():
    with pytest.raises(TypeError):
        augmentation.Augmentation(10.0)
