r"""Writes model.onnx of the released model, without its weights: those stay in best.keras beside it.

    python -m experiments.released_onnx agegender/released
    python -m experiments.released_onnx agegender/released --int8 --data_dir=...

An ONNX file may name bytes of another file as its weights, and a .keras file contains its weights uncompressed, in half
precision. So the repository and the wheel contain them once, and onnxruntime reads what Keras reads. With --int8 also
model-int8.onnx, whose convolutions have weights of their own in 8 bits; the ranges of the values between them are
measured on training images.
"""

import argparse
import io
import itertools
import pathlib
import tempfile
import zipfile
from typing import Any

import h5py
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agegender import Predictor, export_model, load_utkface
from agegender.released import INT8_MODEL, ONNX_MODEL
from agegender.schema import BEST_MODEL

SMALLEST = 10_000  # weights of a tensor; smaller ones stay in the ONNX file
INT8_IMAGES = 400  # on which the ranges of 8 bits are measured


def main(folder: pathlib.Path, *, int8: bool = False, data_dir: str | None = None) -> None:
    """Exports the model of a folder and replaces its large weights by references to best.keras."""
    write_onnx(folder, ONNX_MODEL, "onnx")
    if int8:
        size = Predictor(folder / ONNX_MODEL).image_size[0]
        batches = load_utkface("train", batch_size=1, image_size=size, data_dir=data_dir)
        images = [np.asarray(images[0]) for images, _ in itertools.islice(batches, INT8_IMAGES)]
        write_onnx(folder, INT8_MODEL, "onnx_int8", images)


def write_onnx(folder: pathlib.Path, name: str, format: str, images: list[np.ndarray] | None = None) -> None:
    """Exports the model of a folder into it, in one format."""
    with tempfile.TemporaryDirectory() as temporary:
        path = export_model(folder, pathlib.Path(temporary) / name, format=format, flip=False, images=images)
        model = onnx.load(path)
    stored = find_weights(folder / BEST_MODEL)
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    model.graph.initializer.extend(refer_to_stored(model.graph, tensor, stored) or tensor for tensor in tensors)
    onnx.save(model, folder / name)


def find_weights(path: pathlib.Path) -> list[tuple[int, np.ndarray]]:
    """The large weights in a .keras file, each with the place of its first byte."""
    with zipfile.ZipFile(path) as archive:
        part = archive.getinfo("model.weights.h5")
        if part.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"The weights must be stored without compression. Received: {path}")
        content = archive.read(part)
    file = path.read_bytes()
    start = file.index(content[:512], part.header_offset)
    found: list[tuple[int, np.ndarray]] = []

    def add(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.size >= SMALLEST:
            found.append((start + item.id.get_offset(), item[()]))

    with h5py.File(io.BytesIO(content)) as weights:
        weights.visititems(add)
    return found


def refer_to_stored(
    graph: Any, tensor: onnx.TensorProto, stored: list[tuple[int, np.ndarray]]
) -> onnx.TensorProto | None:
    """A reference to the stored weights that a tensor equals, with the nodes that make it of them; None without any."""
    values = numpy_helper.to_array(tensor)

    def equals(weights: np.ndarray) -> bool:
        return np.array_equal(weights.transpose(3, 2, 0, 1) if weights.ndim == 4 else weights, values)

    found = next(((offset, weights) for offset, weights in stored if equals(weights)), None)
    if found is None:
        return None
    offset, weights = found
    reference = onnx.TensorProto(
        name=f"{tensor.name}_stored",
        data_type=TensorProto.FLOAT16,
        dims=weights.shape,
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (("location", BEST_MODEL), ("offset", offset), ("length", weights.nbytes)):
        reference.external_data.add(key=key, value=str(value))
    nodes = [helper.make_node("Cast", [reference.name], [f"{tensor.name}_cast"], to=TensorProto.FLOAT)]
    if weights.ndim == 4:  # Keras: [height, width, in, out]
        nodes.append(helper.make_node("Transpose", nodes[-1].output, [""], perm=[3, 2, 0, 1]))
    nodes[-1].output[0] = tensor.name
    for place, node in enumerate(nodes):
        graph.node.insert(place, node)
    return reference


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--int8", action="store_true", help="also write model-int8.onnx")
    parser.add_argument("--data_dir", help="where `tfds build` wrote; by default ~/tensorflow_datasets")
    args = parser.parse_args()
    main(args.folder, int8=args.int8, data_dir=args.data_dir)
