"""Distillation by relations: a student orders classes and samples as its teacher does."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["relation_distance"]


def relation_distance(
    student: Float[Tensor, "batch outcomes ..."], teacher: Float[Tensor, "batch outcomes ..."], temperature: float
) -> Float[Tensor, ""]:
    r"""Return how badly a student's predictions correlate with its teacher's, over outcomes and over samples.

    .. math:: T^2 \Big( \frac1B \sum_b (1 - \rho(p^S_{b \cdot}, p^T_{b \cdot}))
              + \frac1C \sum_c (1 - \rho(p^S_{\cdot c}, p^T_{\cdot c})) \Big)

    with rho Pearson's correlation of probabilities softened by T: the first term compares the outcomes of a sample, the
    second the samples of an outcome. Neither asks for equal values, which a far smaller student cannot reach. DIST:
    Huang et al. 2022, arXiv:2205.10536, section 3, both terms of weight 1. The second term needs several samples;
    positions of dense predictions, on further axes, count as samples. Probabilities are both multiplied by C, which
    changes no correlation and keeps small ones clear of rounding.
    """
    mine, theirs = (p.shape[1] * p.movedim(1, -1).flatten(0, -2) for p in (student, teacher))
    between = (1 - _correlation(mine, theirs)).mean()
    within = (1 - _correlation(mine.mT, theirs.mT)).mean()
    return temperature**2 * (between + within)


def _correlation(a: Float[Tensor, "rows entries"], b: Float[Tensor, "rows entries"]) -> Float[Tensor, " rows"]:
    """Return Pearson's correlation of the rows; 0 for a row that is constant."""
    first, second = (x - x.mean(dim=1, keepdim=True) for x in (a, b))
    return functional.cosine_similarity(first, second, dim=1, eps=1e-8)
