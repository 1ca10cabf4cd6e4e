"""Post-training quantisation: an ONNX file in, the same network with eight-bit weights and activations out."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from secateur.artifacts import Exported, QuantizedActivation, QuantizedLayer, QuantizeResult
from secateur.calibration.ranges import Seen, Tensors, collect_ranges
from secateur.errors import ExportError
from secateur.onnx_reading import read_onnx
from secateur.pipeline.quantize.calibrated import Calibrated
from secateur.pipeline.quantize.calibrators import CALIBRATORS
from secateur.pipeline.quantize.corrections import CORRECTIONS, Correction
from secateur.pipeline.quantize.described import compared, described
from secateur.pipeline.quantize.graph import Graph
from secateur.pipeline.quantize.half import halved
from secateur.pipeline.quantize.lint import lint
from secateur.pipeline.quantize.placement import TARGETS, Placement, Target, place, require_layers
from secateur.pipeline.quantize.rewrite import layer_weights, rewritten
from secateur.pipeline.quantize.running import Running, Samples, arrays, digest
from secateur.pipeline.quantize.weights import Weights
from secateur.storage import write

WEIGHT_BITS = range(2, 9)
FLOAT8_OPSET = 19
"""The operator set from which tensors are rounded to floats of eight bits."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A quantised file, described as every exported file is, and how it was quantised."""

    exported: Exported
    result: QuantizeResult


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Post-training quantisation of an ONNX file.

    ``target`` says for which runtimes tensors are rounded, see `TARGETS`: "tensorrt" rounds activations to int8 around
    zero, which every runtime can read, "tensorrt_float8" to floats of eight bits, and "cpu" to uint8 with a zero point,
    in the places that ONNX Runtime and OpenVINO want them. ``weight_bits`` is 7 where a processor without VNNI sums
    pairs of products in 16 bits, which 8-bit weights overflow; weights of fewer bits are kept in int8 too, and take
    less room packed; floats have eight always. ``layer_bits`` has those of single layers, or modules of them. ``skip``
    names layers that stay in float32, ``half`` those that are computed in float16.
    """

    target: str = "tensorrt"
    calibrator: str = "mse"
    corrections: Sequence[str] = ("bias",)
    weight_bits: int = 8
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    skip: Sequence[str] = ()
    half: Sequence[str] = ()

    def __post_init__(self) -> None:
        _require("target", self.target, TARGETS)
        _require("calibrator", self.calibrator, CALIBRATORS)
        for name in self.corrections:
            _require("corrections", name, CORRECTIONS)
        for name, bits in {"weight_bits": self.weight_bits, **self.layer_bits}.items():
            if bits not in WEIGHT_BITS:
                raise ExportError(f"quantisation, {name}", f"{bits} bits", "2 to 8", "Choose one of these.")
        if not TARGETS[self.target].weights.integral and (self.layer_bits or "adaround" in self.corrections):
            raise ExportError(
                "quantisation", f"the target {self.target} with bits of layers or adaround, which are of integers",
                "floats of eight bits everywhere", "Leave these out, or choose the target tensorrt.",
            )  # fmt: skip

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
            BackendError: the file cannot be read, or ONNX Runtime is absent or refuses it.
        """
        return self.write(self.correct(self.calibrate(source, samples), samples), samples, folder, name=name)

    def correct(self, calibrated: Calibrated, samples: Samples) -> Calibrated:
        """Make the corrections that need the rounded network, of integers and of biases."""
        graph, placement, weights = calibrated.graph, calibrated.placement, dict(calibrated.weights)
        target = TARGETS[self.target]

        def rounded(layers: Mapping[str, Weights]) -> onnx.ModelProto:
            return rewritten(graph, placement, calibrated.steps, target, layers)

        for correction in self._corrections:
            if correction.rounding is not None:
                weights = correction.rounding(graph, placement.layers, weights, rounded, samples)
            if correction.after is not None:
                graph = correction.after(graph, rounded(weights), placement.layers, samples)
                placement = place(graph, target, self.skip, self.half)
        return replace(calibrated, graph=graph, placement=placement, weights=weights)

    def write(self, calibrated: Calibrated, samples: Samples, folder: Path, *, name: str) -> Quantized:
        """Write ``folder/name.onnx`` as it was decided; arguments and errors are those of the call."""
        original, graph, placement = calibrated.original, calibrated.graph, calibrated.placement
        ranges, steps, weights = calibrated.ranges, calibrated.steps, calibrated.weights
        quantized = rewritten(graph, placement, steps, TARGETS[self.target], weights)
        if self.half:
            quantized = _with_halves(graph, quantized, self.half)
        onnx.checker.check_model(quantized, full_check=True)
        num_samples, samples_sha256 = digest(original.proto, samples)
        parity, signal_to_noise = compared(original.proto, quantized, samples)
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
        path = folder / f"{name}.onnx"
        write(path, content)
        return Quantized(exported=Exported(path=path, result=described(path, content, parity)), result=result)

    def calibrate(self, source: Exported | Path, samples: Samples) -> Calibrated:
        """Look at the samples; errors are those of the call."""
        target = TARGETS[self.target]
        graph = original = Graph(proto=_read(source.path if isinstance(source, Exported) else source, target))
        for correction in self._corrections:
            graph = graph if correction.before is None else correction.before(graph)
        placement = place(graph, target, self.skip, self.half)
        require_layers(graph, list(self.layer_bits), "names with bits of their own")
        seen = _seen(graph, placement, samples)
        ranges = {scale: CALIBRATORS[self.calibrator](values, target.grid) for scale, values in seen.items()}
        steps = {scale: target.grid.steps(chosen) for scale, chosen in ranges.items()}
        weights = {
            node.output[0]: layer_weights(
                graph, node, steps[placement.scales[node.input[0]]].scale, self._bits(graph, node), target.weights
            )
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

    def _bits(self, graph: Graph, node: onnx.NodeProto) -> int:
        return next((self.layer_bits[name] for name in graph.names(node) if name in self.layer_bits), self.weight_bits)

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
    return QuantizedLayer(
        name=node.name, operator=node.op_type, weight_bits=weights.bits, weight_error=error / size if size else 0.0
    )


def _require(field: str, name: str, table: Collection[str]) -> None:
    if name not in table:
        raise ExportError(f"quantisation, {field}", repr(name), f"one of {sorted(table)}", "Choose one of these.")


def _read(path: Path, target: Target) -> onnx.ModelProto:
    proto = read_onnx(path)
    opset = next((entry.version for entry in proto.opset_import if entry.domain == ""), 0)
    if not target.grid.integral and opset < FLOAT8_OPSET:
        raise ExportError(
            f"quantisation of {path.name}", f"opset {opset}", f"{FLOAT8_OPSET} or more, which has floats of eight bits",
            "Export in a higher opset.",
        )  # fmt: skip
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
