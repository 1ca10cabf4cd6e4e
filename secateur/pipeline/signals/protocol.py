"""What a signal is."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn

from secateur.artifacts import Group
from secateur.calibration.gram import GateGram


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
