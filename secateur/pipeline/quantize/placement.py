"""Where a graph is quantised: which layers, which tensors, and which of these must share their scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from secateur.errors import ExportError
from secateur.pipeline.quantize.graph import QUANTIZED_OPERATORS, Graph
from secateur.pipeline.quantize.grid import FLOAT8, INT8, UINT8, Grid

CARRIERS = frozenset({
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators whose outputs hold nothing but values of their inputs, or zero."""
CLAMPS = frozenset({"Relu", "Clip"})
"""Activations that a runtime folds into the layer in front of them, and that a grid without negatives makes idle."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a family of runtimes fuses.

    ``grid`` is that of activations, ``weights`` that of weights. ``whole_sums``: a sum is computed in integers where
    both summands and the sum are quantised; otherwise only the shortcut is, and the layer in front of the sum adds it
    to its float32 result before it rounds. ``layer_outputs``: a convolution is computed in integers only where its
    result is rounded at once. ``int_bias``: biases are wanted as 32-bit integers; otherwise these are refused, and
    float32 is wanted. ``guard_floats``: the weights of a layer that stays in float32 between rounded tensors would be
    rounded too, with one scale for all, as ONNX Runtime's WeightBiasQuantization does. It leaves layers alone that read
    a tensor by one scale for each entry of an axis, so these are written, all equal.
    """

    grid: Grid
    whole_sums: bool
    layer_outputs: bool
    int_bias: bool
    guard_floats: bool = False
    weights: Grid = INT8


TARGETS: dict[str, Target] = {
    "tensorrt": Target(grid=INT8, whole_sums=False, layer_outputs=False, int_bias=False),
    "tensorrt_float8": Target(grid=FLOAT8, whole_sums=False, layer_outputs=False, int_bias=False, weights=FLOAT8),
    "cpu": Target(grid=UINT8, whole_sums=True, layer_outputs=True, int_bias=True, guard_floats=True),
}
"""TensorRT and its relatives; these in floats of eight bits, for GPUs from Ada and Hopper on; ONNX Runtime and OpenVINO
on a processor."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The layers whose weights are quantised, and the tensors that are, each with the name of its scale.

    Tensors that carry the same values on (`CARRIERS`) share a scale, named by the first of them; ``sources`` are those
    of them that are computed, of which ranges are collected.
    """

    layers: tuple[onnx.NodeProto, ...]
    scales: dict[str, str]
    sources: dict[str, tuple[str, ...]]
    left: dict[str, str]


def place(graph: Graph, target: Target, skip: Sequence[str] = (), half: Sequence[str] = ()) -> Placement:
    """Choose layers and tensors.

    Every input of a layer is quantised. The summands of a sum that follows a convolution are as the target wants them,
    and so are the results of convolutions. What a carrier moves is quantised before it as well as behind it. The
    graph's outputs are left as they are.

    Raises:
        ExportError: a name to be skipped or halved is that of no layer, or no layer is left.
    """
    require_layers(graph, [*skip, *half], "names to skip")
    layers, left = [], {}
    for node in graph.proto.graph.node:
        if not graph.is_layer(node):
            if node.op_type in QUANTIZED_OPERATORS:
                left[node.name] = "not a product of a float32 activation with constant weights"
        elif set(skip) & set(graph.names(node)):
            left[node.name] = "skipped by name"
        elif set(half) & set(graph.names(node)):
            left[node.name] = "in float16"
        else:
            layers.append(node)
    if not layers and not half:
        raise ExportError(
            "quantisation", f"no layer to quantise ({left or 'none in the graph'})",
            f"at least one of {', '.join(QUANTIZED_OPERATORS)} with constant weights", "Skip fewer layers.",
        )  # fmt: skip
    wanted = [node.input[0] for node in layers]
    convolutions = [node for node in layers if node.op_type == "Conv"]
    if target.layer_outputs:
        wanted += [_activated(graph, node) for node in convolutions]
    for node in _sums(graph, convolutions):
        wanted += [*node.input, _activated(graph, node)] if target.whole_sums else [_shortcut(graph, node, layers)]
    scales = _carried(graph, [name for name in wanted if _can_be_quantized(graph, name)])
    sources: dict[str, list[str]] = {}
    for name, scale in scales.items():
        writer = graph.writers.get(name)
        if writer is None or not _carries(graph, writer) or any(data not in scales for data in _moved(writer)):
            sources.setdefault(scale, []).append(name)
    return Placement(
        layers=tuple(layers),
        scales=scales,
        sources={scale: tuple(names) for scale, names in sources.items()},
        left=left,
    )


def require_layers(graph: Graph, names: Sequence[str], what: str) -> None:
    """Raise ExportError where a name is that of no layer."""
    known = {name: node for node in graph.proto.graph.node if graph.is_layer(node) for name in graph.names(node)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ExportError(
            "quantisation", f"{unknown} among the {what}", f"names of layers, for example {sorted(known)[:8]}",
            "Name nodes or modules of the exported graph.",
        )  # fmt: skip


def _can_be_quantized(graph: Graph, name: str) -> bool:
    return name not in graph.constants and name not in graph.outputs and graph.types.get(name) == onnx.TensorProto.FLOAT


def _activated(graph: Graph, node: onnx.NodeProto) -> str:
    """Return a layer's result, behind the clamp that is folded into it."""
    reader = graph.only_reader(node.output[0])
    return reader.output[0] if reader is not None and reader.op_type in CLAMPS else node.output[0]


def _sums(graph: Graph, convolutions: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the sums of two activations of which a convolution's result is one and has no other reader."""
    found = {}
    for node in convolutions:
        reader = graph.only_reader(node.output[0])
        if reader is not None and reader.op_type == "Add" and not any(name in graph.constants for name in reader.input):
            found[reader.output[0]] = reader
    return list(found.values())


def _shortcut(graph: Graph, node: onnx.NodeProto, layers: Sequence[onnx.NodeProto]) -> str:
    """Return the summand that the layer behind the other one adds: not a layer's result, or the shallower of two."""
    outputs = {layer.output[0] for layer in layers if graph.only_reader(layer.output[0]) is not None}
    return min(node.input, key=lambda name: (name in outputs, graph.depths.get(name, 0)))


def _carries(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type not in CARRIERS:
        return False
    if node.op_type != "Pad":
        return True
    mode = next((a.s.decode() for a in node.attribute if a.name == "mode"), "constant")
    value = node.input[2] if len(node.input) > 2 else ""
    return mode != "constant" or not value or (value in graph.constants and not np.any(graph.array(value)))


def _moved(node: onnx.NodeProto) -> Sequence[str]:
    """Return the inputs of a carrier that it moves; the others say where to."""
    return node.input if node.op_type == "Concat" else node.input[:1]


def _carried(graph: Graph, wanted: Sequence[str]) -> dict[str, str]:
    """Add what carriers move to what is wanted, and name the scale that all these share."""
    members = dict.fromkeys(wanted)
    scale = {name: name for name in members}

    def root(name: str) -> str:
        while scale[name] != name:
            name = scale[name]
        return name

    for node in reversed(graph.proto.graph.node):
        moved = [name for name in node.output if name in members]
        if not moved or not _carries(graph, node):
            continue
        for name in (*_moved(node), *node.output):
            if _can_be_quantized(graph, name):
                members[name] = None
                scale.setdefault(name, name)
                scale[root(name)] = root(moved[0])
    order = [value.name for value in graph.proto.graph.input]
    order += [name for node in graph.proto.graph.node for name in node.output]
    first: dict[str, str] = {}
    return {name: first.setdefault(root(name), name) for name in order if name in members}
