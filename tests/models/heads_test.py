"""The heads' answers by hand, their defaults and each of their options."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import SIZE, make_tiny_trunk

from agegender import build_model
from agegender.models.layers import MeanAge, MedianAge, iterate_layers
from agegender.schema import AGE_MEAN, AGE_STD

IMAGES = np.arange(2 * SIZE * SIZE * 3).reshape(2, SIZE, SIZE, 3).astype("uint8")


def find_units(model: keras.Model, head: str) -> list[int]:
    return [layer.units for layer in model.layers if layer.name.startswith(f"{head}_dense")]


def find_rates(model: keras.Model, head: str) -> list[float]:
    return [layer.rate for layer in model.layers if layer.name.startswith(f"{head}_dropout")]


def test_default_heads(tiny_trunk: keras.Model) -> None:
    model = build_model(tiny_trunk)
    assert find_units(model, "age") == find_units(model, "gender") == [512, 256, 128]
    assert find_rates(model, "age") == [0.3, 0.2, 0.2] and find_rates(model, "gender") == [0.5, 0.5, 0.5]
    outputs = model(IMAGES)
    assert model.name == "agegender" and list(outputs) == ["age", "gender"]
    np.testing.assert_allclose(outputs["age"], [[AGE_MEAN]] * 2)  # untrained
    np.testing.assert_allclose(outputs["gender"], [[0.5]] * 2)


def test_options_of_the_hidden_layers(tiny_trunk: keras.Model) -> None:
    model = build_model(tiny_trunk, units=(32,), age_dropout=(0.1,), gender_dropout=(0,))
    assert find_units(model, "age") == find_units(model, "gender") == [32]
    assert find_rates(model, "age") == [0.1] and find_rates(model, "gender") == [0]


@pytest.mark.parametrize("head", ["age", "gender"])
def test_one_head(tiny_trunk: keras.Model, head: str) -> None:
    model = build_model(tiny_trunk, heads=[head])
    assert list(model(IMAGES)) == [head]
    assert not [layer.name for layer in model.layers if layer.name.startswith({"age": "gender", "gender": "age"}[head])]


def test_regression_answers_in_standard_deviations(tiny_trunk: keras.Model) -> None:
    model = build_model(tiny_trunk)
    model.get_layer("age_deviations").set_weights([np.zeros((128, 1)), np.array([1.5])])
    np.testing.assert_allclose(model(IMAGES)["age"], AGE_MEAN + 1.5 * AGE_STD)


@pytest.mark.parametrize(
    ("probabilities", "mean", "median"),
    [
        # Half of all lies below the end of year 20, which is 20.5.
        ({20: 0.5, 50: 0.5}, 35.0, 20.5),
        # A quarter at 10 and three at 40: half of all lies below the first third of year 40, from 39.5 to 40.5.
        ({10: 0.25, 40: 0.75}, 32.5, 39.5 + 1 / 3),
        ({0: 1.0}, 0.0, 0.0),
        ({116: 1.0}, 116.0, 116.0),
    ],
)
def test_mean_and_median_by_hand(probabilities: dict[int, float], mean: float, median: float) -> None:
    distribution = np.zeros((1, 117), "float32")
    for year, probability in probabilities.items():
        distribution[0, year] = probability
    np.testing.assert_allclose(MeanAge()(distribution), [[mean]], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(MedianAge()(distribution), [[median]], rtol=1e-5, atol=1e-5)


def test_median_equals_interpolated_cumulative_sum() -> None:
    distribution = np.random.default_rng(0).dirichlet(np.ones(117), 20).astype("float32")
    edges = np.arange(118) - 0.5
    expected = [np.interp(0.5, np.concatenate([[0], np.cumsum(row)]), edges) for row in distribution]
    np.testing.assert_allclose(MedianAge()(distribution)[:, 0], expected, atol=1e-3)


def test_untrained_distribution_is_normal(tiny_trunk: keras.Model) -> None:
    weights = np.exp(-(((np.arange(117) - AGE_MEAN) / AGE_STD) ** 2) / 2)
    expected = np.sum(np.arange(117) * weights) / weights.sum()
    model = build_model(tiny_trunk, age_head="distribution")
    np.testing.assert_allclose(model(IMAGES)["age"], expected, rtol=1e-5)
    assert isinstance(model.get_layer("age"), MeanAge)
    median = build_model(tiny_trunk, age_head="median")
    median.set_weights(model.get_weights())
    assert isinstance(median.get_layer("age"), MedianAge)


def test_hidden_layers_are_he_normal_with_relu(tiny_trunk: keras.Model) -> None:
    model = build_model(tiny_trunk)
    for head in ("age", "gender"):
        for number in (2, 3):
            kernel = model.get_layer(f"{head}_dense_{number}").kernel
            assert np.std(kernel) == pytest.approx(np.sqrt(2 / kernel.shape[0]), rel=0.05)
        values = np.asarray(keras.Model(model.input, model.get_layer(f"{head}_dense_1").output)(IMAGES))
        assert values.min() == 0 < values.max()


def test_feature_norm_by_hand(tiny_trunk: keras.Model) -> None:
    model = build_model(tiny_trunk)
    features = np.tile(np.float32([[100.0, 300.0]]), 8)  # the mean is 200, the deviation 100
    normalized = model.get_layer("feature_layer_norm")(features)
    np.testing.assert_allclose(normalized, np.tile([[-1.0, 1.0]], 8), rtol=1e-5)
    norm = model.get_layer("feature_batch_norm")
    features = np.tile(np.float32([[1.0], [3.0]]), 16)
    norm(features, training=True)
    np.testing.assert_allclose(norm.moving_mean, 0.03 * 2, rtol=1e-5)  # the mean is 2, the momentum 0.97
    norm.set_weights([np.full(16, value) for value in (1.0, 0.0, 0.0, 0.0)])
    np.testing.assert_allclose(norm(features), features / np.sqrt(0.1), rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16", "float64"])
def test_heads_stay_in_float32(policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        trunk = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
        model = build_model(trunk, age_head="median")
        assert trunk.compute_dtype == policy.removeprefix("mixed_")
        assert {layer.compute_dtype for layer in model.layers[2:]} == {"float32"}
        assert {keras.backend.standardize_dtype(output.dtype) for output in model(IMAGES).values()} == {"float32"}
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("age_head", ["regression", "distribution", "median"])
@pytest.mark.parametrize("floatx", ["float16", "float64"])
def test_a_saved_model_loads_under_another_keras_config(age_head: str, floatx: str, tmp_path: Path) -> None:
    model = build_model(make_tiny_trunk(), age_head=age_head)
    model.get_layer("gender").kernel.assign(np.full((128, 1), 0.1))
    model.save(tmp_path / "model.keras")
    expected = model.predict_on_batch(IMAGES)
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
    keras.config.set_image_data_format("channels_first")
    try:
        loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
        answers = loaded.predict_on_batch(IMAGES)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        keras.config.set_image_data_format("channels_last")
    for head, values in expected.items():
        np.testing.assert_allclose(answers[head], values, rtol=1e-5)


def test_iterate_layers_goes_into_nested_models(tiny_trunk: keras.Model) -> None:
    names = [
        layer.name
        for layer in iterate_layers(build_model(keras.Sequential([keras.Input((SIZE, SIZE, 3)), tiny_trunk])))
    ]
    assert {"gender", tiny_trunk.name, tiny_trunk.layers[1].name} <= set(names)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"heads": []}, "`heads`"),
        ({"heads": "age"}, "`heads`"),
        ({"heads": ["age", "age"]}, "`heads`"),
        ({"heads": ["race"]}, "`heads`"),
        ({"age_head": "ranks"}, "`age_head`"),
        ({"units": (0, 1, 1)}, "`units`"),
        ({"age_dropout": (1.0, 0, 0)}, "`age_dropout`"),
        ({"gender_dropout": (0.1,)}, "`gender_dropout`"),
        ({"gender_dropout": (float("nan"), 0, 0)}, "`gender_dropout`"),
    ],
)
def test_a_wrong_argument_is_named(tiny_trunk: keras.Model, options: dict[str, Any], argument: str) -> None:
    with pytest.raises(ValueError, match=rf"{argument}.*Received"):
        build_model(tiny_trunk, **options)


def test_a_trunk_of_feature_maps_is_refused() -> None:
    trunk = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(ValueError, match=r"features \[batch, width\].*Received"):
        build_model(trunk)
