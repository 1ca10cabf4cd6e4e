"""Fisher pruning's signal: what removing a channel costs in loss."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float64
from torch import Tensor

from secateur.artifacts import Group
from secateur.errors import DataError
from secateur.pipeline.signals.protocol import Evidence


@dataclass(frozen=True, kw_only=True)
class Fisher:
    """Score a channel by half the mean square of its gate gradient, in nats where the loss is.

    Delta_i = 1/(2N) sum_n g_ni^2 (Theis et al. 2018, arXiv 1801.05787, eq. 9), the second-order estimate of the loss
    that removing channel i adds. Raises DataError where gate gradients were not collected.
    """

    needs_gram: ClassVar[bool] = True

    def __call__(self, evidence: Evidence, group: Group) -> Float64[Tensor, " num_channels"]:
        """Return the saliency of every channel."""
        if evidence.gate_gram is None or group.name not in evidence.gate_gram.gram:
            raise DataError(
                f"signal fisher, group {group.name}", "no gate gradients", "those of every group",
                "Collect them with collect_gate_gram on the network's own groups first.",
            )  # fmt: skip
        return evidence.gate_gram.saliency(group.name).clamp_min(0)
