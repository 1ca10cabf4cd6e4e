"""Areas under ROC curves: their published definitions written out in loops, and pysaliency where it is installed."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import DataError
from secateur.workloads.gaze import metrics, ranks
from secateur.workloads.gaze.roc import auc, auc_borji, auc_judd, random_cells, shuffled_auc

seeds = st.integers(0, 2**31 - 1)
MAPS = st.sampled_from(["normal", "ties", "skewed", "infinite", "constant", "tiny range"])


def random_maps(seed: int, kind: str, batch: int = 3, rows: int = 6, columns: int = 7):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(batch, rows, columns, generator=generator, dtype=torch.float64)
    if kind == "ties":
        maps = torch.randint(3, maps.shape, generator=generator).double()
    if kind == "skewed":
        maps = (8 * maps).exp()
    if kind == "infinite":
        maps = torch.where(maps < -0.3, -torch.inf, maps)
    if kind == "constant":
        maps = torch.full_like(maps, 0.3)
    if kind == "tiny range":
        maps = 1 + 1e-15 * maps.round()
    counts = torch.randint(-3, 4, maps.shape, generator=generator).clamp_min(0).double()
    counts[:, 0, 0] += 1
    return maps, counts


def judd_by_definition(values: np.ndarray, counts: np.ndarray) -> float:
    """Walk down the fixated values, counting which fixations and which unfixated cells are at least as high."""
    fixated, others = np.repeat(values.ravel(), counts.ravel().astype(int)), values[counts == 0]
    points = [(0.0, 0.0)]
    points += [((others >= t).mean(), (fixated >= t).mean()) for t in sorted(set(fixated), reverse=True)]
    points += [(1.0, 1.0)]
    return sum((right[0] - left[0]) * (right[1] + left[1]) / 2 for left, right in itertools.pairwise(points))


def won(fixated: np.ndarray, others: np.ndarray) -> float:
    return float(((fixated[:, None] > others) + 0.5 * (fixated[:, None] == others)).mean())


def values_at(maps: torch.Tensor, counts: torch.Tensor) -> np.ndarray:
    return np.repeat(maps.numpy().ravel(), counts.numpy().ravel().astype(int))


@settings(max_examples=60, deadline=None)
@given(seeds, MAPS)
def test_the_area_is_the_share_of_won_comparisons(seed, kind):
    maps, counts = random_maps(seed, kind)
    expected = [won(values_at(m, c), m.numpy().ravel()) for m, c in zip(maps, counts, strict=True)]
    np.testing.assert_allclose(auc(maps, counts), expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seeds, MAPS)
def test_judd_is_the_curve_through_the_fixated_values(seed, kind):
    maps, counts = random_maps(seed, kind)
    expected = [judd_by_definition(m, c) for m, c in zip(maps.numpy(), counts.numpy(), strict=True)]
    np.testing.assert_allclose(auc_judd(maps, counts), expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seeds, MAPS, st.booleans())
def test_shuffled_compares_with_fixations_elsewhere(seed, kind, shared):
    maps, counts = random_maps(seed, kind)
    elsewhere = random_maps(seed + 1, "normal")[1]
    elsewhere = elsewhere[:1].expand_as(counts) if shared else elsewhere
    expected = [won(values_at(*own), values_at(own[0], e)) for *own, e in zip(maps, counts, elsewhere, strict=True)]
    given_ = elsewhere[0] if shared else elsewhere
    np.testing.assert_allclose(shuffled_auc(maps, counts, given_), expected, atol=1e-12)
    together = counts.sum(0)
    expected = shuffled_auc(maps, counts, together - counts)
    torch.testing.assert_close(shuffled_auc(maps, counts, together, without_own=True), expected)


def test_borji_is_the_mean_over_splits_of_as_many_random_cells():
    maps, counts = random_maps(3, "ties", batch=2)
    drawn = random_cells(counts, num_splits=50, seed=1)
    assert drawn.sum((1, 2)).tolist() == (50 * counts.sum((1, 2))).tolist()
    np.testing.assert_allclose(auc_borji(maps, counts, num_splits=50, seed=1), shuffled_auc(maps, counts, drawn))
    splits = [won(values_at(maps[0], counts[0]), part) for part in np.split(values_at(maps[0], drawn[0]), 50)]
    assert auc_borji(maps, counts, num_splits=50, seed=1)[0].item() == pytest.approx(np.mean(splits))
    many = auc_borji(maps, counts, num_splits=20_000)
    np.testing.assert_allclose(many, auc(maps, counts), atol=5e-3)


def test_by_hand():
    maps = torch.tensor([[[4.0, 3.0, 3.0], [2.0, 1.0, 0.0]]])
    counts = torch.tensor([[[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]]])
    # Cell 3 beats three of six and ties two; cell 2 beats two and ties itself.
    assert auc(maps, counts).item() == pytest.approx((4 / 6 + 2 * 2.5 / 6) / 3)
    # Unfixated 4, 3, 1, 0: curve (0, 0), (1/2, 1/3), (1/2, 1), (1, 1).
    assert auc_judd(maps, counts).item() == pytest.approx(0.5 * (1 / 6) + 0.5)
    # Elsewhere on 4 once and on 0 three times.
    elsewhere = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    assert shuffled_auc(maps, counts, elsewhere).item() == pytest.approx(0.75)


@settings(max_examples=40, deadline=None)
@given(seeds, MAPS, st.booleans())
def test_large_maps_are_ranked_without_being_sorted_with_the_same_result(seed, kind, single):
    maps, counts = random_maps(seed, kind, rows=20, columns=30)
    counts[1, 1:] = counts[2] = 0  # few fixations, and none
    maps, counts = (each.float() if single else each for each in (maps, counts))
    sorted_ = [measure(maps, counts) for measure in (auc, auc_judd)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "LARGE", 1)
        patch.setattr(ranks, "PIECE", 256)
        patch.setattr(ranks, "NUM_INTERVALS", 64)
        for measure, expected in zip((auc, auc_judd), sorted_, strict=True):
            torch.testing.assert_close(measure(maps, counts), expected, rtol=0, atol=0, equal_nan=True)


def test_intervals_are_exact_where_they_cannot_be_told_apart():
    maps = torch.full((1, 200, 200), 1e300, dtype=torch.float64)
    maps[0, :100] = -1e300
    maps[0, 0] = torch.linspace(-1, 1, 200) * 1e-300
    maps[0, 1, :3] = torch.tensor([-torch.inf, torch.inf, 0.0])
    counts = torch.zeros_like(maps)
    counts[0, 0, ::40] = 1
    counts[0, 1, :3] = 2
    counts[0, 150, 150] = 1
    for chosen in (counts, counts * (maps.abs() < 1), counts * (maps.abs() < torch.inf)):
        expected = [won(values_at(maps, chosen), maps.numpy().ravel())]
        np.testing.assert_allclose(auc(maps, chosen), expected, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seeds, MAPS)
def test_sparse_counts_say_the_same(seed, kind):
    maps, counts = random_maps(seed, kind)
    counts[1] = 0
    sparse, together = counts.to_sparse(), counts.sum(0)
    for measure in (auc, auc_judd, metrics.map_nss):
        torch.testing.assert_close(measure(maps, sparse), measure(maps, counts), equal_nan=True)
    shuffled = shuffled_auc(maps, sparse, torch.sparse.sum(sparse, 0), without_own=True)
    torch.testing.assert_close(shuffled, shuffled_auc(maps, counts, together, without_own=True), equal_nan=True)
    weighted = shuffled_auc(maps, counts, together / 3)  # not whole: cells are weighted, not repeated
    torch.testing.assert_close(weighted, shuffled_auc(maps, counts, together), equal_nan=True)
    prior = torch.randn(counts.shape[1:], dtype=torch.float64)
    if kind != "infinite":
        gain = metrics.information_gain(maps, sparse, prior)
        torch.testing.assert_close(gain, metrics.information_gain(maps, counts, prior), equal_nan=True)


def test_single_precision_keeps_its_type_and_a_picture_without_fixations_is_nan():
    maps, counts = (each.float() for each in random_maps(1, "normal"))
    counts[1] = 0
    for scores in (auc(maps, counts), auc_judd(maps, counts), shuffled_auc(maps, counts, counts[0])):
        assert scores.dtype == torch.float32
        assert scores.isnan().tolist() == [False, True, False]
    assert auc(maps[:0], counts[:0]).shape == (0,)


def test_a_map_with_nan_has_no_order():
    maps, counts = random_maps(1, "normal")
    maps[1, 2, 2] = torch.nan
    with pytest.raises(DataError, match="saliency maps: found nan; wanted numbers"):
        auc(maps, counts)
    with pytest.raises(DataError, match="found nan"):
        auc(torch.full((1, 200, 200), torch.nan), torch.ones(1, 200, 200))
