"""Bias correction: what rounding shifts a layer's mean by is taken back in its bias."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from secateur.pipeline.quantize.graph import Graph, channel_axis
from secateur.pipeline.quantize.running import Running, Samples, arrays
from secateur.pipeline.quantize.weights import bias_of

ROUNDED, EXACT = "_mean_rounded", "_mean_exact"


def corrected(graph: Graph, quantized: onnx.ModelProto, layers: tuple[onnx.NodeProto, ...], samples: Samples) -> Graph:
    """Return the float32 graph with E[W x + b] - E[W' x' + b'] added to every layer's bias, channel by channel.

    Both means are of the quantised network: x is what reaches the layer there, x' and W' what the layer makes of it
    and of its weights (Nagel et al. 2019, arXiv 1906.04721, section 4.2). Each layer therefore answers for its own
    shift, not for that of the layers before it, and one pass over the samples serves all. Convolutions without a bias
    get one; products without one are left alone.
    """
    nodes = {node.output[0]: node for node in quantized.graph.node}
    able = [node for node in layers if bias_of(graph, node) is not None or _lacks_bias(node)]
    twins = _with_twins(graph, quantized, {node.output[0]: nodes[node.output[0]] for node in able})
    names = [node.output[0] for node in able]
    running = Running(twins, [name + suffix for name in names for suffix in (ROUNDED, EXACT)])
    shifts = {name: np.zeros(graph.constants[node.input[1]].dims[channel_axis(node)]) for name, node in
              zip(names, able, strict=True)}  # fmt: skip
    num_samples = 0
    for inputs in arrays(quantized, samples):
        means = running(inputs)
        num_samples += len(inputs[0])
        for name, shift in shifts.items():
            shift += len(inputs[0]) * (means[name + EXACT].astype(np.float64) - means[name + ROUNDED])
    return _with_biases(graph, {name: shift / num_samples for name, shift in shifts.items()})


def _lacks_bias(node: onnx.NodeProto) -> bool:
    return node.op_type != "MatMul" and not (len(node.input) > 2 and node.input[2])


def _with_twins(graph: Graph, quantized: onnx.ModelProto, nodes: Mapping[str, onnx.NodeProto]) -> onnx.ModelProto:
    """Put beside each layer one that is not rounded, on the same unrounded input, and the channel means of both."""
    proto = onnx.ModelProto()
    proto.CopyFrom(quantized)
    originals = graph.writers
    present = {tensor.name for tensor in proto.graph.initializer}
    for output, node in nodes.items():
        original = originals[output]
        twin = helper.make_node(node.op_type, list(original.input), [f"{output}_twin"], name=f"{node.name}_twin")
        twin.attribute.extend(original.attribute)
        proto.graph.node.append(twin)
        for name in original.input[1:]:
            if name in graph.constants and name not in present:
                present.add(name)
                tensor = proto.graph.initializer.add()
                tensor.CopyFrom(graph.constants[name])
                tensor.name = name
        num_channels = graph.constants[original.input[1]].dims[channel_axis(original)]
        for source, suffix in ((output, ROUNDED), (f"{output}_twin", EXACT)):
            _add_mean(proto, original, source, output + suffix, num_channels)
    return proto


def _add_mean(proto: onnx.ModelProto, node: onnx.NodeProto, source: str, mean: str, num_channels: int) -> None:
    """Add the mean of each channel of a layer's result, over samples and places."""
    axes = [0, *range(2, len(_dims(proto, node.input[1])))] if node.op_type == "Conv" else [0]
    if node.op_type != "Conv":
        shape = f"{mean}_shape"
        proto.graph.initializer.append(numpy_helper.from_array(np.array([-1, num_channels], dtype=np.int64), shape))
        proto.graph.node.append(helper.make_node("Reshape", [source, shape], [f"{mean}_rows"]))
        source = f"{mean}_rows"
    proto.graph.initializer.append(numpy_helper.from_array(np.array(axes, dtype=np.int64), f"{mean}_axes"))
    proto.graph.node.append(helper.make_node("ReduceMean", [source, f"{mean}_axes"], [mean], keepdims=0))


def _dims(proto: onnx.ModelProto, name: str) -> list[int]:
    return list(next(tensor.dims for tensor in proto.graph.initializer if tensor.name == name))


def _with_biases(graph: Graph, shifts: Mapping[str, np.ndarray]) -> Graph:
    """Add shifts to the biases of the layers that write these tensors, each layer to one of its own."""
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    nodes = {node.output[0]: node for node in proto.graph.node}
    for output, shift in shifts.items():
        bias = bias_of(graph, graph.writers[output])
        node = nodes[output]
        before = np.zeros(len(shift)) if bias is None else graph.array(bias).astype(np.float64)
        name = f"{output}_corrected_bias"
        proto.graph.initializer.append(numpy_helper.from_array((before + shift).astype(np.float32), name))
        if bias is None:
            node.input[:] = [*node.input[:2], name]
        else:
            holder = node if bias in node.input else nodes[graph.readers[output][0].output[0]]
            holder.input[:] = [name if entry == bias else entry for entry in holder.input]
    return Graph(proto=proto)
