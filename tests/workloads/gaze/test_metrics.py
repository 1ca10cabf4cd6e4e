"""Laws of the fixation metrics, hand-computed maps, and the quadratic definition of the ROC area."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.workloads.gaze.metrics import (
    correlation,
    divergence,
    information_gain,
    log_likelihood,
    map_correlation,
    map_divergence,
    map_nss,
    map_similarity,
    nss,
    similarity,
)
from secateur.workloads.gaze.roc import auc

seeds = st.integers(0, 2**31 - 1)


def random_maps(seed: int, batch: int = 3, rows: int = 5, columns: int = 7, levels: int | None = None):
    """Return log-densities and fixation counts with at least one fixation; few ``levels`` make many ties."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, rows, columns, generator=generator, dtype=torch.float64)
    if levels:
        logits = torch.randint(levels, logits.shape, generator=generator).double()
    counts = torch.randint(0, 4, logits.shape, generator=generator).double()
    counts[:, 0, 0] += 1
    return logits.flatten(1).log_softmax(1).view_as(logits), counts


def auc_by_definition(values: torch.Tensor, counts: torch.Tensor) -> float:
    """Compare every fixation with every cell, ties counting half."""
    fixated = values.flatten().repeat_interleave(counts.flatten().long())
    difference = fixated[:, None] - values.flatten()[None, :]
    return float(((difference > 0).double() + 0.5 * (difference == 0)).mean())


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([None, 2, 4]))
def test_auc_is_the_share_of_won_comparisons(seed, levels):
    log_density, counts = random_maps(seed, levels=levels)
    expected = [auc_by_definition(*pair) for pair in zip(log_density, counts, strict=True)]
    torch.testing.assert_close(auc(log_density, counts), torch.tensor(expected, dtype=torch.float64))


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([None, 3]))
def test_auc_only_sees_the_order(seed, levels):
    log_density, counts = random_maps(seed, levels=levels)
    torch.testing.assert_close(auc(log_density, counts), auc(log_density.exp() ** 3 * 7 - 2, counts))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_reversing_the_map_reflects_auc_and_nss(seed):
    log_density, counts = random_maps(seed, levels=4)
    torch.testing.assert_close(auc(-log_density, counts), 1 - auc(log_density, counts))
    torch.testing.assert_close(map_nss(-log_density, counts), -map_nss(log_density, counts))


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0.01, 100), st.floats(-10, 10))
def test_nss_ignores_scale_and_offset(seed, scale, offset):
    log_density, counts = random_maps(seed)
    density = log_density.exp()
    torch.testing.assert_close(
        map_nss(scale * density + offset, counts), nss(log_density, counts), rtol=1e-6, atol=1e-6
    )


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_gain_over_uniform_is_the_log_likelihood_and_gain_over_itself_is_nothing(seed):
    log_density, counts = random_maps(seed)
    uniform = torch.full_like(log_density[0], -math.log(log_density[0].numel()))
    torch.testing.assert_close(information_gain(log_density, counts, uniform), log_likelihood(log_density, counts))
    own = information_gain(log_density[:1], counts[:1], log_density[0])
    torch.testing.assert_close(own, torch.zeros_like(own))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_distances_between_distributions_are_bounded_and_vanish_at_equality(seed):
    log_density, counts = random_maps(seed)
    assert (divergence(log_density, counts) >= 0).all()
    assert ((similarity(log_density, counts) >= 0) & (similarity(log_density, counts) <= 1)).all()
    assert (correlation(log_density, counts).abs() <= 1 + 1e-12).all()
    ones = torch.ones(len(counts), dtype=torch.float64)
    themselves = log_density.exp()
    torch.testing.assert_close(divergence(log_density, themselves), 0 * ones)
    torch.testing.assert_close(similarity(log_density, themselves), ones)
    torch.testing.assert_close(correlation(log_density, 5 * themselves), ones)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_a_fixation_counted_twice_weighs_twice(seed):
    log_density, counts = random_maps(seed)
    for metric in (auc, nss, log_likelihood, correlation, similarity, divergence):
        torch.testing.assert_close(metric(log_density, 3 * counts), metric(log_density, counts))


def test_a_batch_is_its_pictures_one_by_one():
    log_density, counts = random_maps(0, batch=4)
    for metric in (auc, nss, log_likelihood, correlation, similarity, divergence):
        single = torch.cat([metric(log_density[i : i + 1], counts[i : i + 1]) for i in range(4)])
        torch.testing.assert_close(metric(log_density, counts), single)


def test_the_uniform_density_knows_nothing():
    uniform = torch.full((1, 48, 64), -math.log(48 * 64))
    counts = random_maps(1, batch=1, rows=48, columns=64)[1].float()
    assert auc(uniform, counts).item() == 0.5
    assert nss(uniform, counts).item() == 0
    assert correlation(uniform, counts).item() == 0
    assert log_likelihood(uniform, counts).item() == pytest.approx(0, abs=1e-5)


def test_a_map_of_four_cells_by_hand():
    density = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]], dtype=torch.float64)
    counts = torch.tensor([[[0.0, 1.0], [0.0, 3.0]]], dtype=torch.float64)
    # Ranks with ties halved: cell .2 beats one of four and ties itself, cell .4 beats three and ties itself.
    assert auc(density.log(), counts).item() == pytest.approx((1.5 / 4 + 3 * 3.5 / 4) / 4)
    # Mean .25, population deviation sqrt(.0125).
    assert nss(density.log(), counts).item() == pytest.approx((-0.05 + 3 * 0.15) / 4 / math.sqrt(0.0125))
    assert log_likelihood(density.log(), counts).item() == pytest.approx((math.log2(0.8) + 3 * math.log2(1.6)) / 4)
    assert similarity(density.log(), counts).item() == pytest.approx(0.2 + 0.4)
    expected = 0.25 * math.log(0.25 / 0.2) + 0.75 * math.log(0.75 / 0.4)
    assert divergence(density.log(), counts).item() == pytest.approx(expected)
    centred = [(-0.15, -1), (-0.05, 0), (0.05, -1), (0.15, 2)]
    covariance = sum(a * b for a, b in centred)
    scale = math.sqrt(sum(a * a for a, _ in centred) * sum(b * b for _, b in centred))
    assert correlation(density.log(), counts).item() == pytest.approx(covariance / scale)


@pytest.mark.parametrize("measure", [map_nss, map_correlation, map_similarity, map_divergence])
def test_a_map_with_nan_has_no_value(measure):
    saliency, counts = torch.rand(2, 3, 4), torch.ones(2, 3, 4)
    counts[:, 0, 0] = 2
    saliency[0, 1, 1] = torch.nan
    assert measure(saliency, counts).isnan().tolist() == [True, False]
    assert measure(torch.full((1, 3, 4), torch.nan), counts[:1]).isnan().all()


@pytest.mark.parametrize("sparse", [False, True])
def test_cells_of_no_density_count_where_somebody_looked_alone(sparse):
    log_density = torch.tensor([[[0.5, 0.5], [0.0, 0.0]]] * 2).log()
    counts = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
    numbers = counts.to_sparse() if sparse else counts
    assert log_likelihood(log_density, numbers).tolist() == [pytest.approx(1.0), -torch.inf]
    gain = information_gain(log_density, numbers, torch.full((2, 2), 0.25).log())
    assert gain.tolist() == [pytest.approx(1.0), -torch.inf]
    assert information_gain(log_density, numbers, log_density[0])[0] == pytest.approx(0.0)
    assert divergence(log_density, counts).tolist() == [pytest.approx(0.0), torch.inf]
