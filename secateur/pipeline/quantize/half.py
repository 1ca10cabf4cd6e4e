"""Half precision: nodes that read, compute and write 16-bit floating-point numbers, and the others as they were."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.version_converter
from onnx import TensorProto, helper, numpy_helper

from secateur.artifacts import Exported, HalveResult
from secateur.errors import ExportError
from secateur.onnx_reading import read_onnx
from secateur.pipeline.quantize.graph import Graph
from secateur.pipeline.quantize.running import Running, Samples, arrays
from secateur.storage import write

HALVES: dict[str, int] = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
BFLOAT16_OPSET = 22
"""The operator set from which convolutions take bfloat16."""
MOVERS = frozenset({"Cast", "Constant", "DequantizeLinear", "QuantizeLinear", "Shape"})
"""Operators that have types of their own."""


@dataclass(frozen=True, kw_only=True)
class Halve:
    """Conversion to half precision, in which what suffers most stays in float32.

    All nodes are converted, and then as few as possible, those first whose own conversion changes the outputs most,
    are given back until the root mean square of the outputs' change is at most ``tolerance`` of that of the outputs.
    ``keep`` names nodes or modules that stay in float32 in any case.
    """

    dtype: str = "float16"
    tolerance: float = 1e-3
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in HALVES:
            raise ExportError("half precision, dtype", repr(self.dtype), f"one of {list(HALVES)}", "Choose one.")

    def __call__(self, source: Exported | Path, samples: Samples, target: Path) -> HalveResult:
        """Write ``target``; its inputs and outputs stay float32.

        Raises:
            ExportError: a node to keep is not in the file, or the tolerance is not even met in float32's place.
            DataError: there are no samples.
            StorageError: the file cannot be written.
        """
        path = source.path if isinstance(source, Exported) else source
        proto = read_onnx(path)
        if self.dtype == "bfloat16" and max(e.version for e in proto.opset_import if e.domain == "") < BFLOAT16_OPSET:
            proto = raised(proto)
        graph = Graph(proto=onnx.shape_inference.infer_shapes(proto))
        named = {name for node in graph.proto.graph.node for name in graph.names(node)}
        if unknown := [name for name in self.keep if name not in named]:
            raise ExportError(
                "half precision", f"{unknown} among the names to keep", f"names of nodes, as {sorted(named)[:5]}",
                "Name nodes or modules of the exported graph.",
            )  # fmt: skip
        able = [node for node in graph.proto.graph.node if convertible(graph, node)]
        chosen = [node.output[0] for node in able if not set(graph.names(node)) & set(self.keep)]
        errors = Errors(graph, samples)
        whole = errors.of(halved(graph, chosen, self.dtype, emulate=True))
        single: dict[str, float] = {}
        given_back: list[str] = []
        error = whole
        if whole > self.tolerance:
            single = {name: errors.of(halved(graph, [name], self.dtype, emulate=True)) for name in chosen}
            ranked = sorted(chosen, key=lambda name: -single[name])
            low, high = 0, len(ranked)
            while low + 1 < high:
                middle = (low + high) // 2
                if errors.of(halved(graph, ranked[middle:], self.dtype, emulate=True)) <= self.tolerance:
                    high = middle
                else:
                    low = middle
            given_back, chosen = ranked[:high], [name for name in chosen if name in set(ranked[high:])]
            error = errors.of(halved(graph, chosen, self.dtype, emulate=True))
        proto = halved(graph, chosen, self.dtype)
        onnx.checker.check_model(proto, full_check=True)
        content = proto.SerializeToString(deterministic=True)
        write(target, content)
        names = {node.output[0]: node.name for node in graph.proto.graph.node}
        return HalveResult(
            path=target.name, dtype=self.dtype, size_bytes=len(content), num_converted=len(chosen),
            kept={names[name]: single[name] for name in given_back}, error_of_all=whole, error=error,
        )  # fmt: skip


class Errors:
    """How far a changed graph's outputs are from the original's, over calibration samples; only outputs are held."""

    def __init__(self, graph: Graph, samples: Samples) -> None:
        self._outputs = [value.name for value in graph.proto.graph.output]
        running = Running(graph.proto, self._outputs)
        self._proto, self._samples = graph.proto, samples
        self._wanted = [running(inputs) for inputs in arrays(graph.proto, samples)]
        self.power = sum(float(np.square(w[n].astype(np.float64)).sum()) for w in self._wanted for n in self._outputs)

    def of(self, proto: onnx.ModelProto) -> float:
        """Return the root mean square of the outputs' change over that of the outputs; infinite for NaN."""
        running, total = Running(proto, self._outputs), 0.0
        for inputs, wanted in zip(arrays(self._proto, self._samples), self._wanted, strict=True):
            found = running(inputs)
            total += sum(float(np.square(found[n].astype(np.float64) - wanted[n]).sum()) for n in self._outputs)
        error = (total / self.power) ** 0.5 if self.power else total**0.5
        return error if np.isfinite(error) else np.inf


