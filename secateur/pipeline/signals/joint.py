"""Signals that know that channels stand for each other: what the next removal costs after all that went before."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float64, Int64
from scipy.optimize import isotonic_regression
from torch import Tensor

from secateur.artifacts import Group
from secateur.pipeline.signals.evidence import Evidence, Needs

Removal = Callable[[Float64[np.ndarray, "num_channels num_channels"]], tuple[np.ndarray, np.ndarray]]
"""Returns the order in which channels go, and what each adds to the loss when it does."""


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Score channels by the loss that removing one of them after the other adds, without mending the others.

    With the gate-gradient Gram matrix M the second-order loss of removing the set S is Q(S) = 1/2 1_S^T M 1_S (Theis et
    al. 2018, arXiv 1801.05787, before its diagonal approximation); greedily the channel with the least
    1/2 M_ii + sum_{j in S} M_ij goes next. Scores ascend in this order. Raises DataError where gate gradients were not
    collected.
    """

    needs: ClassVar[Needs] = Needs(gram=True)

    def __call__(self, evidence: Evidence, group: Group) -> Float64[Tensor, " num_channels"]:
        """Return what each channel's removal adds, in nats where the loss is."""
        return ascending(*unmended(evidence.gram(group, "joint").gram[group.name].numpy()))


@dataclass(frozen=True, kw_only=True)
class OptimalBrainSurgeon:
    """Score channels by the loss that removing one of them after the other adds while the others are re-scaled.

    With H = M_RR^-1 over the channels R that are left and their gates m, the removal of channel k costs m_k^2 / 2 H_kk,
    and the gates become m - (m_k / H_kk) H_k (Hassibi and Stork 1993, "Optimal brain surgeon", for gates). ``damping``
    times the mean of the diagonal is added to it before the inversion. Raises DataError where gate gradients were not
    collected.
    """

    damping: float = 1e-3
    needs: ClassVar[Needs] = Needs(gram=True)

    def __call__(self, evidence: Evidence, group: Group) -> Float64[Tensor, " num_channels"]:
        """Return what each channel's removal adds, in nats where the loss is."""
        return ascending(*mended(evidence.gram(group, "obs").gram[group.name].numpy(), self.damping))


def unmended(gram: Float64[np.ndarray, "c c"]) -> tuple[Int64[np.ndarray, " c"], Float64[np.ndarray, " c"]]:
    """Return the greedy order of removal, and what each removal adds to 1/2 1_S^T M 1_S."""
    marginal = gram.diagonal() / 2
    order, added = np.zeros(len(gram), dtype=np.int64), np.zeros(len(gram))
    for step in range(len(gram)):
        order[step] = k = int(marginal.argmin())
        added[step] = marginal[k]
        marginal = marginal + gram[:, k]
        marginal[order[: step + 1]] = np.inf
    return order, added


def mended(
    gram: Float64[np.ndarray, "c c"], damping: float
) -> tuple[Int64[np.ndarray, " c"], Float64[np.ndarray, " c"]]:
    """Return the greedy order of removal where the gates of the others are set anew, and what each removal adds."""
    ridge = damping * gram.diagonal().mean()
    left, gates = np.arange(len(gram)), np.ones(len(gram))
    order, added = np.zeros(len(gram), dtype=np.int64), np.zeros(len(gram))
    if ridge == 0:
        return left, added
    inverse = np.linalg.inv(gram + ridge * np.eye(len(gram)))
    for step in range(len(gram)):
        costs = gates**2 / (2 * inverse.diagonal())
        k = int(costs.argmin())
        order[step], added[step] = left[k], costs[k]
        row, others = inverse[k] / inverse[k, k], np.arange(len(left)) != k
        gates = (gates - gates[k] * row)[others]
        inverse = (inverse - np.outer(inverse[k], row))[np.ix_(others, others)]
        left = left[others]
    return order, added


def ascending(order: Int64[np.ndarray, " c"], added: Float64[np.ndarray, " c"]) -> Float64[Tensor, " c"]:
    """Return scores whose order is that of removal and whose sums are nearest to what was added so far.

    A removal may make the next one cheaper, even worth its while; steps that belong together so share their cost.
    """
    fitted = isotonic_regression(added).x.clip(0)
    scores = np.empty(len(order))
    # Steps of equal cost still go in this order.
    scores[order] = fitted * (1 + 1e-9 * np.arange(len(order)))
    return torch.from_numpy(scores)
