"""Switch channels off without cutting them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from secateur.artifacts import Group, Reader
from secateur.calibration.norms import gated_norms
from secateur.calibration.readers import Transform, channel_axis, tap_readers, weights_of
from secateur.errors import TraceError


def as_mask(keep: Tensor, num_channels: int) -> Tensor:
    """Return kept channels as a boolean mask [num_channels], whether given as a mask or as int64 indices."""
    keep = torch.as_tensor(keep).cpu()
    if keep.dtype == torch.bool:
        if keep.shape != (num_channels,):
            raise TraceError(
                "mask", f"shape {list(keep.shape)}", f"[{num_channels}], one entry a channel",
                "Give the group's own number of channels.",
            )  # fmt: skip
        return keep
    mask = torch.zeros(num_channels, dtype=torch.bool)
    mask[keep] = True
    return mask


@contextmanager
def masked(module: nn.Module, groups: Sequence[Group], keep: Mapping[str, Tensor]) -> Iterator[None]:
    """Run the network as if channels were cut, within the context.

    ``keep`` maps group names to a mask [num_channels] or to the int64 indices of the channels that stay; groups that
    are not in it stay whole. The removed channels are zero where layers read them (the gates of Theis et al. 2018,
    arXiv 1801.05787, on the readers' side) or, where none does, where they are made, and are left out where norms take
    statistics over channels, which is the same function as the cut network.
    """
    masks = {g.name: as_mask(keep[g.name], g.num_channels) for g in groups if g.name in keep}
    read = [(reader, masks[g.name]) for g in groups if g.name in masks for reader in g.readers]
    written = [(writer, masks[g.name]) for g in groups if g.name in masks for writer in g.writers]
    with gated_norms(module, groups, masks), tap_readers(module, zeroing(module, read), zeroing(module, written)):
        yield


def zeroing(module: nn.Module, masks: Sequence[tuple[Reader, Tensor]]) -> dict[str, Transform]:
    """Return the functions that set removed channels to zero, by the weight of the layer."""
    removed: dict[str, list[np.ndarray]] = {}
    for reader, mask in masks:
        removed.setdefault(reader.weight, []).append(reader.positions[~mask.numpy()].ravel())
    transforms: dict[str, Transform] = {}
    for name, weight in weights_of(module, removed).items():
        index = torch.from_numpy(np.concatenate(removed[name]).astype(np.int64))
        transforms[name] = _zeros(index.to(weight.device), channel_axis(weight))
    return transforms


def _zeros(index: Tensor, axis: int) -> Transform:
    """Return the function that sets these entries along an axis to zero, in a copy."""
    return lambda inputs: inputs.index_fill(axis, index, 0)