def raised(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in the operator set of bfloat16; nodes still tell what modules they come from."""
    found = onnx.version_converter.convert_version(proto, BFLOAT16_OPSET)
    told = {node.output[0]: node.metadata_props for node in proto.graph.node if node.output}
    for node in found.graph.node:
        if node.output and not node.metadata_props:
            node.metadata_props.extend(told.get(node.output[0], ()))
    return found


def convertible(graph: Graph, node: onnx.NodeProto) -> bool:
    """Say whether a node computes float32 numbers from float32 numbers, and nothing else."""
    if node.op_type in MOVERS or node.domain not in ("", "ai.onnx"):
        return False
    return all(_is_float(graph, name) for name in node.output if name) and any(
        _is_float(graph, name) for name in node.input
    )


def halved(graph: Graph, chosen: Collection[str], dtype: str, *, emulate: bool = False) -> onnx.ModelProto:
    """Return the graph with the nodes that write ``chosen`` in half precision.

    Their float32 inputs are cast, constants once and for all, and their outputs cast back for those who read float32.
    With ``emulate`` the nodes compute in float32 what was rounded to half precision, as do runtimes that sum in
    float32, so that every processor can run them.
    """
    proto, kind = onnx.ModelProto(), HALVES[dtype]
    proto.CopyFrom(graph.proto)
    chosen, constants, cast = set(chosen), {}, dict[str, str]()
    nodes: list[onnx.NodeProto] = []

    def rounded(name: str) -> str:
        """Return a tensor in half precision, or what it is rounded to, made where it is first asked for."""
        if name not in cast:
            cast[name] = f"{name}_{dtype}"
            if name in graph.constants:
                held = f"{name}_narrow" if emulate else cast[name]
                constants[held] = _constant(graph.array(name), held, kind)
                if emulate:
                    nodes.append(helper.make_node("Cast", [held], [cast[name]], to=TensorProto.FLOAT))
            elif emulate:
                nodes.append(helper.make_node("Cast", [name], [f"{name}_narrow"], to=kind))
                nodes.append(helper.make_node("Cast", [f"{name}_narrow"], [cast[name]], to=TensorProto.FLOAT))
            else:
                nodes.append(helper.make_node("Cast", [name], [cast[name]], to=kind))
        return cast[name]

    for node in proto.graph.node:
        if not node.output or node.output[0] not in chosen:
            nodes.append(node)
            continue
        node.input[:] = [rounded(name) if _is_float(graph, name) else name for name in node.input]
        nodes.append(node)
        for index, name in enumerate(node.output):
            if not name:
                continue
            if emulate:
                node.output[index] = f"{name}_exact"
                nodes.append(helper.make_node("Cast", [f"{name}_exact"], [f"{name}_narrow"], to=kind))
                nodes.append(helper.make_node("Cast", [f"{name}_narrow"], [name], to=TensorProto.FLOAT))
                cast[name] = name
            else:
                node.output[index] = cast[name] = f"{name}_{dtype}"
                nodes.append(helper.make_node("Cast", [cast[name]], [name], to=TensorProto.FLOAT))
    read = {name for node in nodes for name in node.input} | {value.name for value in proto.graph.output}
    # A cast back that only converted nodes would have read is not needed.
    kept = [node for node in nodes if node.op_type != "Cast" or set(node.output) & read]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    held = [tensor for tensor in proto.graph.initializer if tensor.name in read]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([*held, *constants.values()])
    del proto.graph.value_info[:]
    return proto


def _is_float(graph: Graph, name: str) -> bool:
    if name in graph.constants:
        return graph.constants[name].data_type == TensorProto.FLOAT
    return graph.types.get(name) == TensorProto.FLOAT


def _constant(values: np.ndarray, name: str, kind: int) -> TensorProto:
    """Round a constant to half precision; what is too large becomes the largest."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    return numpy_helper.from_array(values.clip(-largest, largest).astype(dtype), name)
