r"""Writes model.onnx of the released model, without its weights: those stay in best.keras beside it.

    python -m experiments.released_onnx agegender/released

An ONNX file may name bytes of another file as its weights, and a .keras file contains its weights uncompressed, in half
precision. So the repository and the wheel contain 31 MB once, and onnxruntime reads what Keras reads.
"""

import io
import pathlib
import sys
import tempfile
import zipfile
from typing import Any

import h5py
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALLEST = 10_000  # weights of a tensor; smaller ones stay in the ONNX file
STORED = "best.keras"


def main(folder: pathlib.Path) -> None:
    """Exports the model of a folder and replaces its large weights by references to best.keras."""
    from agegender.export.export import export_model

    with tempfile.TemporaryDirectory() as temporary:
        model = onnx.load(export_model(folder, pathlib.Path(temporary) / "model.onnx", format="onnx", flip=False))
    stored = find_weights(folder / STORED)
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    model.graph.initializer.extend(refer_to_stored(model.graph, tensor, stored) or tensor for tensor in tensors)
    onnx.save(model, folder / "model.onnx")


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
    for key, value in (("location", STORED), ("offset", offset), ("length", weights.nbytes)):
        reference.external_data.add(key=key, value=str(value))
    nodes = [helper.make_node("Cast", [reference.name], [f"{tensor.name}_cast"], to=TensorProto.FLOAT)]
    if weights.ndim == 4:  # Keras: [height, width, in, out]
        nodes.append(helper.make_node("Transpose", nodes[-1].output, [""], perm=[3, 2, 0, 1]))
    nodes[-1].output[0] = tensor.name
    for place, node in enumerate(nodes):
        graph.node.insert(place, node)
    return reference


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
