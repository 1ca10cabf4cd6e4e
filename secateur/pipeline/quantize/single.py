"""One layer of a calibrated graph as a file of its own, in any of the precisions, so that it can be timed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from secateur.errors import ExportError
from secateur.pipeline.quantize.calibrated import Calibrated
from secateur.pipeline.quantize.graph import Graph
from secateur.pipeline.quantize.half import halved
from secateur.pipeline.quantize.placement import CLAMPS, TARGETS


def single_layer(
    calibrated: Calibrated, node: onnx.NodeProto | None, precision: str, batch_size: int
) -> onnx.ModelProto:
    """Return a graph of one layer, float32 [batch_size, 1] to [batch_size]; without a node, of none.

    The input is expanded to the layer's and the largest of a sample's results is returned, so that nothing large is
    copied. In integers both happen to integers, as where the layers around are in integers too.

    Raises:
        ExportError: the shape of the layer's input is not known.
    """
    graph = calibrated.graph
    opset = next(entry.version for entry in graph.proto.opset_import if entry.domain == "")
    held: dict[str, TensorProto] = {}
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, value: np.ndarray) -> str:
        held[name] = numpy_helper.from_array(value, name)
        return name

    def add(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    rank, result, integers = 2, "single_x", precision.startswith("int") and node is not None
    behind: list[str] = []
    if node is not None:
        size = _size(graph, node.input[0])
        rank = 1 + len(_size(graph, node.output[0]))
        if integers:
            steps = calibrated.steps[calibrated.placement.scales[node.input[0]]]
            dtype = TARGETS[calibrated.target].grid.dtype
            front = [constant("single_scale", np.array(steps.scale, dtype=np.float32)),
                     constant("single_zero", np.array(steps.zero_point, dtype=dtype))]  # fmt: skip
            result = add("QuantizeLinear", [result, *front], "single_narrow")
        ones = constant("single_ones", np.array([batch_size] + [1] * len(size), dtype=np.int64))
        full = constant("single_full", np.array([batch_size, *size], dtype=np.int64))
        result = add("Expand", [add("Reshape", [result, ones], "single_one"), full], "single_wide")
        if integers:
            result = add("DequantizeLinear", [result, *front], "single_input")
            weights = calibrated.weights[node.output[0]]
            weight = add(
                "DequantizeLinear",
                [constant("single_integers", weights.integers), constant("single_scales", weights.scales)],
                "single_weights", axis=weights.axis,
            )  # fmt: skip
        else:
            weight = constant("single_weights", graph.array(node.input[1]))
        bias = [constant("single_bias", graph.array(name)) for name in node.input[2:3] if name in graph.constants]
        layer = helper.make_node(node.op_type, [result, weight, *bias], ["single_layer"], name="single_layer")
        layer.attribute.extend(node.attribute)
        nodes.append(layer)
        result = "single_layer"
        reader = graph.only_reader(node.output[0])
        activated = reader.output[0] if reader is not None and reader.op_type in CLAMPS else node.output[0]
        scale = calibrated.placement.scales.get(activated)
        if integers and scale is not None:
            found = calibrated.steps[scale]
            behind = [constant("single_out_scale", np.array(found.scale, dtype=np.float32)),
                      constant("single_out_zero", np.array(found.zero_point, dtype=dtype))]  # fmt: skip
            result = add("QuantizeLinear", [result, *behind], "single_rounded")
    axes = constant("single_axes", np.arange(1, rank, dtype=np.int64))
    result = add("ReduceMax", [result, axes], "single_y" if not behind else "single_largest", keepdims=0)
    if behind:
        add("DequantizeLinear", [result, *behind], "single_y")
    value = helper.make_tensor_value_info
    made = helper.make_model(
        helper.make_graph(
            nodes, "layer", [value("single_x", TensorProto.FLOAT, [batch_size, 1])],
            [value("single_y", TensorProto.FLOAT, [batch_size])], list(held.values()),
        ),
        opset_imports=[helper.make_opsetid("", opset)], ir_version=graph.proto.ir_version,
    )  # fmt: skip
    onnx.checker.check_model(made, full_check=True)
    if precision == "float16" and node is not None:
        inferred = Graph(proto=onnx.shape_inference.infer_shapes(made))
        return halved(inferred, ["single_one", "single_wide", "single_layer", "single_y"], "float16")
    return made


def _size(graph: Graph, name: str) -> tuple[int, ...]:
    """Return the lengths of a tensor's axes behind the batch."""
    found = graph.lengths(name)
    if not found or not all(found[1:]):
        raise ExportError(
            f"timing of a layer, tensor {name}", "a shape that is open or unknown",
            "one that only leaves the batch open", "Export the network with fixed sizes, or budget bytes.",
        )  # fmt: skip
    return found[1:]
