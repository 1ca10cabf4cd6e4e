"""Measure what a network loses at given widths, without training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.artifacts import Batch
from secateur.calibration.batches import Loss, mean_loss
from secateur.calibration.gram import GateGram
from secateur.pipeline.compensation import Removal
from secateur.pipeline.settling import Settle
from secateur.pipeline.structure import Structure


@dataclass(frozen=True, kw_only=True, eq=False)
class CutProbe:
    """Cut a network to widths, let it settle and measure its mean loss.

    Inside a group the channels of most ``saliency``, one finite score a channel by group, stay. The cut network settles
    on ``settling``, see `Settle`; the loss is that on ``held_out``, which nothing was chosen on.
    """

    module: nn.Module
    structure: Structure
    saliency: Mapping[str, Tensor]
    gate_gram: GateGram
    settle: Settle
    settling: Sequence[Batch]
    held_out: Sequence[Batch]
    loss: Loss

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return the loss of the cut network; the one given is left as it was."""
        removal = Removal(
            module=self.module, structure=self.structure, samples=self.settling, gate_gram=self.gate_gram,
            keep={name: self._kept(name, width) for name, width in widths.items()},
        )  # fmt: skip
        return mean_loss(self.settle(removal, self.loss).module, self.loss, self.held_out)

    def _kept(self, name: str, width: int) -> Tensor:
        scores = self.saliency[name]
        # Among equals the later channels stay, as in an allocation.
        return torch.argsort(scores, stable=True)[len(scores) - width :].sort().values
