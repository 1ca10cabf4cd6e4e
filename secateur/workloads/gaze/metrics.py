"""How well a log-density predicts fixations: one value a picture, vectorised over the batch.

Every function takes ``log_density`` [batch, rows, columns] in nats and ``counts`` [batch, rows, columns], the number
of fixations in each cell, and returns [batch]. A picture without fixations gives nan in the measures that need them,
and so does a map with nan. Cells of no density (-inf) count where somebody looked.
Where only fixated cells count, ``counts`` may be sparse (COO, see `Fixations.sparse_counts`), which is much faster for
large maps. The ``map_`` functions take any two maps instead, for example saliency and blurred fixations. Areas under
ROC curves are in `roc`. Formulas after Judd et al. 2012, Bylinskii et al. 2016 (arXiv 1604.03605) and Kuemmerer et al.
2015 (arXiv 1409.7686).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

Maps = Float[Tensor, "batch rows columns"]
Scores = Float[Tensor, " batch"]
Cells = Float[Tensor, "batch cells"]

PIECE = 2**15
"""Cells that are looked at together, so that what is made of them stays in a processor's cache."""
MAX_CELLS = 2**19
"""Cells of the maps that are gone through more than once."""
FAR = 1e-7
"""The share of a map's mean square that its variance must have, or squares are taken from the map's first value."""


def nss(log_density: Maps, counts: Maps) -> Scores:
    """Return the normalised scan-path saliency: the density's mean z-score over the fixations.

    (p - mean) / std over the cells (population standard deviation); 0 for a constant map.
    """
    return map_nss(log_density.exp(), counts)


def map_nss(saliency: Maps, counts: Maps) -> Scores:
    """Return the mean z-score of any map at the fixations, see `nss`."""
    return _nss(saliency, counts)


def log_likelihood(log_density: Maps, counts: Maps) -> Scores:
    """Return the mean log-likelihood of a fixation over that of the uniform density, bit a fixation."""
    uniform = -math.log(log_density[0].numel())
    return (mean_log_density(log_density, counts) - uniform) / math.log(2)


def information_gain(log_density: Maps, counts: Maps, baseline: Float[Tensor, "rows columns"]) -> Scores:
    """Return how many bit a fixation the density knows more than ``baseline``, a log-density in nats."""
    return (mean_log_density(log_density, counts) - _mean_at(baseline.flatten()[None], counts)) / math.log(2)


def mean_log_density(log_density: Maps, counts: Maps) -> Scores:
    """Return the mean of a map over the fixations, nats a fixation where it is a log-density."""
    return _mean_at(log_density.flatten(1), counts)


def _mean_at(values: Float[Tensor, "_ cells"], counts: Maps) -> Scores:
    """Return the mean at each picture's fixations of its map, or of one for all."""
    if not counts.is_sparse:
        numbers = counts.flatten(1)
        shared = len(values) == 1 and len(counts) > 1
        found = numbers @ values[0] if shared else _products(values, numbers)
        if bool(found.isnan().any()):
            found = (numbers * _seen(values, numbers)).sum(1)
        return found / numbers.sum(1)
    picture, cell, weights = places(counts)
    found = values[picture if len(values) > 1 else torch.zeros_like(picture), cell]
    sums = torch.stack([weights * found, weights.to(found)])
    return torch.div(*sums.new_zeros(2, len(counts)).index_add(1, picture, sums))


def _seen(log_density: Tensor, numbers: Tensor) -> Tensor:
    """Return a log-density whose cells of no density are 0 where nobody looked: nothing times them is nothing."""
    return torch.where((log_density == -math.inf) & (numbers == 0), 0.0, log_density)


def places(counts: Maps) -> tuple[Int64[Tensor, " fixated"], Int64[Tensor, " fixated"], Float[Tensor, " fixated"]]:
    """Return the picture, the cell and the number of fixations of every fixated cell, in the pictures' order."""
    if counts.is_sparse:
        found = counts.coalesce()
        picture, row, column = found.indices()
        return picture, row * counts.shape[2] + column, found.values()
    weights = counts.flatten(1)
    picture, cell = weights.nonzero(as_tuple=True)
    return picture, cell, weights[picture, cell]


