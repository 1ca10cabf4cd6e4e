"""Areas under ROC curves of fixated cells against other cells, exact at ties.

Every function takes ``saliency`` [batch, rows, columns], any map whose order counts, and ``counts`` [batch, rows,
columns], the number of fixations in each cell, dense or sparse, and returns [batch], nan for a picture without
fixations. A map with nan cannot be ranked and raises DataError. What the fixations are compared with makes the measure
(Bylinskii et al. 2016, arXiv 1604.03605; Kuemmerer et al. 2018, arXiv 1704.08615).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.workloads.gaze.metrics import Maps, Scores
from secateur.workloads.gaze.ranks import Fixated, Ranks, fixated_in, ranks, weighted_ranks

MAX_REPEATED = 2**20
"""Fixations elsewhere above which cells are weighted instead of repeated."""


def auc(saliency: Maps, counts: Maps) -> Scores:
    """Return the area under the ROC curve of fixations against all cells.

    It is the chance that the map is higher at a random fixation than in a random cell, ties counting half:
    sum_f [P(v < v_f) + P(v = v_f) / 2] / num_fixations. A cell fixated twice counts twice.
    """
    fixated = fixated_in(saliency, counts)
    below, equal = ranks(saliency.flatten(1), fixated)
    return fixated.mean((below + equal / 2) / saliency[0].numel() if len(saliency) else below).to(counts.dtype)


def auc_judd(saliency: Maps, counts: Maps) -> Scores:
    """Return AUC-Judd: cells without fixations are the negatives, fixated values the only thresholds.

    Between a fixated value and the next higher one t' the curve is a straight line, so that an unfixated cell there
    is won by half: sum_f [P(v < v_f) + P(v < t'_f)] / 2 / num_fixations, P over the unfixated cells (Judd et al. 2012).
    The published code adds noise to the map to break ties; nothing is added here.
    """
    fixated = fixated_in(saliency, counts)
    below, _ = ranks(saliency.flatten(1), fixated)
    own = fixated.among_themselves
    num_unfixated = (saliency[0].numel() if len(saliency) else 0) - own.num_cells
    unfixated = below - own.cells_below
    # What is below the next higher fixated value of the same picture; above the highest, all unfixated cells.
    following = torch.where(own.following >= 0, unfixated[own.following], num_unfixated[fixated.picture])
    return fixated.mean((unfixated + following) / (2 * num_unfixated[fixated.picture])).to(counts.dtype)


def shuffled_auc(
    saliency: Maps,
    counts: Maps,
    elsewhere: Float[Tensor, "rows columns"] | Float[Tensor, "batch rows columns"],
    *,
    without_own: bool = False,
) -> Scores:
    """Return the area under the ROC curve of fixations against where people looked in other pictures.

    ``elsewhere`` counts those fixations, for all pictures alike or for each its own; ``without_own`` takes each
    picture's own fixations out of them. A map that only knows the centre bias has 0.5 (Tatler et al. 2005; Zhang et al.
    2008). Ties count half.
    """
    fixated = fixated_in(saliency, counts)
    cells, weights = _looked_at(elsewhere)
    (below, equal), total = _against(saliency.flatten(1), fixated, cells, weights)
    if without_own:
        own = fixated.among_themselves
        below, equal = below - own.weight_below, equal - own.weight_equal
        total = total - fixated.num_fixations
    return fixated.mean((below + equal / 2) / total[fixated.picture]).to(counts.dtype)


def auc_borji(saliency: Maps, counts: Maps, *, num_splits: int = 100, seed: int = 0) -> Scores:
    """Return AUC-Borji: the mean over splits of the area against as many random cells as there are fixations.

    Cells are drawn uniformly with replacement (Borji et al. 2013). All values are thresholds, with which the mean over
    splits is the area against the cells of all splits together.
    """
    return shuffled_auc(saliency, counts, random_cells(counts, num_splits=num_splits, seed=seed))


def random_cells(counts: Maps, *, num_splits: int, seed: int) -> Maps:
    """Return how often each cell is drawn when every picture draws ``num_splits`` cells a fixation."""
    generator, counts = torch.Generator().manual_seed(seed), counts.to_dense()
    rows = [
        torch.bincount(torch.randint(one.numel(), (draws,), generator=generator), minlength=one.numel())
        for one, draws in zip(counts, (num_splits * counts.flatten(1).sum(1)).long().tolist(), strict=True)
    ]
    return torch.stack(rows).view(counts.shape).to(counts)


def _looked_at(elsewhere: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cells that anybody looked at, and how often, [1 or batch, cells]."""
    if elsewhere.is_sparse and elsewhere.ndim == 2:
        found = elsewhere.coalesce()
        row, column = found.indices()
        return row * elsewhere.shape[1] + column, found.values().double()[None]
    weights = elsewhere.to_dense().flatten(-2).reshape(-1, elsewhere.shape[-2] * elsewhere.shape[-1])
    cells = (weights > 0).any(0).nonzero().squeeze(1)
    return cells, weights.index_select(1, cells).double()


def _against(values: Tensor, fixated: Fixated, cells: Tensor, weights: Tensor) -> tuple[Ranks, Tensor]:
    """Rank fixated values among weighted cells; return that and each picture's sum of weights."""
    total = weights.sum(1).expand(len(values))
    whole = len(weights) == 1 and float(total[:1].sum()) <= MAX_REPEATED and bool((weights == weights.round()).all())
    if whole:  # sorting values alone is faster than sorting them with their weights
        return ranks(values.index_select(1, cells.repeat_interleave(weights[0].long())), fixated), total
    return weighted_ranks(values.index_select(1, cells), fixated, weights.expand(len(values), -1)), total
