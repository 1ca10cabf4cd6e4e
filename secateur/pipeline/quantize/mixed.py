"""Mixed precision: which layers go to eight bits, which to half precision, and which stay in float32."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from jaxtyping import Int64

from secateur.artifacts import Exported, LayerPrecision
from secateur.errors import BudgetError, ExportError
from secateur.pipeline.allocation.knapsack import solve_knapsack
from secateur.pipeline.quantize.calibrated import Calibrated
from secateur.pipeline.quantize.graph import Graph
from secateur.pipeline.quantize.half import Errors, halved
from secateur.pipeline.quantize.placement import TARGETS, Placement
from secateur.pipeline.quantize.quantize import Quantize
from secateur.pipeline.quantize.rewrite import layer_weights, rewritten
from secateur.pipeline.quantize.running import Samples

PRECISIONS: dict[str, float] = {
    "float32": 4, "float16": 2, "int8": 1, "int6": 0.75, "int5": 0.625, "int4": 0.5, "int3": 0.375, "int2": 0.25,
}  # fmt: skip
"""What a layer may be in, and the bytes of a weight: those of integers below eight bits are of packed files."""
EXECUTED = ("float32", "float16", "int8")
"""Those that runtimes compute in."""
RESOLUTION = 20_000
Latencies = Callable[[Calibrated, Sequence[str]], Mapping[str, Mapping[str, float]]]
"""Returns the seconds of every layer, by its name, in float32 and the precisions named."""


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Choice of a precision for every layer, as a multiple-choice knapsack of measured noise and cost.

    Exactly one budget is given. ``bytes``: the fraction of the layers' float32 bytes that may stay. ``latency``: the
    fraction of the layers' float32 latency, which needs ``latencies``. ``signal_to_noise_db``: what the outputs must
    keep; the cost, bytes or latency where latencies are given, is then least. ``int8`` is what the quantisation's own
    ``weight_bits`` are, fewer bits are those of a layer's weights; all activations have eight. ``decreasing``: no layer
    has more bytes a weight than one before it in the graph's order, as later layers need less (Chu et al. 2019, arXiv
    1912.12656).
    """

    bytes: float | None = None
    latency: float | None = None
    signal_to_noise_db: float | None = None
    precisions: tuple[str, ...] = EXECUTED
    decreasing: bool = False

    def __post_init__(self) -> None:
        given = [value for value in (self.bytes, self.latency, self.signal_to_noise_db) if value is not None]
        if len(given) != 1:
            raise BudgetError(
                "mixed precision", f"{len(given)} budgets", "one of bytes, latency, signal_to_noise_db", "Give one."
            )
        if unknown := set(self.precisions) - set(PRECISIONS) or not self.precisions:
            raise BudgetError(
                "mixed precision, precisions", f"{unknown or 'none'}", f"some of {list(PRECISIONS)}", "Name these."
            )

    def __call__(
        self,
        source: Exported | Path,
        samples: Samples,
        quantize: Quantize,
        latencies: Latencies | None = None,
    ) -> tuple[Quantize, tuple[LayerPrecision, ...]]:
        """Return settings that quantise with the precisions chosen, and what was measured of each layer.

        A layer's noise is what its own rounding adds to the outputs, all others in float32; noises of layers are taken
        to add up. Layers that ``quantize`` skips stay in float32.

        Args:
            source: the float32 file.
            samples: calibration samples.
            quantize: calibrator and target; corrections are left to the quantisation that follows.
            latencies: times every layer in float32 and the precisions; without it bytes are what a layer costs.

        Raises:
            BudgetError: the cheapest precisions exceed the budget, all layers keep it in float32, or there are no
                latencies for one.
            ExportError: the latency of a layer is missing.
        """
        calibrated = replace(quantize, corrections=(), half=()).calibrate(source, samples)
        layers = calibrated.placement.layers
        noise = self._noises(calibrated, samples)
        if self.latency is not None and latencies is None:
            raise BudgetError("mixed precision", "no latencies", "those of every layer", "Measure the layers.")
        measured = None if latencies is None else latencies(calibrated, self.precisions)
        costs = [self._costs(calibrated.graph, node, measured) for node in layers]
        cost = np.array([[own[p] for p in self.precisions] for own in costs])
        options = self._chosen(noise, cost, sum(own["float32"] for own in costs))
        table = tuple(
            LayerPrecision(
                name=node.name, precision=self.precisions[option],
                noise_db={p: _decibels(value) for p, value in zip(self.precisions, noise[index], strict=True)},
                cost={p: float(value) for p, value in zip(self.precisions, cost[index], strict=True)},
            )
            for index, (node, option) in enumerate(zip(layers, options, strict=True))
        )  # fmt: skip
        if not any(row.precision != "float32" for row in table):
            raise BudgetError(
                "mixed precision",
                "every layer in float32 within the budget, and no other choice better",
                "a budget that asks for less, or layers that cost less in another precision",
                "Narrow it, or leave the network in float32.",
            )
        by = {p: tuple(row.name for row in table if row.precision == p) for p in PRECISIONS}
        bits = {name: _bits(p) for p, names in by.items() if _bits(p) for name in names}
        return replace(
            quantize,
            skip=(*quantize.skip, *by["float32"]),
            half=by["float16"],
            layer_bits={**quantize.layer_bits, **bits},
        ), table

    def _noises(self, calibrated: Calibrated, samples: Samples) -> np.ndarray:
        """Return the noise over the signal of every layer and precision, [layer, precision]."""
        errors = Errors(calibrated.graph, samples)
        return np.array([
            [0.0 if p == "float32" else errors.of(_alone(calibrated, node, p)) ** 2 for p in self.precisions]
            for node in calibrated.placement.layers
        ])  # fmt: skip

    def _costs(
        self, graph: Graph, node: onnx.NodeProto, latencies: Mapping[str, Mapping[str, float]] | None
    ) -> Mapping[str, float]:
        """Return what a layer costs in float32 and in each precision that may be chosen."""
        if latencies is None:
            size = math.prod(graph.constants[node.input[1]].dims)
            return {precision: float(size * width) for precision, width in PRECISIONS.items()}
        own = latencies.get(node.name, {})
        if missing := {"float32", *self.precisions} - set(own):
            raise ExportError(
                f"mixed precision, layer {node.name}", f"no latency in {sorted(missing)}",
                f"one in float32 and each of {list(self.precisions)}", "Measure all layers.",
            )  # fmt: skip
        return own

    def _chosen(self, noise: np.ndarray, cost: np.ndarray, whole: float) -> list[int]:
        """Solve the knapsack: least noise within the cost, or least cost within the noise."""
        if self.signal_to_noise_db is not None:
            price, worth, capacity = noise, cost, 10 ** (-self.signal_to_noise_db / 10)
        else:
            fraction = self.bytes if self.bytes is not None else self.latency
            price, worth, capacity = cost, noise, float(fraction or 0.0) * whole
        worth = np.where(np.isfinite(worth), worth, 1e30)
        least = price.min(1).sum()
        if least > capacity:
            raise BudgetError(
                "mixed precision", f"at least {least:.4g} with the cheapest precisions", f"at most {capacity:.4g}",
                "Allow more precisions, or a wider budget.",
            )  # fmt: skip
        best = worth.argmin(1)
        widths = np.array([PRECISIONS[p] for p in self.precisions])
        ordered = not self.decreasing or bool((np.diff(widths[best]) <= 0).all())
        if ordered and np.take_along_axis(price, best[:, None], 1).sum() <= capacity:
            return [int(option) for option in best]
        # Prices in whole numbers, rounded up, so that what is chosen is within the budget.
        unit = max(capacity, 1e-300) / RESOLUTION
        bounded = np.minimum(np.ceil(price / unit), 4.0 * RESOLUTION * len(price)).astype(np.int64)
        if self.decreasing:
            return falling(bounded, worth, widths)
        if bounded.min(1).sum() > RESOLUTION:
            return [int(option) for option in price.argmin(1)]
        return solve_knapsack(list(bounded), list(-worth / worth.max(initial=1e-300)), RESOLUTION, RESOLUTION)


