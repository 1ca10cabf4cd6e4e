"""Laws over all rules that count effective filters."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import DataError
from secateur.pipeline.redundancy import spectrum
from secateur.pipeline.redundancy.estimators import EFFECTIVE
from secateur.pipeline.redundancy.noise import hard_threshold, noise_median

NAMES = sorted(EFFECTIVE)
RELATIVE = sorted(set(NAMES) - {"tail"})
RISES = {"entropy", "stable-rank", "participation"}
"""Rules of which a larger threshold keeps more; the others keep less."""

every = pytest.mark.parametrize("name", NAMES)
shapes = st.tuples(st.integers(1, 40), st.integers(1, 24), st.integers(0, 10**6))


def gradients(shape: tuple[int, int, int]) -> np.ndarray:
    """Rows of channels that decay at random and partly repeat each other."""
    num_rows, num_channels, seed = shape
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(num_channels, num_channels)) * (generator.random(num_channels) < 0.6)
    scale = 10.0 ** -generator.uniform(0, 3)
    return generator.normal(size=(num_rows, num_channels)) @ mixing * scale


def values_of(g: np.ndarray) -> torch.Tensor:
    return spectrum(torch.from_numpy(g.T @ g / len(g)))


@every
@settings(deadline=None)
@given(shape=shapes)
def test_between_one_and_all(name: str, shape: tuple[int, int, int]) -> None:
    g = gradients(shape)
    assert 1 <= EFFECTIVE[name](values_of(g), len(g)) <= g.shape[1]


@every
@pytest.mark.parametrize("width", [1, 2, 7])
def test_nothing_needs_one(name: str, width: int) -> None:
    assert EFFECTIVE[name](torch.zeros(width, dtype=torch.float64), 10) == 1


@every
@settings(deadline=None)
@given(shape=shapes)
def test_the_basis_of_the_channels_does_not_matter(name: str, shape: tuple[int, int, int]) -> None:
    g = gradients(shape)
    turned = g @ np.linalg.qr(np.random.default_rng(0).normal(size=(g.shape[1], g.shape[1])))[0]
    assert EFFECTIVE[name](values_of(turned), len(g)) == EFFECTIVE[name](values_of(g), len(g))


@every
@settings(deadline=None)
@given(shape=shapes, thresholds=st.tuples(st.floats(1e-4, 0.99), st.floats(1e-4, 0.99)))
def test_monotone_in_the_threshold(name: str, shape: tuple[int, int, int], thresholds: tuple[float, float]) -> None:
    g = gradients(shape)
    low, high = (replace(EFFECTIVE[name], threshold=x)(values_of(g), len(g)) for x in sorted(thresholds))
    assert low <= high if name in RISES else low >= high


@every
def test_the_threshold_matters(name: str) -> None:
    g = np.random.default_rng(0).normal(size=(400, 20)) * np.logspace(0, -3, 20)
    counts = {replace(EFFECTIVE[name], threshold=x)(values_of(g), 400) for x in (1e-3, 0.05, 0.9)}
    assert len(counts) > 1


@every
@settings(deadline=None)
@given(rank=st.integers(1, 9), value=st.floats(1e-2, 1e3))
def test_equal_values_count_as_many_as_they_are(name: str, rank: int, value: float) -> None:
    """White-noise rules take the median for noise: they see a rank below half of the width."""
    values = torch.zeros(20, dtype=torch.float64)
    values[:rank] = value
    assert EFFECTIVE[name](values, 500) == rank


@pytest.mark.parametrize("name", RELATIVE)
@settings(deadline=None)
@given(shape=shapes, power=st.integers(-20, 20))
def test_relative_rules_do_not_know_the_scale(name: str, shape: tuple[int, int, int], power: int) -> None:
    g = gradients(shape)
    values = values_of(g)
    assert EFFECTIVE[name](values * 2.0**power, len(g)) == EFFECTIVE[name](values, len(g))


def test_the_tail_knows_the_scale() -> None:
    values = torch.tensor([1.0, 1e-2, 1e-4], dtype=torch.float64)
    assert [EFFECTIVE["tail"](values * scale, 9) for scale in (1, 100, 1e-6)] == [2, 3, 1]


@pytest.mark.parametrize("name", ["gavish-donoho", "marchenko-pastur"])
@pytest.mark.parametrize("shape", [(2000, 50), (200, 100), (100, 400)])
def test_white_noise_has_no_effective_filter_and_planted_directions_are_found(
    name: str, shape: tuple[int, int]
) -> None:
    generator = np.random.default_rng(1)
    noise = generator.normal(size=shape)
    spikes = generator.normal(size=(shape[0], 6)) @ generator.normal(size=(6, shape[1]))
    # The eigenvalues of a finite matrix pass the edge by a little: of the order of N^(-2/3).
    rule = replace(EFFECTIVE[name], threshold=1.1)
    assert rule(values_of(noise), shape[0]) == 1
    assert rule(values_of(noise + 3 * spikes), shape[0]) == 6


def test_the_noise_laws_are_the_published_ones() -> None:
    assert hard_threshold(1.0) == pytest.approx(2.858, abs=1e-3)
    for beta in (0.05, 0.2, 0.5, 0.8):
        polynomial = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
        assert hard_threshold(beta) == pytest.approx(polynomial, abs=0.03)
    for num_rows, num_columns in ((4000, 400), (2000, 2000)):
        g = np.random.default_rng(0).normal(size=(num_rows, num_columns))
        found = np.median(np.linalg.svd(g, compute_uv=False) ** 2 / num_rows)
        assert noise_median(num_columns / num_rows) == pytest.approx(found, rel=0.02)


def test_measures_by_hand() -> None:
    values = torch.tensor([16.0, 4.0, 4.0, 1.0], dtype=torch.float64)
    share = np.array([4, 2, 2, 1]) / 9
    rank = math.exp(-(share * np.log(share)).sum())
    assert EFFECTIVE["entropy"](values, 9) == math.ceil(rank) == 4
    assert EFFECTIVE["stable-rank"](values, 9) == 2  # 25 / 16
    assert EFFECTIVE["participation"](values, 9) == 3  # 625 / 289
    assert replace(EFFECTIVE["energy"], threshold=0.21)(values, 9) == 2
    assert replace(EFFECTIVE["energy"], threshold=0.19)(values, 9) == 3
    assert replace(EFFECTIVE["tail"], threshold=5.0)(values, 9) == 2


@every
def test_thresholds_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="redundancy"):
        replace(EFFECTIVE[name], threshold=-0.5)
