"""Networks in bfloat16 where there is no arithmetic for it: computed in float32, every result rounded to bfloat16."""

import onnx
from onnx import TensorProto, helper

TYPED = ("to", "dtype", "output_dtype")
"""Attributes that name the type of what a node writes."""


def emulated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that computes in float32, from rounded numbers, what a graph computes in bfloat16.

    Nodes that read bfloat16 read the same numbers as float32; what they wrote in bfloat16 they write in float32, and it
    is rounded, to the nearest and of two to the even one. That is what runtimes do that sum in float32. Names and types
    of all tensors stay, those of inputs, constants and outputs too; a graph without bfloat16, or where only casts touch
    it, is returned as it is. Nodes inside others (of If, Loop and Scan) are left as they are.
    """
    if not _has_bfloat16(proto.graph):
        return proto
    graph = onnx.shape_inference.infer_shapes(proto).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    narrow = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.BFLOAT16}
    narrow |= {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.BFLOAT16}
    if not any(_computes(node, narrow) for node in graph.node):
        return proto
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    del found.graph.node[:]
    widened = set[str]()
    for node in proto.graph.node:
        if not _computes(node, narrow):
            found.graph.node.append(node)
            continue
        for name in dict.fromkeys(node.input):
            if name in narrow and name not in widened:
                widened.add(name)
                found.graph.node.append(helper.make_node("Cast", [name], [_wide(name)], to=TensorProto.FLOAT))
        changed = found.graph.node.add()
        changed.CopyFrom(node)
        changed.input[:] = [_wide(name) if name in narrow else name for name in node.input]
        changed.output[:] = [_exact(name) if name in narrow else name for name in node.output]
        for name in node.output:
            if name in narrow:
                found.graph.node.append(helper.make_node("Cast", [_exact(name)], [name], to=TensorProto.BFLOAT16))
    return found


def _wide(name: str) -> str:
    return f"{name}_float32"


def _exact(name: str) -> str:
    return f"{name}_exact"


def _computes(node: onnx.NodeProto, narrow: set[str]) -> bool:
    """Say whether a node does more with bfloat16 than to change it into another type."""
    return node.op_type != "Cast" and any(name in narrow for name in node.input)


def _has_bfloat16(graph: onnx.GraphProto) -> bool:
    """Say whether bfloat16 enters a graph: as an input, as a constant, or by a node that makes it."""
    kinds = [value.type.tensor_type.elem_type for value in graph.input]
    kinds += [tensor.data_type for tensor in graph.initializer]
    for node in graph.node:
        kinds += [held.i if held.name in TYPED else held.t.data_type for held in node.attribute]
    return TensorProto.BFLOAT16 in kinds
