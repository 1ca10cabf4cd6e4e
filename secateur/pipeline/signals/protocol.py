"""What a signal is."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from jaxtyping import Float64
from torch import Tensor, nn

from secateur.artifacts import Group
from secateur.calibration.gram import GateGram
from secateur.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What signals may look at: the network, one of its groups, and the gate gradients where they were collected."""

    module: nn.Module
    gate_gram: GateGram | None
    seed: int = 0


class Signal(Protocol):
    """Says what every channel of a group is worth; cutting begins with the least.

    ``needs_gram`` says whether gate gradients must be collected first. The score is float64 [num_channels], finite and
    not negative; scores of different groups are compared with each other after division by the cost saved.
    """

    needs_gram: ClassVar[bool]

    def __call__(self, evidence: Evidence, group: Group) -> Tensor:
        """Return one score a channel, float64 [num_channels]."""


def gram_of(evidence: Evidence, group: Group, signal: str) -> Float64[Tensor, "num_channels num_channels"]:
    """Return the group's gate-gradient Gram matrix; raise DataError where none was collected."""
    if evidence.gate_gram is None or group.name not in evidence.gate_gram.gram:
        raise DataError(
            f"signal {signal}, group {group.name}", "no gate gradients", "those of every group",
            "Collect them with collect_gate_gram on the network's own groups first.",
        )  # fmt: skip
    return evidence.gate_gram.gram[group.name]
