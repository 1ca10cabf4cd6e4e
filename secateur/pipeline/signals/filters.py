"""The filters that write a channel."""

from collections.abc import Mapping

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from secateur.artifacts import Group, Slice


def filters(
    weights: Mapping[str, Tensor], parts: list[Slice], num_channels: int
) -> Float64[Tensor, "channels entries"]:
    """Return the entries of weights that write each channel, side by side."""
    rows = [torch.zeros(num_channels, 0, dtype=torch.float64)]
    for part in parts:
        weight = weights[part.tensor].detach().cpu().double()
        rows.append(weight.movedim(part.axis, 0)[torch.from_numpy(part.indices)].flatten(1))
    return torch.cat(rows, 1)


def weights_that_write(module: nn.Module, group: Group) -> Float64[Tensor, "channels entries"]:
    """Return the weights that write each channel of the group, side by side."""
    return filters(dict(module.named_parameters(remove_duplicate=False)), writers(module, group), group.num_channels)


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
