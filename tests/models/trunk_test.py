"""Tests of agegender/vggface.py and agegender/vggface_weights.py."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from agegender.models import trunk as vggface
from agegender.models import vggface_weights
from agegender.models.layers import VGGFaceNormalization

ORACLE = Path(__file__).with_name("vggface_oracle.py")
VGG16_CONVOLUTIONS = [
    f"conv{stage}_{i}" for stage, count in {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}.items() for i in range(1, count + 1)
]
# For each block of a ResNet's last stage: its convolutions, each with a batch normalisation; its gates in senet50.
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
}
FEATURES = {"vgg16": 512, "resnet50": 2048, "senet50": 2048}
ON_JAX = """
import sys
sys.modules["tensorflow"] = None  # from here on an import of it fails
import numpy as np
from agegender.models import trunk as vggface
assert not vggface._keras_vggface.cache_info().currsize, "keras_vggface is imported too early"
images = np.load(sys.argv[1])
for architecture in ("vgg16", "senet50"):
    trunk = vggface.vggface_trunk(architecture, image_size=64, weights=f"{sys.argv[2]}/{architecture}.h5")
    np.save(f"{sys.argv[2]}/{architecture}_jax.npy", trunk.predict(images, verbose=0))
"""


def run_python(*arguments: object, **environment: str) -> None:
    """Run a script in a process of its own, and show what it printed if it fails."""
    path = os.pathsep.join([str(ORACLE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def images_of(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, size, size, 3)).astype(np.uint8)


def trunk_of(architecture: str = "vgg16", **options: object) -> keras.Model:
    return vggface.vggface_trunk(architecture, **{"image_size": 48, "weights": None, "seed": 1, **options})


def trainable_layers(trunk: keras.Model) -> set[str]:
    return {layer.name for layer in trunk.layers if layer.trainable_weights}


def write_weights(path: Path, layers: dict[str, list[np.ndarray]], *, root: str = "/", kind: type = bytes) -> Path:
    """Write layers as Keras 2 does; `kind` is that of the names, which depends on the age of h5py."""
    as_kind = (lambda text: text.encode()) if kind is bytes else str
    with h5py.File(path, "w") as file:
        group = file.require_group(root)
        group.attrs["layer_names"] = [as_kind(name) for name in layers]
        for name, values in layers.items():
            layer = group.require_group(name)
            weight_names = [f"{name}/weight_{i}:0" for i in range(len(values))]
            layer.attrs["weight_names"] = [as_kind(weight_name) for weight_name in weight_names]
            for weight_name, value in zip(weight_names, values, strict=True):
                layer[weight_name] = value
    return path


@pytest.fixture(scope="module")
def vgg16() -> keras.Model:
    return trunk_of("vgg16")


@pytest.fixture(scope="module")
def vgg16_weights(vgg16: keras.Model) -> dict[str, list[np.ndarray]]:
    """The weights by layer; a small number in place of each bias, which is zero at a random start."""
    layers = {layer.name: layer.get_weights() for layer in vgg16.layers if layer.weights}
    return {name: [kernel, bias + i] for i, (name, (kernel, bias)) in enumerate(layers.items())}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oracle")
    run_python(ORACLE, folder)
    return folder


# ---- the architectures


@pytest.mark.parametrize("architecture", vggface.ARCHITECTURES)
def test_features_are_those_of_keras_vggface_under_keras_2(architecture: str, oracle: Path) -> None:
    trunk = vggface.vggface_trunk(architecture, image_size=200, weights=oracle / f"{architecture}.h5")
    expected = np.load(oracle / f"{architecture}.npz")
    features = trunk.predict(expected["images"], verbose=0)
    assert expected["features"].std(axis=0).max() > 1, "the oracle's images are told apart"
    scale = expected["features"].std()
    np.testing.assert_allclose(features, expected["features"], rtol=1e-3, atol=1e-5 * scale)


def test_jax_without_tensorflow_gives_the_same_features(oracle: Path) -> None:
    images = images_of(64)
    np.save(oracle / "images.npy", images)
    run_python("-c", ON_JAX, oracle / "images.npy", oracle, KERAS_BACKEND="jax")
    for architecture in ("vgg16", "senet50"):  # senet50 has every kind of layer that resnet50 has
        trunk = vggface.vggface_trunk(architecture, image_size=64, weights=oracle / f"{architecture}.h5")
        expected, received = trunk.predict(images, verbose=0), np.load(oracle / f"{architecture}_jax.npy")
        np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-5 * expected.std())


@pytest.mark.parametrize("architecture", vggface.ARCHITECTURES)
@pytest.mark.parametrize("image_size", [48, 224])  # 64 and 200 are above
def test_every_architecture_builds_at_every_size(architecture: str, image_size: int) -> None:
    trunk = trunk_of(architecture, image_size=image_size)
    assert trunk.name == f"vggface_{architecture}"
    assert trunk.input_shape == (None, image_size, image_size, 3)
    assert trunk.output_shape == (None, FEATURES[architecture])
    assert trunk.input.name == "image"


def test_the_layers_of_vgg16_are_named_as_in_keras_vggface(vgg16: keras.Model) -> None:
    assert [layer.name for layer in vgg16.layers if layer.weights] == VGG16_CONVOLUTIONS


def test_the_import_of_keras_vggface_leaves_nothing_behind() -> None:
    def state() -> tuple[dict, dict, dict]:
        return dict(sys.modules), dict(vars(keras)), dict(vars(keras.utils))

    vggface._keras_vggface.cache_clear()
    before = state()
    vggface._keras_vggface()
    assert state() == before


def test_a_module_that_was_there_before_the_import_is_there_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = object()
    monkeypatch.setitem(sys.modules, "keras_vggface", mine)
    monkeypatch.setitem(sys.modules, "keras.utils.data_utils", mine)
    vggface._keras_vggface.cache_clear()
    vggface._keras_vggface()
    assert sys.modules["keras_vggface"] is mine
    assert sys.modules["keras.utils.data_utils"] is mine


def test_a_trunk_saved_and_loaded_gives_equal_features(tmp_path: Path) -> None:
    trunk = trunk_of("senet50", trainable="last_block")
    trunk.save(tmp_path / "trunk.keras")
    loaded = keras.saving.load_model(tmp_path / "trunk.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(images_of(48)), trunk(images_of(48)))
    assert trainable_layers(loaded) == LAST_BLOCK["senet50"]


# ---- normalisation


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("vgg16", [30 - 93.5940, 20 - 104.7624, 10 - 129.1863]),
        ("senet50", [30 - 91.4953, 20 - 103.8827, 10 - 131.0912]),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_normalisation_turns_rgb_to_bgr_and_takes_off_the_mean(
    architecture: str, expected: list[float], dtype: str
) -> None:
    layer = VGGFaceNormalization(vggface.MEANS[architecture])
    received = layer(np.array([[[[10, 20, 30]]]], dtype))
    np.testing.assert_allclose(received, [[[expected]]], atol=1e-5)


def test_under_mixed_bfloat16_only_the_normalisation_stays_float32() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        trunk = trunk_of("vgg16")
    finally:
        keras.config.set_dtype_policy(before)
    assert {trunk.get_layer(name).compute_dtype for name in VGG16_CONVOLUTIONS} == {"bfloat16"}
    normalized = keras.Model(trunk.input, trunk.get_layer("normalization").output)
    # 100.3 is no bfloat16: the nearest are 100.0 and 100.5.
    blue = keras.ops.convert_to_numpy(normalized(np.full((1, 48, 48, 3), 100.3, "float32")))[0, 0, 0, 0]
    assert blue == pytest.approx(100.3 - 93.5940, abs=1e-4)


# ---- which layers learn


@pytest.mark.parametrize("architecture", vggface.ARCHITECTURES)
def test_the_last_block_is_stage_5(architecture: str) -> None:
    assert trainable_layers(trunk_of(architecture, trainable="last_block")) == LAST_BLOCK[architecture]


@pytest.mark.parametrize(
    ("trainable", "names"),
    [
        ("all", VGG16_CONVOLUTIONS),
        ("none", []),
        (0, []),
        (2, []),  # the global average and pool5 have no weights
        (3, ["conv5_3"]),
        (5, ["conv5_1", "conv5_2", "conv5_3"]),
        (6, ["conv5_1", "conv5_2", "conv5_3"]),  # the sixth from the end is pool4
        (7, ["conv4_3", "conv5_1", "conv5_2", "conv5_3"]),
        (1000, VGG16_CONVOLUTIONS),
    ],
)
def test_trainable_chooses_the_layers_of_vgg16(trainable: str | int, names: list[str]) -> None:
    trunk = trunk_of("vgg16", trainable=trainable)
    assert trainable_layers(trunk) == set(names)
    assert len(trunk.trainable_weights) == 2 * len(names)


def test_by_default_it_is_vgg16_for_images_of_200_pixels_of_which_the_last_block_learns() -> None:
    trunk = vggface.vggface_trunk(weights=None)
    assert (trunk.name, trunk.input_shape) == ("vggface_vgg16", (None, 200, 200, 3))
    assert trainable_layers(trunk) == LAST_BLOCK["vgg16"]


def test_all_161_weights_of_resnet50_learn_when_asked() -> None:
    # 53 convolutions without bias, and as many batch normalisations with a scale and an offset each.
    assert len(trunk_of("resnet50", trainable="all").trainable_weights) == 53 + 2 * 53


def test_frozen_batch_normalisation_keeps_its_statistics_in_training() -> None:
    trunk = trunk_of("resnet50", trainable="last_block")
    trunk(images_of(48), training=True)
    frozen, learning = trunk.get_layer("conv4_6_3x3_bn"), trunk.get_layer("conv5_1_3x3_bn")
    np.testing.assert_array_equal(frozen.moving_mean, np.zeros(256))
    assert np.abs(learning.moving_mean).max() > 0


# ---- a random start


def test_a_random_start_has_the_spread_of_he(vgg16_weights: dict[str, list[np.ndarray]]) -> None:
    for name, (kernel, _) in vgg16_weights.items():
        fan_in = 9 * kernel.shape[2]
        assert kernel.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.05), name
        assert abs(kernel.mean()) < 0.1 * kernel.std(), name


def test_a_random_start_has_no_bias(vgg16: keras.Model) -> None:
    assert all(not np.any(vgg16.get_layer(name).get_weights()[1]) for name in VGG16_CONVOLUTIONS)


def test_layers_of_one_shape_start_differently(vgg16_weights: dict[str, list[np.ndarray]]) -> None:
    assert not np.allclose(vgg16_weights["conv5_1"][0], vgg16_weights["conv5_2"][0])


def test_the_same_seed_gives_the_same_start_and_another_another(vgg16: keras.Model) -> None:
    first, same, other = (t.get_layer("conv5_3").get_weights()[0] for t in (vgg16, trunk_of(), trunk_of(seed=2)))
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


def test_a_narrow_trunk_has_the_same_layers_with_a_share_of_the_filters(vgg16: keras.Model) -> None:
    narrow = trunk_of(width=0.25, trainable="all")
    assert [type(layer) for layer in narrow.layers] == [type(layer) for layer in vgg16.layers]
    assert narrow.name == vgg16.name
    for name in VGG16_CONVOLUTIONS:
        assert 4 * narrow.get_layer(name).filters == vgg16.get_layer(name).filters
    assert narrow.output_shape == (None, 128)
    assert np.std(narrow.predict(images_of(48), verbose=0)) > 1, "the start must be He's, for the width it has"


# ---- files of weights


@pytest.mark.parametrize("root", ["/", "model_weights"])
@pytest.mark.parametrize("kind", [bytes, str])
def test_weights_load_in_every_form_keras_2_gave_them(
    root: str, kind: type, vgg16_weights: dict[str, list[np.ndarray]], tmp_path: Path
) -> None:
    with_classifier = {"input_1": [], **vgg16_weights, "fc6": [np.ones((2, 3)), np.ones(3)]}
    path = write_weights(tmp_path / "weights.h5", with_classifier, root=root, kind=kind)
    trunk = trunk_of(weights=str(path))
    for name, values in vgg16_weights.items():
        for received, expected in zip(trunk.get_layer(name).get_weights(), values, strict=True):
            np.testing.assert_array_equal(received, expected)


def without(layers: dict, name: str) -> dict:
    return {key: value for key, value in layers.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: without(layers, "conv5_3"), "the layer conv5_3 is missing"),
        (lambda layers: {**layers, "conv1_1": []}, r"the layer conv1_1 has the shapes \[\] instead of"),
        (
            lambda layers: {**layers, "conv1_1": [np.zeros((3, 3, 4, 64)), np.zeros(64)]},
            r"conv1_1 has the shapes \[\(3, 3, 4, 64\), \(64,\)\] instead of \[\(3, 3, 3, 64\), \(64,\)\]",
        ),
        (lambda layers: {**layers, "conv5_4": [np.zeros(1)]}, "the layer conv5_4 is one too many"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(change, message, vgg16_weights, tmp_path: Path) -> None:
    path = write_weights(tmp_path / "weights.h5", change(vgg16_weights))
    with pytest.raises(ValueError, match=message):
        trunk_of(weights=path)


def test_nothing_is_loaded_of_a_file_that_does_not_fit(vgg16_weights, tmp_path: Path) -> None:
    path = write_weights(tmp_path / "weights.h5", without(vgg16_weights, "conv5_3"))
    trunk = trunk_of()
    before = trunk.get_weights()
    with pytest.raises(ValueError, match="missing"):
        vggface_weights.load_weights(trunk, path, "vgg16")
    for received, expected in zip(trunk.get_weights(), before, strict=True):
        np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize(
    ("architecture", "of", "message"),
    [
        ("vgg16", "resnet50", "the layer conv1_1 is missing"),
        ("senet50", "resnet50", "the layer conv2_1_1x1_down is missing"),
        ("resnet50", "senet50", "is one too many"),  # it has all layers of resnet50, with the same shapes
    ],
)
def test_a_file_of_another_architecture_is_refused(architecture: str, of: str, message: str, oracle: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"saved for '{architecture}', but .*{message}.*Received: weights='.*{of}.h5'"
    ):
        trunk_of(architecture, weights=oracle / f"{of}.h5")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a file that exists. Received: weights='imagenet'"):
        trunk_of(weights="imagenet")
    with pytest.raises(ValueError, match="a file that exists"):
        trunk_of(weights=tmp_path)


def test_a_file_that_is_no_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    path.write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"must be a complete HDF5 file.*weights\.h5"):
        trunk_of(weights=path)


def test_a_truncated_file_is_refused(vgg16_weights, tmp_path: Path) -> None:
    path = write_weights(tmp_path / "weights.h5", vgg16_weights)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"must be a complete HDF5 file.*truncated"):
        trunk_of(weights=path)


def test_weights_of_keras_3_are_refused_with_advice(vgg16: keras.Model, tmp_path: Path) -> None:
    vgg16.save_weights(tmp_path / "trunk.weights.h5")
    with pytest.raises(ValueError, match=r"use `trunk.load_weights`"):
        trunk_of(weights=tmp_path / "trunk.weights.h5")


# ---- the published weights; no test goes to the net


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the place where the files are published, and an empty Keras cache."""
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setattr(vggface_weights, "WEIGHTS_URL", f"{folder.as_uri()}/")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "cache"))
    return folder


