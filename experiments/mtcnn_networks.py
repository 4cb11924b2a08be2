"""Writes the three networks of MTCNN as ONNX files, from the weights of the installed `mtcnn` package (MIT).

    python -m experiments.mtcnn_networks agegender/inference/mtcnn

The files take grey levels 0..255 as they are: MTCNN's scaling, (x - 127.5) / 128, is folded into the first weights. The
last layers are joined into one output, and of the two logits of "no face" and "face" only the difference is kept.
"""

import importlib.resources
import pathlib
import sys
from typing import Any

import joblib  # comes with mtcnn, whose weights are its pickles
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """An ONNX graph with one input, built node by node."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Adds a node; its output."""
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, values: np.ndarray) -> str:
        """Adds weights; their name."""
        name = f"weights_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def conv(self, x: str, kernel: np.ndarray, bias: np.ndarray) -> str:
        return self.add("Conv", x, self.constant(kernel.transpose(3, 2, 0, 1)), self.constant(bias))

    def prelu(self, x: str, slopes: np.ndarray) -> str:
        return self.add("PRelu", x, self.constant(slopes.reshape(-1, 1, 1)))

    def scale(self, x: str, factors: np.ndarray) -> str:
        """Multiplies each channel by a factor: a convolution of each channel on its own."""
        kernel = self.constant(factors.astype("float32").reshape(-1, 1, 1, 1))
        return self.add("Conv", x, kernel, group=len(factors))

    def pool(self, x: str, size: int, *, same: bool) -> str:
        padding = "SAME_UPPER" if same else "VALID"
        return self.add("MaxPool", x, kernel_shape=[size, size], strides=[2, 2], auto_pad=padding)

    def save(self, path: pathlib.Path, shape: list[Any], output: list[Any]) -> None:
        """Writes the graph, from "image" of a shape to "output"."""
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
                for name, size in (("image", shape), ("output", output))]  # fmt: skip
        graph = helper.make_graph(self.nodes, path.stem, ends[:1], ends[1:], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def main(folder: pathlib.Path) -> None:
    """Writes pnet.onnx, rnet.onnx and onet.onnx."""
    folder.mkdir(parents=True, exist_ok=True)
    write_pnet(folder / "pnet.onnx", load_weights("pnet"))
    write_refiner(folder / "rnet.onnx", load_weights("rnet"), 24)
    write_refiner(folder / "onet.onnx", load_weights("onet"), 48)


def load_weights(name: str) -> list[np.ndarray]:
    """The weights of one network, in Keras's order, its input scaling folded in."""
    weights = joblib.load(importlib.resources.files("mtcnn.assets.weights") / f"{name}.lz4")
    kernel, bias, *others = (np.asarray(each, "float32") for each in weights)
    return [kernel / 128, bias - kernel.sum(axis=(0, 1, 2)) * 127.5 / 128, *others]


def write_pnet(path: pathlib.Path, weights: list[np.ndarray]) -> None:
    """From float32 [n, 3, height, width] to offsets and logit of each window, [n, 5, rows, columns]."""
    graph = Graph()
    x, order = conv_prelu_pool(graph, "image", weights[:3])
    x = conv_prelu(graph, x, weights[3][:, :, order], *weights[4:6])
    x = conv_prelu(graph, x, *weights[6:9])
    offsets, scores = weights[9:11], difference(weights[11:13])
    kernel, bias = (np.concatenate(pair, axis=-1) for pair in zip(offsets, scores, strict=True))
    graph.add("Identity", graph.conv(x, kernel, bias), output="output")
    graph.save(path, ["n", 3, "height", "width"], ["n", 5, "rows", "columns"])


def write_refiner(path: pathlib.Path, weights: list[np.ndarray], side: int) -> None:
    """From float32 [n, side, side, 3] to offsets, for ONet landmarks, and logit: [n, 5] or [n, 15]."""
    graph, rest = Graph(), pad_channels(weights)
    x = graph.add("Transpose", "image", perm=[0, 3, 1, 2])
    x = graph.pool(conv_prelu(graph, x, *rest[:3]), 3, same=True)
    x = graph.pool(conv_prelu(graph, x, *rest[3:6]), 3, same=False)
    x, rest = conv_prelu(graph, x, *rest[6:9]), rest[9:]
    if side == 48:  # ONet has one convolution more
        x, rest = conv_prelu(graph, graph.pool(x, 2, same=True), *rest[:3]), rest[3:]
    x = graph.add("Flatten", graph.add("Transpose", x, perm=[0, 3, 2, 1]), axis=1)  # columns, rows, channels
    x = graph.add("Gemm", x, *map(graph.constant, rest[:2]))
    x = graph.add("PRelu", x, graph.constant(rest[2]))
    ends = [*rest[3:-2], *difference(rest[-2:])]
    kernel, bias = (np.concatenate(ends[part::2], axis=-1) for part in (0, 1))
    graph.add("Gemm", x, graph.constant(kernel), graph.constant(bias), output="output")
    graph.save(path, ["n", side, side, 3], ["n", len(bias)])


def conv_prelu(graph: Graph, x: str, kernel: np.ndarray, bias: np.ndarray, slopes: np.ndarray) -> str:
    """A convolution and PReLU, without the operator PRelu.

    onnxruntime keeps blocks of 16 channels together for convolutions, and would leave that layout for PRelu. With
    t = (1 - slope) x, PReLU(x) = slope / (1 - slope) t + ReLU(t) where the slope is less than 1; elsewhere
    PReLU(x) = slope x + (1 - slope) ReLU(x).
    """
    slopes = slopes.ravel()
    scale = np.where(slopes < 1, 1 - slopes, 1)
    linear = graph.conv(x, kernel * scale, bias * scale)
    positive = graph.add("Relu", linear)
    if np.any(slopes >= 1):
        positive = graph.scale(positive, np.where(slopes < 1, 1, 1 - slopes))
    return graph.add("Add", graph.scale(linear, slopes / scale), positive)


def pad_channels(weights: list[np.ndarray]) -> list[np.ndarray]:
    """The weights of a network with channels of zeros in its first layer, to a multiple of 16."""
    kernel, bias, slopes, following, *others = weights
    count = -len(bias) % 16
    last = [(0, 0)] * 3 + [(0, count)]
    following = np.pad(following, [(0, 0), (0, 0), (0, count), (0, 0)])
    return [np.pad(kernel, last), np.pad(bias, (0, count)), np.pad(slopes, last[1:]), following, *others]


def conv_prelu_pool(graph: Graph, x: str, weights: list[np.ndarray]) -> tuple[str, np.ndarray]:
    """PNet's first convolution, PReLU and pooling, and the order in which the channels come out.

    PReLU comes after the pooling, where there is a quarter as much: max(PReLU(x)) = PReLU(max(x)) where its slope is 0
    or more; where it is less, PReLU(x) = max(x, slope x), so that the channel times its slope is pooled beside it.
    """
    kernel, bias, slopes = weights[0], weights[1], weights[2].ravel()
    order = np.argsort(slopes >= 0, kind="stable")
    kernel, bias, slopes = kernel[..., order], bias[order], slopes[order]
    falling = int((slopes < 0).sum())
    kernel = np.concatenate([kernel, kernel[..., :falling] * slopes[:falling]], axis=-1)
    bias = np.concatenate([bias, bias[:falling] * slopes[:falling]])
    pooled = graph.pool(graph.conv(x, kernel, bias), 2, same=True)
    names = [f"{pooled}_{part}" for part in ("falling", "rising", "scaled")]
    sizes = graph.constant(np.array([falling, len(slopes) - falling, falling]))
    graph.nodes.append(helper.make_node("Split", [pooled, sizes], names, axis=1))
    rising = graph.prelu(names[1], slopes[falling:])
    return graph.add("Concat", graph.add("Max", names[0], names[2]), rising, axis=1), order


def difference(weights: list[np.ndarray]) -> list[np.ndarray]:
    """Of a layer with the two logits "no face" and "face": one with the second minus the first."""
    return [each[..., 1:] - each[..., :1] for each in weights]


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
