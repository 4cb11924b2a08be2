import keras
import numpy as np
import pytest

from agegender import build_model, vggface_trunk
from agegender.models.batch_norm import MOMENTUM, add_batch_norm, fold_batch_norm, renew_statistics

IMAGES = np.random.default_rng(1).integers(0, 256, (3, 48, 48, 3), np.uint8)


def trained(trunk: keras.Model) -> keras.Model:
    """A model whose normalisations and heads have seen something: no statistic is that of the start."""
    model, noise = build_model(trunk), np.random.default_rng(2)
    for layer in [*trunk.layers, *model.layers]:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([noise.uniform(0.5, 2, weight.shape) for weight in layer.get_weights()])
    for head in ("age_deviations", "gender"):
        layer = model.get_layer(head)
        layer.set_weights([noise.normal(0, 0.1, weight.shape) for weight in layer.get_weights()])
    return model


@pytest.fixture(scope="module")
def vgg16() -> keras.Model:
    return vggface_trunk("vgg16", image_size=48, weights=None, trainable="all", width=0.25, seed=1)


def test_thirteen_normalisations_are_added_and_folded_away_again(vgg16: keras.Model) -> None:
    trunk = add_batch_norm(vgg16)
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in trunk.layers) == 13
    model = trained(trunk)
    folded = fold_batch_norm(model)
    names = [layer.name for layer in next(layer for layer in folded.layers if isinstance(layer, keras.Model)).layers]
    assert names == [layer.name for layer in vgg16.layers]
    for head, expected in model(IMAGES).items():
        assert np.ptp(expected) > 1e-4, "the answers must differ, or any would do"
        np.testing.assert_allclose(folded(IMAGES)[head], expected, rtol=1e-4)


def test_behind_a_pooling_the_scale_stays_above_zero_or_it_could_not_be_folded(vgg16: keras.Model) -> None:
    trunk = add_batch_norm(vgg16)
    for layer in trunk.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            behind = layer.name.split("_batch")[0] in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
            assert isinstance(layer.gamma.constraint, keras.constraints.NonNeg) == behind, layer.name


def test_what_is_folded_loads_into_the_trunk_as_published(vgg16: keras.Model) -> None:
    folded = fold_batch_norm(trained(add_batch_norm(vgg16)))
    plain = build_model(vggface_trunk("vgg16", image_size=48, weights=None, width=0.25, seed=2))
    plain.set_weights(folded.get_weights())
    for head, expected in folded(IMAGES).items():
        np.testing.assert_allclose(plain(IMAGES)[head], expected, rtol=1e-5)


def test_what_learns_and_what_does_not_is_kept(vgg16: keras.Model) -> None:
    vgg16.get_layer("conv1_1").trainable = False
    assert [layer.name for layer in add_batch_norm(vgg16).layers if layer.weights and not layer.trainable] == [
        "conv1_1"
    ]
    vgg16.get_layer("conv1_1").trainable = True


def test_statistics_renewed_are_those_of_the_images_and_nothing_else_changes(vgg16: keras.Model) -> None:
    model = trained(add_batch_norm(vgg16))
    before = {weight.path: np.array(weight) for weight in model.weights}
    first = model.layers[1].get_layer("conv1_1_batch_norm")
    renew_statistics(model, [IMAGES[:2], IMAGES[2:]])
    changed = {weight.path for weight in model.weights if not np.array_equal(weight, before[weight.path])}
    assert changed and all("moving_" in path for path in changed)
    trunk = model.layers[1]
    seen = keras.Model(trunk.inputs[0], trunk.get_layer("conv1_1").output)
    means = [np.mean(seen(part), axis=(0, 1, 2)) for part in (IMAGES[:2], IMAGES[2:])]
    np.testing.assert_allclose(first.moving_mean, np.mean(means, axis=0), rtol=1e-3, atol=1e-3)
    assert first.momentum == MOMENTUM
    with pytest.raises(ValueError, match="a batch of images or more"):
        renew_statistics(model, [])


def test_a_trunk_without_such_a_convolution_is_refused() -> None:
    image = keras.Input((8, 8, 3))
    trunk = keras.Model(image, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(image)))
    with pytest.raises(ValueError, match="'vgg16' has thirteen"):
        add_batch_norm(trunk)


def test_a_model_with_nothing_to_fold_comes_back_as_it_is(tiny_trunk: keras.Model) -> None:
    model = build_model(tiny_trunk)
    assert fold_batch_norm(model) is model
