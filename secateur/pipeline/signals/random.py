"""A signal that knows nothing: the baseline that every other one must beat."""

import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from secateur.artifacts import Group
from secateur.pipeline.signals.evidence import Evidence, Needs


@dataclass(frozen=True, kw_only=True)
class Random:
    """Score every channel by a uniform random number in [0, 1) that follows from the seed and the group's name."""

    needs: ClassVar[Needs] = Needs()

    def __call__(self, evidence: Evidence, group: Group) -> Float64[Tensor, " num_channels"]:
        """Return one random number a channel."""
        seed = zlib.crc32(f"{evidence.seed} {group.name}".encode())
        return torch.rand(group.num_channels, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