def published(server: Path, layers: dict[str, list[np.ndarray]]) -> Path:
    return write_weights(server / "rcmalli_vggface_tf_notop_vgg16.h5", layers)


def test_published_weights_are_fetched_once(server: Path, vgg16_weights, tmp_path: Path) -> None:
    path = published(server, vgg16_weights)
    for _ in range(2):
        trunk = trunk_of(weights="vggface")
        np.testing.assert_array_equal(trunk.get_layer("conv5_3").get_weights()[1], vgg16_weights["conv5_3"][1])
        path.unlink(missing_ok=True)
    assert (tmp_path / "cache" / "models" / "vggface" / path.name).is_file()


def test_without_the_net_the_message_says_what_to_do(server: Path, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError) as caught:
        trunk_of(weights="vggface")
    message = str(caught.value)
    assert f"{vggface_weights.WEIGHTS_URL}rcmalli_vggface_tf_notop_vgg16.h5" in message
    assert str(tmp_path / "cache" / "models" / "vggface") in message
    assert "`weights=None`" in message
    assert "its path as `weights`" in message


def test_the_address_is_that_of_keras_vggface() -> None:
    assert vggface_weights.WEIGHTS_URL == "https://github.com/rcmalli/keras-vggface/releases/download/v2.0/"


def test_a_published_file_that_changes_after_its_first_use_is_refused(
    server: Path, vgg16_weights, tmp_path: Path
) -> None:
    path = published(server, vgg16_weights)
    cached = tmp_path / "cache" / "models" / "vggface" / path.name
    for _ in range(2):  # fetched, then found; both are the same file
        trunk_of(weights="vggface")
    assert cached.with_name(f"{path.name}.sha256").read_text() == f"{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
    shutil.copy(write_weights(tmp_path / "other.h5", {"conv1_1": [np.zeros(1)]}), cached)
    with pytest.raises(ValueError, match=r"has changed since it was first loaded.*Delete both.*Received: "):
        trunk_of(weights="vggface")
    assert cached.is_file(), "a file put there by hand is the user's to delete"


