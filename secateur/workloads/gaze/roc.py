"""Areas under ROC curves of fixated cells against other cells, exact at ties.

Every function takes ``saliency`` [batch, rows, columns], any map whose order counts, and ``counts`` [batch, rows,
columns], the number of fixations in each cell, and returns [batch], nan for a picture without fixations. A map with nan
cannot be ranked and raises DataError. What the fixations are compared with makes the measure (Bylinskii et al. 2016,
arXiv 1604.03605; Kuemmerer et al. 2018, arXiv 1704.08615).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from secateur.errors import DataError
from secateur.workloads.gaze.metrics import Maps, Scores, by_parts


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
    fixated, values = _fixated(saliency, counts), _ordered(saliency.flatten(1))
    scores = [_between_thresholds(row, own) for row, own in zip(values, fixated.by_picture(), strict=True)]
    return fixated.mean(torch.cat(scores)).to(counts.dtype)


def _between_thresholds(values: Float[Tensor, " cells"], fixated: Float[Tensor, " fixated"]) -> Float64[Tensor, " _"]:
    """Return, for every fixated value of a picture, the share of unfixated cells between it and the next higher one."""
    thresholds, place = torch.unique(fixated, return_inverse=True)
    below = _searched(values, thresholds) - _searched(fixated.sort().values, thresholds)
    num_unfixated = len(values) - len(fixated)
    following = torch.cat([below[1:], below.new_full((min(1, len(below)),), num_unfixated)])
    return ((below + following).double() / (2 * num_unfixated))[place]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fixated:
    """The fixated cells of a batch, picture by picture: whose they are, their values and their fixations."""

    picture: Int64[Tensor, " cells"]
    values: Float[Tensor, " cells"]
    weights: Float64[Tensor, " cells"]
    num_pictures: int

    def by_picture(self) -> tuple[Float[Tensor, " _"], ...]:
        """Return each picture's values."""
        return torch.split(self.values, torch.bincount(self.picture, minlength=self.num_pictures).tolist())

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
    """Weigh, for every fixated value, its picture's values below it and those equal to it."""
    if weights is None:
        ordered = _ordered(values)
        masses: Tensor | None = None
    else:
        order = values.argsort(1)
        ordered = _without_nan(values.gather(1, order))
        masses = torch.cat([weights.new_zeros(len(weights), 1), weights.gather(1, order).cumsum(1)], dim=1)
    below, equal = [], []
    for number, own in enumerate(fixated.by_picture()):
        least, most = (_searched(ordered[number], own, right=right) for right in (False, True))
        if masses is not None:
            least, most = masses[number, least], masses[number, most]
        below.append(least.double())
        equal.append((most - least).double())
    return torch.cat(below), torch.cat(equal)


def _ordered(values: Float[Tensor, "batch cells"]) -> Float[Tensor, "batch cells"]:
    """Return the values of each picture in order; on a processor by NumPy, whose sorting is vectorised."""
    if values.device.type == "cpu":
        return _without_nan(torch.from_numpy(np.sort(values.detach().numpy(), axis=1)))
    return _without_nan(values.sort(1).values)


def _without_nan(ordered: Float[Tensor, "batch cells"]) -> Float[Tensor, "batch cells"]:
    """Return values in order, among which nan would be the last, unless there is any."""
    if bool(ordered[:, -1].isnan().any()):
        raise DataError("saliency maps", "nan", "numbers", "Look for what makes the map undefined.")
    return ordered


def _searched(
    ordered: Float[Tensor, " cells"], values: Float[Tensor, " _"], *, right: bool = False
) -> Int64[Tensor, " _"]:
    """Return how many of the values in order are below each of some, or, from the right, at most as high."""
    if ordered.device.type == "cpu":
        return torch.from_numpy(ordered.numpy().searchsorted(values.detach().numpy(), "right" if right else "left"))
    return torch.searchsorted(ordered, values, right=right)
