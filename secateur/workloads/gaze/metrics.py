"""How well a log-density predicts fixations: one value a picture, vectorised over the batch.

Every function takes ``log_density`` [batch, rows, columns] in nats and ``counts`` [batch, rows, columns], the number
of fixations in each cell, and returns [batch]. A picture without fixations gives nan in the measures that need them.
The ``map_`` functions take any two maps instead, for example saliency and blurred fixations. Areas under ROC curves are
in `roc`. Formulas after Judd et al. 2012, Bylinskii et al. 2016 (arXiv 1604.03605) and Kuemmerer et al. 2015 (arXiv
1409.7686).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

Maps = Float[Tensor, "batch rows columns"]
Scores = Float[Tensor, " batch"]

MAX_CELLS = 2**19
"""Cells that are looked at together."""


def nss(log_density: Maps, counts: Maps) -> Scores:
    """Return the normalised scan-path saliency: the density's mean z-score over the fixations.

    (p - mean) / std over the cells (population standard deviation); 0 for a constant map.
    """
    return map_nss(log_density.exp(), counts)


def map_nss(saliency: Maps, counts: Maps) -> Scores:
    """Return the mean z-score of any map at the fixations, see `nss`."""
    return by_parts(_nss, saliency, counts)


def log_likelihood(log_density: Maps, counts: Maps) -> Scores:
    """Return the mean log-likelihood of a fixation over that of the uniform density, bit a fixation."""
    uniform = -math.log(log_density[0].numel())
    return (mean_log_density(log_density, counts) - uniform) / math.log(2)


def information_gain(log_density: Maps, counts: Maps, baseline: Float[Tensor, "rows columns"]) -> Scores:
    """Return how many bit a fixation the density knows more than ``baseline``, a log-density in nats."""
    known = mean_log_density(baseline.expand_as(counts), counts)
    return (mean_log_density(log_density, counts) - known) / math.log(2)


def mean_log_density(log_density: Maps, counts: Maps) -> Scores:
    """Return the mean of a map over the fixations, nats a fixation where it is a log-density."""
    return _products(log_density.flatten(1), counts.flatten(1)) / counts.flatten(1).sum(1)


def correlation(log_density: Maps, counts: Maps) -> Scores:
    """Return Pearson's correlation (CC) of the density with the counts, see `map_correlation`."""
    return map_correlation(log_density.exp(), counts)


def similarity(log_density: Maps, counts: Maps) -> Scores:
    """Return SIM, the sum over the cells of min(density, share of the fixations), in [0, 1]."""
    return map_similarity(log_density.exp(), counts)


def divergence(log_density: Maps, counts: Maps) -> Scores:
    """Return KL(q || p) = sum q ln(q / p) in nats, q the fixations' shares and p the density; never negative."""
    shares = counts / counts.flatten(1).sum(1)[:, None, None]
    return (torch.xlogy(shares, shares) - shares * log_density).flatten(1).sum(1)


def map_correlation(saliency: Maps, reference: Maps) -> Scores:
    """Return Pearson's correlation (CC) over the cells; 0 where either map is constant."""
    return by_parts(_correlation, saliency, reference)


def map_similarity(saliency: Maps, reference: Maps) -> Scores:
    """Return SIM, the sum over the cells of the lesser of two maps' shares, in [0, 1].

    A map that is somewhere negative is raised until it is not; a map of zeros counts as uniform.
    """
    return by_parts(_similarity, saliency, reference)


def map_divergence(saliency: Maps, reference: Maps, *, floor: float = 1e-20, epsilon: float = 0.0) -> Scores:
    """Return KL(q || p) = sum q ln(epsilon + q / (p + epsilon)) in nats, p and q the shares of saliency and reference.

    ``floor`` is added to both maps before they are divided by their sums. The MIT/Tuebingen benchmark has floor 0 and
    epsilon 2.2204e-16 (Bylinskii et al. 2016, arXiv 1604.03605, appendix).
    """
    return by_parts(partial(_divergence, floor=floor, epsilon=epsilon), saliency, reference)


def by_parts(measure: Callable[..., Scores], *maps: Maps) -> Scores:
    """Measure a few pictures at a time: intermediate maps stay small enough for a processor's cache."""
    num_pictures, rows, columns = maps[0].shape
    parts = range(0, num_pictures, max(1, MAX_CELLS // (rows * columns)))
    scores = [measure(*(each[first : first + parts.step] for each in maps)) for first in parts]
    return torch.cat(scores) if scores else maps[1].new_zeros(0)


def _nss(saliency: Maps, counts: Maps) -> Scores:
    values = saliency.flatten(1)
    mean, num_cells = values.mean(1), values.shape[1]
    deviation = vector_norm(values - mean[:, None], dim=1) / math.sqrt(num_cells)
    # A map that is constant but for rounding has no peaks; its z-scores would be rounding errors.
    flat = deviation <= 1e-6 * vector_norm(values, ord=math.inf, dim=1)
    height = mean_log_density(saliency, counts) - mean
    return torch.where(flat, 0 * height, height / deviation.where(~flat, torch.ones_like(deviation)))


def _correlation(saliency: Maps, reference: Maps) -> Scores:
    first, second = (values - values.mean(1, keepdim=True) for values in (saliency.flatten(1), reference.flatten(1)))
    scale = vector_norm(first, dim=1) * vector_norm(second, dim=1)
    return torch.where(scale > 0, _products(first, second) / scale.clamp_min(1e-30), torch.zeros_like(scale))


def _similarity(saliency: Maps, reference: Maps) -> Scores:
    first, second = _nonnegative(saliency), _nonnegative(reference)
    totals = first.sum(1), second.sum(1)
    # One division a picture, not one a cell.
    return torch.minimum(first, second * (totals[0] / totals[1])[:, None]).sum(1) / totals[0]


def _divergence(saliency: Maps, reference: Maps, *, floor: float, epsilon: float) -> Scores:
    first, second = _nonnegative(saliency), _nonnegative(reference)
    first, second = (first + floor, second + floor) if floor else (first, second)
    totals = first.sum(1), second.sum(1)
    if epsilon:
        shares = second / totals[1][:, None]
        return _products(shares, (shares / (first / totals[0][:, None] + epsilon)).add_(epsilon).log_())
    return _products(second, (second / first).log_()) / totals[1] + (totals[0] / totals[1]).log()


def _products(first: Float[Tensor, "batch cells"], second: Float[Tensor, "batch cells"]) -> Scores:
    """Return the scalar product of every picture's two maps."""
    return torch.bmm(first[:, None], second[:, :, None]).flatten()


def _nonnegative(maps: Maps) -> Float[Tensor, "batch cells"]:
    values = maps.flatten(1)
    lowest = values.amin(1)
    if bool((lowest >= 0).all()) and bool((values.sum(1) > 0).all()):
        return values
    raised = values - lowest[:, None].clamp_max(0)
    return torch.where(raised.sum(1, keepdim=True) > 0, raised, torch.ones_like(raised))
