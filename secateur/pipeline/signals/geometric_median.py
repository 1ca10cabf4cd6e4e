"""How far a filter is from all others of its group."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from secateur.artifacts import Group
from secateur.pipeline.signals.evidence import Evidence, Needs
from secateur.pipeline.signals.filters import weights_that_write


@dataclass(frozen=True, kw_only=True)
class GeometricMedian:
    """Score a channel by the sum of its filter's distances to the others', over the mean of these sums in its group.

    What is near the geometric median can be stood in for by the rest (He et al. 2019, arXiv 1811.00250). A channel that
    does nothing is as far from the others as they are large: it need not score least.
    """

    needs: ClassVar[Needs] = Needs()

    def __call__(self, evidence: Evidence, group: Group) -> Float64[Tensor, " num_channels"]:
        """Return the relative sum of every filter's distances."""
        rows = weights_that_write(evidence.module, group)
        distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
        return distances / distances.mean() if distances.any() else distances
