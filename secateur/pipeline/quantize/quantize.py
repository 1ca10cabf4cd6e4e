"""Post-training quantisation: an ONNX file in, the same network with eight-bit weights and activations out."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from secateur.artifacts import (
    Exported,
    ExportResult,
    Parity,
    QuantizedActivation,
    QuantizedLayer,
    QuantizeResult,
)
from secateur.calibration.ranges import Seen, Tensors, collect_ranges
from secateur.equality import difference
from secateur.errors import ExportError
from secateur.pipeline.quantize.calibrators import CALIBRATORS
from secateur.pipeline.quantize.corrections import CORRECTIONS, Correction
from secateur.pipeline.quantize.graph import Graph
from secateur.pipeline.quantize.grid import Range, Steps
from secateur.pipeline.quantize.half import halved
from secateur.pipeline.quantize.lint import lint
from secateur.pipeline.quantize.placement import TARGETS, Placement, place
from secateur.pipeline.quantize.rewrite import layer_weights, rewritten
from secateur.pipeline.quantize.running import Running, Samples, arrays, digest
from secateur.pipeline.quantize.weights import Weights
from secateur.storage import sha256, write

WEIGHT_BITS = range(2, 9)


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A quantised file, described as every exported file is, and how it was quantised."""

    exported: Exported
    result: QuantizeResult


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A graph with what its samples said: where it is rounded, by which steps, and its weights' nearest integers.

    ``original`` is the graph before corrections.
    """

    original: Graph
    graph: Graph
    target: str
    placement: Placement
    ranges: Mapping[str, Range]
    steps: Mapping[str, Steps]
    weights: Mapping[str, Weights]


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Post-training quantisation of an ONNX file.

    ``target`` says for which runtimes tensors are rounded, see `TARGETS`: "tensorrt" rounds activations to int8 around
    zero, which every runtime can read, "cpu" to uint8 with a zero point, in the places that ONNX Runtime and OpenVINO
    want them. ``weight_bits`` is 7 where a processor without VNNI sums pairs of products in 16 bits, which 8-bit
    weights overflow; weights of fewer bits are kept in int8 too, and take less room packed. ``skip`` names layers, or
    modules of them, that stay in float32, ``half`` those that are computed in float16.
    """

    target: str = "tensorrt"
    calibrator: str = "mse"
    corrections: Sequence[str] = ("bias",)
    weight_bits: int = 8
    skip: Sequence[str] = ()
    half: Sequence[str] = ()

    def __post_init__(self) -> None:
        _require("target", self.target, TARGETS)
        _require("calibrator", self.calibrator, CALIBRATORS)
        for name in self.corrections:
            _require("corrections", name, CORRECTIONS)
        if self.weight_bits not in WEIGHT_BITS:
            raise ExportError("quantisation, weight_bits", str(self.weight_bits), "2 to 8", "Choose one of these.")

    def __call__(self, source: Exported | Path, samples: Samples, folder: Path, *, name: str) -> Quantized:
        """Write ``folder/name.onnx``.

        Args:
            source: the float32 file.
            samples: batches of inputs, each what the network is called with; walked several times, never held.
            folder: where the file goes; made where absent.
            name: the file's name without its ending.

        Raises:
            ExportError: the file holds nothing to quantise, is quantised already, or a name to skip is not in it.
            DataError: there are no samples, or one makes a value that is NaN or infinite.
            StorageError: the file cannot be written.
            BackendError: ONNX Runtime is absent.
        """
        calibrated = self.calibrate(source, samples)
        original, graph, placement = calibrated.original, calibrated.graph, calibrated.placement
        ranges, steps, weights = calibrated.ranges, calibrated.steps, dict(calibrated.weights)
        target = TARGETS[self.target]

        def rounded(layers: Mapping[str, Weights]) -> onnx.ModelProto:
            return rewritten(graph, placement, steps, target, layers)

        for correction in self._corrections:
            if correction.rounding is not None:
                weights = correction.rounding(graph, placement.layers, weights, rounded, samples)
            if correction.after is not None:
                graph = correction.after(graph, rounded(weights), placement.layers, samples)
                placement = place(graph, target, self.skip, self.half)
        quantized = rounded(weights)
        if self.half:
            quantized = _with_halves(graph, quantized, self.half)
        onnx.checker.check_model(quantized, full_check=True)
        num_samples, samples_sha256 = digest(original.proto, samples)
        parity, signal_to_noise = _compared(original.proto, quantized, samples)
        result = QuantizeResult(
            target=self.target,
            calibrator=self.calibrator,
            corrections=tuple(self.corrections),
            weight_bits=self.weight_bits,
            num_samples=num_samples,
            samples_sha256=samples_sha256,
            activations={
                tensor: QuantizedActivation(
                    low=ranges[scale].low, high=ranges[scale].high,
                    scale=steps[scale].scale, zero_point=steps[scale].zero_point,
                )
                for tensor, scale in placement.scales.items()
            },
            layers=tuple(_layer(graph, node, weights[node.output[0]]) for node in placement.layers),
            left=placement.left,
            unfused=lint(quantized, self.target),
            signal_to_noise_db=signal_to_noise,
        )  # fmt: skip
        content = quantized.SerializeToString(deterministic=True)
        written = folder / f"{name}.onnx"
        write(written, content)
        return Quantized(
            exported=Exported(path=written, result=_described(quantized, written, content, parity)), result=result
        )

    def calibrate(self, source: Exported | Path, samples: Samples) -> Calibrated:
        """Look at the samples; errors are those of the call."""
        graph = original = Graph(proto=_read(source.path if isinstance(source, Exported) else source))
        for correction in self._corrections:
            graph = graph if correction.before is None else correction.before(graph)
        target = TARGETS[self.target]
        placement = place(graph, target, self.skip, self.half)
        seen = _seen(graph, placement, samples)
        ranges = {scale: CALIBRATORS[self.calibrator](values, target.grid) for scale, values in seen.items()}
        steps = {scale: target.grid.steps(chosen) for scale, chosen in ranges.items()}
        weights = {
            node.output[0]: layer_weights(graph, node, steps[placement.scales[node.input[0]]].scale, self.weight_bits)
            for node in placement.layers
        }
        return Calibrated(
            original=original,
            graph=graph,
            target=self.target,
            placement=placement,
            ranges=ranges,
            steps=steps,
            weights=weights,
        )

    @property
    def _corrections(self) -> list[Correction]:
        return [correction for name, correction in CORRECTIONS.items() if name in self.corrections]


