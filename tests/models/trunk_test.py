"""The trunk has the features of keras-vggface under Keras 2, whatever Keras is configured for."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import vggface_oracle

from agegender.models import trunk as trunk_module
from agegender.models.layers import VGGFaceNormalization
from agegender.models.trunk import ARCHITECTURES, MEANS, vggface_trunk

VGG16_CONVOLUTIONS = [
    f"conv{stage}_{i}" for stage, count in {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}.items() for i in range(1, count + 1)
]
# Of each block in the last stage of a ResNet: its convolutions, each with batch normalization; its gates in senet50.
STAGE_5 = {
    1: "1x1_reduce 3x3 1x1_increase 1x1_proj",
    2: "1x1_reduce 3x3 1x1_increase",
    3: "1x1_reduce 3x3 1x1_increase",
}
CONVOLUTIONS_5 = {f"conv5_{block}_{part}" for block, parts in STAGE_5.items() for part in parts.split()}
GATES_5 = {f"conv5_{block}_1x1_{part}" for block in STAGE_5 for part in ("down", "up")}
LAST_BLOCK = {
    "vgg16": {"conv5_1", "conv5_2", "conv5_3"},
    "resnet50": CONVOLUTIONS_5 | {f"{name}_bn" for name in CONVOLUTIONS_5},
    "senet50": CONVOLUTIONS_5 | {f"{name}_bn" for name in CONVOLUTIONS_5} | GATES_5,
    "dlib": {f"conv5_{block}_{i}" for block in (1, 2, 3) for i in (1, 2)},
}
FEATURES = {"vgg16": 512, "resnet50": 2048, "senet50": 2048, "dlib": 256}
# The first three features of the oracle's images, as vggface_oracle.py printed them under tf-keras 2.21.
ORACLE = {
    "vgg16": [[176.300674, 33.596634, 2.895050], [183.775391, 34.915527, 1.301163]],
    "senet50": [[999.386963, 260.933777, 1747.417114], [954.774780, 254.368103, 1731.898071]],
}


def make_images(size: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.uint8)


def build(architecture: str = "vgg16", **options: Any) -> keras.Model:
    narrow = {"width": 1 / 8} if architecture == "vgg16" and not options.get("weights") else {}
    return vggface_trunk(architecture, **{"image_size": 48, "weights": None, "seed": 1, **narrow, **options})


def find_trainable(trunk: keras.Model) -> set[str]:
    return {layer.name for layer in trunk.layers if layer.trainable_weights}


# --- architectures


@pytest.mark.parametrize("architecture", ORACLE)
def test_features_equal_keras_2(architecture: str) -> None:
    trunk = vggface_trunk(architecture, weights=None)
    for layer in trunk.layers:
        if layer.weights:
            layer.set_weights(vggface_oracle.draw_weights(layer))
    features = trunk.predict_on_batch(vggface_oracle.make_images())
    np.testing.assert_allclose(features[:, :3], ORACLE[architecture], rtol=1e-3)


@pytest.mark.slow
def test_features_of_all_architectures_equal_keras_2_and_jax(tmp_path: Path) -> None:
    run_python(vggface_oracle.__file__, tmp_path)
    run_python("-c", ON_JAX, tmp_path, KERAS_BACKEND="jax")
    for architecture in MEANS:
        trunk = vggface_trunk(architecture, weights=tmp_path / f"{architecture}.h5")
        expected = np.load(tmp_path / f"{architecture}.npy")
        features = trunk.predict(vggface_oracle.make_images(), verbose=0)
        on_jax = np.load(tmp_path / f"{architecture}_jax.npy")
        for received in (features, on_jax):
            np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-5 * expected.std())
    for architecture, other, words in (
        ("senet50", "resnet50", "the layer conv2_1_1x1_down is missing"),
        ("resnet50", "senet50", "is unknown"),  # it has all layers of resnet50, with the same shapes
    ):
        with pytest.raises(ValueError, match=rf"saved for '{architecture}', but .*{words}.*Received: .*{other}.h5'"):
            vggface_trunk(architecture, weights=tmp_path / f"{other}.h5")


ON_JAX = """
import sys
sys.modules["tensorflow"] = None  # an import of it fails
import numpy as np, vggface_oracle
from agegender.models import trunk
assert not trunk._import_keras_vggface.cache_info().currsize, "keras_vggface is imported too early"
for architecture in trunk.MEANS:
    model = trunk.vggface_trunk(architecture, weights=f"{sys.argv[1]}/{architecture}.h5")
    np.save(f"{sys.argv[1]}/{architecture}_jax.npy", model.predict(vggface_oracle.make_images(), verbose=0))