def test_a_published_file_that_does_not_fit_is_not_remembered(server: Path, vgg16_weights, tmp_path: Path) -> None:
    path = published(server, vgg16_weights)
    cached = tmp_path / "cache" / "models" / "vggface" / path.name
    cached.parent.mkdir(parents=True)
    shutil.copy(write_weights(tmp_path / "other.h5", {"conv1_1": [np.zeros(1)]}), cached)
    with pytest.raises(ValueError, match="must be a file that keras-vggface saved"):
        trunk_of(weights="vggface")
    cached.unlink()
    trunk_of(weights="vggface")


# ---- arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "vgg19"}, r"`architecture` must be one of .*Received: architecture='vgg19'"),
        ({"image_size": 47}, r"`image_size` must be an int of at least 48 pixels. Received: image_size=47"),
        ({"image_size": 64.0}, r"`image_size` must be .*Received: image_size=64.0"),
        ({"image_size": (64, 64)}, r"`image_size` must be .*Received: image_size=\(64, 64\)"),
        ({"trainable": "last"}, r"`trainable` must be .*Received: trainable='last'"),
        ({"trainable": True}, r"`trainable` must be .*Received: trainable=True"),
        ({"trainable": -1}, r"`trainable` must be .*Received: trainable=-1"),
        ({"seed": "one"}, r"`seed` must be .*Received: seed='one'"),
        ({"weights": 3}, r"`weights` must be .*Received: weights=3"),
        ({"width": 0}, r"`width` must be a number in \[1/64, 1\]. Received: width=0"),
        ({"width": 1.5}, r"`width` must be .*Received: width=1.5"),
        ({"width": True}, r"`width` must be .*Received: width=True"),
        ({"width": 0.5, "architecture": "resnet50"}, r"for architecture='vgg16' .*Received: .*'resnet50'"),
        ({"width": 0.5, "weights": "vggface"}, r"`width` below 1 is for .*weights=None.*Received: .*'vggface'"),
    ],
)
def test_a_wrong_argument_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trunk_of(**options)
