"""The statistics keep their promises on streams whose truth is known."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secateur.backends.statistics import (
    LogInterval,
    block_length,
    cautious_bootstrap,
    instance_bootstrap,
    nearest_rank,
    outcome,
    resolution,
    summarise,
    warnings_about,
)

times = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(1e-6, 1e3))
fractions = st.floats(0.01, 1)


@given(times, fractions)
def test_a_nearest_rank_percentile_is_the_least_sample_that_covers_the_fraction(
    samples: np.ndarray, fraction: float
) -> None:
    value = nearest_rank(samples, fraction)
    assert value in samples
    assert (samples <= value).sum() >= fraction * len(samples)
    smaller = samples[samples < value]
    assert len(smaller) == 0 or (samples <= smaller.max()).sum() < fraction * len(samples)


def test_nearest_rank_of_a_hundred() -> None:
    samples = np.arange(100, 0, -1.0)
    assert [nearest_rank(samples, f) for f in (0.5, 0.9, 0.95, 0.99, 1.0)] == [50, 90, 95, 99, 100]


@given(times, st.integers(1, 8), st.sampled_from([2.0**-10, 4.0, 1024.0]))
def test_summaries_are_ordered_and_scale_with_the_unit(samples: np.ndarray, batch_size: int, unit: float) -> None:
    summary = summarise(samples, batch_size)
    assert samples.min() <= summary.p50_s <= summary.p90_s <= summary.p95_s <= summary.p99_s <= samples.max()
    assert summary.num_samples == len(samples)
    assert summary.throughput_per_s * summary.mean_s == pytest.approx(batch_size)
    scaled = summarise(samples * unit, batch_size)
    assert scaled.p90_s == summary.p90_s * unit
    assert scaled.coefficient_of_variation == pytest.approx(summary.coefficient_of_variation)


ratios = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 8)),
    elements=st.floats(-0.5, 0.5).map(lambda x: round(x, 4)),
)


BOOTSTRAPS = {"instance": instance_bootstrap, "cautious": cautious_bootstrap}


def bootstrap(log_ratios: np.ndarray, name: str = "instance") -> LogInterval:
    return BOOTSTRAPS[name](log_ratios, num_resamples=400, confidence=0.95, seed=0)


@settings(max_examples=50)
@given(ratios, st.floats(-1, 1), st.sampled_from(sorted(BOOTSTRAPS)))
def test_intervals_hold_their_value_and_move_with_the_ratios(log_ratios: np.ndarray, shift: float, name: str) -> None:
    interval = bootstrap(log_ratios, name)
    assert interval.low <= interval.value <= interval.high
    if len(medians := np.median(log_ratios, axis=1)) > 1 and np.ptp(medians) > 1e-6:
        students = scipy.stats.ttest_1samp(medians, 0.0).confidence_interval(0.95)
        assert interval.low <= students.low + 1e-9
        assert students.high - 1e-9 <= interval.high
    moved = bootstrap(log_ratios + shift, name)
    assert moved.value == pytest.approx(interval.value + shift, abs=1e-9)
    assert moved.half_width == pytest.approx(interval.half_width, abs=1e-3)


@pytest.mark.parametrize("name", BOOTSTRAPS)
def test_streams_without_noise_leave_no_doubt(name: str) -> None:
    interval = bootstrap(np.full((5, 10), math.log(1.25)), name)
    assert interval.half_width == pytest.approx(0, abs=1e-12)
    assert interval.value == pytest.approx(math.log(1.25))


def autoregressive(generator: np.random.Generator, shape: tuple[int, int], rho: float, deviation: float) -> np.ndarray:
    """AR(1) noise along the last axis, stationary from the start."""
    noise = generator.standard_normal(shape)
    for block in range(1, shape[1]):
        noise[:, block] = rho * noise[:, block - 1] + math.sqrt(1 - rho**2) * noise[:, block]
    return deviation * noise


@pytest.mark.parametrize(("effect", "name"), [(0.0, "cautious"), (math.log(1.03), "instance")])
@pytest.mark.parametrize(
    ("between", "within", "rho"),
    [(0.02, 0.005, 0.0), (0.02, 0.06, 0.0), (0.01, 0.03, 0.5), (0.0, 0.02, 0.7), (0.003, 0.003, 0.0)],
)
def test_intervals_cover_the_truth(effect: float, name: str, between: float, within: float, rho: float) -> None:
    """Five instances with offsets of their own and correlated blocks: 95 % intervals cover at least 90 %."""
    generator = np.random.default_rng(0)
    num_trials, num_instances, num_blocks = 300, 5, 10
    covered = 0
    for _ in range(num_trials):
        offsets = between * generator.standard_normal((num_instances, 1))
        stream = effect + offsets + autoregressive(generator, (num_instances, num_blocks), rho, within)
        interval = bootstrap(stream, name)
        covered += interval.low <= effect <= interval.high
    assert covered >= 0.9 * num_trials


@pytest.mark.parametrize(("between", "within"), [(0.0, 0.03), (0.01, 0.03), (0.02, 0.001)])
def test_noise_of_blocks_counts_once_and_cautiously_twice(between: float, within: float) -> None:
    """Squared widths are what t intervals of the instances' medians have, and more by the variance within."""
    generator = np.random.default_rng(0)
    num_instances, num_blocks = 20, 10
    widths = {name: [] for name in BOOTSTRAPS}
    for _ in range(40):
        offsets = between * generator.standard_normal((num_instances, 1))
        stream = offsets + within * generator.standard_normal((num_instances, num_blocks))
        for name, found in widths.items():
            found.append(bootstrap(stream, name).half_width)
    of_median = within**2 * math.pi / 2 / num_blocks
    for name, times in (("instance", 1), ("cautious", 2)):
        wanted = 2.093 * math.sqrt((between**2 + times * of_median) / num_instances)
        assert np.mean(widths[name]) == pytest.approx(wanted, rel=0.15)


