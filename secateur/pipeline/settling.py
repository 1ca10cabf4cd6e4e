"""Cut a network and let what stays settle, without training."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from secateur.artifacts import Batch
from secateur.calibration.batch_norm import reestimate_batch_norm, running_norms
from secateur.calibration.batches import Loss, batch_size_of, mean_loss
from secateur.pipeline.compensation import COMPENSATIONS, Removal


@dataclass(frozen=True, kw_only=True, eq=False)
class Settled:
    """A cut network: as it was cut, and the best that could be made of it.

    ``compensation`` names how, see `COMPENSATIONS`; ``loss`` is infinite where nothing had a finite one.
    """

    bare: nn.Module
    module: nn.Module
    compensation: str
    loss: float


@dataclass(frozen=True, kw_only=True)
class Settle:
    """Settings of settling: a ``compensation`` and, with ``batch_norm``, running statistics that are measured again.

    Each is kept only where it lowers the loss on the samples of the removal.
    """

    compensation: str = "none"
    batch_norm: bool = True

    def __call__(self, removal: Removal, loss: Loss) -> Settled:
        """Return the cut network and what became of it."""
        bare = COMPENSATIONS["none"](removal)
        cuts = {"none": bare}
        if self.compensation != "none":
            cuts[self.compensation] = COMPENSATIONS[self.compensation](removal)
        found: list[Settled] = []
        for name, module in cuts.items():
            for trial in (module, *self._reestimated(module, removal.samples)):
                value = mean_loss(trial, loss, removal.samples)
                value = value if math.isfinite(value) else math.inf
                found.append(Settled(bare=bare, module=trial, compensation=name, loss=value))
        return min(found, key=lambda settled: settled.loss)

    def _reestimated(self, module: nn.Module, samples: Sequence[Batch]) -> list[nn.Module]:
        """Return a copy with new batch statistics, where there are any and they are asked for."""
        if not self.batch_norm or not running_norms(module):
            return []
        trial = copy.deepcopy(module)
        # Batches count equally in the averages: a smaller last one is left out.
        size = batch_size_of(samples[0][0])
        reestimate_batch_norm(trial, [batch for batch in samples if batch_size_of(batch[0]) == size])
        return [trial]
