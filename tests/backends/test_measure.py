"""The stopwatch, on a clock that only engines move."""

import gc
from collections.abc import Callable

import numpy as np
import pytest

from secateur.backends.measure import (
    PerformanceCounter,
    Stopwatch,
    WarmUp,
    calls_per_block,
    measure,
    time_calls,
)

INPUTS = (np.zeros((4, 3)),)


def test_calls_are_timed_one_by_one(clock) -> None:
    durations = [0.1, 0.3, 0.2]
    steps = iter(durations)

    def call() -> None:
        clock.time_s += next(steps)

    assert time_calls(call, 3, clock) == pytest.approx(durations)


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_held_back_and_restored(clock, enabled: bool) -> None:
    seen = []

    def failing() -> None:
        seen.append(gc.isenabled())
        raise ZeroDivisionError

    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ZeroDivisionError):
            time_calls(failing, 1, clock)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()
    assert seen == [False]


@pytest.mark.parametrize(
    ("call_s", "tick_s", "count"),
    [(1e-3, 1e-9, 20), (0.5, 1e-9, 1), (1e-3, 1e-4, 100), (3e-3, 1e-9, 7)],
)
def test_blocks_last_long_enough(clock, call_s: float, tick_s: float, count: int) -> None:
    clock.tick_s = tick_s
    assert calls_per_block(call_s, 0.02, clock) == count


def test_a_steady_engine_is_warm_after_the_least_time(side: Callable) -> None:
    steady = side(call_s=0.001)
    engine = steady.load()
    warm = WarmUp().run(lambda: engine.run(INPUTS), steady.clock)
    assert warm.steady
    assert warm.call_s == pytest.approx(0.001)
    assert 0.2 <= warm.duration_s < 0.4


def test_an_engine_that_gets_faster_is_warmed_up_until_it_no_longer_does(side: Callable) -> None:
    warming = side(call_s=0.001)
    engine = warming.load()
    engine.duration_s = lambda: 0.001 * (1 + 4 * np.exp(-engine.num_calls / 300))
    warm = WarmUp().run(lambda: engine.run(INPUTS), warming.clock)
    assert warm.steady
    assert warm.call_s == pytest.approx(0.001, rel=0.05)
    assert engine.num_calls > 1000


def test_an_engine_that_is_never_steady_is_given_up(side: Callable) -> None:
    restless = side(call_s=0.01, within=0.5)
    engine = restless.load()
    warm = WarmUp(most_s=1.0, agreement=0.0).run(lambda: engine.run(INPUTS), restless.clock)
    assert not warm.steady
    assert 1.0 <= warm.duration_s < 1.3


def test_a_slow_engine_is_called_once(side: Callable) -> None:
    slow = side(call_s=30.0)
    engine = slow.load()
    assert not WarmUp(most_s=1.0).run(lambda: engine.run(INPUTS), slow.clock).steady
    assert engine.num_calls == 1


def test_a_measurement_lasts_as_long_as_asked(side: Callable) -> None:
    steady = side(call_s=0.004)
    engine = steady.load()
    summary = measure(engine, INPUTS, stopwatch=Stopwatch(duration_s=2.0, clock=steady.clock))
    assert summary.num_samples == 500
    assert summary.mean_s == pytest.approx(0.004)
    assert summary.throughput_per_s == pytest.approx(4 / 0.004)
    few = measure(engine, INPUTS, stopwatch=Stopwatch(duration_s=0.01, least_calls=70, clock=steady.clock))
    assert few.num_samples == 70


def test_the_real_clock_ticks_finely_and_forwards() -> None:
    clock = PerformanceCounter()
    stamps = [clock.now() for _ in range(100)]
    assert stamps == sorted(stamps)
    assert 0 < clock.tick_s < 1e-3
