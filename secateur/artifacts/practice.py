"""Theory beside practice: what every layer costs on paper, on this machine's roofline, and on the stopwatch."""

import math
from typing import Literal

from secateur.artifacts.record import Record
from secateur.artifacts.results import realised_fraction

Bound = Literal["compute", "memory", "launch"]
Loss = Literal["slower", "launch bound", "memory bound", "misaligned", "reformat", "never pruned", "provider"]


class Roofline(Record):
    """What a runtime reaches on this machine, measured: Williams, Waterman and Patterson (2009).

    ``macs_per_s`` is the fastest of large convolutions and a large matrix product. ``bytes_per_s`` are copies that
    touch so many bytes: those of a network that fits into a cache come from there at its next call. ``call_s`` is a
    call that computes nothing, ``node_s`` one more tiny node.
    """

    macs_per_s: float
    bytes_per_s: dict[int, float]
    call_s: float
    node_s: float

    def bandwidth(self, working_set: int) -> float:
        """Return the bytes a second at which a network that touches so many bytes a call is read and written."""
        return self.bytes_per_s[min((s for s in self.bytes_per_s if s >= working_set), default=max(self.bytes_per_s))]

    def predicted(self, macs: int, num_bytes: int, working_set: int) -> tuple[float, Bound]:
        """Return the least seconds that a node can take here, and what bounds them."""
        times: dict[Bound, float] = {
            "compute": macs / self.macs_per_s, "memory": num_bytes / self.bandwidth(working_set), "launch": self.node_s,
        }  # fmt: skip
        bound = max(times, key=lambda name: times[name])
        return max(times["compute"], times["memory"]) + self.node_s, bound

    def ridge(self, working_set: int) -> float:
        """Return the multiply-adds a byte above which computing and not memory bounds a layer."""
        return self.macs_per_s / self.bandwidth(working_set)


class LayerPractice(Record):
    """One layer of one network: widths, costs of a call, what the roofline allows and what it took, in seconds.

    ``measured_s`` is the runtime's own profile, with everything that it fused into the layer; None where the profile
    names no such layer. ``provider`` is what computed it.
    """

    name: str
    operator: str
    inputs: int
    outputs: int
    macs: int
    num_bytes: int
    predicted_s: float
    bound: Bound
    measured_s: float | None
    provider: str = ""

    @property
    def seconds(self) -> float:
        """What it took; what the roofline allows where the profile does not say."""
        return self.predicted_s if self.measured_s is None else self.measured_s

    @property
    def intensity(self) -> float:
        """Multiply-adds a byte."""
        return self.macs / self.num_bytes if self.num_bytes else math.inf

    def realised(self, before: "LayerPractice") -> float | None:
        """Return the share of the multiply-adds' promise that this layer kept; None without a promise or a profile."""
        if not before.measured_s or not self.measured_s or not self.macs:
            return None
        return realised_fraction(before.macs / self.macs, before.measured_s / self.measured_s)


class NetworkPractice(Record):
    """One network: its layers in the order of the graph, and what the call's time went to besides them.

    ``call_s`` is the comparison's median of calls, without profiling. In the profile ``reformat_s`` is what the runtime
    spent on changing memory layouts, ``other_s`` on all further nodes, and ``overhead_s`` on no node at all.
    ``working_set`` is the bytes of all weights and of the largest layer's activations.
    """

    layers: tuple[LayerPractice, ...]
    num_nodes: int
    macs: int
    num_bytes: int
    working_set: int
    predicted_s: float
    call_s: float
    reformat_s: float
    other_s: float
    overhead_s: float

    @property
    def layers_s(self) -> float:
        """Seconds within layers."""
        return sum(layer.measured_s or 0.0 for layer in self.layers)

    @property
    def profiled_s(self) -> float:
        """Seconds of a call with the profiler on; without a profile, of a call."""
        return self.layers_s + self.reformat_s + self.other_s + self.overhead_s or self.call_s


class Finding(Record):
    """Where a promise was lost, the share of the call that is at stake, and what to do, in words."""

    kind: Loss
    layer: str
    share: float
    told: str


class Practice(Record):
    """A network before and after compression on one runtime, and where the promised speed-up went.

    ``realised`` is ln(speed-up) / ln(MAC ratio); ``realised_roofline`` takes the ratio of predicted times instead. Both
    are None without a promise.
    """

    backend: str
    batch_size: int
    num_threads: int
    roofline: Roofline
    before: NetworkPractice
    after: NetworkPractice
    speedup: float
    findings: tuple[Finding, ...]

    @property
    def realised(self) -> float | None:
        """The share of the multiply-adds' promise that came true."""
        return realised_fraction(self.before.macs / max(1, self.after.macs), self.speedup)

    @property
    def realised_roofline(self) -> float | None:
        """The share of the roofline's promise that came true."""
        return realised_fraction(self.before.predicted_s / self.after.predicted_s, self.speedup)
