"""Put costs, roofline and profile of two networks beside each other, and say where the promise went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from secateur.artifacts import Comparison, EngineResult, LayerPractice, NetworkPractice, Practice, Roofline
from secateur.backends.onnx_file import random_inputs, read_inputs
from secateur.backends.practice.alignment import Alignment
from secateur.backends.practice.costs import LAYERS, Cost, Graph, costs
from secateur.backends.practice.findings import find
from secateur.backends.practice.probe import Probe
from secateur.backends.practice.profile import Kernel, profile
from secateur.backends.protocol import Backend, Progress, unheard


@dataclass(frozen=True, kw_only=True)
class Examined:
    """An ONNX file with the engine that was built of it into a folder."""

    file: Path
    engine: EngineResult
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Examine:
    """How theory is held against practice.

    Layers that take less than ``worth`` of the call are not tried at neighbouring widths, nor more than ``most_tried``.
    """

    backend: Backend
    probe: Probe
    batch_size: int = 1
    num_threads: int = 1
    sizes: Mapping[str, int] = field(default_factory=dict)
    num_calls: int = 30
    worth: float = 0.02
    most_tried: int = 8
    seed: int = 0

    def __call__(
        self, before: Examined, after: Examined, *, comparison: Comparison, progress: Progress = unheard
    ) -> Practice:
        """Examine two networks of one interface.

        Args:
            before: the uncompressed network, a comparison's baseline.
            after: the compressed one, its candidate.
            comparison: how fast they are, on the same backend and inputs.
            progress: hears of probes and trials.

        Raises:
            BackendError: a file cannot be read or run.
            StorageError: the kept roofline is damaged or cannot be written.
        """
        roofline = self.probe.roofline(progress)
        graphs = [Graph(one.file, self.batch_size, self.sizes) for one in (before, after)]
        paid = [costs(graph) for graph in graphs]
        medians_s = comparison.baseline.p50_s, comparison.candidate.p50_s
        networks = [
            self._network(one, graph, cost, roofline, call_s)
            for one, graph, cost, call_s in zip((before, after), graphs, paid, medians_s, strict=True)
        ]
        speedup = comparison.speedup.value
        alignment = Alignment(
            backend=self.backend, batch_size=self.batch_size, num_threads=self.num_threads, worth=self.worth,
            most=self.most_tried,
        )  # fmt: skip
        tried = alignment.tried(networks[0], networks[1], {cost.name: cost for cost in paid[1]}, progress)
        return Practice(
            backend=self.backend.name, batch_size=self.batch_size, num_threads=self.num_threads, roofline=roofline,
            before=networks[0], after=networks[1], speedup=speedup,
            findings=find(self.backend, roofline, networks[0], networks[1], speedup, tried),
        )  # fmt: skip

    def _network(
        self, one: Examined, graph: Graph, paid: Sequence[Cost], roofline: Roofline, call_s: float
    ) -> NetworkPractice:
        inputs = random_inputs(read_inputs(one.file), self.batch_size, self.seed, self.sizes)
        with self.backend.load(one.engine, one.folder, num_threads=self.num_threads) as engine:
            profiled = profile(self.backend.name, engine, inputs, num_calls=self.num_calls)
        owned, reformat_s, other_s = assigned(profiled.kernels, graph, paid)
        working_set = sum(cost.weight_bytes for cost in paid) + max(
            (cost.num_bytes - cost.weight_bytes for cost in paid), default=0
        )
        bandwidth, num_nodes = roofline.bandwidth(working_set), len(profiled.kernels) or len(paid)
        layers = []
        for cost in paid:
            if cost.operator not in LAYERS:
                continue
            predicted, bound = roofline.predicted(cost.macs, cost.num_bytes, working_set)
            ran = owned.get(cost.node or cost.tensor, [])
            layers.append(
                LayerPractice(
                    name=cost.name, operator=cost.operator, inputs=cost.inputs, outputs=cost.outputs, macs=cost.macs,
                    num_bytes=cost.num_bytes, predicted_s=predicted, bound=bound,
                    measured_s=sum(kernel.seconds for kernel in ran) if ran else None,
                    provider=", ".join(sorted({kernel.provider for kernel in ran})),
                )
            )  # fmt: skip
        least = sum(max(cost.macs / roofline.macs_per_s, cost.num_bytes / bandwidth) for cost in paid)
        return NetworkPractice(
            layers=tuple(layers), num_nodes=num_nodes, macs=sum(cost.macs for cost in paid),
            num_bytes=sum(cost.num_bytes for cost in paid), call_s=call_s, reformat_s=reformat_s, other_s=other_s,
            predicted_s=roofline.call_s + least + roofline.node_s * num_nodes, overhead_s=profiled.overhead_s,
            working_set=working_set,
        )  # fmt: skip


def assigned(
    kernels: Sequence[Kernel], graph: Graph, paid: Sequence[Cost]
) -> tuple[dict[str, list[Kernel]], float, float]:
    """Give kernels to the layers they compute; return them by node, and the seconds of reformatting and of all else.

    Runtimes name a kernel by the node or by the tensor that it ends with. From there the layer is looked for backwards
    through the graph, past what was fused into it, and one that no other kernel has yet is preferred.
    """
    layers = {cost.node or cost.tensor for cost in paid if cost.operator in LAYERS}
    nodes = {node.name: node for node in graph.nodes if node.name}
    owned: dict[str, list[Kernel]] = {}
    reformat_s = other_s = 0.0
    for kernel in kernels:
        if kernel.reformats:
            reformat_s += kernel.seconds
            continue
        found = None
        if any(word in kernel.operator for word in ("Conv", "MatMul", "Gemm", "FullyConnected", "Deconvolution")):
            starts = [nodes.get(name) or graph.producers.get(name) for name in kernel.names]
            behind = [at for start in starts if start is not None for at in _back(start, graph, layers, owned)]
            found = behind[0] if behind else None
        if found is None:
            other_s += kernel.seconds
        else:
            owned.setdefault(found, []).append(kernel)
    return owned, reformat_s, other_s


def _back(start: onnx.NodeProto, graph: Graph, layers: set[str], owned: Mapping[str, object]) -> list[str]:
    """Return the layers that lie closest behind a node, those without a kernel first."""
    level, seen = [start], {id(start)}
    found: list[str] = []
    while level and not found:
        found = [key for node in level if (key := node.name or node.output[0]) in layers]
        before = [graph.producers[name] for node in level for name in node.input if name in graph.producers]
        level = [node for node in before if id(node) not in seen]
        seen |= {id(node) for node in level}
    return sorted(found, key=lambda key: key in owned)
