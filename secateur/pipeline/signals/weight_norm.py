"""Signals from the weights alone: how large the filters are that write a channel."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from secateur.artifacts import Group, Slice
from secateur.pipeline.signals.protocol import Evidence


@dataclass(frozen=True, kw_only=True)
class WeightNorm:
    """Score a channel by the norm of all filters that write it, over the mean norm in its group.

    The norm is sum |w| for ``power`` 1 (Li et al. 2017, arXiv 1608.08710) and sqrt(sum w^2) for 2. Without the division
    layers with small fan-in or before batch-norm would not be comparable with others. Biases and norms' parameters do
    not count.
    """

    power: Literal[1, 2]
    needs_gram: ClassVar[bool] = False

    def __call__(self, evidence: Evidence, group: Group) -> Float64[Tensor, " num_channels"]:
        """Return the relative norm of every channel's filters."""
        norm = torch.linalg.vector_norm(filters(evidence.module, group), self.power, dim=1)
        return norm / norm.mean() if norm.any() else norm


def filters(module: nn.Module, group: Group) -> Float64[Tensor, "num_channels entries"]:
    """Return the weights that write each channel of the group, side by side."""
    rows = [torch.zeros(group.num_channels, 0, dtype=torch.float64)]
    for part in writers(module, group):
        weight = module.get_parameter(part.tensor).detach().cpu().double()
        rows.append(weight.movedim(part.axis, 0)[torch.from_numpy(part.indices)].flatten(1))
    return torch.cat(rows, 1)


def writers(module: nn.Module, group: Group) -> list[Slice]:
    """Return the slices of weights that write the group, without those that read it."""
    transposed = {
        f"{name}.weight" for name, submodule in module.named_modules() if isinstance(submodule, _ConvTransposeNd)
    }
    read = {(reader.weight, 0 if reader.weight in transposed else 1) for reader in group.readers}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return [
        part
        for part in group.slices
        if part.tensor in parameters and parameters[part.tensor].ndim > 1 and (part.tensor, part.axis) not in read
    ]
