"""Try the paired comparison where the truth is known; write results/stopwatch_synthetic.json.

    python benchmarks/stopwatch.py [--trials 100] [--most-s 100000]

Machines that are clocks which only engines move: quiet, with instances that differ for as long as they
live, drifting, with bursts of other work, and throttled halfway. Of each, A/A comparisons (does the interval cover 1,
is a difference claimed?) and comparisons with a candidate that is 3 % faster (is it found, is the interval right?).
Sequential timing of A then B, with the textbook interval of independent calls, stands beside it. After ``--most-s``
seconds it stops, and the same command goes on. `stopwatch_real.py` does the same on a real runtime, and
`stopwatch_tools.py` holds the stopwatch against other tools.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from secateur.artifacts import Comparison
from secateur.backends.compare import Compare
from secateur.backends.machine import machine_facts
from secateur.backends.protocol import Engine
from secateur.provenance import commit

RESULTS = Path(__file__).parent / "results"
PLANTED = 1.03
INPUTS = (np.zeros((1, 3), np.float32),)


@dataclass
class Clock:
    """Time that passes only when engines compute."""

    tick_s: float = 1e-9
    time_s: float = 0.0

    def now(self) -> float:
        """Tell the time in seconds."""
        return self.time_s


@dataclass(frozen=True, kw_only=True)
class World:
    """A machine: how much calls and instances vary, and how its pace changes with time."""

    within: float
    between: float
    pace: Callable[[float, np.random.Generator], Callable[[float], float]]
    max_s: float = 30.0


def steady(_length_s: float, _generator: np.random.Generator) -> Callable[[float], float]:
    return lambda _time_s: 1.0


def drifting(length_s: float, _generator: np.random.Generator) -> Callable[[float], float]:
    return lambda time_s: 1 + 0.2 * time_s / length_s


def throttled(length_s: float, generator: np.random.Generator) -> Callable[[float], float]:
    since = generator.uniform(0.2, 0.8) * length_s
    return lambda time_s: 1.3 if time_s > since else 1.0


def bursts(length_s: float, generator: np.random.Generator) -> Callable[[float], float]:
    """Slow everything down 1.6 times for half a second on average, every two seconds on average."""
    edges = np.cumsum(generator.exponential(np.tile([2.0, 0.5], int(length_s * 4))))
    return lambda time_s: 1.6 if np.searchsorted(edges, time_s) % 2 else 1.0


WORLDS = {
    "quiet": World(within=0.01, between=0.002, pace=steady),
    "instances": World(within=0.03, between=0.015, pace=steady, max_s=120.0),
    "drift": World(within=0.02, between=0.005, pace=drifting),
    "bursts": World(within=0.02, between=0.005, pace=bursts),
    "throttled": World(within=0.02, between=0.005, pace=throttled),
}


class SyntheticEngine(Engine):
    """An engine whose calls take what the world makes of them; its instance differs from others'."""

    def __init__(self, clock: Clock, call_s: float, world: World, pace: Any, generator: np.random.Generator) -> None:
        self._clock, self._world, self._pace, self._generator = clock, world, pace, generator
        self._call_s = call_s * math.exp(world.between * generator.standard_normal())

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Let time pass."""
        noise = math.exp(self._world.within * self._generator.standard_normal())
        self._clock.time_s += self._call_s * noise * self._pace(self._clock.time_s)
        return inputs

    def close(self) -> None:
        """Do nothing."""


def synthetic(trials: int, most_s: float) -> dict[str, Any]:
    partial = RESULTS / "stopwatch_synthetic.partial.json"
    kept: dict[str, Any] = json.loads(partial.read_text()) if partial.exists() else {}
    if kept.get("commit") != commit():
        kept = {"commit": commit()}
    worlds: dict[str, list[Any]] = kept.setdefault("worlds", {})
    started = time.perf_counter()
    for name, world in WORLDS.items():
        rows = worlds.setdefault(name, [])
        for number in range(len(rows), trials):
            if time.perf_counter() - started > most_s:
                partial.write_text(json.dumps(kept))
                raise SystemExit(f"{name}: {number} of {trials}; the same command goes on")
            rows.append(synthetic_trial(name, world, number))
    partial.unlink(missing_ok=True)
    return {name: synthetic_world(name, WORLDS[name], rows[:trials]) for name, rows in worlds.items()}


def synthetic_trial(name: str, world: World, number: int) -> list[Any]:
    """Compare equals, compare with the planted candidate, and time equals one after the other."""
    place = list(WORLDS).index(name)
    compared = []
    for ratio in (1.0, PLANTED):
        generator = np.random.default_rng([number, round(100 * ratio), place])
        compared.append(asdict(Found.by(compare_synthetic(world, ratio, generator, number))))
    return [*compared, sequentially(world, np.random.default_rng([number, 0, place]))]


def synthetic_world(name: str, world: World, trials: list[Any]) -> dict[str, Any]:
    same, planted, sequential = zip(*trials, strict=True)
    row = {
        "max_s": world.max_s,
        **told([Found(**found) for found in same], 1.0, "null"),
        **told([Found(**found) for found in planted], PLANTED, "planted"),
        "sequential_null_coverage": sum(low <= 1 <= high for _, low, high in sequential) / len(trials),
        "sequential_worst_error": max(abs(value - 1) for value, *_ in sequential),
    }
    print(name, json.dumps(row), flush=True)
    return row


def compare_synthetic(world: World, ratio: float, generator: np.random.Generator, seed: int) -> Comparison:
    clock = Clock()
    pace = world.pace(world.max_s, generator)

    def load(call_s: float) -> Callable[[], Engine]:
        return lambda: SyntheticEngine(clock, call_s, world, pace, generator)

    settings = Compare(clock=clock, max_s=world.max_s, num_resamples=2000, seed=seed)
    return settings.compare(load(0.02 * ratio), load(0.02), INPUTS, backend="synthetic", num_threads=1)


def sequentially(world: World, generator: np.random.Generator) -> tuple[float, float, float]:
    """Time A, then B, 200 calls each, with the interval of a ratio of means of independent calls."""
    clock = Clock()
    pace = world.pace(8.0, generator)
    sides = []
    for _ in range(2):
        engine = SyntheticEngine(clock, 0.02, world, pace, generator)
        times = []
        for _ in range(200):
            before = clock.now()
            engine.run(INPUTS)
            times.append(clock.now() - before)
        sides.append(np.log(times))
    difference = float(sides[0].mean() - sides[1].mean())
    error = math.hypot(*(side.std(ddof=1) / math.sqrt(len(side)) for side in sides))
    half = float(stats.norm.ppf(0.975)) * error
    return math.exp(difference), math.exp(difference - half), math.exp(difference + half)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a comparison says."""

    outcome: str
    low: float
    value: float
    high: float
    resolution: float

    @staticmethod
    def by(comparison: Comparison) -> "Found":
        """Take from a comparison what is counted here."""
        low, value, high = comparison.speedup.low, comparison.speedup.value, comparison.speedup.high
        resolution = comparison.resolution or 0.0
        return Found(outcome=comparison.outcome, low=low, value=value, high=high, resolution=resolution)


def told(found: list[Found], truth: float, name: str) -> dict[str, float]:
    """Return how often the interval covers the truth, and how often a difference is claimed and which."""
    outcomes = [each.outcome for each in found]
    return {
        f"{name}_trials": len(found),
        f"{name}_coverage": sum(each.low <= truth <= each.high for each in found) / len(found),
        **{f"{name}_{outcome}": outcomes.count(outcome) / len(found)
           for outcome in ("faster", "slower", "equivalent", "unresolved")},
        f"{name}_half_width": statistics.median(math.log(each.high / each.low) / 2 for each in found),
        f"{name}_resolution": statistics.median(each.resolution for each in found),
        f"{name}_worst_error": max(abs(each.value / truth - 1) for each in found),
    }  # fmt: skip


def main() -> None:
    """Compare on every machine, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--most-s", type=float, default=1e5)
    arguments = parser.parse_args()
    started = time.perf_counter()
    found = synthetic(arguments.trials, arguments.most_s)
    machine = machine_facts().model_dump(mode="json", include={"cpu", "num_cores", "system", "versions", "commit"})
    result = {"machine": machine, "seconds": time.perf_counter() - started, "synthetic": found}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "stopwatch_synthetic.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
