"""Laws of the streamed ranges: extremes and histograms are those of all values at once, in any order."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calibration.ranges import Tensors, collect_ranges
from secateur.errors import DataError

BATCHES = st.lists(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20).map(lambda v: np.array(v, dtype=np.float32)),
    min_size=1, max_size=6,
)  # fmt: skip


def passes_over(batches: list[np.ndarray]) -> Callable[[], Iterator[Tensors]]:
    return lambda: iter([{"x": (batch,)} for batch in batches])


@given(batches=BATCHES)
@settings(max_examples=60, deadline=None)
def test_what_is_streamed_is_what_all_values_together_show(batches: list[np.ndarray]) -> None:
    together = np.concatenate(batches)
    seen = collect_ranges(passes_over(batches), num_bins=16)["x"]
    assert (seen.low, seen.high) == (together.min(), together.max())
    assert seen.num_zeros == np.count_nonzero(together == 0)
    assert seen.counts.sum() + seen.num_zeros == together.size
    assert seen.counts[:8].sum() == np.count_nonzero(together < 0), "zero is an edge between bins"
    assert seen.magnitudes.sum() == seen.counts.sum()
    assert np.all(np.diff(seen.centres) >= 0)
    assert len(seen.centres) == 16


@given(batches=BATCHES, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_order_of_batches_matters_to_the_moving_average_alone(batches: list[np.ndarray], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(batches))
    one, other = (collect_ranges(passes_over(b), num_bins=16)["x"] for b in (batches, [batches[i] for i in order]))
    assert (one.low, one.high, one.num_zeros) == (other.low, other.high, other.num_zeros)
    np.testing.assert_array_equal(one.counts, other.counts)
    for seen in (one, other):
        assert seen.low - 1e-6 * abs(seen.low) <= seen.mean_low <= seen.mean_high + 1e-6 * seen.bound


def test_histograms_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    seen = collect_ranges(passes_over(np.split(values, 10)), num_bins=64)["x"]
    counts, _ = np.histogram(values.astype(np.float64), bins=64, range=(-seen.bound, seen.bound))
    np.testing.assert_array_equal(seen.counts, counts)


def test_tensors_under_one_name_share_a_range() -> None:
    small, large = np.ones(3, dtype=np.float32), np.full(2, -7, dtype=np.float32)
    seen = collect_ranges(lambda: iter([{"x": (small, large)}]), num_bins=16)["x"]
    assert (seen.low, seen.high) == (-7.0, 1.0)
    assert seen.counts.sum() == 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(bad: float) -> None:
    batches = [np.zeros(3, dtype=np.float32), np.array([1, bad], dtype=np.float32)]
    with pytest.raises(DataError, match=r"tensor 'x' in batch 1: found values from .*; wanted finite values"):
        collect_ranges(passes_over(batches))


def test_no_batches_are_refused() -> None:
    with pytest.raises(DataError, match="no batches"):
        collect_ranges(lambda: iter([]))