def _alone(calibrated: Calibrated, node: onnx.NodeProto, precision: str) -> onnx.ModelProto:
    """Return the graph with one layer rounded, its input and its weights."""
    graph, output, given = calibrated.graph, node.output[0], node.input[0]
    if precision == "float16":
        return halved(graph, [output], "float16", emulate=True)
    weights = calibrated.weights[output]
    if bits := _bits(precision):
        weights = layer_weights(graph, node, calibrated.steps[calibrated.placement.scales[given]].scale, bits)
    alone = Placement(layers=(node,), scales={given: given}, sources={}, left={})
    steps = {given: calibrated.steps[calibrated.placement.scales[given]]}
    return rewritten(graph, alone, steps, TARGETS[calibrated.target], {output: weights})


def _bits(precision: str) -> int:
    """Return the bits of weights of fewer than eight; 0 for all else."""
    return int(precision.removeprefix("int")) if precision.startswith("int") and precision != "int8" else 0


def falling(price: Int64[np.ndarray, "layer option"], worth: np.ndarray, widths: np.ndarray) -> list[int]:
    """Return an option a layer of least worth within `RESOLUTION`, none wider than the one before.

    Dynamic programming over what is spent and the option taken last.
    """
    order = np.argsort(widths)[::-1]
    price, worth = price[:, order], worth[:, order]
    num_layers, num_options = price.shape
    best = np.zeros((num_options, RESOLUTION + 1))
    best[1:] = np.inf
    before = np.zeros((num_layers, num_options, RESOLUTION + 1), dtype=np.int8)
    for layer in range(num_layers):
        # The least of all options that are as wide or wider, and which it is.
        least, which = best[0].copy(), np.zeros(RESOLUTION + 1, dtype=np.int8)
        found = np.full_like(best, np.inf)
        for option in range(num_options):
            better = best[option] < least
            least[better], which[better] = best[option][better], option
            units = int(price[layer, option])
            if units <= RESOLUTION:
                found[option, units:] = least[: RESOLUTION + 1 - units] + worth[layer, option]
                before[layer, option, units:] = which[: RESOLUTION + 1 - units]
        best = found
    option, spent, chosen = int(best[:, -1].argmin()), RESOLUTION, []
    if not np.isfinite(best[option, -1]):
        raise BudgetError(
            "mixed precision, decreasing", "no falling choice within the budget", "one that fits",
            "Allow narrower precisions, or a wider budget.",
        )  # fmt: skip
    for layer in reversed(range(num_layers)):
        chosen.append(int(order[option]))
        option, spent = int(before[layer, option, spent]), spent - int(price[layer, option])
    return chosen[::-1]


def _decibels(ratio: float) -> float:
    return -10 * math.log10(ratio) if ratio > 0 else math.inf
