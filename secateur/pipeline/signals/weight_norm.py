"""Signals from the weights alone: how large the filters are that write a channel."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from secateur.artifacts import Group
from secateur.pipeline.signals.evidence import Evidence, Needs
from secateur.pipeline.signals.filters import weights_that_write


@dataclass(frozen=True, kw_only=True)
class WeightNorm:
    """Score a channel by the norm of all filters that write it, over the mean norm in its group.

    The norm is sum |w| for ``power`` 1 (Li et al. 2017, arXiv 1608.08710) and sqrt(sum w^2) for 2. Without the division
    layers with small fan-in or before batch-norm would not be comparable with others. Biases and norms' parameters do
    not count.
    """

    power: Literal[1, 2]
    needs: ClassVar[Needs] = Needs()

    def __call__(self, evidence: Evidence, group: Group) -> Float64[Tensor, " num_channels"]:
        """Return the relative norm of every channel's filters."""
        norm = torch.linalg.vector_norm(weights_that_write(evidence.module, group), self.power, dim=1)
        return norm / norm.mean() if norm.any() else norm
