"""The operators of exported networks in torch, so that a file can be trained as it is written."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.nn import functional

from secateur.pipeline.quantize.spatial_operators import (
    Attributes,
    average_pool,
    conv,
    conv_transpose,
    depth_to_space,
    given,
    max_pool,
    numbers,
    pad,
    refused,
    resize,
)

Operator = Callable[[Sequence[Tensor], Attributes], Tensor | Sequence[Tensor]]
"""Takes a node's inputs, an empty tensor for one that is left out at the end or between, and its attributes."""
TORCH_TYPES = {
    onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.DOUBLE: torch.float64, onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.INT32: torch.int32, onnx.TensorProto.BOOL: torch.bool, onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT8: torch.int8,
}  # fmt: skip


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as Python's values; text is decoded."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _gemm(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    x = inputs[0].mT if a.get("transA") else inputs[0]
    w = inputs[1].mT if a.get("transB") else inputs[1]
    y, bias = a.get("alpha", 1.0) * (x @ w), given(inputs, 2)
    return y if bias is None else y + a.get("beta", 1.0) * bias


def _batch_norm(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    x, scale, bias, mean, variance = inputs
    return functional.batch_norm(x, mean, variance, scale, bias, eps=a.get("epsilon", 1e-5))


def _layer_norm(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    axis = a.get("axis", -1) % inputs[0].dim()
    shape = tuple(inputs[0].shape[axis:])
    weight, bias = inputs[1].expand(shape), given(inputs, 2)
    return functional.layer_norm(
        inputs[0], shape, weight, None if bias is None else bias.expand(shape), a.get("epsilon", 1e-5)
    )


def _reduced(call: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def reduce(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
        axes = numbers(inputs, 1) or list(a.get("axes", []))
        if not axes and a.get("noop_with_empty_axes"):
            return inputs[0]
        return call(inputs[0], axes or list(range(inputs[0].dim())), bool(a.get("keepdims", 1)))

    return reduce


def _reshape(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    wanted = numbers(inputs, 1) or []
    if not a.get("allowzero"):
        wanted = [inputs[0].shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return inputs[0].reshape(wanted)


def _split(inputs: Sequence[Tensor], a: Attributes) -> Sequence[Tensor]:
    axis, sizes = a.get("axis", 0), numbers(inputs, 1)
    if sizes is None:
        length, parts = inputs[0].shape[axis], a["num_outputs"]
        size = -(-length // parts)
        sizes = [min(size, length - start) for start in range(0, length, size)]
    return torch.split_with_sizes(inputs[0], sizes, axis)


def _slice(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    starts, ends = numbers(inputs, 1) or [], numbers(inputs, 2) or []
    axes = numbers(inputs, 3) or list(range(len(starts)))
    steps = numbers(inputs, 4) or [1] * len(starts)
    x = inputs[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        indices = range(x.shape[axis])[slice(start, end if step > 0 or end >= -x.shape[axis] else None, step)]
        x = x.index_select(axis, torch.tensor(list(indices), dtype=torch.int64, device=x.device)) if step != 1 else (
            x.narrow(axis, indices.start, len(indices))
        )  # fmt: skip
    return x


def _squeeze(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    axes = numbers(inputs, 1)
    return inputs[0].squeeze() if axes is None else inputs[0].squeeze(tuple(axes))


def _unsqueeze(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    x, axes = inputs[0], numbers(inputs, 1) or []
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _expand(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    wanted = numbers(inputs, 1) or []
    x = inputs[0].reshape(*[1] * (len(wanted) - inputs[0].dim()), *inputs[0].shape)
    wanted = [1] * (x.dim() - len(wanted)) + wanted
    return x.expand([own if other == 1 else other for own, other in zip(x.shape, wanted, strict=True)])


def _gather(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    x, axis = inputs[0], a.get("axis", 0) % inputs[0].dim()
    indices = inputs[1].to(x.device) % x.shape[axis]
    found = x.index_select(axis, indices.reshape(-1))
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _cast(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    if a["to"] not in TORCH_TYPES:
        raise refused(f"a cast to {onnx.TensorProto.DataType.Name(a['to'])}")
    return inputs[0].to(TORCH_TYPES[a["to"]])


def _constant_of_shape(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    value = torch.tensor(onnx.numpy_helper.to_array(a["value"])) if "value" in a else torch.zeros(1)
    return value.expand(numbers(inputs, 0) or []).clone()


def _clip(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    low, high = (None if (end := given(inputs, i)) is None else float(end) for i in (1, 2))
    return inputs[0] if low is None and high is None else inputs[0].clamp(low, high)


def _gelu(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    return functional.gelu(inputs[0], approximate=a.get("approximate", "none"))


def _flatten(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    axis = a.get("axis", 1)
    return inputs[0].reshape(*([-1] if axis else [1]), int(torch.tensor(inputs[0].shape[axis:]).prod()))


OPERATORS: dict[str, Operator] = {
    "Abs": lambda x, a: x[0].abs(),
    "Add": lambda x, a: x[0] + x[1],
    "And": lambda x, a: x[0] & x[1],
    "AveragePool": average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda x, a: torch.cat(list(x), a["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Cos": lambda x, a: x[0].cos(),
    "DepthToSpace": depth_to_space,
    "Div": lambda x, a: x[0] / x[1] if x[0].is_floating_point() else x[0].div(x[1], rounding_mode="trunc"),
    "Elu": lambda x, a: functional.elu(x[0], a.get("alpha", 1.0)),
    "Equal": lambda x, a: x[0] == x[1],
    "Erf": lambda x, a: x[0].erf(),
    "Exp": lambda x, a: x[0].exp(),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x, a: x[0].mean(tuple(range(2, x[0].dim())), keepdim=True),
    "GlobalMaxPool": lambda x, a: x[0].amax(tuple(range(2, x[0].dim())), keepdim=True),
    "Greater": lambda x, a: x[0] > x[1],
    "HardSigmoid": lambda x, a: (a.get("alpha", 0.2) * x[0] + a.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda x, a: functional.hardswish(x[0]),
    "Identity": lambda x, a: x[0],
    "InstanceNormalization": lambda x, a: functional.instance_norm(
        x[0], weight=x[1], bias=x[2], eps=a.get("epsilon", 1e-5)
    ),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda x, a: functional.leaky_relu(x[0], a.get("alpha", 0.01)),
    "Less": lambda x, a: x[0] < x[1],
    "Log": lambda x, a: x[0].log(),
    "LogSoftmax": lambda x, a: x[0].log_softmax(a.get("axis", -1)),
    "MatMul": lambda x, a: x[0] @ x[1],
    "Max": lambda x, a: functools.reduce(torch.maximum, x),
    "MaxPool": max_pool,
    "Min": lambda x, a: functools.reduce(torch.minimum, x),
    "Mish": lambda x, a: functional.mish(x[0]),
    "Mul": lambda x, a: x[0] * x[1],
    "Neg": lambda x, a: -x[0],
    "Not": lambda x, a: ~x[0],
    "PRelu": lambda x, a: torch.where(x[0] < 0, x[0] * x[1], x[0]),
    "Pad": pad,
    "Pow": lambda x, a: x[0].pow(x[1]),
    "Reciprocal": lambda x, a: x[0].reciprocal(),
    "Range": lambda x, a: torch.arange(*(value.item() for value in x), dtype=x[0].dtype),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keep)),
    "Relu": lambda x, a: x[0].relu(),
    "Reshape": _reshape,
    "Resize": resize,
    "Shape": lambda x, a: torch.tensor(x[0].shape[a.get("start", 0) : a.get("end")], dtype=torch.int64),
    "Sigmoid": lambda x, a: x[0].sigmoid(),
    "Sin": lambda x, a: x[0].sin(),
    "Slice": _slice,
    "Softmax": lambda x, a: x[0].softmax(a.get("axis", -1)),
    "Softplus": lambda x, a: functional.softplus(x[0]),
    "Split": _split,
    "Sqrt": lambda x, a: x[0].sqrt(),
    "Squeeze": _squeeze,
    "Sub": lambda x, a: x[0] - x[1],
    "Tanh": lambda x, a: x[0].tanh(),
    "Tile": lambda x, a: x[0].repeat(numbers(x, 1) or []),
    "Transpose": lambda x, a: x[0].permute(a.get("perm") or tuple(reversed(range(x[0].dim())))),
    "Unsqueeze": _unsqueeze,
    "Where": lambda x, a: torch.where(x[0], x[1], x[2]),
}
"""What a node computes, by its operator, as of operator set 18 and later."""
