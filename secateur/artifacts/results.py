"""What the stages find, as records that end up in the run folder and the report."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from secateur.artifacts.channels import Pinned
from secateur.artifacts.interface import OpenSize
from secateur.artifacts.record import Record
from secateur.artifacts.redundancy import DeadRemoval


class PruneRound(Record):
    """One round of pruning: what was asked, what was reached, and the proof that the cut is exact.

    One target is given. ``stopped`` tells that a loss that would have risen too far ended pruning at it. Of the
    saliency the share ``saliency_kept`` stayed, and no allocation could have kept more than ``saliency_bound``: the
    difference is the gap to the best, at most.
    ``compensation`` is what made up for the cut channels: the one that was asked for, or "none" where it did not pay.
    ``removed`` names the residual branches that went whole.
    """

    target_macs: int | None = None
    target_parameters: int | None = None
    target_bytes: int | None = None
    target_latency_s: float | None = None
    stopped: bool = False
    saliency_kept: float = 1.0
    saliency_bound: float = 1.0
    macs: int
    parameters: int
    widths: dict[str, int]
    removed: tuple[str, ...] = ()
    cut_error: float
    compensation: str = "none"
    loss_before: float
    loss_after_cut: float
    loss_after_recovery: float


class PruneResult(Record):
    """The whole of pruning. Widths map every group's name to its number of channels.

    ``dead`` tells of the channels that went before the first round because they did nothing; None where none did.
    """

    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    widths_before: dict[str, int]
    widths_after: dict[str, int]
    floors: dict[str, int]
    blocks: dict[str, str]
    rounds: tuple[PruneRound, ...]
    pinned: tuple[Pinned, ...]
    dead: DeadRemoval | None = None


class FinetuneEpoch(Record):
    """One epoch of fine-tuning. Losses are means over the epoch's samples."""

    epoch: int
    loss: float
    task_loss: float
    distillation_loss: float
    feature_loss: float
    parameter_loss: float = 0.0
    learning_rate: float
    metrics: dict[str, float]


class FinetuneResult(Record):
    """The history of fine-tuning and which epoch's weights were kept."""

    epochs: tuple[FinetuneEpoch, ...]
    best_epoch: int

    @property
    def num_epochs(self) -> int:
        """The number of epochs that were trained; epoch 0 is the network before."""
        return max((row.epoch for row in self.epochs), default=0)


class Interval(Record):
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float
    confidence: float = 0.95


class Evaluation(Record):
    """Metrics of a network on the test set: the mean, and the value of every sample in the set's order.

    ``higher_is_better`` and ``units`` repeat what the task's metrics declare; a metric that is absent there is taken as
    higher-is-better and without unit, as `Metric` itself is by default.
    """

    num_samples: int
    metrics: dict[str, float]
    per_sample: dict[str, tuple[float, ...]]
    higher_is_better: dict[str, bool] = Field(default_factory=dict)
    units: dict[str, str] = Field(default_factory=dict)


class Parity(Record):
    """How far two runtimes' outputs are apart on the same inputs."""

    reference: str
    candidate: str
    num_batches: int
    worst_absolute: float
    worst_relative: float
    tolerance: float


class ExportResult(Record):
    """An ONNX file. ``path`` is relative to the folder it was exported into; the size is that of all its files.

    ``open_sizes`` are those beside the batch's, by name. ``weights`` are files beside it, with their SHA-256, where the
    weights exceed what one file can hold. ``program_sha256`` is that of the exported program beside it, ``.pt2`` in
    place of ``.onnx``, where there is one. ``metric_differences`` are the largest of a test sample between the file and
    the network, by metric, where the task was at hand.
    """

    path: str
    sha256: str
    size_bytes: int
    opset: int
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    dynamic_batch: bool
    open_sizes: dict[str, OpenSize] = Field(default_factory=dict)
    weights: dict[str, str] = Field(default_factory=dict)
    program_sha256: str | None = None
    metric_differences: dict[str, float] = Field(default_factory=dict)
    parity: Parity


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An ONNX file on disk with its description."""

    path: Path
    result: ExportResult


class EngineResult(Record):
    """An engine that was built, or why not: its runtime is absent (skipped) or refused the network (failed).

    ``options`` are the settings that it was built with. ``weights`` are files beside the engine's, with their SHA-256,
    where it is an ONNX file whose weights exceed what one file can hold; the size is that of all.
    """

    backend: str
    backend_version: str
    status: Literal["built", "skipped", "failed"]
    reason: str = ""
    device: str = ""
    options: dict[str, str] = Field(default_factory=dict)
    path: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    weights: dict[str, str] = Field(default_factory=dict)
    build_s: float | None = None
    parity: Parity | None = None


class Machine(Record):
    """The facts about a machine without which a latency means nothing; every measurement and comparison has them.

    Processor, system and versions are required, the rest may be unknown. ``driver`` is the version of NVIDIA's,
    ``gpu_clock_mhz`` the first card's clock when the facts were collected.
    """

    cpu: str
    num_cores: int
    memory_bytes: int
    gpus: tuple[str, ...]
    governor: str
    frequency_mhz: float | None
    driver: str = ""
    gpu_clock_mhz: float | None = None
    load_before: float
    load_after: float
    container: str
    system: str
    versions: dict[str, str]
    commit: str

    @model_validator(mode="after")
    def _known(self) -> "Machine":
        if not self.cpu or not self.system or not self.versions:
            raise ValueError("a machine with processor, system and versions, without which a latency means nothing")
        return self


class LatencySummary(Record):
    """A latency distribution in seconds; percentiles by nearest rank."""

    num_samples: int
    mean_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    coefficient_of_variation: float
    throughput_per_s: float


class Comparison(Record):
    """A paired latency comparison of a baseline and a candidate; the speed-up is baseline over candidate.

    ``samples_s`` keeps every timed block's median in order, by side, by instance: [instance][block]. ``p99`` is the
    99th percentile of the candidate's single calls, in seconds; None where a release did not measure it. ``others`` is
    how many cores other processes kept busy meanwhile, on average; None where the system does not say.
    """

    backend: str
    batch_size: int
    num_threads: int
    num_instances: int
    num_blocks: int
    num_iterations: int
    baseline: LatencySummary
    candidate: LatencySummary
    speedup: Interval
    p99: Interval | None = None
    resolution: float | None
    outcome: Literal["faster", "slower", "equivalent", "unresolved"]
    stopped_by: str
    warnings: tuple[str, ...]
    others: float | None = None
    samples_s: dict[str, tuple[tuple[float, ...], ...]]
    machine: Machine


def realised_fraction(mac_ratio: float, speedup: float) -> float | None:
    """Return ln(measured speed-up) / ln(MAC speed-up): 1 where the whole promise came true; None without a promise."""
    return math.log(speedup) / math.log(mac_ratio) if mac_ratio > 1 else None


class GateResult(Record):
    """One gate's line and what was measured against it; the interval is a point where nothing was sampled."""

    quantity: str
    at_least: float | None
    at_most: float | None
    measured: Interval
    verdict: Literal["pass", "fail", "undecided"]


class Verdict(Record):
    """All gates together: fail if one fails, else undecided if one is, else pass."""

    verdict: Literal["pass", "fail", "undecided"]
    gates: tuple[GateResult, ...]

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 undecided (2 is kept for runs that could not be made)."""
        return {"pass": 0, "fail": 1, "undecided": 3}[self.verdict]
