"""The linter names what is wrong with a graph, once, and nothing about a graph that is right."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rounding import NETWORKS

from secateur.errors import ExportError
from secateur.pipeline.quantize import Quantized, lint

Change = Callable[[onnx.ModelProto], None]


def node(proto: onnx.ModelProto, operator: str, index: int = 0) -> onnx.NodeProto:
    return [entry for entry in proto.graph.node if entry.op_type == operator][index]


def constant(proto: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(array, name))


def array(proto: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == name))


def behind(proto: onnx.ModelProto, tensor: str, operator: str = "QuantizeLinear") -> onnx.NodeProto:
    return next(entry for entry in proto.graph.node if entry.op_type == operator and entry.input[0] == tensor)


def pass_by(proto: onnx.ModelProto, reader: onnx.NodeProto, index: int) -> None:
    """Let a node read what is rounded before it is rounded."""
    writers = {output: entry for entry in proto.graph.node for output in entry.output}
    reader.input[index] = writers[writers[reader.input[index]].input[0]].input[0]


def float_input(proto: onnx.ModelProto) -> None:
    pass_by(proto, node(proto, "Conv", 1), 0)


def float_weights(proto: onnx.ModelProto) -> None:
    conv = node(proto, "Conv")
    weights = next(entry for entry in proto.graph.node if entry.output[0] == conv.input[1])
    values = array(proto, weights.input[0]) * array(proto, weights.input[1])[:, None, None, None]
    proto.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), "plain"))
    conv.input[1] = "plain"


def zero_scale(proto: onnx.ModelProto) -> None:
    constant(proto, node(proto, "QuantizeLinear").input[1], np.array(0, dtype=np.float32))


def wrong_axis(proto: onnx.ModelProto) -> None:
    conv = node(proto, "Conv", 1)
    weights = next(entry for entry in proto.graph.node if entry.output[0] == conv.input[1])
    next(a for a in weights.attribute if a.name == "axis").i = 1


def float_shortcut(proto: onnx.ModelProto) -> None:
    shortcut = node(proto, "Add")
    pass_by(proto, shortcut, 0)


def rounded_twice(proto: onnx.ModelProto) -> None:
    """Round the convolution's result too, before it is added."""
    shortcut, first = node(proto, "Add"), node(proto, "QuantizeLinear")
    steps = list(first.input[1:])
    index = list(proto.graph.node).index(shortcut)
    added = [
        helper.make_node("QuantizeLinear", [shortcut.input[1], *steps], ["branch_q"], name="branch_q"),
        helper.make_node("DequantizeLinear", ["branch_q", *steps], ["branch_dq"], name="branch_dq"),
    ]
    for offset, entry in enumerate(added):
        proto.graph.node.insert(index + offset, entry)
    node(proto, "Add").input[1] = "branch_dq"


def float_bias(proto: onnx.ModelProto) -> None:
    gemm = node(proto, "Gemm")
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(5, dtype=np.float32), "plain"))
    gemm.input[2] = "plain"


def wrong_bias_scale(proto: onnx.ModelProto) -> None:
    gemm = node(proto, "Gemm")
    bias = next(entry for entry in proto.graph.node if entry.output[0] == gemm.input[2])
    constant(proto, bias.input[1], 2 * array(proto, bias.input[1]))


def float_result(proto: onnx.ModelProto) -> None:
    """Let something read a convolution beside the rounding."""
    proto.graph.output.append(helper.make_tensor_value_info(node(proto, "Conv").output[0], TensorProto.FLOAT, None))


def other_scale(proto: onnx.ModelProto) -> None:
    dequantize = next(e for e in proto.graph.node if e.op_type == "DequantizeLinear"
                      and e.input[0] == node(proto, "QuantizeLinear").output[0])  # fmt: skip
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0.5, dtype=np.float32), "other"))
    dequantize.input[1] = "other"


def signed_zero_point(proto: onnx.ModelProto) -> None:
    constant(proto, behind(proto, node(proto, "Relu").output[0]).input[2], np.array(7, dtype=np.uint8))


BAD: dict[str, tuple[str, Change, str, str]] = {
    "float input": ("cpu", float_input, "Conv", "its input .* is not quantised"),
    "float weights": ("tensorrt", float_weights, "Conv", "its weights 'plain' are not quantised"),
    "zero scale": ("tensorrt", zero_scale, "QuantizeLinear", "not positive and finite"),
    "wrong axis": ("cpu", wrong_axis, "Conv", "lie on axis 1, not on that of its output channels"),
    "float shortcut": ("cpu", float_shortcut, "Add", "it also adds .* in float32"),
    "rounded twice": ("tensorrt", rounded_twice, "Add", "only the shortcut must be"),
    "float bias": ("cpu", float_bias, "Gemm", "its bias is float32"),
    "bias scale": ("cpu", wrong_bias_scale, "Gemm", "the scale of its bias is not"),
    "float result": ("cpu", float_result, "Conv", "its result is an output of the graph"),
    "other scale": ("tensorrt", other_scale, "QuantizeLinear", "read with another scale than it is written with"),
    "clamp at work": ("cpu", signed_zero_point, "Conv", "the Relu behind it is not made idle"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_wrong_is_named(bad: str, quantized: Callable[..., Quantized]) -> None:
    target, change, operator, reason = BAD[bad]
    proto = onnx.load(quantized("residual", target=target).exported.path)
    assert lint(proto, target) == ()
    change(proto)
    found = lint(proto, target)
    assert operator in {entry.operator for entry in found}
    import re

    assert any(re.search(reason, entry.reason) for entry in found if entry.operator == operator), found


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_written_for_tensorrt_is_right(name: str, quantized: Callable[..., Quantized]) -> None:
    assert quantized(name, target="tensorrt").result.unfused == ()


def test_what_is_written_for_processors_is_not_for_tensorrt(quantized: Callable[..., Quantized]) -> None:
    found = lint(quantized("residual", target="cpu").exported.path, "tensorrt")
    reasons = " ".join(entry.reason for entry in found)
    assert "uint8 with a zero point" in reasons
    assert "an int32 bias" in reasons


def test_unknown_targets_are_refused(quantized: Callable[..., Quantized]) -> None:
    with pytest.raises(ExportError, match="the target 'abacus'; wanted one of"):
        lint(quantized("residual").exported.path, "abacus")