def quantize(source: Exported | Path, samples: Samples, settings: Quantize | None = None) -> Quantized:
    """Write a quantised file beside an ONNX file, ``<name>_int8.onnx``; see `Quantize` for arguments and errors."""
    path = source.path if isinstance(source, Exported) else source
    return (settings or Quantize())(path, samples, path.parent, name=f"{path.stem}_int8")


def _layer(graph: Graph, node: onnx.NodeProto, weights: Weights) -> QuantizedLayer:
    values = graph.array(node.input[1]).astype(np.float64)
    size = float(np.linalg.norm(values))
    error = float(np.linalg.norm(values - weights.values))
    return QuantizedLayer(name=node.name, operator=node.op_type, weight_error=error / size if size else 0.0)


def _require(field: str, name: str, table: Collection[str]) -> None:
    if name not in table:
        raise ExportError(f"quantisation, {field}", repr(name), f"one of {sorted(table)}", "Choose one of these.")


def _read(path: Path) -> onnx.ModelProto:
    proto = onnx.load(path)
    present = sorted({node.op_type for node in proto.graph.node} & {"QuantizeLinear", "DequantizeLinear"})
    if present:
        raise ExportError(
            f"quantisation of {path.name}", f"{', '.join(present)} in it", "a graph in float32",
            "Quantise the file that was exported.",
        )  # fmt: skip
    return onnx.shape_inference.infer_shapes(proto)


def _with_halves(graph: Graph, quantized: onnx.ModelProto, half: Sequence[str]) -> onnx.ModelProto:
    """Compute the layers of these names in float16."""
    chosen = [
        node.output[0] for node in graph.proto.graph.node if graph.is_layer(node) and set(half) & set(graph.names(node))
    ]
    return halved(Graph(proto=onnx.shape_inference.infer_shapes(quantized)), chosen, "float16")


def _seen(graph: Graph, placement: Placement, samples: Samples) -> dict[str, Seen]:
    """Collect the values of all tensors that share a scale, under its name."""
    running = Running(graph.proto, [name for names in placement.sources.values() for name in names])

    def passes() -> Iterator[Tensors]:
        for inputs in arrays(graph.proto, samples):
            values = running(inputs)
            yield {scale: tuple(values[name] for name in names) for scale, names in placement.sources.items()}

    return collect_ranges(passes) if placement.sources else {}


def _compared(
    original: onnx.ModelProto, quantized: onnx.ModelProto, samples: Samples
) -> tuple[Parity, dict[str, float]]:
    """Measure how far the rounded graph's outputs are from the float32 graph's; nothing is required of them here."""
    outputs = [value.name for value in original.graph.output]
    before, after = Running(original, outputs), Running(quantized, outputs)
    signal, noise = dict.fromkeys(outputs, 0.0), dict.fromkeys(outputs, 0.0)
    absolute = relative = 0.0
    num_batches = 0
    for inputs in arrays(original, samples):
        wanted, found = before(inputs), after(inputs)
        apart = difference([wanted[name] for name in outputs], [found[name] for name in outputs])
        absolute, relative = max(absolute, apart.absolute), max(relative, apart.relative)
        for name in outputs:
            y = wanted[name].astype(np.float64)
            signal[name] += float(np.square(y).sum())
            noise[name] += float(np.square(y - found[name]).sum())
        num_batches += 1
    parity = Parity(
        reference="the float32 file", candidate="the quantised file", num_batches=num_batches,
        worst_absolute=absolute, worst_relative=relative, tolerance=math.inf,
    )  # fmt: skip
    return parity, {name: _decibels(signal[name], noise[name]) for name in outputs}


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _described(proto: onnx.ModelProto, path: Path, content: bytes, parity: Parity) -> ExportResult:
    inputs = [value.type.tensor_type.shape.dim for value in proto.graph.input]
    return ExportResult(
        path=path.name,
        sha256=sha256(content),
        size_bytes=len(content),
        opset=next(entry.version for entry in proto.opset_import if entry.domain == ""),
        input_names=tuple(value.name for value in proto.graph.input),
        output_names=tuple(value.name for value in proto.graph.output),
        input_shapes=tuple(tuple(max(dim.dim_value, 1) for dim in dims) for dims in inputs),
        dynamic_batch=not inputs[0][0].dim_value,
        parity=parity,
    )