def correlation(log_density: Maps, counts: Maps) -> Scores:
    """Return Pearson's correlation (CC) of the density with the counts, see `map_correlation`."""
    return map_correlation(log_density.exp(), counts)


def similarity(log_density: Maps, counts: Maps) -> Scores:
    """Return SIM, the sum over the cells of min(density, share of the fixations), in [0, 1]."""
    return map_similarity(log_density.exp(), counts)


def divergence(log_density: Maps, counts: Maps) -> Scores:
    """Return KL(q || p) = sum q ln(q / p) in nats, q the fixations' shares and p the density; never negative."""
    shares = counts / counts.flatten(1).sum(1)[:, None, None]
    return (torch.xlogy(shares, shares) - shares * _seen(log_density, counts)).flatten(1).sum(1)


def map_correlation(saliency: Maps, reference: Maps) -> Scores:
    """Return Pearson's correlation (CC) over the cells; 0 where either map is constant."""
    return _by_parts(_correlation, saliency, reference)


def map_similarity(saliency: Maps, reference: Maps) -> Scores:
    """Return SIM, the sum over the cells of the lesser of two maps' shares, in [0, 1].

    A map that is somewhere negative is raised until it is not; a map of zeros counts as uniform.
    """
    return _by_parts(_similarity, saliency, reference)


def map_divergence(saliency: Maps, reference: Maps, *, floor: float = 1e-20, epsilon: float = 0.0) -> Scores:
    """Return KL(q || p) = sum q ln(epsilon + q / (p + epsilon)) in nats, p and q the shares of saliency and reference.

    ``floor`` is added to both maps before they are divided by their sums. The MIT/Tuebingen benchmark has floor 0 and
    epsilon 2.2204e-16 (Bylinskii et al. 2016, arXiv 1604.03605, appendix).
    """
    return _by_parts(partial(_divergence, floor=floor, epsilon=epsilon), saliency, reference)


def _nss(saliency: Maps, counts: Maps) -> Scores:
    mean, variance, size = _moments(saliency.flatten(1))
    # A map that is constant but for rounding has no peaks; its z-scores would be rounding errors.
    flat = variance <= 1e-12 * size
    height = mean_log_density(saliency, counts) - mean
    return torch.where(flat, 0 * height, height / torch.where(flat, 1.0, variance).sqrt()).to(counts.dtype)


def _moments(values: Cells) -> tuple[Float64[Tensor, " batch"], Float64[Tensor, " batch"], Float64[Tensor, " batch"]]:
    """Return each map's mean, its variance and its mean square."""
    num_cells = values.shape[1]
    mean, size = _summed(lambda piece: (piece.sum(1), _products(piece, piece)), values) / num_cells
    variance = size - mean**2
    if bool((variance < FAR * size).any()):
        origin = values[:, :1]
        moved, squares = _summed(_moved_moments, values, origin) / num_cells
        variance = squares - moved**2
    return mean, variance.clamp_min(0), size


def _moved_moments(piece: Cells, origin: Float[Tensor, "batch 1"]) -> tuple[Tensor, Tensor]:
    moved = piece - origin
    return moved.sum(1), _products(moved, moved)


def _correlation(first: Cells, second: Cells) -> Float64[Tensor, " batch"]:
    num_cells = first.shape[1]
    sums = _summed(_five_sums, first, second) / num_cells
    if bool(((sums[2:4] - sums[:2] ** 2) < FAR * sums[2:4]).any()):
        origins = first[:, :1], second[:, :1]
        sums = _summed(lambda a, b, c, d: _five_sums(a - c, b - d), first, second, *origins) / num_cells
    scale = ((sums[2] - sums[0] ** 2).clamp_min(0) * (sums[3] - sums[1] ** 2).clamp_min(0)).sqrt()
    together = sums[4] - sums[0] * sums[1]
    return torch.where(scale == 0, torch.zeros_like(scale), together / scale.clamp_min(1e-300))


