"""How well a log-density predicts fixations: one value a picture, vectorised over the batch.

Every function takes ``log_density`` [batch, rows, columns] in nats and ``counts`` [batch, rows, columns], the number
of fixations in each cell, and returns [batch]. A picture without fixations gives nan in the measures that need them.
Formulas after Judd et al. 2012, Bylinskii et al. 2016 (arXiv 1604.03605) and Kuemmerer et al. 2015 (arXiv 1409.7686).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

Maps = Float[Tensor, "batch rows columns"]
Scores = Float[Tensor, " batch"]


def auc_judd(log_density: Maps, counts: Maps) -> Scores:
    """Return the area under the ROC curve of fixated cells against all cells.

    It is the chance that the map is higher at a random fixation than in a random cell, ties counting half:
    sum_f [P(v < v_f) + P(v = v_f) / 2] / num_fixations. A cell fixated twice counts twice.
    """
    values, weights = log_density.flatten(1).contiguous(), counts.flatten(1)
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values, right=False)
    not_above = torch.searchsorted(ordered, values, right=True)
    rank = (below + not_above).to(weights.dtype) / (2 * values.shape[1])
    return (rank * weights).sum(1) / weights.sum(1)


def nss(log_density: Maps, counts: Maps) -> Scores:
    """Return the normalised scan-path saliency: the density's mean z-score over the fixations.

    (p - mean) / std over the cells (population standard deviation); 0 for a constant map.
    """
    return map_nss(log_density.exp(), counts)


def map_nss(saliency: Maps, counts: Maps) -> Scores:
    """Return the mean z-score of any map at the fixations, see `nss`."""
    values, weights = saliency.flatten(1), counts.flatten(1)
    centred = values - values.mean(1, keepdim=True)
    deviation = centred.square().mean(1, keepdim=True).sqrt()
    # A map that is constant but for rounding has no peaks; its z-scores would be rounding errors.
    flat = deviation <= 1e-6 * values.abs().amax(1, keepdim=True)
    scores = torch.where(flat, torch.zeros_like(centred), centred / deviation.where(~flat, torch.ones_like(deviation)))
    return (scores * weights).sum(1) / weights.sum(1)


def log_likelihood(log_density: Maps, counts: Maps) -> Scores:
    """Return the mean log-likelihood of a fixation over that of the uniform density, bit a fixation."""
    uniform = -math.log(log_density[0].numel())
    return (mean_log_density(log_density, counts) - uniform) / math.log(2)


def information_gain(log_density: Maps, counts: Maps, baseline: Float[Tensor, "rows columns"]) -> Scores:
    """Return how many bit a fixation the density knows more than ``baseline``, a log-density in nats."""
    return mean_log_density(log_density - baseline, counts) / math.log(2)


def mean_log_density(log_density: Maps, counts: Maps) -> Scores:
    """Return the mean of the map over the fixations, nats a fixation."""
    return (log_density * counts).flatten(1).sum(1) / counts.flatten(1).sum(1)


def correlation(log_density: Maps, counts: Maps) -> Scores:
    """Return Pearson's correlation (CC) of the density with the counts over the cells; 0 where either is constant."""
    maps = (log_density.exp().flatten(1), counts.flatten(1))
    first, second = (values - values.mean(1, keepdim=True) for values in maps)
    scale = first.norm(dim=1) * second.norm(dim=1)
    return torch.where(scale > 0, (first * second).sum(1) / scale.clamp_min(1e-30), torch.zeros_like(scale))


def similarity(log_density: Maps, counts: Maps) -> Scores:
    """Return SIM, the sum over the cells of min(density, share of the fixations), in [0, 1]."""
    return torch.minimum(log_density.exp(), _shares(counts)).flatten(1).sum(1)


def divergence(log_density: Maps, counts: Maps) -> Scores:
    """Return KL(q || p) = sum q ln(q / p) in nats, q the fixations' shares and p the density; never negative."""
    shares = _shares(counts)
    return (torch.xlogy(shares, shares) - shares * log_density).flatten(1).sum(1)


def _shares(counts: Maps) -> Maps:
    return counts / counts.flatten(1).sum(1)[:, None, None]
