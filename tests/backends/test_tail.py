"""The percentile of single calls and its interval: what is known of the truth, and what too few calls cannot say."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secateur.backends.statistics import nearest_rank
from secateur.backends.tail import tail_interval

CALLS = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 9)), elements=st.floats(1e-6, 1e3)
)


@settings(max_examples=50, deadline=None)
@given(CALLS, st.floats(0.5, 0.99))
def test_the_interval_holds_the_percentile_and_few_calls_bound_nothing(calls: np.ndarray, share: float) -> None:
    found = tail_interval(calls, share=share, num_resamples=50)
    assert found.value == nearest_rank(calls.ravel(), share)
    assert calls.min() <= found.low <= found.value <= found.high
    assert math.isinf(found.high) == (share**calls.size > 0.025)


@settings(max_examples=25, deadline=None)
@given(CALLS, st.floats(0.1, 10))
def test_the_interval_scales_with_the_calls(calls: np.ndarray, factor: float) -> None:
    one, other = (tail_interval(values, share=0.6, num_resamples=50) for values in (calls, calls * factor))
    assert [other.low, other.value, other.high] == pytest.approx([x * factor for x in (one.low, one.value, one.high)])


def test_calls_without_noise_leave_no_doubt() -> None:
    found = tail_interval(np.full((5, 10, 20), 0.003))
    assert (found.low, found.value, found.high) == (0.003, 0.003, 0.003)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    truth = -math.log(0.01)  # the 99th percentile of an exponential
    hits = 0
    for trial in range(120):
        calls = np.random.default_rng(trial).exponential(size=(8, 10, 40))
        found = tail_interval(calls, num_resamples=300, seed=trial)
        hits += found.low <= truth <= found.high
    assert hits >= 0.9 * 120


def test_instances_that_differ_widen_the_interval() -> None:
    generator = np.random.default_rng(0)
    alike = generator.exponential(size=(5, 10, 40))
    apart = alike * np.array([1.0, 1.3, 0.8, 1.6, 1.1])[:, None, None]
    narrow, wide = tail_interval(alike), tail_interval(apart)
    assert (wide.high - wide.low) / wide.value > (narrow.high - narrow.low) / narrow.value


def test_memory_does_not_grow_with_the_number_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.backends import tail

    calls = np.random.default_rng(1).exponential(size=(4, 5, 30))
    whole = tail_interval(calls, share=0.9, num_resamples=400)
    monkeypatch.setattr(tail, "_CHUNK", 7 * calls.size)
    parts = tail_interval(calls, share=0.9, num_resamples=400)
    assert [parts.low, parts.high] == pytest.approx([whole.low, whole.high], rel=0.15)
