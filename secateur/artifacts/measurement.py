"""What the stopwatch finds, with the machine it was found on."""

from typing import Literal

from pydantic import Field

from secateur.artifacts.practice import Practice
from secateur.artifacts.record import Record
from secateur.artifacts.results import Comparison, Interval, LatencySummary, Machine, Parity


class OnDevice(Record):
    """What a call was to the CUDA device that it ran on.

    ``upload``, ``compute`` and ``download`` are between events that the device itself stamps: inputs to it, the work,
    outputs back. ``energy_j`` is a call's share of what the whole card used while calls were timed, ``used_bytes`` the
    card's memory in use after them, by whatever process; None where the driver does not tell.
    """

    upload: LatencySummary
    compute: LatencySummary
    download: LatencySummary
    energy_j: float | None = None
    used_bytes: int | None = None


class Measurement(Record):
    """The latency of one engine instance, call by call, in seconds.

    ``samples_s`` keeps every timed call in order. ``median`` has the interval that the stopping rule looked at;
    ``stopped_by`` is what ended it. ``energy_j`` is a call's share of what the processor packages used meanwhile, with
    whatever else ran on them; None where the machine does not tell. ``peak_memory_bytes`` is the most memory that the
    measuring process has had resident. ``device`` is there for engines on a CUDA device. ``num_threads`` are the
    engine's, where they were told.
    """

    batch_size: int
    num_threads: int | None = None
    latency: LatencySummary
    median: Interval
    samples_s: tuple[float, ...]
    warm_up_s: float
    steady: bool
    stopped_by: Literal["width", "time"]
    duration_s: float
    energy_j: float | None
    peak_memory_bytes: int
    device: OnDevice | None = None
    machine: Machine


class Cold(Record):
    """What starting costs, one value a fresh process, in order.

    ``load_s`` is from the file to a loaded engine, ``first_s`` the first call, ``memory_bytes`` by how much loading and
    calling raised the process's resident memory. Where ``flushed``, the engine's file was first dropped from
    the page cache.
    """

    load_s: tuple[float, ...]
    first_s: tuple[float, ...]
    memory_bytes: tuple[int, ...]
    flushed: bool


class Clients(Record):
    """Several clients at once, each with an engine instance of its own and its next call after the last one's outputs.

    ``throughput_per_s`` counts the samples of all clients over the time in which all of them were calling.
    """

    num_clients: int
    latency: LatencySummary
    throughput_per_s: float


class BenchCell(Record):
    """One batch size and number of threads: the comparison, and what else was asked for, by side."""

    comparison: Comparison
    parity: dict[str, Parity]
    practice: Practice | None = None
    cold: dict[str, Cold] = Field(default_factory=dict)
    clients: dict[str, tuple[Clients, ...]] = Field(default_factory=dict)
