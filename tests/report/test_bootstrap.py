"""Intervals hold what they promise, and are the same every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.report import bootstrap
from secateur.report.bootstrap import bootstrap_means, median_interval, percentile_interval


def test_coverage_of_a_skewed_mean() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        values = generator.exponential(1.0, (150, 1))
        interval = percentile_interval(float(values.mean()), bootstrap_means(values, 600, trial)[:, 0])
        hits += interval.low <= 1.0 <= interval.high
    # Binomial with 300 trials at 0.95, less the percentile method's known shortfall on skewed data.
    assert 0.90 <= hits / 300 <= 0.985


def test_coverage_of_a_median_over_instances() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        runs = 1.0 + generator.normal(0, 0.02, (12, 1)) + generator.normal(0, 0.01, (12, 20))
        found = median_interval(float(np.median(runs)), tuple(map(tuple, runs.tolist())), num_resamples=400, seed=trial)
        hits += found.low <= 1.0 <= found.high
    assert 0.86 <= hits / 200 <= 0.99  # twelve instances are few, which narrows the percentile interval a little


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 5))
def test_means_stay_within_the_data_and_pairs_stay_paired(num_samples: int, num_columns: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(num_samples, num_columns))
    both = np.concatenate([values, 2 * values + 1], axis=1)
    means = bootstrap_means(both, 50, seed)
    assert (means[:, :num_columns] >= values.min(axis=0) - 1e-12).all()
    assert (means[:, :num_columns] <= values.max(axis=0) + 1e-12).all()
    np.testing.assert_allclose(means[:, num_columns:], 2 * means[:, :num_columns] + 1, atol=1e-12)
    np.testing.assert_array_equal(means, bootstrap_means(both, 50, seed))


def test_the_draws_do_not_depend_on_how_much_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(60, 2))
    whole = bootstrap_means(values, 500, 0).std(axis=0)
    monkeypatch.setattr(bootstrap, "_CHUNK", 60 * 7)
    np.testing.assert_allclose(bootstrap_means(values, 500, 0).std(axis=0), whole, rtol=0.15)
    assert bootstrap_means(values, 501, 0).shape == (501, 2)


def test_a_single_block_is_a_point() -> None:
    found = median_interval(0.5, ((0.5,),), num_resamples=20)
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


def test_instances_of_different_lengths_are_drawn_from_themselves() -> None:
    found = median_interval(2.0, ((1.0,), (2.0, 2.0, 2.0, 2.0), (3.0, 3.0)), num_resamples=2000)
    assert (found.low, found.high) == (1.0, 3.0)
