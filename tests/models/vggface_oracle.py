"""The oracle of trunk_test.py: keras-vggface as it was meant to run, under tf-keras, which is Keras 2.

Run as `python vggface_oracle.py FOLDER`: for each architecture it writes random weights, FOLDER/ARCHITECTURE.h5, as
Keras 2 saves them, and FOLDER/ARCHITECTURE.npy with the features that Keras 2 computes from `make_images()`. It is a
process of its own, because it makes `import keras` mean Keras 2.
"""

import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

IMAGE_SIZE = 200
PREPROCESSING_VERSIONS = {"vgg16": 1, "resnet50": 2, "senet50": 2}


def make_images() -> np.ndarray:
    patches = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    return patches.repeat(IMAGE_SIZE // 8, axis=1).repeat(IMAGE_SIZE // 8, axis=2)


def draw_weights(layer: Any) -> list[np.ndarray]:
    """Draws the weights of a layer of either Keras, a function of its name; none of them is trivial."""
    name, shapes = layer.name.replace("/", "_"), [tuple(weight.shape) for weight in layer.weights]
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if type(layer).__name__ == "BatchNormalization":
        gamma, beta, mean = random.uniform(0.5, 1.5, shapes[0]), *random.normal(0, 5, (2, *shapes[0]))
        return [gamma, beta, mean, random.uniform(0.5, 2, shapes[0])]
    # Gates of the squeeze-and-excitation blocks that are neither open nor shut: with logits in the thousands eager
    # TensorFlow and oneDNN's fused graph disagree about the features by half.
    gate = 1e-3 if name.endswith("_1x1_up") else 1.0
    return [random.normal(0, gate * np.sqrt(2 / np.prod(s[:-1])) if s[1:] else 0.5, s) for s in shapes]


def import_keras_2() -> Any:
    """Makes keras_vggface find Keras 2, and the few names that had moved in its last versions."""
    import tf_keras

    sys.modules["keras"] = tf_keras
    for part in ("layers", "models", "utils", "backend"):
        sys.modules[f"keras.{part}"] = getattr(tf_keras, part)
    sys.modules["keras.engine.topology"] = SimpleNamespace(get_source_inputs=tf_keras.utils.get_source_inputs)
    sys.modules["keras.utils.data_utils"] = SimpleNamespace(get_file=tf_keras.utils.get_file)
    sys.modules["keras.utils.layer_utils"] = tf_keras.utils.layer_utils = SimpleNamespace()
    sys.modules["keras_applications.imagenet_utils"] = SimpleNamespace(
        _obtain_input_shape=lambda input_shape, **_: input_shape
    )
    return tf_keras


def write_features(architecture: str, folder: Path) -> None:
    from keras_vggface.utils import preprocess_input
    from keras_vggface.vggface import VGGFace

    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    model = VGGFace(include_top=False, model=architecture, weights=None, input_shape=shape, pooling="avg")
    for layer in model.layers:
        layer.set_weights(draw_weights(layer))
    images = preprocess_input(make_images().astype(np.float32), version=PREPROCESSING_VERSIONS[architecture])
    model.save_weights(folder / f"{architecture}.h5")
    features = model.predict(images, verbose=0)
    np.save(folder / f"{architecture}.npy", features)
    print(architecture, features[:, :3].tolist())


if __name__ == "__main__":
    import_keras_2()
    for name in PREPROCESSING_VERSIONS:
        write_features(name, Path(sys.argv[1]))
