"""What makes up for channels that are cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn

from secateur.artifacts import Batch
from secateur.calibration.gram import GateGram
from secateur.pipeline.structure import Structure


@dataclass(frozen=True, kw_only=True, eq=False)
class Removal:
    """A cut that is about to be made: from which network, what stays by group, and what is known of the network.

    ``keep`` maps names of groups to masks [num_channels] or indices, as for `cut`; ``gate_gram`` is that of the same
    groups, where it was collected.
    """

    module: nn.Module
    structure: Structure
    keep: Mapping[str, Tensor]
    samples: Sequence[Batch]
    gate_gram: GateGram | None = None


class Compensation(Protocol):
    """Cuts a network and lets what stays make up for what goes, without training.

    ``needs_gram`` says whether the removal must come with gate gradients. The network given is left as it was.
    """

    needs_gram: ClassVar[bool]

    def __call__(self, removal: Removal) -> nn.Module:
        """Return the cut network."""
