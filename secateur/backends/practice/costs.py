"""What the nodes of an ONNX file cost on paper: multiply-adds and bytes moved."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper

from secateur.artifacts import LayerShape
from secateur.backends.onnx_file import NO_SIZES, read_inputs
from secateur.errors import BackendError, first_line
from secateur.onnx_reading import read_onnx

LAYERS = {
    "Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3,
    "QLinearMatMul": 3, "FusedConv": 1,
}  # fmt: skip
"""Operators that multiply and add, with the position of their weight among their inputs."""
FUSED = frozenset({
    "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Gelu", "Swish",
    "Mish", "Erf", "BatchNormalization", "Add", "Sub", "Mul", "Div", "QuantizeLinear", "DequantizeLinear", "Cast",
})  # fmt: skip
"""Element-wise operators, which runtimes compute with what they follow: they cost their further operands only."""
FREE = frozenset({
    "Constant", "ConstantOfShape", "Shape", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout",
})  # fmt: skip
"""Operators that move nothing."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one call of a node costs.

    ``name`` is the module that the node's weight belongs to, or the node's own name. ``inputs`` and ``outputs`` are
    channels. ``shape`` describes layers that can be built by themselves.
    """

    node: str
    tensor: str
    name: str
    operator: str
    macs: int
    num_bytes: int
    weight_bytes: int = 0
    inputs: int = 0
    outputs: int = 0
    shape: LayerShape | None = None


class Graph:
    """The nodes of a file with every tensor's shape."""

    def __init__(self, path: Path, batch_size: int, sizes: Mapping[str, int] = NO_SIZES) -> None:
        """Read a file and infer shapes.

        Raises:
            BackendError: it is no ONNX file, or its shapes cannot be inferred.
        """
        entries = read_inputs(path)
        model = read_onnx(path, weights=False)
        given = {entry.name: entry.sized(batch_size, sizes) for entry in entries}
        for value in model.graph.input:
            if value.name in given:
                for dim, size in zip(value.type.tensor_type.shape.dim, given[value.name], strict=True):
                    dim.Clear()
                    dim.dim_value = size
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        try:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        except Exception as error:
            raise BackendError(
                str(path), f"shapes that cannot be inferred ({first_line(error)})", "a network of fixed shapes",
                "Export it again, or bench it without layers.",
            ) from error  # fmt: skip
        self.nodes = list(inferred.node)
        self.tensors: dict[str, tuple[tuple[int, ...], int]] = {
            tensor.name: (tuple(tensor.dims), tensor.data_type) for tensor in inferred.initializer
        }
        self.weights = set(self.tensors)
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            kind = value.type.tensor_type
            if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
                self.tensors.setdefault(value.name, (tuple(d.dim_value for d in kind.shape.dim), kind.elem_type))
        self.producers = {name: node for node in self.nodes for name in node.output}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, empty where it could not be inferred."""
        return self.tensors.get(name, ((), 0))[0]

    def num_bytes(self, name: str) -> int:
        """Return the bytes of a tensor as it is kept: of a dequantised one, those of its integers."""
        node = self.producers.get(name)
        if node is not None and node.op_type == "DequantizeLinear":
            return self.num_bytes(node.input[0])
        shape, kind = self.tensors.get(name, ((), 0))
        return math.prod(shape) * helper.tensor_dtype_to_np_dtype(kind).itemsize if kind else 0

    def weight(self, name: str) -> str | None:
        """Follow a tensor back to the constant that it is made of; None where it is computed."""
        while name not in self.weights:
            node = self.producers.get(name)
            if node is None or not node.input or node.op_type not in {*FUSED, *FREE, "Transpose"}:
                return None
            name = node.input[0]
        return name


def costs(graph: Graph) -> list[Cost]:
    """Return the cost of every node that moves anything, in the order of the graph."""
    found = []
    for node in graph.nodes:
        if node.op_type in FREE or all(name in graph.weights for name in node.input if name):
            continue
        found.append(_layer(graph, node) if node.op_type in LAYERS else _mover(graph, node))
    return found


def _mover(graph: Graph, node: onnx.NodeProto) -> Cost:
    read = [name for name in node.input if name]
    moved = [name for name in read[1:] if name not in graph.weights] if node.op_type in FUSED else [*read, *node.output]
    return Cost(
        node=node.name, tensor=node.output[0], name=node.name or node.output[0], operator=node.op_type, macs=0,
        num_bytes=sum(graph.num_bytes(name) for name in moved),
    )  # fmt: skip


def _layer(graph: Graph, node: onnx.NodeProto) -> Cost:
    weight = node.input[LAYERS[node.op_type]]
    constant = graph.weight(weight)
    given, kernel, made = graph.shape(node.input[0]), graph.shape(weight), graph.shape(node.output[0])
    if not made:
        raise BackendError(
            node.name or node.output[0], f"a {node.op_type} whose shape cannot be inferred",
            "a network of fixed shapes", "Export it again, or bench it without layers.",
        )  # fmt: skip
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    moved = [node.input[0], weight, node.output[0]]
    inputs = outputs = macs = 0
    shape = None
    if "Conv" in node.op_type and len(kernel) > 2:
        transposed = node.op_type == "ConvTranspose"
        groups = int(attributes.get("group", 1))
        per_place = math.prod(kernel[1:])
        macs = math.prod(given if transposed else made) * per_place
        inputs, outputs = given[1], made[1] if len(made) > 1 else kernel[0]
        if not transposed and len(given) == len(kernel):
            shape = _convolution(given, kernel, attributes, groups)
    elif len(kernel) > 1:
        inner = kernel[1] if node.op_type == "Gemm" and attributes.get("transB") else kernel[-2]
        macs, inputs, outputs = math.prod(made) * inner, inner, made[-1]
        if constant is not None:
            shape = LayerShape(operator="linear", size=(math.prod(made[1:-1]),))
    name = (constant or "").removesuffix("_quantized").removesuffix(".weight")
    return Cost(
        node=node.name, tensor=node.output[0], name=name or node.name or node.output[0], operator=node.op_type,
        macs=macs, num_bytes=sum(graph.num_bytes(tensor) for tensor in moved),
        weight_bytes=graph.num_bytes(weight) if constant else 0, inputs=inputs, outputs=outputs, shape=shape,
    )  # fmt: skip


def _convolution(
    given: tuple[int, ...], kernel: tuple[int, ...], attributes: Mapping[str, object], groups: int
) -> LayerShape | None:
    """Describe a convolution that can be built by itself; None where its padding is not the same on both sides."""
    spatial = len(kernel) - 2

    def listed(name: str, default: int) -> tuple[int, ...]:
        value = attributes.get(name)
        return tuple(int(v) for v in value) if isinstance(value, list | tuple) else (default,) * spatial

    pads = attributes.get("pads")
    sides = tuple(int(v) for v in pads) if isinstance(pads, list | tuple) else (0,) * (2 * spatial)
    if sides[:spatial] != sides[spatial:] or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    depthwise = groups > 1 and kernel[1] == 1 and groups == given[1]
    return LayerShape(
        operator="convolution", size=given[2:], kernel=kernel[2:], stride=listed("strides", 1),
        padding=sides[:spatial], dilation=listed("dilations", 1), groups=0 if depthwise else groups,
        per_input=kernel[0] // groups if depthwise else 1,
    )  # fmt: skip
