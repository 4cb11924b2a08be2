from pathlib import Path

import keras
import numpy as np
import pytest

from agegender import build_model
from agegender.schema import AGE_MEAN, AGE_STD

IMAGES = np.arange(2 * 24 * 24 * 3).reshape(2, 24, 24, 3).astype("uint8")


def dense(model: keras.Model, head: str) -> list[int]:
    return [layer.units for layer in model.layers if layer.name.startswith(f"{head}_dense")]


def rates(model: keras.Model, head: str) -> list[float]:
    return [layer.rate for layer in model.layers if layer.name.startswith(f"{head}_dropout")]


def test_the_outputs_keep_the_contract(tiny_trunk: keras.Model) -> None:
    outputs = build_model(tiny_trunk)(IMAGES)
    assert set(outputs) == {"age", "gender"}
    for values in outputs.values():
        assert values.shape == (2, 1) and keras.backend.standardize_dtype(values.dtype) == "float32"
    assert np.all((np.asarray(outputs["gender"]) > 0) & (np.asarray(outputs["gender"]) < 1))


def test_the_default_heads_are_those_of_the_notebook(tiny_trunk: keras.Model) -> None:
    model = build_model(tiny_trunk)
    assert dense(model, "age") == dense(model, "gender") == [512, 256, 128]
    assert rates(model, "age") == [0.3, 0.2, 0.2] and rates(model, "gender") == [0.5, 0.5, 0.5]


def test_heads_can_have_another_shape(tiny_trunk: keras.Model) -> None:
    model = build_model(tiny_trunk, units=(32,), age_dropout=(0.1,), gender_dropout=(0,))
    assert dense(model, "gender") == [32] and rates(model, "age") == [0.1]


@pytest.mark.parametrize("head", ["age", "gender"])
def test_one_head_alone_is_a_model(tiny_trunk: keras.Model, head: str) -> None:
    assert set(build_model(tiny_trunk, heads=[head])(IMAGES)) == {head}


def test_an_answer_of_zero_deviations_is_the_mean_age_and_one_is_a_standard_deviation_more(
    tiny_trunk: keras.Model,
) -> None:
    model = build_model(tiny_trunk)
    last = model.get_layer("age_deviations")
    for bias in (0.0, 1.0):
        last.set_weights([np.zeros((128, 1)), np.array([bias])])
        np.testing.assert_allclose(model(IMAGES)["age"], AGE_MEAN + bias * AGE_STD)


def test_hidden_layers_start_with_the_spread_of_he_and_let_nothing_below_zero_through(tiny_trunk: keras.Model) -> None:
    model = build_model(tiny_trunk)
    for head in ("age", "gender"):
        hidden = [model.get_layer(f"{head}_dense_{number}") for number in (1, 2, 3)]
        for layer in hidden[1:]:
            assert np.std(layer.kernel) == pytest.approx(np.sqrt(2 / layer.kernel.shape[0]), rel=0.05), layer.name
        for layer in hidden:
            values = np.asarray(keras.Model(model.input, layer.output)(IMAGES))
            assert values.min() == 0 < values.max(), layer.name


def test_a_feature_that_never_varied_counts_threefold_at_most_and_one_batch_little(tiny_trunk: keras.Model) -> None:
    norm = build_model(tiny_trunk).get_layer("feature_batch_norm")
    features = np.tile(np.float32([[1.0], [3.0]]), 16)
    norm(features, training=True)
    np.testing.assert_allclose(norm.moving_mean, 0.03 * 2, rtol=1e-5)
    norm.set_weights([np.full(16, value) for value in (1.0, 0.0, 0.0, 0.0)])
    np.testing.assert_allclose(norm(features), features / np.sqrt(0.1), rtol=1e-5)