"""


def run_python(*arguments: object, **environment: str) -> None:
    folder = Path(vggface_oracle.__file__).parent
    path = os.pathsep.join([str(folder), str(folder.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architecture_has_its_shapes_and_last_block(architecture: str) -> None:
    trunk = vggface_trunk(architecture, image_size=np.int64(48), weights=None)
    assert trunk.name.removeprefix("vggface_") == architecture and trunk.input.name == "image"
    assert (trunk.input_shape, trunk.output_shape) == ((None, 48, 48, 3), (None, FEATURES[architecture]))
    assert find_trainable(trunk) == LAST_BLOCK[architecture]
    if architecture == "vgg16":
        assert [layer.name for layer in trunk.layers if layer.weights] == VGG16_CONVOLUTIONS


def test_default_trunk() -> None:
    trunk = vggface_trunk(weights=None)
    assert (trunk.name, trunk.input_shape) == ("vggface_vgg16", (None, 200, 200, 3))
    assert find_trainable(trunk) == LAST_BLOCK["vgg16"]


def test_importing_keras_vggface_restores_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = object()
    monkeypatch.setitem(sys.modules, "keras_vggface", mine)
    monkeypatch.setitem(sys.modules, "keras.utils.data_utils", mine)
    before = dict(sys.modules), dict(vars(keras)), dict(vars(keras.utils))
    trunk_module._import_keras_vggface.cache_clear()
    trunk_module._import_keras_vggface()
    assert (dict(sys.modules), dict(vars(keras)), dict(vars(keras.utils))) == before


# --- normalization and Keras's global state


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("vgg16", [30 - 93.5940, 20 - 104.7624, 10 - 129.1863]),
        ("senet50", [30 - 91.4953, 20 - 103.8827, 10 - 131.0912]),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_normalization_subtracts_the_mean_from_bgr(architecture: str, expected: list[float], dtype: str) -> None:
    received = VGGFaceNormalization(MEANS[architecture])(np.array([[[[10, 20, 30]]]], dtype))
    np.testing.assert_allclose(received, [[[expected]]], atol=1e-5)


@pytest.fixture
def keras_config() -> Iterator[Any]:
    """Restores what a test changes in Keras's configuration."""
    before = keras.config.image_data_format(), keras.config.floatx(), keras.config.dtype_policy()
    yield keras.config
    keras.config.set_image_data_format(before[0])
    keras.config.set_floatx(before[1])
    keras.config.set_dtype_policy(before[2])


def test_only_the_normalization_ignores_mixed_bfloat16(keras_config: Any) -> None:
    keras_config.set_dtype_policy("mixed_bfloat16")
    trunk = build()
    assert {trunk.get_layer(name).compute_dtype for name in VGG16_CONVOLUTIONS} == {"bfloat16"}
    normalized = keras.Model(trunk.input, trunk.get_layer("normalization").output)
    # 100.3 is not a bfloat16: the nearest are 100.0 and 100.5.
    blue = keras.ops.convert_to_numpy(normalized(np.full((1, 48, 48, 3), 100.3, "float32")))[0, 0, 0, 0]
    assert blue == pytest.approx(100.3 - 93.5940, abs=1e-4)


def test_channels_first_changes_nothing(keras_config: Any) -> None:
    expected = build()(make_images())
    keras_config.set_image_data_format("channels_first")
    np.testing.assert_allclose(build()(make_images()), expected, rtol=1e-5)
    assert keras_config.image_data_format() == "channels_first"


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "float64"])
def test_weights_other_than_float32_are_refused(policy: str, keras_config: Any) -> None:
    keras_config.set_dtype_policy(policy)
    with pytest.raises(ValueError, match=rf"dtype policy must be 'float32'.*keras.json.*Received: '{policy}'"):
        build()


