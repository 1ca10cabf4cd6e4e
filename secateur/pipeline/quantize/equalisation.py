"""Cross-layer equalisation: channels between two layers take scales that suit the weights on both sides."""

from dataclasses import dataclass

import numpy as np
import onnx
from jaxtyping import Float
from onnx import numpy_helper

from secateur.pipeline.quantize.graph import Graph, channel_axis

SETTLED = 1e-3
"""Sweeps end when no factor differs from one by more."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two layers with nothing between them but, perhaps, a Relu, which commutes with positive factors."""

    first: onnx.NodeProto
    second: onnx.NodeProto


def equalised(graph: Graph, num_sweeps: int = 20) -> Graph:
    """Return a graph that computes the same, its weights equalised (Nagel et al. 2019, arXiv 1906.04721, section 4.1).

    With r1_i the largest |weight| that writes channel i and r2_i the largest that reads it, s_i = sqrt(r1_i / r2_i);
    what writes the channel, bias too, is divided by s_i, and what reads it is multiplied. Both ranges are then
    sqrt(r1_i r2_i). Chains of layers are swept until they settle. Dead channels are left as they are.
    """
    pairs = _pairs(graph)
    tensors = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in graph.proto.graph.initializer
               if tensor.name in {name for pair in pairs for name in _constants(pair)}}  # fmt: skip
    for _ in range(num_sweeps):
        if max((_equalise(pair, tensors) for pair in pairs), default=0.0) <= SETTLED:
            break
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in tensors:
            tensor.CopyFrom(numpy_helper.from_array(tensors[tensor.name].astype(np.float32), tensor.name))
    return Graph(proto=proto)


def _pairs(graph: Graph) -> list[Pair]:
    found = []
    stored = {tensor.name for tensor in graph.proto.graph.initializer}
    for first in graph.proto.graph.node:
        reader = graph.only_reader(first.output[0]) if graph.is_layer(first) else None
        if reader is not None and reader.op_type == "Relu":
            reader = graph.only_reader(reader.output[0])
        if reader is None or not graph.is_layer(reader) or _reading_axis(graph, reader) is None:
            continue
        # A convolution's channels lie on its second axis, a product's on its last: one must follow its own kind.
        if (first.op_type == "Conv") != (reader.op_type == "Conv"):
            continue
        pair = Pair(first=first, second=reader)
        shared = any(len(graph.readers[name]) > 1 for name in _constants(pair))
        if not shared and all(name in stored for name in _constants(pair)):
            found.append(pair)
    return found


def _constants(pair: Pair) -> list[str]:
    return [*(name for name in pair.first.input[1:3] if name), pair.second.input[1]]


def _reading_axis(graph: Graph, node: onnx.NodeProto) -> int | None:
    """Return the axis of a layer's weights that counts its input channels; None where groups of several share it."""
    if node.op_type != "Conv":
        return 1 - channel_axis(node)
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    dims = graph.constants[node.input[1]].dims
    if group == 1:
        return 1
    return 0 if group == dims[0] and dims[1] == 1 else None


def _equalise(pair: Pair, tensors: dict[str, Float[np.ndarray, "..."]]) -> float:
    """Equalise one pair in place; return how far a factor was from one."""
    weights, others = pair.first.input[1], pair.second.input[1]
    group = next((a.i for a in pair.second.attribute if a.name == "group"), 1)
    writing = channel_axis(pair.first)
    reading = (1 if group == 1 else 0) if pair.second.op_type == "Conv" else 1 - channel_axis(pair.second)
    r1, r2 = _ranges(tensors[weights], writing), _ranges(tensors[others], reading)
    factors = np.sqrt(np.divide(r1, r2, out=np.ones_like(r1), where=(r1 > 0) & (r2 > 0)))
    tensors[weights] = tensors[weights] / _along(factors, tensors[weights].ndim, writing)
    tensors[others] = tensors[others] * _along(factors, tensors[others].ndim, reading)
    if len(pair.first.input) > 2 and pair.first.input[2]:
        tensors[pair.first.input[2]] = tensors[pair.first.input[2]] / factors
    return float(np.abs(factors - 1).max())


def _ranges(weights: Float[np.ndarray, "..."], axis: int) -> Float[np.ndarray, " channels"]:
    return np.abs(weights).max(axis=tuple(a for a in range(weights.ndim) if a != axis))


def _along(factors: Float[np.ndarray, " channels"], ndim: int, axis: int) -> Float[np.ndarray, "..."]:
    return factors.reshape([-1 if a == axis else 1 for a in range(ndim)])
