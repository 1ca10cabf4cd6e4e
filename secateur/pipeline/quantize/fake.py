"""A quantised file as a network of torch that can be trained: numbers are rounded, gradients pass."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from secateur.artifacts import Model
from secateur.pipeline.quantize.calibrated import Calibrated
from secateur.pipeline.quantize.graph import Graph
from secateur.pipeline.quantize.grid import Range, Steps
from secateur.pipeline.quantize.module import Returned
from secateur.pipeline.quantize.operators import OPERATORS, attributes_of
from secateur.pipeline.quantize.placement import TARGETS
from secateur.pipeline.quantize.spatial_operators import NONE, refused
from secateur.pipeline.quantize.weights import LARGEST_BIAS, Weights, bias_of

INT32 = 2**31 - 1
WEIGHTS = " weights"
"""Behind the name of what a layer writes, the name of its weights' scales."""
CELL = 0.49
"""How far from its integer, in steps, a weight begins that is rounded to another than the nearest."""


class Rounding(torch.autograd.Function):
    """clamp(round(x / s), low, high) s, ties to even, with the gradients of LSQ (Esser et al. 2019, arXiv 1902.08153).

    d/dx is 1 within the grid and 0 beyond it; d/ds is round(x / s) - x / s within and the grid's end beyond, summed
    over all that share s, times ``share``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int, share: float) -> Tensor:
        """Round; ``scale`` has the axes of ``x``, or none."""
        ctx.save_for_backward(x, scale)
        ctx.low, ctx.high, ctx.share = low, high, share
        return (x / scale).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        """Return the gradients of x and of the scale."""
        x, scale = ctx.saved_tensors
        (grad,) = grads
        steps = x / scale
        rounded = steps.round()
        inside = (rounded >= ctx.low) & (rounded <= ctx.high)
        by_scale = None
        if ctx.needs_input_grad[1]:
            slope = rounded.clamp_(ctx.low, ctx.high).sub_(torch.where(inside, steps, 0.0))
            by_scale = (grad * slope).sum_to_size(scale.shape) * ctx.share
        return grad * inside, by_scale, None, None, None


def rounded(x: Tensor, scale: Tensor, low: int, high: int, share: float = 1.0) -> Tensor:
    """Round to a grid, see `Rounding`."""
    found: Tensor = Rounding.apply(x, scale, low, high, share)
    return found


@dataclass(frozen=True, kw_only=True)
class _Node:
    """A node: what it reads and writes, the tensors that nobody reads after it, and of a rounded layer its bias.

    Its weights' integers go from -``most`` to ``most``, 0 where they are not rounded, and have a scale along ``axis``.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    spent: tuple[str, ...]
    most: int
    axis: int
    bias: str | None


