"""An ONNX graph as quantisation looks at it: who writes a tensor, who reads it, which tensors are constants."""

import ast
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import numpy_helper

from secateur.pipeline.export_notes import SCOPES

QUANTIZED_OPERATORS = ("Conv", "Gemm", "MatMul")
"""What is computed in integers, where the second input is a constant."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """An ONNX model with its readers, writers and constants looked up once."""

    proto: onnx.ModelProto

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        """Initialisers by name, and what Constant nodes hold."""
        found = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        for node in self.proto.graph.node:
            for held in node.attribute if node.op_type == "Constant" else ():
                if held.name == "value":
                    found[node.output[0]] = held.t
        return found

    @cached_property
    def writers(self) -> dict[str, onnx.NodeProto]:
        """The node that writes a tensor, by the tensor's name."""
        return {output: node for node in self.proto.graph.node for output in node.output}

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read a tensor, by the tensor's name, in the graph's order."""
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.proto.graph.node:
            for name in dict.fromkeys(node.input):
                found[name].append(node)
        return found

    @cached_property
    def outputs(self) -> frozenset[str]:
        """The names of the graph's outputs."""
        return frozenset(value.name for value in self.proto.graph.output)

    @cached_property
    def depths(self) -> dict[str, int]:
        """The number of nodes on the longest way from the graph's inputs to a tensor."""
        found: dict[str, int] = {}
        for node in self.proto.graph.node:
            deepest = 1 + max((found.get(name, 0) for name in node.input), default=0)
            found |= dict.fromkeys(node.output, deepest)
        return found

    @cached_property
    def types(self) -> dict[str, int]:
        """The element type of every tensor whose type is known."""
        graph = self.proto.graph
        values = (*graph.input, *graph.value_info, *graph.output)
        return {value.name: value.type.tensor_type.elem_type for value in values}

    def lengths(self, name: str) -> tuple[int, ...]:
        """Return the lengths of a tensor's axes, 0 for those that are open; none where its shape is not known."""
        values = (*self.proto.graph.input, *self.proto.graph.value_info, *self.proto.graph.output)
        found = next((value.type.tensor_type.shape.dim for value in values if value.name == name), ())
        return tuple(dim.dim_value for dim in found)

    def array(self, name: str) -> np.ndarray:
        """Return a constant's values."""
        return numpy_helper.to_array(self.constants[name])

    def only_reader(self, tensor: str) -> onnx.NodeProto | None:
        """Return the one node that reads a tensor which is no output of the graph, or None."""
        readers = self.readers[tensor]
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def is_layer(self, node: onnx.NodeProto) -> bool:
        """Say whether a node is a convolution or a product of a float32 activation with constant weights."""
        if node.op_type not in QUANTIZED_OPERATORS or node.input[1] not in self.constants:
            return False
        weight = self.constants[node.input[1]]
        if weight.data_type != onnx.TensorProto.FLOAT or node.input[0] in self.constants:
            return False
        if node.op_type == "MatMul":
            return len(weight.dims) == 2
        return node.op_type == "Conv" or all(attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))

    def names(self, node: onnx.NodeProto) -> tuple[str, ...]:
        """Return what a layer may be called: the node's name, its weights', and the modules it lies in."""
        modules = [entry.value for entry in node.metadata_props if entry.key == SCOPES]
        scopes = [scope for value in modules for scope in ast.literal_eval(value)[:-1] if scope]
        weights = [name for name in node.input[1:2] if name in self.constants]
        return (node.name, *weights, *(name.rpartition(".")[0] for name in weights if "." in name), *scopes)


def attribute(node: onnx.NodeProto, name: str, default: float) -> int | float:
    """Return a number among a node's attributes."""
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def channel_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a layer's weights that counts its output channels."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0.0) else 1
