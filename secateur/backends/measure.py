"""The stopwatch: call an engine until its speed is steady, then time calls one by one."""

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from secateur.artifacts import LatencySummary
from secateur.backends.protocol import Engine
from secateur.backends.statistics import summarise

Call = Callable[[], object]


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
class Stopwatch:
    """Time one engine: warm up, then call for ``duration_s`` and at least ``least_calls`` times.

    The calls follow one another and each waits for its outputs, so this is the latency of a single client. One instance
    of one engine says little about another's: to compare two, use `secateur.backends.compare`.
    """

    duration_s: float = 3.0
    least_calls: int = 64
    warm_up: WarmUp = field(default_factory=WarmUp)
    clock: Clock = field(default_factory=PerformanceCounter)

    def time(self, engine: Engine, inputs: tuple[np.ndarray, ...]) -> LatencySummary:
        """Return the latency distribution; the batch size is the first input's first axis."""

        def call() -> object:
            return engine.run(inputs)

        warm = self.warm_up.run(call, self.clock)
        count = max(self.least_calls, math.ceil(self.duration_s / max(warm.call_s, self.clock.tick_s)))
        return summarise(time_calls(call, count, self.clock), batch_size=inputs[0].shape[0])


STOPWATCH = Stopwatch()


def measure(engine: Engine, inputs: tuple[np.ndarray, ...], *, stopwatch: Stopwatch = STOPWATCH) -> LatencySummary:
    """Time a loaded engine on inputs, batch axis first, and return its latency distribution in seconds."""
    return stopwatch.time(engine, inputs)