class FakeQuantized(nn.Module):
    """The network of a calibrated graph, called as the network that was exported, rounded where the file will be.

    What it computes is the graph with its batch norms folded, as runtimes see it. Weights and biases of layers are
    trained, and so is the logarithm of every scale, from what was calibrated, unless ``learn_scales`` is False: steps
    are then relative, whatever the scale's size, and it stays positive. Zero points stay. With `rounding` False the
    network computes in float32.
    """

    def __init__(self, calibrated: Calibrated, model: Model, *, learn_scales: bool = True) -> None:
        super().__init__()
        graph, placement = calibrated.graph, calibrated.placement
        self.rounding = True
        self._target, self._placed = TARGETS[calibrated.target], dict(placement.scales)
        self._returned = Returned(model)
        self._inputs = [value.name for value in graph.proto.graph.input]
        self._outputs = [value.name for value in graph.proto.graph.output]
        self._zero_points = {scale: steps.zero_point for scale, steps in calibrated.steps.items()}
        self._nodes = _plan(graph, calibrated)
        self._fixed: dict[str, Tensor] = {}
        self.trained, self.held = nn.ParameterDict(), nn.Module()
        layers = [node for node in graph.proto.graph.node if graph.is_layer(node)]
        trained = {name for node in layers for name in (node.input[1], bias_of(graph, node)) if name is not None}
        for name in graph.constants:
            values = torch.tensor(graph.array(name))
            if name in trained:
                self.trained[_key(name)] = nn.Parameter(values)
            elif values.dim() == 0 or (not values.is_floating_point() and values.dim() == 1):
                self._fixed[name] = values
            else:
                self.held.register_buffer(_key(name), values)
        for layer in placement.layers:
            self._settle(layer.input[1], calibrated.weights[layer.output[0]])
        first = {name: torch.tensor(steps.scale) for name, steps in calibrated.steps.items()}
        first |= {output + WEIGHTS: torch.tensor(weights.scales) for output, weights in calibrated.weights.items()}
        self.first, self.scales = nn.Module(), nn.ParameterDict()
        for name, scale in first.items():
            self.first.register_buffer(_key(name), scale)
            if learn_scales:
                self.scales[_key(name)] = nn.Parameter(torch.zeros_like(scale))

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the network returns."""
        values = {name: self._rounded(name, x) for name, x in zip(self._inputs, inputs, strict=True)}
        for node in self._nodes:
            given = [self._value(name, values) for name in node.inputs]
            if node.most and self.rounding:
                given[1:] = self._layer(node, given[1:])
            found = OPERATORS[node.operator](given, node.attributes)
            for name, value in zip(node.outputs, (found,) if isinstance(found, Tensor) else found, strict=False):
                values[name] = self._rounded(name, value)
            for name in node.spent:
                values.pop(name, None)
        return self._returned(self._value(name, values) for name in self._outputs)

    def _scale(self, name: str) -> Tensor:
        """Return the scale of an activation, or of the weights of the layer that writes a tensor."""
        first: Tensor = getattr(self.first, _key(name))
        return first * self.scales[_key(name)].exp() if _key(name) in self.scales else first

    def _weight_scales(self, node: _Node) -> Tensor:
        """Return a layer's scales, wide enough for its bias in 32 bits."""
        scales = self._scale(node.outputs[0] + WEIGHTS)
        if node.bias is None:
            return scales
        least = self.trained[_key(node.bias)].detach().abs() / (
            LARGEST_BIAS * self._scale(self._placed[node.inputs[0]])
        )
        return torch.maximum(scales, least.detach())

    def calibrated(self, before: Calibrated) -> Calibrated:
        """Return what was calibrated with weights, biases and scales as they are now."""
        proto = onnx.ModelProto()
        proto.CopyFrom(before.graph.proto)
        graph = Graph(proto=proto)
        for name, tensor in graph.constants.items():
            if _key(name) in self.trained:
                values = self.trained[_key(name)].detach().cpu().contiguous().numpy()
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        with torch.no_grad():
            steps = {
                name: Steps(scale=float(self._scale(name)), zero_point=zero) for name, zero in self._zero_points.items()
            }
            scales = {n.outputs[0]: self._weight_scales(n).cpu().numpy() for n in self._nodes if n.most}
        grid, weights = self._target.grid, {}
        for node in before.placement.layers:
            own = replace(before.weights[node.output[0]], scales=scales[node.output[0]])
            integers = np.rint(graph.array(node.input[1]) / own.steps).clip(-own.most, own.most).astype(np.int8)
            weights[node.output[0]] = replace(own, integers=integers)
        ranges = {
            name: Range(
                low=(grid.low - found.zero_point) * found.scale, high=(grid.high - found.zero_point) * found.scale
            )
            for name, found in steps.items()
        }
        return replace(before, graph=Graph(proto=proto), steps=steps, weights=weights, ranges=ranges)

    def _value(self, name: str, values: dict[str, Tensor]) -> Tensor:
        if name in values:
            return values[name]
        if name in self._fixed:
            return self._fixed[name]
        if not name:
            return NONE
        key = _key(name)
        return self.trained[key] if key in self.trained else getattr(self.held, key)

    def _rounded(self, name: str, x: Tensor) -> Tensor:
        """Round a tensor where it is placed."""
        scale = self._placed.get(name)
        if scale is None or not self.rounding:
            return x
        grid, zero = self._target.grid, self._zero_points[scale]
        share = 1 / math.sqrt(max(1, x[0].numel()) * grid.high)
        return rounded(x, self._scale(scale), grid.low - zero, grid.high - zero, share)

    def _layer(self, node: _Node, given: Sequence[Tensor]) -> list[Tensor]:
        """Round a layer's weights, and its bias where runtimes want it in integers."""
        weight, *bias = given
        most, scales = node.most, self._weight_scales(node)
        along = [-1 if axis == node.axis else 1 for axis in range(weight.dim())]
        share = 1 / math.sqrt(weight.numel() / len(scales) * most)
        found = [rounded(weight, scales.reshape(along), -most, most, share)]
        if bias and bias[0] is not NONE and self._target.int_bias:
            # As they are written: the product of both scales in float32, integers by division in float64.
            steps = (scales.double() * self._scale(self._placed[node.inputs[0]]).double()).float().double().detach()
            bias = [rounded(bias[0].double(), steps, -INT32, INT32).to(weight.dtype), *bias[1:]]
        return found + bias

    def _settle(self, name: str, weights: Weights) -> None:
        """Move weights that were not rounded to the nearest into the cells of their integers."""
        parameter, steps = self.trained[_key(name)].data, torch.tensor(weights.steps)
        integers = torch.tensor(weights.integers, dtype=torch.float32)
        low = torch.where(integers > -weights.most, integers - CELL, -torch.inf)
        high = torch.where(integers < weights.most, integers + CELL, torch.inf)
        parameter.copy_(torch.where(
            (parameter / steps).round().clamp(-weights.most, weights.most) == integers,
            parameter, (parameter / steps).clamp(low, high) * steps,
        ))  # fmt: skip


def _key(name: str) -> str:
    """Return a tensor's name as modules of torch allow it, apart from those of their own attributes."""
    return f"of {name.replace('.', ':')}"


def _plan(graph: Graph, calibrated: Calibrated) -> list[_Node]:
    """Return the nodes in their order. ExportError for operators that torch does not have here."""
    proto = graph.proto.graph
    nodes = [node for node in proto.node if node.output[0] not in graph.constants]
    last = {name: index for index, node in enumerate(nodes) for name in node.input}
    placed = {node.output[0] for node in calibrated.placement.layers}
    found = []
    for index, node in enumerate(nodes):
        if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
            raise refused(f"the operator {node.op_type} ({node.name})")
        spent = [name for name in dict.fromkeys(node.input) if last[name] == index and name not in graph.outputs]
        weights = calibrated.weights[node.output[0]] if node.output[0] in placed else None
        found.append(_Node(
            operator=node.op_type, inputs=tuple(node.input), outputs=tuple(node.output),
            attributes=attributes_of(node), spent=tuple(spent),
            most=weights.most if weights else 0, axis=weights.axis if weights else 0,
            bias=bias_of(graph, node) if weights else None,
        ))  # fmt: skip
    return found
