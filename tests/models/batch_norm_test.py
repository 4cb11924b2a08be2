"""Batch normalization is added, folded and measured, by hand and on VGG16."""

import keras
import numpy as np
import pytest

from agegender import build_model, vggface_trunk
from agegender.models.batch_norm import add_batch_norm, fold_batch_norm, renew_statistics

IMAGES = np.random.default_rng(1).integers(0, 256, (3, 48, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def vgg16() -> keras.Model:
    return vggface_trunk("vgg16", image_size=48, weights=None, trainable="all", width=1 / 8, seed=1)


def build_trained(trunk: keras.Model) -> keras.Model:
    """Builds a model without any trivial statistic, whose answers differ."""
    keras.utils.set_random_seed(1)
    model, random = build_model(trunk), np.random.default_rng(2)
    for layer in [*trunk.layers, *model.layers]:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 2, weight.shape) for weight in layer.get_weights()])
    for head in ("age_deviations", "gender"):
        layer = model.get_layer(head)
        layer.set_weights([random.normal(0, 0.1, weight.shape) for weight in layer.get_weights()])
    return model


def test_folding_by_hand() -> None:
    convolution = keras.layers.Conv2D(1, 1, activation="relu", name="conv")
    trunk = keras.Sequential([keras.Input((1, 1, 1)), convolution, keras.layers.Flatten()])
    convolution.set_weights([np.full((1, 1, 1, 1), 2.0), np.array([1.0])])
    with_norm = add_batch_norm(trunk)
    # gamma, beta, mean and a variance that, with Keras's epsilon of 0.001, has the root 2.
    with_norm.get_layer("conv_batch_norm").set_weights([np.array([value]) for value in (3.0, 0.5, 4.0, 3.999)])
    # 5 -> 2 * 5 + 1 = 11 -> 3 * (11 - 4) / 2 + 0.5 = 11.
    np.testing.assert_allclose(with_norm(np.full((1, 1, 1, 1), 5.0)), [[11.0]], rtol=1e-6)
    folded = fold_batch_norm(build_model(with_norm)).layers[1].get_layer("conv")
    # Kernel 2 * 3 / 2 = 3, bias (1 - 4) * 3 / 2 + 0.5 = -4.
    np.testing.assert_allclose(np.ravel(folded.kernel), [3.0], rtol=1e-6)
    np.testing.assert_allclose(folded.bias, [-4.0], rtol=1e-6)


def test_vgg16_folds_into_its_published_form(vgg16: keras.Model) -> None:
    trunk = add_batch_norm(vgg16)
    norms = [layer for layer in trunk.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 13
    for layer in norms:  # after a pooling gamma stays above zero, or it could not be folded
        is_last = layer.name.split("_batch")[0] in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
        assert isinstance(layer.gamma.constraint, keras.constraints.NonNeg) == is_last, layer.name
    model = build_trained(trunk)
    folded = fold_batch_norm(model)
    plain = build_model(vggface_trunk("vgg16", image_size=48, weights=None, width=1 / 8, seed=2))
    plain.set_weights(folded.get_weights())
    assert [layer.name for layer in folded.layers[1].layers] == [layer.name for layer in vgg16.layers]
    for head, expected in model(IMAGES).items():
        assert np.ptp(expected) > 1e-4, "equal answers would prove nothing"
        np.testing.assert_allclose(folded(IMAGES)[head], expected, rtol=1e-4)
        np.testing.assert_allclose(plain(IMAGES)[head], folded(IMAGES)[head], rtol=1e-5)


def test_frozen_layers_stay_frozen(vgg16: keras.Model) -> None:
    vgg16.get_layer("conv1_1").trainable = False
    frozen = [layer.name for layer in add_batch_norm(vgg16).layers if layer.weights and not layer.trainable]
    vgg16.get_layer("conv1_1").trainable = True
    assert frozen == ["conv1_1"]


def test_renewed_statistics_are_means_over_batches(vgg16: keras.Model) -> None:
    model = build_trained(add_batch_norm(vgg16))
    before = {weight.path: np.array(weight) for weight in model.weights}
    renew_statistics(model, [IMAGES[:2], IMAGES[2:]])
    changed = {weight.path for weight in model.weights if not np.array_equal(weight, before[weight.path])}
    assert len(changed) == 2 * 14 and all("moving_" in path for path in changed)  # the trunk's 13 and the heads'
    trunk = model.layers[1]
    first = trunk.get_layer("conv1_1_batch_norm")
    convolved = keras.Model(trunk.inputs[0], trunk.get_layer("conv1_1").output)
    batches = [np.asarray(convolved(part), "float64") for part in (IMAGES[:2], IMAGES[2:])]
    for received, expected in (
        (first.moving_mean, [np.mean(batch, axis=(0, 1, 2)) for batch in batches]),
        (first.moving_variance, [np.var(batch, axis=(0, 1, 2)) for batch in batches]),
    ):
        np.testing.assert_allclose(received, np.mean(expected, axis=0), rtol=1e-3, atol=1e-3)
    assert first.momentum == 0.95  # as before
    with pytest.raises(ValueError, match="at least one batch"):
        renew_statistics(model, [])


def test_models_without_such_convolutions(tiny_trunk: keras.Model) -> None:
    linear = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3), keras.layers.GlobalAveragePooling2D()]
    )
    for trunk in (linear, vggface_trunk("dlib", image_size=48, weights=None)):
        with pytest.raises(ValueError, match=rf"as 'vgg16' is. Received: the trunk '{trunk.name}'"):
            add_batch_norm(trunk)
    model = build_model(tiny_trunk)
    assert fold_batch_norm(model) is model
