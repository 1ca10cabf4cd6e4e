"""Which of the original channels are left after several cuts."""

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.artifacts import Group
from secateur.errors import TraceError


def compose(kept: Mapping[str, Tensor], groups: tuple[Group, ...], keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the original indices of the surviving channels of every group that was ever cut."""
    composed = dict(kept)
    for group in groups:
        before = kept.get(group.name, torch.arange(group.num_channels))
        if len(before) != group.num_channels:
            raise TraceError(
                f"prune, group {group.name}", f"{group.num_channels} channels", f"{len(before)}, as after the last cut",
                "Leave the network's shapes alone between cuts.",
            )  # fmt: skip
        if not keep[group.name].all():
            composed[group.name] = before[keep[group.name].to(before.device)]
    return composed