# --- layers that learn


@pytest.mark.parametrize(
    ("trainable", "names"),
    [
        ("all", VGG16_CONVOLUTIONS),
        ("none", []),
        (0, []),
        (2, []),  # the global average and pool5 have no weights
        (3, ["conv5_3"]),
        (6, ["conv5_1", "conv5_2", "conv5_3"]),  # the sixth from the end is pool4
        (7, ["conv4_3", "conv5_1", "conv5_2", "conv5_3"]),
        (1000, VGG16_CONVOLUTIONS),
    ],
)
def test_trainable_chooses_layers(trainable: str | int, names: list[str]) -> None:
    trunk = build(trainable=trainable)
    assert find_trainable(trunk) == set(names) and len(trunk.trainable_weights) == 2 * len(names)


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    trunk = build("resnet50", trainable="last_block")
    trunk(make_images(), training=True)
    np.testing.assert_array_equal(trunk.get_layer("conv4_6_3x3_bn").moving_mean, np.zeros(256))
    assert np.abs(trunk.get_layer("conv5_1_3x3_bn").moving_mean).max() > 0
    # 53 convolutions without bias, and as many batch normalizations with a scale and an offset each.
    assert len(build("resnet50", trainable="all").trainable_weights) == 53 + 2 * 53


# --- random weights


def test_random_weights_are_he_normal_and_follow_the_seed() -> None:
    trunk = build(width=1.0)
    for name in VGG16_CONVOLUTIONS:
        kernel, bias = trunk.get_layer(name).get_weights()
        assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * kernel.shape[2])), rel=0.05), name
        assert abs(kernel.mean()) < 0.1 * kernel.std() and not np.any(bias), name
    first, second = (trunk.get_layer(name).get_weights()[0] for name in ("conv5_1", "conv5_2"))
    assert not np.allclose(first, second)
    kernels = [build(seed=seed).get_layer("conv5_3").get_weights()[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.allclose(kernels[0], kernels[2])


def test_width_scales_the_filters() -> None:
    narrow = build(width=0.25)
    filters = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512}
    for name in VGG16_CONVOLUTIONS:
        assert narrow.get_layer(name).filters == filters[int(name[4])] / 4
    assert narrow.output_shape == (None, 128) and narrow.name == "vggface_vgg16"
    assert build(width=1 / 64).output_shape == (None, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "vgg19"}, r"`architecture` must be one of .*Received: architecture='vgg19'"),
        ({"image_size": 47}, r"`image_size` must be an int of at least 48 pixels. Received: image_size=47"),
        ({"image_size": 64.0}, r"`image_size` must be .*Received: image_size=64.0"),
        ({"trainable": "last"}, r"`trainable` must be .*Received: trainable='last'"),
        ({"trainable": True}, r"`trainable` must be .*Received: trainable=True"),
        ({"trainable": -1}, r"`trainable` must be .*Received: trainable=-1"),
        ({"seed": "one"}, r"`seed` must be .*Received: seed='one'"),
        ({"weights": 3}, r"`weights` must be .*Received: weights=3"),
        ({"weights": "dlib"}, r"`weights` must be 'vggface', a path.*architecture='vgg16'. Received: weights='dlib'"),
        (
            {"weights": "vggface", "architecture": "dlib"},
            r"`weights` must be 'dlib', a path.*Received: weights='vggface'",
        ),
        ({"width": 0}, r"`width` must be a number in \[1/64, 1\]. Received: width=0"),
        ({"width": True}, r"`width` must be .*Received: width=True"),
        ({"width": 1.1}, r"`width` must be .*Received: width=1.1"),
        ({"width": 0.5, "architecture": "resnet50"}, r"for architecture='vgg16' .*Received: .*'resnet50'"),
        ({"width": 0.5, "weights": "vggface"}, r"`width` below 1 is for .*weights=None.*Received: .*'vggface'"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vggface_trunk(**{"image_size": 48, "weights": None, "seed": 1, **options})
