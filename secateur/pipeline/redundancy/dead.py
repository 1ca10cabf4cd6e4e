"""Find channels that do nothing by themselves: always the same, or read by nobody."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from secateur.artifacts import DeadChannels, Group, Slice
from secateur.calibration.activations import Activations, Moments, places
from secateur.pipeline.structure import Structure


@dataclass(frozen=True, kw_only=True)
class FindDead:
    """Find the channels whose activation is constant, or whose outgoing weights are zero.

    A channel is constant where its standard deviation, at every entry of every layer that reads it, is at most
    ``tolerance`` of the root mean square of that layer's inputs, and zero where its root mean square is so. It is
    unread where its weights in every reader are at most ``tolerance`` of that reader's root mean square weight. The
    kinds of unit are those of Evci 2018 (arXiv 1806.06068). Queries and keys, which no weight reads, are never
    constant: what they are multiplied with varies.
    """

    tolerance: float = 1e-6

    def __call__(self, module: nn.Module, structure: Structure, activations: Activations) -> dict[str, DeadChannels]:
        """Return the dead channels of every group; the moments belong to these groups."""
        return {group.name: self._of(module, group, activations) for group in structure.groups}

    def _of(self, module: nn.Module, group: Group, activations: Activations) -> DeadChannels:
        moments = [activations.moments[group.name][place.weight] for place in places(group)]
        zero = self._still(moments, about_zero=True)
        constant = self._still(moments, about_zero=False) & ~zero & bool(group.readers)
        unread = self._unread(module, group)
        return DeadChannels(zero=_indices(zero), constant=_indices(constant), unread=_indices(unread))

    def _still(self, moments: list[Moments], *, about_zero: bool) -> Bool[Tensor, " num_channels"]:
        """Return which channels stay at their mean, or at zero, everywhere."""
        found = []
        for moment in moments:
            square = moment.mean.square() + moment.variance
            spread = square if about_zero else moment.variance
            found.append((spread <= self.tolerance**2 * square.mean()).all(1))
        return torch.stack(found).all(0)

    def _unread(self, module: nn.Module, group: Group) -> Bool[Tensor, " num_channels"]:
        if not group.readers:
            return torch.zeros(group.num_channels, dtype=torch.bool)
        found = []
        for part in outgoing(module, group):
            weight = module.get_parameter(part.tensor).detach().cpu().double()
            rows = weight.movedim(part.axis, 0)[torch.from_numpy(part.indices)].flatten(1)
            found.append(rows.abs().amax(1) <= self.tolerance * weight.square().mean().sqrt())
        return torch.stack(found).all(0)


def outgoing(module: nn.Module, group: Group) -> list[Slice]:
    """Return the slices of the weights that read the group."""
    read = {(reader.weight, input_axis(module, reader.weight)) for reader in group.readers}
    return [part for part in group.slices if (part.tensor, part.axis) in read]


def input_axis(module: nn.Module, weight: str) -> int:
    """Return the axis of a layer's weight that holds its input channels."""
    return 0 if isinstance(module.get_submodule(weight.rpartition(".")[0]), _ConvTransposeNd) else 1


def _indices(mask: Tensor) -> tuple[int, ...]:
    return tuple(mask.nonzero().flatten().tolist())
