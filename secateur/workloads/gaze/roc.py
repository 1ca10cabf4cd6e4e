"""Areas under ROC curves of fixated cells against other cells, in one pass over the maps and exact at ties.

Every function takes ``saliency`` [batch, rows, columns], any map whose order counts, and ``counts`` [batch, rows,
columns], the number of fixations in each cell, and returns [batch], nan for a picture without fixations. A map with nan
cannot be ranked and raises DataError. What the fixations are compared with makes the measure (Bylinskii et al. 2016,
arXiv 1604.03605; Kuemmerer et al. 2018, arXiv 1704.08615).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int32, Int64
from torch import Tensor

from secateur.errors import DataError
from secateur.workloads.gaze.metrics import Maps, Scores, by_parts

MAX_BUCKETS = 2**15
BLOCK = 2**15


def auc(saliency: Maps, counts: Maps) -> Scores:
    """Return the area under the ROC curve of fixations against all cells.

    It is the chance that the map is higher at a random fixation than in a random cell, ties counting half:
    sum_f [P(v < v_f) + P(v = v_f) / 2] / num_fixations. A cell fixated twice counts twice.
    """
    return by_parts(_against_all, saliency, counts)


def auc_judd(saliency: Maps, counts: Maps) -> Scores:
    """Return AUC-Judd: cells without fixations are the negatives, fixated values the only thresholds.

    Between a fixated value and the next higher one t' the curve is a straight line, so that an unfixated cell there
    is won by half: sum_f [P(v < v_f) + P(v < t'_f)] / 2 / num_fixations, P over the unfixated cells (Judd et al. 2012).
    The published code adds noise to the map to break ties; nothing is added here.
    """
    return by_parts(_against_unfixated, saliency, counts)


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
    others = elsewhere.reshape(-1, saliency[0].numel())
    cells = (others > 0).any(0).nonzero().squeeze(1)
    weights = others.index_select(1, cells).double().expand(len(counts), -1)
    if without_own:
        weights = weights - counts.flatten(1).index_select(1, cells).double()
    fixated = _fixated(saliency, counts)
    below, equal = _standing(saliency.flatten(1).index_select(1, cells), fixated, weights)
    return fixated.mean((below + equal / 2) / weights.sum(1)[fixated.picture]).to(counts.dtype)


def auc_borji(saliency: Maps, counts: Maps, *, num_splits: int = 100, seed: int = 0) -> Scores:
    """Return AUC-Borji: the mean over splits of the area against as many random cells as there are fixations.

    Cells are drawn uniformly with replacement (Borji et al. 2013). All values are thresholds, with which the mean over
    splits is the area against the cells of all splits together.
    """
    return shuffled_auc(saliency, counts, random_cells(counts, num_splits=num_splits, seed=seed))


def random_cells(counts: Maps, *, num_splits: int, seed: int) -> Maps:
    """Return how often each cell is drawn when every picture draws ``num_splits`` cells a fixation."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        torch.bincount(torch.randint(one.numel(), (draws,), generator=generator), minlength=one.numel())
        for one, draws in zip(counts, (num_splits * counts.flatten(1).sum(1)).long().tolist(), strict=True)
    ]
    return torch.stack(rows).view(counts.shape).to(counts)


def _against_all(saliency: Maps, counts: Maps) -> Scores:
    fixated = _fixated(saliency, counts)
    below, equal = _standing(saliency.flatten(1), fixated, None)
    return fixated.mean((below + equal / 2) / saliency[0].numel()).to(counts.dtype)


def _against_unfixated(saliency: Maps, counts: Maps) -> Scores:
    fixated = _fixated(saliency, counts)
    below, _ = _standing(saliency.flatten(1), fixated, None)
    keys, place = torch.unique(fixated.keys(), return_inverse=True)
    num_unfixated = saliency[0].numel() - torch.bincount(fixated.picture, minlength=len(counts)).double()
    ordered = fixated.keys().sort().values
    first = torch.searchsorted(fixated.picture, torch.arange(len(counts), device=counts.device))
    unfixated = below - (torch.searchsorted(ordered, fixated.keys()) - first[fixated.picture])
    at = torch.zeros(len(keys), dtype=torch.float64, device=keys.device).scatter(0, place, unfixated)
    owner = torch.zeros_like(keys).scatter(0, place, fixated.picture)
    following, last = at.roll(-1), owner.roll(-1) != owner
    last[-1:] = True
    higher = torch.where(last, num_unfixated[owner], following)[place]
    return fixated.mean((unfixated + higher) / (2 * num_unfixated[fixated.picture])).to(counts.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fixated:
    """The fixated cells of a batch, picture by picture: whose they are, their values and their fixations."""

    picture: Int64[Tensor, " cells"]
    values: Float[Tensor, " cells"]
    weights: Float64[Tensor, " cells"]
    num_pictures: int

    def keys(self) -> Int64[Tensor, " cells"]:
        """Number the cells so that numbers are ordered by picture, then by value; equal values have one number."""
        levels, rank = torch.unique(self.values, return_inverse=True)
        return self.picture * len(levels) + rank

    def mean(self, scores: Float64[Tensor, " cells"]) -> Float64[Tensor, " pictures"]:
        """Return each picture's mean over its fixations."""
        sums = torch.zeros(2, self.num_pictures, dtype=torch.float64, device=scores.device)
        sums.index_add_(1, self.picture, torch.stack([scores * self.weights, self.weights]))
        return sums[0] / sums[1]


def _fixated(saliency: Maps, counts: Maps) -> _Fixated:
    weights = counts.flatten(1)
    picture, cell = weights.nonzero(as_tuple=True)
    values = saliency.flatten(1)[picture, cell]
    return _Fixated(
        picture=picture, values=values, weights=weights[picture, cell].double(), num_pictures=len(counts)
    )  # fmt: skip


def _standing(
    values: Float[Tensor, "batch cells"], fixated: _Fixated, weights: Float64[Tensor, "batch cells"] | None
) -> tuple[Float64[Tensor, " fixated"], Float64[Tensor, " fixated"]]:
    """Weigh, for every fixated value, its picture's values below it and those equal to it.

    Values fall into buckets of equal width between the picture's lowest and highest fixated value. Rounding keeps the
    order, so that whole buckets below a fixated value's own are below it; only values in buckets that hold a fixated
    value are compared one by one. That is one counting pass where sorting all cells would take some twenty.
    """
    if bool(values.sum().isnan()) and bool(values.isnan().any()):
        raise DataError("saliency maps", "nan", "numbers", "Look for what makes the map undefined.")
    num_pictures, num_values = values.shape
    num_buckets = min(MAX_BUCKETS, 4 * num_values)
    least, scale = _span(fixated, num_buckets)
    start = torch.arange(num_pictures, device=values.device, dtype=torch.int32) * (num_buckets + 2)
    bucket = torch.empty(values.shape, dtype=torch.int32, device=values.device)
    for first in range(0, num_values, BLOCK):
        some, places = values[:, first : first + BLOCK], bucket[:, first : first + BLOCK]
        places.copy_((some - least[:, None]).mul_(scale[:, None]).clamp_(-1, num_buckets).add_(1))
    bucket = bucket.add_(start[:, None]).flatten()
    own = (fixated.values - least[fixated.picture]).mul_(scale[fixated.picture]).clamp_(-1, num_buckets).add_(1).int()
    own += start[fixated.picture]
    heights = torch.bincount(
        bucket, None if weights is None else weights.reshape(-1), minlength=num_pictures * (num_buckets + 2)
    )
    heights = heights.view(num_pictures, -1)
    lower = (heights.cumsum(1) - heights).flatten()[own].double()
    near = _holding(own, heights.numel()).index_select(0, bucket).nonzero().squeeze(1)
    levels, rank = torch.unique(torch.cat([values.flatten()[near], fixated.values]), return_inverse=True)
    picture = torch.cat([near // num_values, fixated.picture])
    keys, wanted = (picture * len(levels) + rank).tensor_split([len(near)])
    keys, order = keys.sort()
    masses = torch.ones(len(near), dtype=torch.float64, device=values.device)
    masses = masses if weights is None else weights.reshape(-1)[near[order]]
    upto = torch.cat([masses.new_zeros(1), masses.cumsum(0)])
    before, after = (upto[torch.searchsorted(keys, wanted, right=right)] for right in (False, True))
    return lower + before - upto[torch.searchsorted(bucket[near[order]], own)], after - before


def _holding(buckets: Int32[Tensor, " fixated"], num_buckets: int) -> Bool[Tensor, " buckets"]:
    """Mark the buckets that hold a fixated value."""
    marks = torch.zeros(num_buckets, dtype=torch.bool, device=buckets.device)
    marks[buckets] = True
    return marks


def _span(fixated: _Fixated, num_buckets: int) -> tuple[Float[Tensor, " pictures"], Float[Tensor, " pictures"]]:
    """Return each picture's lowest finite fixated value, and how many buckets there are in one unit of value."""
    finite, picture = fixated.values.isfinite(), fixated.picture
    empty = fixated.values.new_zeros(fixated.num_pictures)
    chosen, owner = fixated.values[finite], picture[finite]
    least, most = (
        empty.scatter_reduce(0, owner, chosen, reduce, include_self=False) for reduce in ("amin", "amax")
    )  # fmt: skip
    return least, (num_buckets / (most - least)).clamp(max=torch.finfo(least.dtype).max)