def _five_sums(first: Cells, second: Cells) -> tuple[Tensor, ...]:
    squares = _products(first, first), _products(second, second)
    return first.sum(1), second.sum(1), *squares, _products(first, second)


def _by_parts(measure: Callable[[Cells, Cells], Scores], saliency: Maps, reference: Maps) -> Scores:
    """Measure a few pictures at a time, whose maps stay in a processor's cache while they are gone through again."""
    first, second = saliency.flatten(1), reference.flatten(1)
    step = max(1, MAX_CELLS // max(1, first.shape[1]))
    tops = range(0, max(1, len(first)), step)
    return torch.cat([measure(first[i : i + step], second[i : i + step]) for i in tops]).to(reference.dtype)


def _similarity(first: Cells, second: Cells) -> Float64[Tensor, " batch"]:
    first, second, totals = _nonnegative(first, second)
    # One division a picture, not one a cell.
    ratio = (totals[0] / totals[1])[:, None]
    lesser = _summed(lambda a, b, times: (torch.minimum(a, b * times).sum(1),), first, second, ratio)
    return lesser[0] / totals[0]


def _divergence(first: Cells, second: Cells, floor: float, epsilon: float) -> Float64[Tensor, " batch"]:
    first, second, totals = _nonnegative(first, second)
    totals = totals + floor * first.shape[1]
    if epsilon:

        def terms(saliency: Tensor, reference: Tensor, total: Tensor, reference_total: Tensor) -> tuple[Tensor]:
            shares = (reference + floor) / reference_total
            return (_products(shares, (shares / ((saliency + floor) / total + epsilon)).add_(epsilon).log_()),)

        return _summed(terms, first, second, totals[0][:, None], totals[1][:, None])[0]

    def logarithms(saliency: Tensor, reference: Tensor) -> tuple[Tensor]:
        raised = reference + floor
        return (_products(raised, (raised / (saliency + floor)).log_()),)

    return _summed(logarithms, first, second)[0] / totals[1] + (totals[0] / totals[1]).log()


def _summed(terms: Callable[..., tuple[Tensor, ...]], *maps: Float[Tensor, "batch _"]) -> Float64[Tensor, "_ batch"]:
    """Add up terms [batch] over pieces of all maps, in double precision; a map of one column is whole in each."""
    num_pictures, num_cells = maps[0].shape
    height, found = max(1, PIECE // num_cells), list[Tensor]()
    for top in range(0, num_pictures, height):
        rows = [each[top : top + height] for each in maps]
        parts = []
        for left in range(0, num_cells, PIECE):
            pieces = (each if each.shape[1] == 1 else each[:, left : left + PIECE] for each in rows)
            parts.append(torch.stack(terms(*(piece.double() for piece in pieces))))
        found.append(parts[0] if len(parts) == 1 else torch.stack(parts).sum(0))
    return torch.cat(found, 1) if found else maps[0].new_zeros(len(terms(*(m.double() for m in maps))), 0).double()


def _products(first: Cells, second: Cells) -> Scores:
    """Return the scalar product of every picture's two maps."""
    return torch.bmm(first[:, None], second[:, :, None]).flatten()


def _nonnegative(first: Cells, second: Cells) -> tuple[Cells, Cells, Float64[Tensor, "2 batch"]]:
    """Raise maps that are somewhere negative until they are not; zeros become uniform. Return the sums too."""
    found = _summed(_totals, first, second)
    if bool((found[:2] > 0).all()) and bool((found[2:] == 0).all()):
        return first, second, found[:2]
    first, second = _raised(first), _raised(second)
    return first, second, _summed(_totals, first, second)[:2]


def _totals(first: Cells, second: Cells) -> tuple[Tensor, ...]:
    """Return the sums, and something below zero where any value is."""
    return first.sum(1), second.sum(1), first.amin(1).clamp_max(0), second.amin(1).clamp_max(0)


def _raised(values: Cells) -> Cells:
    raised = values - values.amin(1, keepdim=True).clamp_max(0)
    return torch.where(raised.amax(1, keepdim=True) == 0, torch.ones_like(raised), raised)
