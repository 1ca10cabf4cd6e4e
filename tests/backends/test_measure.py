"""The stopwatch, on a clock that only engines move."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter

from secateur.artifacts import Measurement
from secateur.backends.energy import EnergyCounter
from secateur.backends.measure import (
    PerformanceCounter,
    Stopwatch,
    WarmUp,
    calls_per_block,
    measure,
    time_calls,
)
from secateur.backends.stopping import Stopping, median_of_calls
from secateur.errors import MeasurementError

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
    rule = Stopping(least_s=2.0)
    found = measure(engine, INPUTS, stopwatch=Stopwatch(stopping=rule, clock=steady.clock))
    assert found.latency.num_samples == len(found.samples_s) == 500
    assert found.stopped_by == "width"
    assert found.latency.mean_s == pytest.approx(0.004)
    assert found.latency.throughput_per_s == pytest.approx(4 / 0.004)
    assert found.peak_memory_bytes > 1_000_000
    few = measure(
        engine, INPUTS, stopwatch=Stopwatch(stopping=Stopping(least_calls=70, least_s=0.01), clock=steady.clock)
    )
    assert len(few.samples_s) == 70


def test_samples_stay_in_the_order_of_the_calls(side: Callable) -> None:
    slowing = side(call_s=0.001)
    engine = slowing.load()
    engine.duration_s = lambda: 0.001 * (1 + 1e-5 * engine.num_calls)
    found = measure(engine, INPUTS, stopwatch=Stopwatch(clock=slowing.clock))
    assert list(found.samples_s) == sorted(found.samples_s)
    assert found.duration_s == pytest.approx(sum(found.samples_s))


def test_noise_is_timed_until_the_median_is_known_or_the_time_is_up(side: Callable) -> None:
    for within, stopped_by in ((0.05, "width"), (1.0, "time")):
        noisy = side(call_s=0.001, within=within)
        rule = Stopping(least_s=0.1, half_width=0.004, most_s=5.0)
        found = measure(noisy.load(), INPUTS, stopwatch=Stopwatch(stopping=rule, clock=noisy.clock))
        assert found.stopped_by == stopped_by
        width = (found.median.high - found.median.low) / 2 / found.median.value
        assert (width <= 0.004) == (stopped_by == "width")
        assert found.duration_s < 5.2


def test_the_interval_of_a_median_covers_it_although_calls_resemble_their_neighbours() -> None:
    generator = np.random.default_rng(0)
    for memory in (0.0, 0.8):
        covered = 0
        for _ in range(200):
            noise = lfilter([1.0], [1.0, -memory], generator.standard_normal(3000))[1000:]
            found = median_of_calls(np.exp(noise))
            covered += found.low <= 1 <= found.high
        assert covered >= 178, memory


def test_energy_is_what_all_packages_counted_and_absent_where_none_does(tmp_path: Path) -> None:
    counter = EnergyCounter(folder=tmp_path)
    assert counter.read() == {}
    assert counter.since({}) is None
    for package, joules in (("intel-rapl:0", 5), ("intel-rapl:1", 99), ("intel-rapl:0:0", 7)):
        (tmp_path / package).mkdir()
        (tmp_path / package / "energy_uj").write_text(str(joules * 1_000_000))
        (tmp_path / package / "max_energy_range_uj").write_text("99999999")
    before = counter.read()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("7500000")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("1000000")
    assert counter.since(before) == pytest.approx(2.5 + 2.0), "the second counter began again"


def test_a_measurement_without_its_machine_is_refused(side: Callable) -> None:
    steady = side()
    stopwatch = Stopwatch(stopping=Stopping(least_s=0.0, least_calls=2), clock=steady.clock)
    values = measure(steady.load(), INPUTS, stopwatch=stopwatch).model_dump()
    assert Measurement.model_validate(values)
    with pytest.raises(ValueError, match="Field required"):
        Measurement.model_validate({key: value for key, value in values.items() if key != "machine"})
    with pytest.raises(ValueError, match="without which a latency means nothing"):
        Measurement.model_validate({**values, "machine": {**values["machine"], "cpu": ""}})


@pytest.mark.parametrize("changes", [{"least_calls": 1}, {"least_s": 3.0, "most_s": 2.0}, {"confidence": 1.0}])
def test_rules_that_cannot_be_kept_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(MeasurementError, match="two calls at least"):
        Stopping(**changes)


def test_the_real_clock_ticks_finely_and_forwards() -> None:
    clock = PerformanceCounter()
    stamps = [clock.now() for _ in range(100)]
    assert stamps == sorted(stamps)
    assert 0 < clock.tick_s < 1e-3