def test_more_instances_narrow_the_interval_and_more_blocks_alone_do_not() -> None:
    generator = np.random.default_rng(0)

    def half_width(num_instances: int, num_blocks: int) -> float:
        offsets = 0.02 * generator.standard_normal((20, num_instances, 1))
        return float(np.mean([bootstrap(o + 0.005 * generator.standard_normal((num_instances, num_blocks))).half_width
                              for o in offsets]))  # fmt: skip

    few = half_width(5, 10)
    assert half_width(40, 10) < few / 2.5
    assert half_width(5, 80) > 0.7 * few


def test_neighbouring_blocks_stay_together_where_they_are_alike() -> None:
    generator = np.random.default_rng(0)
    assert block_length(generator.standard_normal((20, 27))) == 1
    assert block_length(autoregressive(generator, (20, 27), 0.8, 1.0)) == 3
    assert block_length(np.zeros((3, 10))) == 1
    assert block_length(np.zeros((3, 2))) == 1


logs = st.floats(-0.3, 0.3)
MIRROR = {"faster": "slower", "slower": "faster", "equivalent": "equivalent", "unresolved": "unresolved"}


@given(logs, logs, st.floats(0, 0.2), st.floats(0, 0.2))
def test_swapping_the_sides_mirrors_the_outcome(a: float, b: float, margin: float, limit: float) -> None:
    low, high = min(a, b), max(a, b)
    forth = outcome(LogInterval(value=(low + high) / 2, low=low, high=high), margin, limit)
    back = outcome(LogInterval(value=-(low + high) / 2, low=-high, high=-low), margin, limit)
    assert back == MIRROR[forth]


@given(logs, logs, st.floats(0, 0.1), st.floats(0, 0.1))
def test_a_wider_margin_never_makes_a_claim_of_speed(a: float, b: float, margin: float, more: float) -> None:
    interval = LogInterval(value=(a + b) / 2, low=min(a, b), high=max(a, b))
    if outcome(interval, margin, 0.0) not in ("faster", "slower"):
        assert outcome(interval, margin + more, 0.0) not in ("faster", "slower")
    if outcome(interval, margin, 0.0) == "equivalent":
        assert outcome(interval, margin + more, 0.0) == "equivalent"


@given(logs, logs, st.floats(0, 0.1), st.floats(0, 0.1))
def test_a_poor_resolution_only_takes_claims_back(a: float, b: float, margin: float, limit: float) -> None:
    interval = LogInterval(value=(a + b) / 2, low=min(a, b), high=max(a, b))
    sharp, blurred = outcome(interval, margin, 0.0), outcome(interval, margin, limit)
    assert blurred in (sharp, "unresolved")
    assert blurred == sharp or sharp in ("faster", "slower")


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(1.02, 1.5, "faster"), (0.7, 0.98, "slower"), (0.995, 1.005, "equivalent"), (0.995, 1.2, "unresolved"),
     (1.005, 1.2, "unresolved"), (0.9, 1.1, "unresolved")],
)  # fmt: skip
def test_outcomes(low: float, high: float, wanted: str) -> None:
    interval = LogInterval(value=(math.log(low) + math.log(high)) / 2, low=math.log(low), high=math.log(high))
    assert outcome(interval, 0.01, 0.005) == wanted


def test_the_resolution_is_the_far_end_of_the_null() -> None:
    assert resolution(LogInterval(value=0.0, low=-0.03, high=0.01)) == pytest.approx(math.expm1(0.03))
    assert resolution(LogInterval(value=0.02, low=0.01, high=0.05)) == pytest.approx(math.expm1(0.05))


def steady(generator: np.random.Generator, deviation: float = 0.005) -> np.ndarray:
    return 0.01 * np.exp(deviation * generator.standard_normal((8, 10)))


def test_warnings_tell_what_is_wrong_and_only_that() -> None:
    generator = np.random.default_rng(0)
    assert warnings_about("baseline", steady(generator)) == ()
    within = steady(generator) * np.linspace(1, 0.9, 10)
    assert any(
        "the baseline drifts by -" in w and "within instances: a longer warm-up" in w
        for w in warnings_about("baseline", within)
    )
    over = steady(generator) * np.repeat([1.0, 1.2], 4)[:, None]
    found = warnings_about("candidate", over)
    assert len(found) == 1
    assert found[0].startswith("the candidate drifts by +")
    assert found[0].endswith("over the comparison: the machine's speed changes")
    noisy = warnings_about("candidate", steady(generator, 0.08))
    assert any("block medians vary by" in w for w in noisy)
    assert not any("drifts" in w for w in noisy)
