"""Comparisons whose truth is known, on a clock that only engines move."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from secateur.artifacts import Comparison
from secateur.backends.compare import LEAST_BLOCKS, Compare
from secateur.errors import MeasurementError

INPUTS = (np.zeros((2, 3)),)


def settings(clock, **changes: float) -> Compare:
    return replace(Compare(clock=clock, num_resamples=1000, max_s=50.0), **changes)


def compare(baseline, candidate, **changes: float) -> Comparison:
    baseline.clock.time_s = 0.0
    return settings(baseline.clock, **changes).compare(
        baseline.load, candidate.load, INPUTS, backend="synthetic", num_threads=1
    )


def test_without_noise_the_speedup_is_exact_and_every_field_is_filled(side: Callable) -> None:
    baseline, candidate = side(call_s=0.03), side(call_s=0.02)
    result = compare(baseline, candidate)
    assert result.speedup.value == pytest.approx(1.5)
    assert (result.speedup.low, result.speedup.high) == (pytest.approx(1.5), pytest.approx(1.5))
    assert (result.outcome, result.stopped_by) == ("faster", "width")
    assert result.resolution == pytest.approx(0, abs=1e-9)
    assert (result.backend, result.batch_size, result.num_threads) == ("synthetic", 2, 1)
    assert (result.num_instances, result.num_blocks, result.num_iterations) == (5, 10, 1)
    assert set(result.samples_s) == {"baseline", "candidate", "null"}
    assert np.shape(result.samples_s["candidate"]) == (5, 10)
    assert result.baseline.num_samples == 50
    assert result.candidate.p50_s == pytest.approx(0.02)
    assert not any("drift" in warning or "vary" in warning for warning in result.warnings)


def test_a_comparison_without_its_machine_is_refused(side: Callable) -> None:
    values = compare(side(), side()).model_dump()
    with pytest.raises(ValueError, match="without which a latency means nothing"):
        Comparison.model_validate({**values, "machine": {**values["machine"], "versions": {}}})


def test_swapping_the_sides_inverts_the_speedup(side: Callable) -> None:
    forth = compare(side(call_s=0.03), side(call_s=0.02))
    back = compare(side(call_s=0.02), side(call_s=0.03))
    assert forth.speedup.value * back.speedup.value == pytest.approx(1)
    assert back.outcome == "slower"


def test_every_instance_is_fresh_and_closed_even_after_an_error(side: Callable) -> None:
    baseline, candidate = side(), side()
    result = compare(baseline, candidate)
    assert len(candidate.engines) == result.num_instances
    assert len(baseline.engines) == 2 * result.num_instances, "the null run has instances of its own"
    assert not any(engine.is_open for engine in (*baseline.engines, *candidate.engines))
    failing = side()
    engine = failing.load()
    engine.run = lambda inputs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        settings(failing.clock).compare(side().load, lambda: engine, INPUTS, backend="x", num_threads=1)
    assert not engine.is_open


def test_without_null_there_is_no_resolution(side: Callable) -> None:
    baseline, candidate = side(), side()
    result = compare(baseline, candidate, null=False)
    assert result.resolution is None
    assert set(result.samples_s) == {"baseline", "candidate"}
    assert len(baseline.engines) == result.num_instances


def test_the_same_seed_gives_the_same_result(side: Callable) -> None:
    noise = {"between": 0.02, "within": 0.05}
    first, again = (compare(side(1, **noise), side(2, **noise), seed=3) for _ in range(2))
    assert first.speedup == again.speedup
    assert first.samples_s == again.samples_s
    assert compare(side(1, **noise), side(2, **noise), seed=4).speedup != first.speedup


def test_engines_against_themselves_are_covered_and_never_called_faster(side: Callable) -> None:
    """24 comparisons of equals, stopped as they stop; benchmarks/stopwatch.py makes a hundred on several machines."""
    covered = false_claims = 0
    for trial in range(24):
        noise = {"between": 0.015, "within": 0.03}
        result = compare(side(2 * trial, **noise), side(2 * trial + 1, **noise), seed=trial, max_s=12.0)
        covered += result.speedup.low <= 1 <= result.speedup.high
        false_claims += result.outcome in ("faster", "slower")
    assert covered >= 21
    assert false_claims <= 1


def test_three_percent_are_found_where_noise_allows(side: Callable) -> None:
    noise = {"between": 0.004, "within": 0.02}
    outcomes = [
        compare(side(2 * trial, call_s=0.0309, **noise), side(2 * trial + 1, call_s=0.03, **noise), seed=trial)
        for trial in range(6)
    ]
    assert sum(result.speedup.low <= 1.03 <= result.speedup.high for result in outcomes) >= 5
    assert sum(result.outcome == "faster" for result in outcomes) >= 5
    assert not any(result.outcome == "slower" for result in outcomes)


def test_a_small_difference_that_is_surely_small_is_equivalent(side: Callable) -> None:
    assert compare(side(call_s=0.02), side(call_s=0.0201)).outcome == "equivalent"
    assert compare(side(call_s=0.02), side(call_s=0.0201), margin=0.001).outcome == "slower"


def test_noise_leaves_it_unresolved_and_runs_until_the_time_is_up(side: Callable) -> None:
    noise = {"between": 0.2, "within": 0.1}
    baseline = side(1, **noise)
    result = compare(baseline, side(2, **noise))
    assert (result.outcome, result.stopped_by) == ("unresolved", "time")
    assert result.resolution > 0.05
    assert result.num_instances > 5
    assert baseline.clock.time_s <= 50
    assert any("the candidate's block medians vary by" in warning for warning in result.warnings)


def test_a_glaring_difference_does_not_end_it_early(side: Callable) -> None:
    noise = {"between": 0.03, "within": 0.02}
    result = compare(side(1, call_s=0.05, **noise), side(2, call_s=0.02, **noise))
    assert result.outcome == "faster"
    assert result.stopped_by == "time"
    assert result.num_instances > 5


def test_a_machine_that_slows_down_biases_nothing_and_is_told(side: Callable) -> None:
    baseline, candidate = side(1, between=0.002, within=0.005), side(2, call_s=0.02, between=0.002, within=0.005)
    clock = baseline.clock

    def slowing(load: Callable) -> Callable:
        def load_one():
            engine = load()
            duration_s = engine.duration_s
            engine.duration_s = lambda: duration_s() * (1 + 0.3 * clock.time_s / 50)
            return engine

        return load_one

    result = settings(clock, target=0.0001).compare(
        slowing(baseline.load), slowing(candidate.load), INPUTS, backend="synthetic", num_threads=1
    )
    assert result.speedup.low <= 1.25 <= result.speedup.high
    assert result.speedup.high / result.speedup.low < 1.02
    assert any("over the comparison: the machine's speed changes" in warning for warning in result.warnings)


def test_fast_engines_are_called_often_in_every_block(side: Callable) -> None:
    result = compare(side(call_s=0.0004), side(call_s=0.0001))
    assert result.num_iterations in (200, 201), "a block of the faster engine lasts 20 ms"
    assert result.baseline.num_samples == 5 * 10 * result.num_iterations


def test_slow_engines_get_fewer_blocks_with_a_warning_or_an_error_with_the_time_needed(side: Callable) -> None:
    baseline = side(call_s=0.4)
    result = compare(baseline, side(call_s=0.2))
    assert LEAST_BLOCKS <= result.num_blocks < 10
    assert any(w == f"{result.num_blocks} of 10 blocks an instance, to finish in 50 s" for w in result.warnings)
    assert baseline.clock.time_s <= 50
    slow = side(call_s=3.0)
    with pytest.raises(MeasurementError, match=r"found max_s=50; wanted at least (\d+) s for these engines") as caught:
        compare(slow, side(call_s=2.0))
    needed_s = float(str(caught.value).split("at least ")[1].split(" s")[0])
    assert compare(side(call_s=3.0), side(call_s=2.0), max_s=1.2 * needed_s).speedup.value == pytest.approx(1.5)


def test_rounds_are_interleaved_in_random_order(side: Callable) -> None:
    order = []
    baseline, candidate = side(), side()

    def noting(name: str, load: Callable) -> Callable:
        def load_one():
            engine = load()
            run = engine.run
            engine.run = lambda inputs: (order.append(name), run(inputs))[1]
            return engine

        return load_one

    settings(baseline.clock, null=False).compare(
        noting("a", baseline.load), noting("b", candidate.load), INPUTS, backend="synthetic", num_threads=1
    )
    last_instance = order[-20:]
    rounds = [tuple(last_instance[i : i + 2]) for i in range(0, 20, 2)]
    assert set(rounds) == {("a", "b"), ("b", "a")}


def test_progress_is_heard(side: Callable) -> None:
    heard = []
    baseline = side()
    settings(baseline.clock).compare(
        baseline.load, side().load, INPUTS, backend="synthetic", num_threads=1, progress=lambda *a: heard.append(a)
    )
    assert heard == [("compare", done, 5) for done in range(6)]


@pytest.mark.parametrize("changes", [{"num_instances": 2}, {"num_blocks": LEAST_BLOCKS - 1}])
def test_too_few_repetitions_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(MeasurementError, match="at least 3 instances and 4 blocks"):
        Compare(**changes)


def test_the_interval_says_its_confidence(side: Callable) -> None:
    noise = {"between": 0.02, "within": 0.02}
    wide = compare(side(1, **noise), side(2, **noise), confidence=0.99, max_s=12.0)
    narrow = compare(side(1, **noise), side(2, **noise), confidence=0.8, max_s=12.0)
    assert (wide.speedup.confidence, narrow.speedup.confidence) == (0.99, 0.8)
    assert math.log(wide.speedup.high / wide.speedup.low) > math.log(narrow.speedup.high / narrow.speedup.low)