def test_features_of_any_size_give_the_same_answers(tiny_trunk: keras.Model) -> None:
    # VGGFace weights and random weights differ a hundredfold here; the heads must not notice.
    large = keras.Sequential([tiny_trunk, keras.layers.Rescaling(100.0)])
    models = [build_model(trunk) for trunk in (tiny_trunk, large)]
    heads = [[w for w in model.weights if "conv" not in w.path] for model in models]
    for first, second in zip(*heads, strict=True):
        second.assign(first)
    answers = [np.asarray(model(IMAGES)["age"]) for model in models]
    # The small epsilon of the normalisation counts for more where the features are smaller.
    np.testing.assert_allclose(answers[0], answers[1], atol=0.6)


def test_heads_stay_in_float32_on_a_bfloat16_trunk(tiny_trunk: keras.Model) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        trunk = keras.Sequential([keras.Input((24, 24, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
        model = build_model(trunk)
        assert trunk.compute_dtype == "bfloat16"
        assert {layer.compute_dtype for layer in model.layers[2:]} == {"float32"}
        assert all(keras.backend.standardize_dtype(v.dtype) == "float32" for v in model(IMAGES).values())
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_saved_model_answers_the_same(tiny_trunk: keras.Model, tmp_path) -> None:
    model = build_model(tiny_trunk)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(model(IMAGES)["age"], again(IMAGES)["age"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": []}, "`heads`"),
        ({"heads": "age"}, "`heads`"),
        ({"heads": ["age", "age"]}, "`heads`"),
        ({"heads": ["race"]}, "`heads`"),
        ({"units": (0, 1, 1)}, "`units`"),
        ({"age_dropout": (1.0, 0, 0)}, "`age_dropout`"),
        ({"gender_dropout": (0.1,)}, "`gender_dropout`"),
        ({"gender_dropout": (float("nan"), 0, 0)}, "`gender_dropout`"),
    ],
)
def test_what_cannot_be_built_is_named(tiny_trunk: keras.Model, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=rf"{words}.*Received"):
        build_model(tiny_trunk, **options)


def test_a_trunk_that_gives_maps_is_refused() -> None:
    trunk = keras.Sequential([keras.Input((24, 24, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(ValueError, match=r"features \[batch, width\]"):
        build_model(trunk)


def test_a_distribution_answers_with_its_mean_and_survives_saving(tiny_trunk: keras.Model, tmp_path: Path) -> None:
    model = build_model(tiny_trunk, age_head="distribution")
    last = model.get_layer("age_distribution")
    last.set_weights([np.zeros((128, 117)), np.where(np.isin(np.arange(117), [20, 50]), 0.0, -100.0)])
    np.testing.assert_allclose(model(IMAGES)["age"], 35.0, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(IMAGES)["age"], 35.0, rtol=1e-5)


def test_an_untrained_distribution_is_about_that_of_the_ages_of_the_data(tiny_trunk: keras.Model) -> None:
    bell = np.exp(-(((np.arange(117) - AGE_MEAN) / AGE_STD) ** 2) / 2)
    expected = np.sum(np.arange(117) * bell) / bell.sum()
    np.testing.assert_allclose(build_model(tiny_trunk, age_head="distribution")(IMAGES)["age"], expected, rtol=1e-5)


def test_a_median_is_that_of_the_distribution_and_has_its_weights(tiny_trunk: keras.Model, tmp_path: Path) -> None:
    model, of_mean = (build_model(tiny_trunk, age_head=head) for head in ("median", "distribution"))
    last = model.get_layer("age_distribution")
    # A quarter at 10, three at 40: half of all lies before the first third of the year 40, from 39.5 to 40.5.
    bias = np.full(117, -100.0)
    bias[[10, 40]] = np.log([0.25, 0.75])
    last.set_weights([np.zeros((128, 117)), bias])
    np.testing.assert_allclose(model(IMAGES)["age"], 39.5 + 1 / 3, rtol=1e-5)
    of_mean.set_weights(model.get_weights())
    np.testing.assert_allclose(of_mean(IMAGES)["age"], 32.5, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(IMAGES)["age"], 39.5 + 1 / 3, rtol=1e-5)


def test_another_age_head_is_refused(tiny_trunk: keras.Model) -> None:
    with pytest.raises(ValueError, match=r"`age_head` must be one of .*Received: age_head='ranks'"):
        build_model(tiny_trunk, age_head="ranks")
