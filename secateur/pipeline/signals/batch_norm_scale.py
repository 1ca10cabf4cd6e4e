"""The scale that batch norm gives a channel, as network slimming reads it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.artifacts import Group
from secateur.errors import DataError
from secateur.pipeline.signals.evidence import Evidence, Needs


@dataclass(frozen=True, kw_only=True)
class BatchNormScale:
    """Score a channel by |gamma|, summed over the batch norms that it passes.

    Liu et al. 2017, "Learning efficient convolutional networks through network slimming", arXiv 1708.06519. Raises
    DataError for a group that passes no batch norm with a scale.
    """

    needs: ClassVar[Needs] = Needs()

    def __call__(self, evidence: Evidence, group: Group) -> Float64[Tensor, " num_channels"]:
        """Return the sum of every channel's scales."""
        total, found = torch.zeros(group.num_channels, dtype=torch.float64), False
        for part in group.slices:
            path, _, name = part.tensor.rpartition(".")
            owner = evidence.module.get_submodule(path)
            if isinstance(owner, _BatchNorm) and name == "weight":
                scales = owner.weight.detach().cpu().double().abs()
                total += scales[torch.from_numpy(part.indices)].sum(1)
                found = True
        if not found:
            raise DataError(
                f"signal bn-scale, group {group.name}", "no batch norm with a scale", "one in every group",
                "Choose another signal, or keep this group's modules whole.",
            )  # fmt: skip
        return total
