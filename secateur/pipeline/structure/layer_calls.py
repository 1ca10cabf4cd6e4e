"""Which layers a network calls, as a runtime sees them, and what they take in all as a function of its widths."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from secateur.artifacts import LatencyGrid, Layer, LayerShape
from secateur.errors import TraceError
from secateur.pipeline.costs_latency import LatencyCost
from secateur.pipeline.structure.bill import length_terms
from secateur.pipeline.structure.capture import capture, device_of
from secateur.pipeline.structure.copying import tensors
from secateur.pipeline.structure.structure import Structure

_CONVOLUTIONS = {
    "aten::conv1d": "convolution", "aten::conv2d": "convolution", "aten::conv3d": "convolution",
    "aten::conv_transpose1d": "transposed", "aten::conv_transpose2d": "transposed",
    "aten::conv_transpose3d": "transposed",
}  # fmt: skip


def layers_of(module: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[Layer, ...]:
    """List the calls of convolutions and linear layers with weights of their own, in order of execution.

    All else (norms, activations, products of activations) is left out. The network is left as it was. Raises TraceError
    where the graph cannot be captured.
    """
    device = device_of(module)
    inputs = tuple(x.to(device) for x in example_inputs)
    captured = capture(module, inputs)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors(module).items()}
    found = []
    for node in captured.graph.nodes:
        name = getattr(getattr(node.target, "_schema", None), "name", "")
        if name not in _CONVOLUTIONS and name != "aten::linear":
            continue
        arguments = {a.name: a.default_value for a in node.target._schema.arguments if a.has_default_value()}
        arguments |= dict(zip((a.name for a in node.target._schema.arguments), node.args, strict=False)) | node.kwargs
        weight = captured.names.get(arguments["weight"].name)
        if weight is None:
            continue
        size = tuple(int(n) for n in arguments["input"].meta["val"].shape)
        shape = _convolution(name, size, shapes[weight], arguments) if name in _CONVOLUTIONS else _linear(size, inputs)
        found.append(Layer(weight=weight, shape=shape, rows=shapes[weight][0], columns=shapes[weight][1]))
    return tuple(found)


def latency_cost(structure: Structure, grids: Sequence[tuple[str, LatencyGrid]]) -> LatencyCost:
    """Return the time that a network's layers take, given their weights' names and grids, one pair a call.

    The network may have been cut since the grids were measured. Raises TraceError for a weight that it does not have.
    """
    for weight, _ in grids:
        if weight not in structure.shapes:
            raise TraceError(
                "latency", f"a table of layer {weight!r}", "tables of this network's layers",
                "Measure the layers of the network that is pruned.",
            )  # fmt: skip
    lengths = length_terms(structure.groups, structure.shapes, [weight for weight, _ in grids])
    return LatencyCost.of(lengths, [grid for _, grid in grids])


def _convolution(name: str, size: tuple[int, ...], weight: tuple[int, ...], arguments: Mapping[str, Any]) -> LayerShape:
    spatial = len(weight) - 2
    transposed = _CONVOLUTIONS[name] == "transposed"
    inputs, groups = size[-spatial - 1], int(arguments.get("groups") or 1)
    depthwise = groups == inputs > 1
    outputs = weight[1] * groups if transposed else weight[0]
    padding = arguments.get("padding", 0)
    if padding == "same":
        raise TraceError("latency", "a convolution with padding 'same'", "padding in numbers", "Give it in numbers.")
    return LayerShape(
        operator="transposed" if transposed else "convolution",
        size=size[-spatial:],
        kernel=weight[2:],
        stride=_each(arguments.get("stride", 1), spatial),
        padding=_each(0 if padding == "valid" else padding, spatial),
        dilation=_each(arguments.get("dilation", 1), spatial),
        output_padding=_each(arguments.get("output_padding", 0), spatial) if transposed else (),
        groups=0 if depthwise else groups,
        per_input=outputs // inputs if depthwise else 1,
    )


def _linear(size: tuple[int, ...], inputs: tuple[Tensor, ...]) -> LayerShape:
    batch_size = inputs[0].shape[0] if inputs and inputs[0].ndim else 1
    return LayerShape(operator="linear", size=(max(1, math.prod(size[:-1]) // batch_size),))


def _each(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Return one number an axis; a list of one holds for all."""
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(numbers * count if len(numbers) == 1 else numbers)
