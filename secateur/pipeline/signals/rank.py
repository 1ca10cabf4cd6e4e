"""How many independent rows a channel's maps have."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from secateur.artifacts import Group
from secateur.calibration.quantities import Quantity, Reading
from secateur.calibration.statistics import Statistic
from secateur.pipeline.signals.evidence import Evidence, Needs


def _has_maps(reading: Reading) -> bool:
    # Maps lie behind the channels, and whole: the batch is not folded into one of their axes.
    return reading.channels <= -3 and reading.layout.axis == 0


def _rank(reading: Reading) -> Tensor:
    if not _has_maps(reading):
        return reading.layout.max((reading.entries != 0).to(reading.entries), reading.channels, reading.num_samples)
    ranks = torch.linalg.matrix_rank(reading.entries).to(reading.entries)
    return reading.layout.sum(ranks, reading.channels + 2, reading.num_samples)


def _full_rank(reading: Reading) -> Tensor:
    if not _has_maps(reading):
        return reading.constant(1.0)
    shape = reading.entries.shape
    num_maps = reading.entries.numel() / (shape[reading.channels] * shape[-1] * shape[-2] * reading.num_samples)
    return reading.constant(num_maps * min(shape[-2:]))


@dataclass(frozen=True, kw_only=True)
class MapRank:
    """Score a channel by the mean rank of its maps, as matrices, over the largest that it could be.

    Lin et al. 2020, "HRank", arXiv 2002.10179, on the maps that layers read. What a layer reads without two axes of
    space, as a linear layer does, counts as a map of one row: its rank is 1 unless all of it is zero.
    """

    needs: ClassVar[Needs] = Needs(
        statistics={
            "rank": Statistic(
                quantities={"rank": Quantity(of=_rank), "full rank": Quantity(of=_full_rank)},
                value=lambda values: values["rank"] / values["full rank"].clamp_min(1),
            )
        }
    )

    def __call__(self, evidence: Evidence, group: Group) -> Float64[Tensor, " num_channels"]:
        """Return the mean share of the full rank."""
        return evidence.statistic("rank", group, "hrank")
