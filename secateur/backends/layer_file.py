"""One layer as an ONNX file that takes one number a sample and returns one."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from secateur.artifacts import LayerShape
from secateur.storage import write

CALL = LayerShape(operator="linear", size=(0,))
"""No layer at all: what a call costs by itself."""

OPSET, IR_VERSION = 18, 10


def write_layer(path: Path, shape: LayerShape, rows: int, columns: int, batch_size: int) -> Path:
    """Write a network with one layer whose weight has ``rows`` x ``columns`` entries along its first two axes.

    Its input [batch_size, 1] is expanded to the layer's, and the maximum of a sample's outputs is returned. Raises
    StorageError where the file cannot be written.
    """
    spatial = len(shape.kernel)
    inputs = columns * max(1, shape.groups) if shape.operator == "convolution" else columns
    if shape.operator == "transposed":
        inputs = rows
    if shape.operator == "convolution" and shape.groups == 0:
        inputs = rows // shape.per_input
    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def node(operator: str, sources: list[str], target: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, sources, [target], **attributes))
        return target

    result = "x"
    if shape != CALL:
        size = (*shape.size, inputs) if shape.operator == "linear" else (inputs, *shape.size)
        ones = constant("ones", np.array([batch_size] + [1] * len(size), dtype=np.int64))
        full = constant("full", np.array([batch_size, *size], dtype=np.int64))
        wide = node("Expand", [node("Reshape", ["x", ones], "narrow"), full], "wide")
        generator = np.random.default_rng(0)
        entries = (rows, columns, *shape.kernel)
        fan_in = max(1, math.prod(entries[1:]))
        weight = (generator.standard_normal(entries) / math.sqrt(fan_in)).astype(np.float32)
        if shape.operator == "linear":
            result = node("MatMul", [wide, constant("weight", np.ascontiguousarray(weight.T))], "layer")
        else:
            attributes: dict[str, Any] = {
                "strides": list(shape.stride), "pads": [*shape.padding, *shape.padding],
                "dilations": list(shape.dilation), "group": shape.groups or inputs,
            }  # fmt: skip
            if shape.operator == "transposed":
                attributes["output_padding"] = list(shape.output_padding)
            operator = "ConvTranspose" if shape.operator == "transposed" else "Conv"
            result = node(operator, [wide, constant("weight", weight)], "layer", **attributes)
    rank = 2 if shape == CALL else 3 if shape.operator == "linear" else 2 + spatial
    axes = constant("axes", np.arange(1, rank, dtype=np.int64))
    node("ReduceMax", [result, axes], "y", keepdims=0)
    graph = helper.make_graph(
        nodes, "layer", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch_size, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch_size])], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    write(path, model.SerializeToString())
    return path
