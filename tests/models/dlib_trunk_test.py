"""The trunk of dlib's face recogniser computes what dlib computes."""

import pathlib
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from agegender import vggface_trunk
from agegender.models import dlib_trunk
from agegender.synthetic.faces import draw_face


def make_chips() -> np.ndarray:
    return np.stack([draw_face(age, gender, 2, seed=age, size=150) for age, gender in ((30, 0), (60, 1))])


def test_the_whole_recogniser_has_dlibs_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Continues the trunk with dlib's last block and its last layer."""
    dlib = pytest.importorskip("dlib")
    path = dlib_trunk.find_dlib_weights()
    recogniser = dlib.face_recognition_model_v1(str(path))
    expected = [np.array(recogniser.compute_face_descriptor(chip)) for chip in make_chips()]

    monkeypatch.setattr(dlib_trunk, "SIZE", 150)
    trunk = vggface_trunk("dlib", image_size=150, weights="dlib")
    before = tensor = trunk.layers[-2].output  # [batch, 4, 4, 256]
    for number, options in ((1, {"strides": 2, "activation": "relu"}), (2, {"padding": "same"})):
        tensor = layers.Conv2D(256, 3, name=f"last_{number}", **options)(tensor)
    tensor = layers.Add()([layers.AveragePooling2D(2)(before), layers.ZeroPadding2D(((0, 1), (0, 1)))(tensor)])
    whole = keras.Model(trunk.input, layers.GlobalAveragePooling2D()(layers.ReLU()(tensor)))
    dlib_trunk.load_dlib_weights(whole, path)
    # The last layer has no bias: 256 rows of 128 numbers, before nothing but the name of the loss.
    content, count = path.read_bytes(), 256 * 128
    header = b"".join(map(dlib_trunk._encode, (2, 256, 128, 1, 1)))
    last = np.frombuffer(content, "<f4", count, content.rindex(header) + len(header)).reshape(256, 128)
    received = whole.predict(make_chips(), verbose=0) @ last
    assert np.linalg.norm(expected[0] - expected[1]) > 0.1, "equal faces would prove nothing"
    np.testing.assert_allclose(received, expected, atol=1e-5)


def test_images_of_any_size_are_resized() -> None:
    trunks = [vggface_trunk("dlib", image_size=size, weights=None, seed=1) for size in (67, 134)]
    large = np.random.default_rng(1).integers(0, 256, (1, 134, 134, 3), np.uint8)
    small = large.reshape(1, 67, 2, 67, 2, 3).mean((2, 4), dtype="float32")
    enlarged = keras.ops.image.resize(small, (134, 134))
    np.testing.assert_allclose(trunks[0](small), trunks[1](enlarged), rtol=1e-4)


@pytest.mark.parametrize("change", [lambda data: b"text", lambda data: data[:3_000_000] + data[3_000_001:]])
def test_another_file_is_named_and_changes_nothing(change, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("face_recognition_models")
    path = tmp_path / "weights.dat"
    path.write_bytes(change(dlib_trunk.find_dlib_weights().read_bytes()))
    trunk = dlib_trunk.build_dlib_trunk(64)
    before = trunk.get_weights()
    with pytest.raises(ValueError, match=r"`weights` .* must be dlib_face.*Received: weights='.*weights.dat'"):
        dlib_trunk.load_dlib_weights(trunk, path)
    assert all(map(np.array_equal, before, trunk.get_weights()))


@pytest.mark.parametrize("folders", [None, ["empty"]])
def test_missing_package_says_what_to_install(folders, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = folders and SimpleNamespace(submodule_search_locations=[tmp_path / name for name in folders])
    monkeypatch.setattr(dlib_trunk.importlib.util, "find_spec", lambda name: found)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'agegender\[distill\]'"):
        vggface_trunk("dlib", weights="dlib")
