"""Laws over the table of calibrators and over both grids."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calibration.ranges import Seen, Tensors, collect_ranges
from secateur.pipeline.quantize import CALIBRATORS, Calibrator
from secateur.pipeline.quantize.grid import INT8, UINT8, Grid, Range

calibrators = pytest.mark.parametrize("calibrator", CALIBRATORS.values(), ids=CALIBRATORS)
grids = pytest.mark.parametrize("grid", [INT8, UINT8], ids=["int8", "uint8"])

DISTRIBUTIONS = {
    "normal": lambda g: g.standard_normal(4000),
    "relu": lambda g: np.maximum(g.standard_normal(4000), 0),
    "negative": lambda g: -np.abs(g.standard_normal(4000)) - 1,
    "far from zero": lambda g: g.uniform(5, 6, 4000),
    "one outlier": lambda g: np.append(g.standard_normal(4000), 1e6),
    "two values": lambda g: g.choice([-1.0, 3.0], 4000),
    "one value": lambda g: np.full(10, 0.25),
    "zeros": lambda g: np.zeros(10),
    "tiny": lambda g: 1e-30 * g.standard_normal(4000),
    "huge": lambda g: 1e30 * g.standard_normal(4000),
}  # fmt: skip


def seen(values: np.ndarray, num_batches: int = 4) -> Seen:
    parts = np.array_split(values.astype(np.float32), num_batches)

    def passes() -> Iterator[Tensors]:
        return iter([{"x": (part,)} for part in parts])

    return collect_ranges(passes)["x"]


@calibrators
@grids
@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_ranges_are_within_what_was_seen_and_scales_positive(calibrator: Calibrator, grid: Grid, kind: str) -> None:
    observed = seen(DISTRIBUTIONS[kind](np.random.default_rng(0)))
    chosen = calibrator(observed, grid)
    assert min(observed.low, 0.0) <= chosen.low <= chosen.high <= max(observed.high, 0.0) or (
        observed.low <= chosen.low <= chosen.high <= observed.high
    )
    steps = grid.steps(chosen)
    assert 0 < steps.scale < np.inf
    assert np.float32(steps.scale) == steps.scale
    assert grid.low <= steps.zero_point <= grid.high
    assert not grid.symmetric or steps.zero_point == 0
    assert grid.rounded(np.zeros(1), steps)[0] == 0.0, "zero is represented exactly"


@grids
@pytest.mark.parametrize("kind", [kind for kind in DISTRIBUTIONS if kind not in {"zeros", "tiny"}])
def test_min_max_clips_nothing(grid: Grid, kind: str) -> None:
    values = DISTRIBUTIONS[kind](np.random.default_rng(0)).astype(np.float32)
    steps = grid.steps(CALIBRATORS["min-max"](seen(values), grid))
    assert np.abs(grid.rounded(values, steps) - values).max() <= steps.scale * 1.01


@calibrators
@grids
def test_batches_may_come_in_any_order(calibrator: Calibrator, grid: Grid) -> None:
    parts = np.array_split(np.random.default_rng(1).standard_t(3, 6000), 12)
    one, other = seen(np.concatenate(parts), 12), seen(np.concatenate(parts[::-1]), 12)
    same = calibrator(one, grid) == calibrator(other, grid)
    assert same or calibrator is CALIBRATORS["moving-average"]


@calibrators
@given(factor=st.sampled_from([2.0**k for k in range(-8, 9)]))
@settings(max_examples=10, deadline=None)
def test_scales_follow_the_values(calibrator: Calibrator, factor: float) -> None:
    values = np.random.default_rng(2).standard_t(4, 3000).astype(np.float32)
    plain, scaled = (INT8.steps(calibrator(seen(v), INT8)).scale for v in (values, values * np.float32(factor)))
    assert scaled == pytest.approx(factor * plain, rel=1e-6)


@pytest.mark.parametrize("name", ["mse", "entropy", "percentile"])
@grids
def test_clipping_pays_on_heavy_tails(name: str, grid: Grid) -> None:
    values = np.random.default_rng(3).standard_t(5, 50_000).astype(np.float32)
    observed = seen(values)

    def mean_error(calibrator: Calibrator) -> float:
        return float(np.abs(grid.rounded(values, grid.steps(calibrator(observed, grid))) - values).mean())

    assert mean_error(CALIBRATORS[name]) < 0.92 * mean_error(CALIBRATORS["min-max"])


@grids
@pytest.mark.parametrize("kind", ["normal", "relu", "one value", "two values"])
def test_mse_is_the_least_of_all(grid: Grid, kind: str) -> None:
    values = DISTRIBUTIONS[kind](np.random.default_rng(4)).astype(np.float32)
    observed = seen(values)
    error = {
        name: float(np.square(grid.rounded(values, grid.steps(calibrator(observed, grid))) - values).mean())
        for name, calibrator in CALIBRATORS.items()
    }
    assert error["mse"] <= min(error.values()) * 1.02 + 1e-12


def test_percentiles_count_zeros_and_reach_their_share() -> None:
    values = np.concatenate([np.zeros(9000), np.linspace(0.01, 1, 1000)]).astype(np.float32)
    chosen = CALIBRATORS["percentile"](seen(values), INT8)
    assert np.mean(values <= chosen.high) >= 0.9999
    assert chosen.high < 1.0


@given(low=st.floats(-100, 100), width=st.floats(0, 100))
@settings(max_examples=100, deadline=None)
def test_grids_hold_their_range(low: float, width: float) -> None:
    for grid in (INT8, UINT8):
        steps = grid.steps(Range(low=low, high=low + width))
        ends = np.array([min(low, 0.0), 0.0, max(low + width, 0.0)])
        assert np.abs(grid.rounded(ends, steps) - ends).max() <= steps.scale * 1.01
