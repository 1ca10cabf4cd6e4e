"""Paired latency comparison: fresh instances, interleaved blocks, a bootstrap interval, and an honest outcome."""

import math
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from secateur.artifacts import Comparison, Interval
from secateur.backends.device_time import on_device
from secateur.backends.machine import machine_facts
from secateur.backends.measure import Clock, PerformanceCounter, WarmUp, calls_per_block, time_calls
from secateur.backends.nvml import first_gpu
from secateur.backends.protocol import Engine, Progress, unheard
from secateur.backends.statistics import (
    LogInterval,
    cautious_bootstrap,
    instance_bootstrap,
    outcome,
    resolution,
    summarise,
    warnings_about,
)
from secateur.backends.surroundings import Surroundings
from secateur.backends.tail import tail_interval
from secateur.errors import MeasurementError

Load = Callable[[], Engine]
Inputs = tuple[np.ndarray, ...]

BASELINE, CANDIDATE, NULL = "baseline", "candidate", "null"
LEAST_BLOCKS = 4
"""Blocks of an instance below which its median and the drift within it mean nothing."""
WARM_UP_SHARE = 0.25
"""The share of the time that warming up may take."""
BUSY = 0.25
"""Load average per core, before anything was timed, that is worth a warning."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """How a candidate's latency is compared with a baseline's.

    Fresh instances of both are loaded ``num_instances`` times at least, in random order, since two instances of the
    very same engine differ by percents (memory layout, thread placement) for as long as they live. On each pair
    ``num_blocks`` rounds are timed; a round is one block of either, in random order, so that the machine's moods hit
    both alike. A block is so many calls that it lasts ``block_s`` at least, and counts as its median.

    Instances are added until half the width of the log speed-up's `cautious_bootstrap` is ``target`` or the next would
    exceed ``max_s``; never until a difference is significant. The result's interval is `instance_bootstrap`'s. With
    ``null`` a second instance of the baseline takes part in every round, and what it differs by from the first is the
    comparison's resolution. Speed-ups within ``margin``, or within the resolution, do not count as faster or slower;
    speed-ups surely within ``margin`` count as equivalent.
    """

    num_instances: int = 5
    num_blocks: int = 10
    block_s: float = 0.02
    target: float = 0.005
    margin: float = 0.01
    max_s: float = 60.0
    null: bool = True
    confidence: float = 0.95
    num_resamples: int = 10_000
    seed: int = 0
    warm_up: WarmUp = field(default_factory=WarmUp)
    clock: Clock = field(default_factory=PerformanceCounter)

    def __post_init__(self) -> None:
        if self.num_instances < 3 or self.num_blocks < LEAST_BLOCKS:
            raise MeasurementError(
                "comparison", f"{self.num_instances} instances and {self.num_blocks} blocks",
                f"at least 3 instances and {LEAST_BLOCKS} blocks", "Measure more; shorten block_s if time is short.",
            )  # fmt: skip

    def compare(
        self,
        load_baseline: Load,
        load_candidate: Load,
        inputs: Inputs,
        *,
        backend: str,
        num_threads: int,
        progress: Progress = unheard,
    ) -> Comparison:
        """Compare on the same inputs, batch axis first; the speed-up is the baseline's time over the candidate's.

        Args:
            load_baseline: gives a fresh instance of the baseline's engine at every call.
            load_candidate: gives a fresh instance of the candidate's engine at every call.
            inputs: what both are called on.
            backend: what the result says about where this was measured.
            num_threads: what the result says about the engines' threads.
            progress: hears of every instance; the total is the least number of instances, or the present one beyond it.

        Raises:
            MeasurementError: the least measurement takes longer than ``max_s``.
            BackendError: an engine cannot be loaded or run.
        """
        load_before = os.getloadavg()[0]
        surroundings = Surroundings()
        session = _Session(settings=self, loads=self._loads(load_baseline, load_candidate), inputs=inputs)
        while (stopped_by := session.stopped_by()) is None:
            progress("compare", session.num_instances, max(self.num_instances, session.num_instances + 1))
            session.add_instance()
            surroundings.notice(first_gpu() if session.on_device else None)
        progress("compare", session.num_instances, session.num_instances)
        return self._result(session, stopped_by, load_before, surroundings, backend, num_threads)

    def _loads(self, baseline: Load, candidate: Load) -> dict[str, Load]:
        sides = {BASELINE: baseline, CANDIDATE: candidate}
        return {**sides, NULL: baseline} if self.null else sides

    def _result(
        self,
        session: "_Session",
        stopped_by: str,
        load_before: float,
        surroundings: Surroundings,
        backend: str,
        num_threads: int,
    ) -> Comparison:
        ratio = session.log_ratio(CANDIDATE)
        limit = resolution(session.log_ratio(NULL)) if self.null else None
        machine = machine_facts(load_before)
        batch_size = int(session.inputs[0].shape[0])
        medians = {side: session.medians(side) for side in session.loads}
        warnings = [*session.warnings, *surroundings.warnings()]
        for side in (BASELINE, CANDIDATE):
            warnings.extend(warnings_about(side, medians[side]))
        if load_before > BUSY * machine.num_cores:
            warnings.append(
                f"the load average was {load_before:.2f} on {machine.num_cores} cores before the comparison"
            )
        if machine.governor not in ("", "performance"):
            warnings.append(f"the processor's governor is {machine.governor}, not performance")
        return Comparison(
            backend=backend,
            batch_size=batch_size,
            num_threads=num_threads,
            num_instances=session.num_instances,
            num_blocks=session.num_blocks,
            num_iterations=session.num_calls,
            baseline=summarise(session.calls(BASELINE), batch_size),
            candidate=summarise(session.calls(CANDIDATE), batch_size),
            speedup=Interval(
                value=math.exp(ratio.value),
                low=math.exp(ratio.low),
                high=math.exp(ratio.high),
                confidence=self.confidence,
            ),
            p99=tail_interval(session.by_block(CANDIDATE), confidence=self.confidence, seed=self.seed),
            resolution=limit,
            outcome=outcome(ratio, self.margin, limit or 0.0),
            stopped_by=stopped_by,
            warnings=tuple(warnings),
            others=surroundings.others(),
            samples_s={side: tuple(map(tuple, times.tolist())) for side, times in medians.items()},
            machine=machine,
        )


class _Session:
    """A comparison under way: the plan, which the first instance settles, and the times so far."""

    def __init__(self, *, settings: Compare, loads: dict[str, Load], inputs: Inputs) -> None:
        self.settings = settings
        self.loads = loads
        self.inputs = inputs
        self.warnings: list[str] = []
        self.num_blocks = settings.num_blocks
        self.num_calls = 1
        self.on_device = False
        self._generator = np.random.default_rng(settings.seed)
        self._times: dict[str, list[np.ndarray]] = {side: [] for side in loads}
        self._started = settings.clock.now()
        self._longest_s = 0.0
        share = WARM_UP_SHARE * settings.max_s / (len(loads) * settings.num_instances)
        self._warm_up = replace(settings.warm_up, most_s=min(settings.warm_up.most_s, share))

    @property
    def num_instances(self) -> int:
        """Instances of each side that were timed."""
        return len(self._times[BASELINE])

    def calls(self, side: str) -> np.ndarray:
        """Give the seconds of all calls, in order."""
        return np.concatenate([times.ravel() for times in self._times[side]])

    def by_block(self, side: str) -> np.ndarray:
        """Give the seconds of all calls, [instance, block, call]."""
        return np.stack(self._times[side])

    def medians(self, side: str) -> np.ndarray:
        """Give the block medians in seconds, [instance, block]."""
        return np.stack([np.median(times, axis=1) for times in self._times[side]])

    def log_ratio(self, side: str) -> LogInterval:
        """Estimate ln(baseline / side)."""
        settings = self.settings
        return instance_bootstrap(
            self._log_ratios(side), num_resamples=settings.num_resamples, confidence=settings.confidence,
            seed=settings.seed,
        )  # fmt: skip

    def _log_ratios(self, side: str) -> np.ndarray:
        return np.log(self.medians(BASELINE)) - np.log(self.medians(side))

    def stopped_by(self) -> str | None:
        """Say what ends the comparison: ``width`` or ``time``; None while it goes on."""
        if self.num_instances < self.settings.num_instances:
            return None
        # A tenth of the resamples is plenty to decide whether to go on; the result's interval takes them all.
        settings = self.settings
        found = cautious_bootstrap(
            self._log_ratios(CANDIDATE), num_resamples=max(500, settings.num_resamples // 10),
            confidence=settings.confidence, seed=settings.seed,
        )  # fmt: skip
        if found.half_width <= settings.target:
            return "width"
        passed = settings.clock.now() - self._started
        return "time" if passed + self._longest_s > settings.max_s else None

    def add_instance(self) -> None:
        """Load a fresh engine of every side, warm them up, and time the rounds."""
        clock = self.settings.clock
        started = clock.now()
        with ExitStack() as open_engines:
            calls: dict[str, Callable[[], object]] = {}
            for side in self._shuffled():
                engine = open_engines.enter_context(self.loads[side]())
                calls[side], self.on_device = self._call(engine), self.on_device or on_device(engine)
            warm = {side: self._warm_up.run(calls[side], clock) for side in self._shuffled()}
            if self.num_instances == 0:
                self._plan({side: w.call_s for side, w in warm.items()}, clock.now() - started)
            unsteady = sorted(side for side in (BASELINE, CANDIDATE) if not warm[side].steady)
            times = {side: np.empty((self.num_blocks, self.num_calls)) for side in self.loads}
            for block in range(self.num_blocks):
                for side in self._shuffled():
                    times[side][block] = time_calls(calls[side], self.num_calls, clock)
        for side, blocks in times.items():
            self._times[side].append(blocks)
        if unsteady:
            self._warn(f"the {' and the '.join(unsteady)} did not become steady while warming up")
        self._longest_s = max(self._longest_s, clock.now() - started)

    def _call(self, engine: Engine) -> Callable[[], object]:
        return lambda: engine.run(self.inputs)

    def _shuffled(self) -> list[str]:
        sides = list(self.loads)
        return [sides[index] for index in self._generator.permutation(len(sides))]

    def _warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings.append(warning)

    def _plan(self, call_s: dict[str, float], load_s: float) -> None:
        """Choose the calls a block, and fewer blocks where time is short.

        Raises:
            MeasurementError: even the least number of blocks takes too long.
        """
        settings = self.settings
        self.num_calls = calls_per_block(min(call_s.values()), settings.block_s, settings.clock)
        round_s = self.num_calls * sum(call_s.values())
        affordable = (settings.max_s / settings.num_instances - load_s) / round_s
        if affordable < LEAST_BLOCKS:
            needed_s = settings.num_instances * (load_s + LEAST_BLOCKS * round_s)
            raise MeasurementError(
                "comparison", f"max_s={settings.max_s:g}", f"at least {math.ceil(needed_s)} s for these engines",
                "Allow more time, compare without null, or take a smaller batch.",
            )  # fmt: skip
        if affordable < self.num_blocks:
            self.num_blocks = int(affordable)
            self._warn(
                f"{self.num_blocks} of {settings.num_blocks} blocks an instance, to finish in {settings.max_s:g} s"
            )
