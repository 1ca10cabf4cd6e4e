"""Cut, and leave what stays as it is."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from secateur.pipeline.compensation.protocol import Removal
from secateur.pipeline.structure import cut


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """Cut only: the baseline of every compensation."""

    needs_gram: ClassVar[bool] = False

    def __call__(self, removal: Removal) -> nn.Module:
        """Return the cut network."""
        return cut(removal.module, removal.structure, removal.keep)
