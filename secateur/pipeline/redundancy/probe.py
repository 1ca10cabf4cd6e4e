"""Measure what a network loses at given widths, without training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.artifacts import Batch
from secateur.calibration.batch_norm import reestimate_batch_norm, running_norms
from secateur.calibration.batches import Loss, batch_size_of, mean_loss
from secateur.pipeline.structure import Structure, cut


@dataclass(frozen=True, kw_only=True, eq=False)
class CutProbe:
    """Cut a network to widths and measure its mean loss.

    Inside a group the channels of most ``saliency``, one finite score a channel by group, stay. Batch-norm statistics
    are measured again on ``settling``; the loss is that on ``held_out``, with the better of old and new statistics, as
    in pruning: those of few samples may be worse than what they replace.
    """

    module: nn.Module
    structure: Structure
    saliency: Mapping[str, Tensor]
    settling: Sequence[Batch]
    held_out: Sequence[Batch]
    loss: Loss

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return the loss of the cut network; the one given is left as it was."""
        small = cut(self.module, self.structure, {name: self._kept(name, width) for name, width in widths.items()})
        before = mean_loss(small, self.loss, self.held_out)
        if not running_norms(small):
            return before
        # Batches count equally in the averages: a smaller last one is left out.
        largest = max(batch_size_of(inputs) for inputs, _ in self.settling)
        reestimate_batch_norm(small, [batch for batch in self.settling if batch_size_of(batch[0]) == largest])
        return min(before, mean_loss(small, self.loss, self.held_out))

    def _kept(self, name: str, width: int) -> Tensor:
        scores = self.saliency[name]
        # Among equals the later channels stay, as in an allocation.
        return torch.argsort(scores, stable=True)[len(scores) - width :].sort().values
