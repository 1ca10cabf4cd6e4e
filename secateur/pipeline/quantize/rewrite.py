"""Write QuantizeLinear and DequantizeLinear nodes into a graph."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from secateur.pipeline.quantize.graph import Graph, channel_axis
from secateur.pipeline.quantize.grid import INT8, Grid, Steps
from secateur.pipeline.quantize.placement import Placement, Target
from secateur.pipeline.quantize.weights import Weights, bias_of, quantize_weights

WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
"""Layers whose float32 weights ONNX Runtime rounds by itself."""


def rewritten(
    graph: Graph, placement: Placement, steps: Mapping[str, Steps], target: Target, layers: Mapping[str, Weights]
) -> onnx.ModelProto:
    """Return the graph with the weights of its layers in eight bits and every placed tensor rounded for all readers.

    Weights and int32 biases are kept as they are rounded, with a DequantizeLinear behind them; tensors get a
    QuantizeLinear and a DequantizeLinear. ``layers`` are the weights by what each layer writes: constants that several
    share are there for each. Where the target asks for it, layers that stay in float32 read a rounded tensor through a
    DequantizeLinear of their own, see `Target`.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    nodes = {node.output[0]: node for node in proto.graph.node}
    added = _Added(proto)
    front: list[onnx.NodeProto] = []
    for original in placement.layers:
        node = nodes[original.output[0]]
        scale = steps[placement.scales[node.input[0]]].scale
        weights = layers[original.output[0]]
        node.input[1] = _constant(added, front, node.input[1], weights.integers, weights.scales, weights.axis)
        if target.int_bias and len(node.input) > 2 and node.input[2] in graph.constants:
            scales = (weights.scales.astype(np.float64) * scale).astype(np.float32)
            integers = np.rint(graph.array(node.input[2]) / scales.astype(np.float64)).astype(np.int32)
            node.input[2] = _constant(added, front, node.input[2], integers, scales, 0)
    body: list[onnx.NodeProto] = []
    rounded: dict[str, onnx.NodeProto] = {}
    eight_bits = {node.output[0] for node in placement.layers}
    for value in proto.graph.input:
        body += _pair(added, value.name, placement, steps, target.grid, rounded)
    for node in proto.graph.node:
        data = node.input[0] if node.input else ""
        node.input[:] = [rounded[name].output[0] if name in rounded else name for name in node.input]
        if target.guard_floats and node.op_type in WEIGHTED and data in rounded and node.output[0] not in eight_bits:
            body += _guard(added, graph, node, data, rounded[data].input[0], steps[placement.scales[data]], target.grid)
        body.append(node)
        for name in node.output:
            body += _pair(added, name, placement, steps, target.grid, rounded)
    del proto.graph.node[:]
    proto.graph.node.extend([*front, *body])
    added.finish()
    return proto


def layer_weights(
    graph: Graph, node: onnx.NodeProto, input_scale: float, bits: int, grid: Grid = INT8
) -> Weights:  # fmt: skip
    """Quantise the weights of a layer."""
    bias = bias_of(graph, node)
    return quantize_weights(
        graph.array(node.input[1]), channel_axis(node), bits=bits,
        bias=None if bias is None else graph.array(bias), input_scale=input_scale, grid=grid,
    )  # fmt: skip


class _Added:
    """The constants that are written beside a graph's own, under names that are free; those of equal content once."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._proto = proto
        graph = proto.graph
        self._names = {name for node in graph.node for name in (*node.input, *node.output)}
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._kept: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def name(self, wanted: str) -> str:
        """Return a name that nothing bears: the one wanted, or with a number."""
        name, number = wanted, 1
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
        self._names.add(name)
        return name

    def constant(self, wanted: str, array: np.ndarray) -> str:
        """Keep an array; return its name, or that of an equal one that is kept already."""
        content = array.dtype.name, array.shape, array.tobytes()
        if content not in self._kept:
            name = self._kept[content] = self.name(wanted)
            self._tensors[name] = numpy_helper.from_array(array, name)
        return self._kept[content]

    def zero_point(self, array: np.ndarray) -> str:
        """Keep a zero point, which layers of one width have in common; return its name."""
        return self.constant("_".join(["zero_point", array.dtype.name, *map(str, array.shape)]), array)

    def finish(self) -> None:
        """Write the constants into the graph and drop those that nothing reads any more."""
        graph = self._proto.graph
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *self._tensors.values()])


def _constant(
    added: _Added, front: list[onnx.NodeProto], name: str, integers: np.ndarray, scales: np.ndarray, axis: int
) -> str:
    inputs = [
        added.constant(f"{name}_quantized", integers), added.constant(f"{name}_scale", scales),
        added.zero_point(np.zeros_like(scales, dtype=integers.dtype)),
    ]  # fmt: skip
    output = added.name(f"{name}_dequantized")
    front.append(
        helper.make_node("DequantizeLinear", inputs, [output], name=added.name(f"{name}_dequantize"), axis=axis)
    )
    return output


def _pair(
    added: _Added, name: str, placement: Placement, steps: Mapping[str, Steps], grid: Grid,
    rounded: dict[str, onnx.NodeProto],
) -> list[onnx.NodeProto]:  # fmt: skip
    """Return the nodes that round a tensor, and note the one through which it is read from then on."""
    scale = placement.scales.get(name)
    if scale is None:
        return []
    found = steps[scale]
    constants = [
        added.constant(f"{name}_scale", np.array(found.scale, dtype=np.float32)),
        added.zero_point(np.array(found.zero_point, dtype=grid.dtype)),
    ]
    integers = added.name(f"{name}_quantized")
    output = added.name(f"{name}_dequantized")
    quantizer = helper.make_node("QuantizeLinear", [name, *constants], [integers], name=added.name(f"{name}_quantize"))
    rounded[name] = helper.make_node(
        "DequantizeLinear", [integers, *constants], [output], name=added.name(f"{name}_dequantize")
    )
    return [quantizer, rounded[name]]


def _guard(
    added: _Added, graph: Graph, node: onnx.NodeProto, data: str, integers: str, steps: Steps, grid: Grid
) -> list[onnx.NodeProto]:
    """Let a layer read a rounded tensor by equal scales along an axis; return the node that makes it."""
    lengths = graph.lengths(data)
    axis = next((axis for axis, length in enumerate(lengths) if axis and length > 1), None)
    if axis is None:
        return []
    constants = [
        added.constant(f"{data}_scales", np.full(lengths[axis], steps.scale, dtype=np.float32)),
        added.zero_point(np.full(lengths[axis], steps.zero_point, dtype=grid.dtype)),
    ]
    node.input[0] = added.name(f"{data}_float")
    name = added.name(f"{data}_float_dequantize")
    return [helper.make_node("DequantizeLinear", [integers, *constants], [node.input[0]], name=name, axis=axis)]
