"""The stopwatch: call an engine until its speed is steady, then time calls one by one."""

import contextlib
import gc
import math
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from secateur.artifacts import Measurement, OnDevice
from secateur.backends.device_time import device_times, on_device
from secateur.backends.energy import EnergyCounter
from secateur.backends.machine import machine_facts
from secateur.backends.nvml import first_gpu
from secateur.backends.protocol import Engine
from secateur.backends.statistics import summarise
from secateur.backends.stopping import Stopping, median_of_calls

Call = Callable[[], object]

MOST_AT_ONCE = 100_000
"""Calls between two looks at the stopping rule."""


@runtime_checkable
class Clock(Protocol):
    """A clock that never runs backwards."""

    @property
    def tick_s(self) -> float:
        """The smallest difference it can show, in seconds."""

    def now(self) -> float:
        """Tell the time in seconds since some moment."""


@dataclass(frozen=True, kw_only=True)
class PerformanceCounter:
    """The operating system's finest clock."""

    @property
    def tick_s(self) -> float:
        """The clock's resolution as the system states it."""
        return time.get_clock_info("perf_counter").resolution

    def now(self) -> float:
        """Tell the time in seconds."""
        return time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class Warm:
    """How a warm-up ended: seconds a call at the end, seconds it took, and whether the speed was steady."""

    call_s: float
    duration_s: float
    steady: bool


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """Call until at least ``least_s`` have passed and the medians of the last three windows agree, or ``most_s`` have.

    A window is ``window_s`` of calls, at least one; medians agree when they differ by no more than ``agreement``,
    relatively.
    """

    least_s: float = 0.2
    most_s: float = 10.0
    window_s: float = 0.05
    agreement: float = 0.02

    def run(self, call: Call, clock: Clock) -> Warm:
        """Call until the speed is steady or the time is up."""
        started = clock.now()
        medians: list[float] = []
        steady = False
        while not steady or clock.now() - started < self.least_s:
            if medians and clock.now() - started >= self.most_s:
                break
            medians.append(float(np.median(self._window(call, clock))))
            last = medians[-3:]
            steady = len(last) == 3 and max(last) <= min(last) * (1 + self.agreement)
        return Warm(call_s=medians[-1], duration_s=clock.now() - started, steady=steady)

    def _window(self, call: Call, clock: Clock) -> list[float]:
        times: list[float] = []
        while sum(times) < self.window_s:
            times.extend(time_calls(call, max(1, len(times)), clock))
        return times


def time_calls(call: Call, count: int, clock: Clock) -> Float[np.ndarray, " calls"]:
    """Time single calls, in seconds, with Python's garbage collection held back."""
    stamps = np.empty(count + 1)
    with _no_collection():
        stamps[0] = clock.now()
        for index in range(count):
            call()
            stamps[index + 1] = clock.now()
    return np.diff(stamps)


def calls_per_block(call_s: float, block_s: float, clock: Clock) -> int:
    """Count the calls that fill a block: as long as ``block_s`` and a thousand of the clock's ticks."""
    return max(1, math.ceil(max(block_s, 1_000 * clock.tick_s) / max(call_s, clock.tick_s)))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Calls one by one, in seconds and in order, how the warm-up before them went and what ended them."""

    samples_s: Float[np.ndarray, " calls"]
    warm: Warm
    stopped_by: Literal["width", "time"]
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Stopwatch:
    """Time one engine: warm up, then call until the stopping rule is content.

    The calls follow one another and each waits for its outputs, so this is the latency of a single client. One instance
    of one engine says little about another's: to compare two, use `secateur.backends.compare`.
    """

    stopping: Stopping = field(default_factory=Stopping)
    warm_up: WarmUp = field(default_factory=WarmUp)
    clock: Clock = field(default_factory=PerformanceCounter)

    def time(self, call: Call) -> Timed:
        """Time calls; the rule is asked ever more rarely, so that asking costs little however long it takes."""
        warm = self.warm_up.run(call, self.clock)
        call_s = max(warm.call_s, self.clock.tick_s)
        rule = self.stopping
        count = max(rule.least_calls, min(math.ceil(rule.least_s / call_s), MOST_AT_ONCE))
        timed: list[np.ndarray] = []
        started = self.clock.now()
        while True:
            count = max(1, min(count, math.ceil((rule.most_s - (self.clock.now() - started)) / call_s)))
            timed.append(time_calls(call, count, self.clock))
            samples, passed_s = np.concatenate(timed), self.clock.now() - started
            if (reason := rule.reason(samples, passed_s)) is not None:
                return Timed(samples_s=samples, warm=warm, stopped_by=reason, duration_s=passed_s)
            count = min(MOST_AT_ONCE, max(1, len(samples) // 4))


STOPWATCH = Stopwatch()
BRIEF = Stopwatch(
    stopping=Stopping(half_width=0.01, least_calls=16, least_s=0.05, most_s=0.5),
    warm_up=WarmUp(least_s=0.02, most_s=0.5, window_s=0.01, agreement=0.05),
)
"""For many small things, one after the other."""


DEVICE_CALLS = 200
"""Calls at most that are timed between events on the device, after those that the host times."""


def measure(
    engine: Engine,
    inputs: tuple[np.ndarray, ...],
    *,
    num_threads: int | None = None,
    stopwatch: Stopwatch = STOPWATCH,
) -> Measurement:
    """Time a loaded engine on inputs, batch axis first; the batch size is the first input's first axis.

    An engine on a CUDA device is timed a second time between events on the device, see `Measurement.device`.

    Args:
        engine: what is timed.
        inputs: what it is called on.
        num_threads: what the result says about the engine's threads.
        stopwatch: how it is timed.

    Raises:
        BackendError: the engine refuses the inputs.
    """
    load_before = os.getloadavg()[0]
    counter = EnergyCounter()
    gpu = first_gpu() if on_device(engine) else None
    before, started = counter.read(), stopwatch.clock.now()
    gpu_before = None if gpu is None else gpu.energy_j()
    timed = stopwatch.time(lambda: engine.run(inputs))
    joules, passed_s = counter.since(before), stopwatch.clock.now() - started
    gpu_after = None if gpu is None else gpu.energy_j()
    batch_size = inputs[0].shape[0]
    latency = summarise(timed.samples_s, batch_size=batch_size)
    device = None
    if on_device(engine):
        parts = device_times(engine, inputs, min(DEVICE_CALLS, len(timed.samples_s)))
        upload, compute, download = (summarise(parts[:, part], batch_size) for part in range(3))
        used_j = None if gpu_before is None or gpu_after is None else gpu_after - gpu_before
        device = OnDevice(
            upload=upload, compute=compute, download=download,
            energy_j=None if used_j is None else used_j * latency.mean_s / passed_s,
            used_bytes=None if gpu is None else gpu.used_bytes(),
        )  # fmt: skip
    return Measurement(
        batch_size=batch_size,
        num_threads=num_threads,
        latency=latency,
        median=median_of_calls(timed.samples_s, stopwatch.stopping.confidence),
        samples_s=tuple(timed.samples_s.tolist()),
        warm_up_s=timed.warm.duration_s,
        steady=timed.warm.steady,
        stopped_by=timed.stopped_by,
        duration_s=timed.duration_s,
        energy_j=None if joules is None else joules * latency.mean_s / passed_s,
        peak_memory_bytes=peak_memory_bytes(),
        device=device,
        machine=machine_facts(load_before),
    )


def peak_memory_bytes() -> int:
    """Return the most memory that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
