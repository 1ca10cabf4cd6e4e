"""Say which nodes of a quantised graph will not be computed in integers, and why."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from secateur.artifacts import Unfused
from secateur.errors import ExportError
from secateur.onnx_reading import read_onnx
from secateur.pipeline.quantize.graph import QUANTIZED_OPERATORS, Graph, channel_axis
from secateur.pipeline.quantize.placement import CARRIERS, CLAMPS, TARGETS, Target

COMPUTED_AS_ONE = 1e-6
"""How far two float32 scales may be apart, relatively, that were meant to be the same."""


def lint(quantized: Path | onnx.ModelProto, target: str) -> tuple[Unfused, ...]:
    """Look through a graph with QuantizeLinear and DequantizeLinear nodes with the eyes of a family of runtimes.

    Args:
        quantized: the graph.
        target: which runtimes, a name in `TARGETS`.

    Returns:
        every node that is not fused, each with one reason, in the graph's order; none where all is well.
    """
    proto = quantized if isinstance(quantized, onnx.ModelProto) else read_onnx(quantized)
    if target not in TARGETS:
        raise ExportError("lint", f"the target {target!r}", f"one of {sorted(TARGETS)}", "Choose one of these.")
    linter = _Linter(graph=Graph(proto=proto), target=TARGETS[target])
    return tuple(
        Unfused(node=node.name or node.output[0], operator=node.op_type, reason=reason)
        for node in proto.graph.node
        if (reason := next(linter.reasons(node), None)) is not None
    )


@dataclass(frozen=True, kw_only=True)
class _Linter:
    graph: Graph
    target: Target

    def reasons(self, node: onnx.NodeProto) -> Iterator[str]:
        """Yield what is wrong with a node, the gravest first."""
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            yield from self._rounding(node)
        elif node.op_type in QUANTIZED_OPERATORS and self._has_weights(node):
            yield from self._layer(node)
        elif node.op_type == "Add" and not any(name in self.graph.constants for name in node.input):
            yield from self._sum(node)
        elif node.op_type in CARRIERS:
            yield from self._carrier(node)

    def _rounding(self, node: onnx.NodeProto) -> Iterator[str]:
        if any(name not in self.graph.constants for name in node.input[1:]):
            yield "its scale or zero point is no constant"
            return
        scale = self.graph.array(node.input[1])
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            yield "its scale is not positive and finite everywhere"
        zero_point = self.graph.array(node.input[2]) if len(node.input) > 2 else np.zeros((), dtype=np.uint8)
        activation = node.op_type == "QuantizeLinear"
        grid = self.target.grid
        if grid.symmetric and (zero_point.any() or zero_point.dtype != grid.dtype):
            kind = "an int32 bias" if zero_point.dtype == np.int32 else f"{zero_point.dtype} with a zero point"
            yield f"TensorRT is to round to {grid.dtype} around zero only, and this is {kind}"
        if activation and node.output[0] not in self.graph.outputs:
            others = [r for r in self.graph.readers[node.output[0]] if r.op_type == "DequantizeLinear"]
            if any(self._steps(other) != self._steps(node) for other in others):
                yield "it is read with another scale than it is written with"

    def _layer(self, node: onnx.NodeProto) -> Iterator[str]:
        data, weights = self._dequantizer(node.input[0]), self._dequantizer(node.input[1])
        if data is None and weights is None:
            yield "neither its input nor its weights are quantised"
            return
        if data is None:
            yield f"its input {node.input[0]!r} is not quantised"
        if weights is None:
            yield f"its weights {node.input[1]!r} are not quantised"
            return
        yield from self._weights(node, weights)
        yield from self._bias(node, data, weights)
        if node.op_type == "Conv":
            yield from self._result(node)

    def _weights(self, node: onnx.NodeProto, weights: onnx.NodeProto) -> Iterator[str]:
        scale = self.graph.array(weights.input[1])
        if len(weights.input) > 2 and self.graph.array(weights.input[2]).any():
            yield "its weights have a zero point"
        axis = next((a.i for a in weights.attribute if a.name == "axis"), 1)
        rank = self.graph.array(weights.input[0]).ndim
        if scale.size > 1 and axis % rank != channel_axis(node):
            yield f"the scales of its weights lie on axis {axis}, not on that of its output channels"

    def _bias(self, node: onnx.NodeProto, data: onnx.NodeProto | None, weights: onnx.NodeProto) -> Iterator[str]:
        if not self.target.int_bias or data is None or len(node.input) < 3 or not node.input[2]:
            return
        bias = self._dequantizer(node.input[2])
        if bias is None:
            # Those of convolutions ONNX Runtime rounds itself.
            if node.op_type == "Gemm":
                yield "its bias is float32"
            return
        wanted = self.graph.array(data.input[1]) * self.graph.array(weights.input[1])
        if not np.allclose(self.graph.array(bias.input[1]), wanted, rtol=1e-4, atol=0.0):
            yield "the scale of its bias is not that of its input times that of its weights"

    def _result(self, node: onnx.NodeProto) -> Iterator[str]:
        """Look at what reads a convolution: its result must be rounded at once, or be added to a shortcut at once."""
        name = node.output[0]
        reader = self.graph.only_reader(name)
        if not self.target.layer_outputs:
            if reader is not None and reader.op_type == "QuantizeLinear":
                behind = self._read_through(reader)
                if any(other.op_type in CLAMPS for other in behind):
                    yield "its result is rounded before the activation that would be fused behind it"
            return
        if name in self.graph.outputs:
            yield "its result is an output of the graph, in float32"
            return
        clamp = reader if reader is not None and reader.op_type in CLAMPS else None
        if clamp is not None:
            name = clamp.output[0]
            reader = self.graph.only_reader(name)
        if reader is None or reader.op_type != "QuantizeLinear":
            who = ", ".join(sorted({other.op_type for other in self.graph.readers[name]})) or "the graph's output"
            yield f"its result is read in float32 by {who}"
        elif clamp is not None and not self._idle(clamp, reader):
            yield f"the {clamp.op_type} behind it is not made idle by the rounding: values that it cuts have integers"

    def _idle(self, clamp: onnx.NodeProto, rounding: onnx.NodeProto) -> bool:
        """Say whether every integer of a rounding stands for a number that the clamp lets pass."""
        scale, zero_point = self._steps(rounding) or (0.0, np.zeros((), dtype=np.int8))
        limits = np.iinfo(zero_point.dtype)
        low, high = (scale * (int(end) - int(zero_point)) for end in (limits.min, limits.max))
        if clamp.op_type == "Relu":
            return bool(low >= 0)
        least, most = [float(self.graph.array(name)) if name else None for name in (*clamp.input[1:], "", "")][:2]
        tolerance = scale * 0.01
        return (least is None or low >= least - tolerance) and (most is None or high <= most + tolerance)

    def _sum(self, node: onnx.NodeProto) -> Iterator[str]:
        rounded = [name for name in node.input if self._dequantizer(name) is not None]
        layers = [name for name in node.input if self._layer_behind(name) is not None]
        if not rounded or not (layers or self.target.whole_sums):
            return
        if not self.target.whole_sums:
            direct = [name for name in layers if name not in rounded]
            if not direct:
                yield "all that it adds is rounded before: only the shortcut must be, for the layer to add it"
            return
        if len(rounded) < len(node.input):
            yield f"it also adds {next(n for n in node.input if n not in rounded)!r} in float32"
            return
        reader = self.graph.only_reader(node.output[0])
        clamp = reader if reader is not None and reader.op_type in CLAMPS else None
        if clamp is not None:
            reader = self.graph.only_reader(clamp.output[0])
        if reader is None or reader.op_type != "QuantizeLinear":
            yield "its result is read in float32"
        elif clamp is not None and not self._idle(clamp, reader):
            yield f"the {clamp.op_type} behind it is not made idle by the rounding: values that it cuts have integers"

    def _carrier(self, node: onnx.NodeProto) -> Iterator[str]:
        readers = [reader for name in node.output for reader in self.graph.readers[name]]
        roundings = [reader for reader in readers if reader.op_type == "QuantizeLinear"]
        if not roundings:
            return
        data = node.input if node.op_type == "Concat" else node.input[:1]
        before = [self._dequantizer(name) for name in data if name not in self.graph.constants]
        if any(entry is None for entry in before):
            yield "it moves float32, although its result is rounded"
        elif any(not _same(self._steps(entry), self._steps(after)) for entry in before for after in roundings):
            yield "the scales in front of it and behind it differ"
        elif node.op_type == "Pad" and self.target.layer_outputs:
            yield "ONNX Runtime pads in float32"

    def _has_weights(self, node: onnx.NodeProto) -> bool:
        if node.input[0] in self.graph.constants:
            return False
        weights = self._dequantizer(node.input[1])
        return node.input[1] in self.graph.constants or (
            weights is not None and weights.input[0] in self.graph.constants
        )

    def _dequantizer(self, name: str) -> onnx.NodeProto | None:
        writer = self.graph.writers.get(name)
        return writer if writer is not None and writer.op_type == "DequantizeLinear" else None

    def _layer_behind(self, name: str) -> onnx.NodeProto | None:
        """Return the convolution whose result this is, rounded or not."""
        writer = self.graph.writers.get(name)
        while writer is not None and writer.op_type in ("DequantizeLinear", "QuantizeLinear"):
            writer = self.graph.writers.get(writer.input[0])
        return writer if writer is not None and writer.op_type == "Conv" else None

    def _read_through(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        dequantizers = [r for r in self.graph.readers[node.output[0]] if r.op_type == "DequantizeLinear"]
        return [reader for entry in dequantizers for reader in self.graph.readers[entry.output[0]]]

    def _steps(self, node: onnx.NodeProto | None) -> tuple[float, np.ndarray] | None:
        if node is None or any(name not in self.graph.constants for name in node.input[1:]):
            return None
        scale = self.graph.array(node.input[1])
        zero_point = self.graph.array(node.input[2]) if len(node.input) > 2 else np.zeros((), dtype=np.uint8)
        alike = scale.size and (scale == scale.flat[0]).all() and (zero_point == zero_point.flat[0]).all()
        return (float(scale.flat[0]), zero_point.ravel()[:1].reshape(())) if alike else None


def _same(a: tuple[float, np.ndarray] | None, b: tuple[float, np.ndarray] | None) -> bool:
    if a is None or b is None:
        return False
    return abs(a[0] - b[0]) <= COMPUTED_AS_ONE * max(a[0], b[0]) and bool(np.array_equal(a[1], b[1]))
