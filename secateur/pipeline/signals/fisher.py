"""Fisher pruning's signal: what removing a channel costs in loss."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float64
from torch import Tensor

from secateur.artifacts import Group
from secateur.pipeline.signals.evidence import Evidence, Needs


@dataclass(frozen=True, kw_only=True)
class Fisher:
    """Score a channel by half the mean square of its gate gradient, in nats where the loss is.

    Delta_i = 1/(2N) sum_n g_ni^2 (Theis et al. 2018, arXiv 1801.05787, eq. 9), the second-order estimate of the loss
    that removing channel i adds. Raises DataError where gate gradients were not collected.
    """

    needs: ClassVar[Needs] = Needs(gram=True)

    def __call__(self, evidence: Evidence, group: Group) -> Float64[Tensor, " num_channels"]:
        """Return the saliency of every channel."""
        return evidence.gram(group, "fisher").saliency(group.name)
