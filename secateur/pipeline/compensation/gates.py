"""Read the channels that stay at other scales, as the gate gradients tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.artifacts import Group
from secateur.calibration.masks import as_mask
from secateur.errors import DataError
from secateur.pipeline.compensation.protocol import Removal
from secateur.pipeline.structure import cut
from secateur.pipeline.structure.copying import copy_of


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Scale the survivors of every group where layers read them, so that the second-order loss is least.

    See `optimal_gates`. The scales go into the weights of all layers that read a channel, which is the same function
    whatever their sign. A group that is read by anything but convolutions and linear layers of `torch.nn` stays as it
    is. Raises DataError where gate gradients were not collected.
    """

    damping: float = 1e-3
    needs_gram: ClassVar[bool] = True

    def __call__(self, removal: Removal) -> nn.Module:
        """Return the cut network."""
        gram = {} if removal.gate_gram is None else removal.gate_gram.gram
        gates: dict[str, tuple[Group, Tensor]] = {}
        for name, keep in removal.keep.items():
            group = removal.structure.group(name)
            stays = as_mask(keep, group.num_channels)
            if stays.all():
                continue
            if name not in gram:
                raise DataError(
                    f"compensation by gates, group {name}", "no gate gradients", "those of every group",
                    "Collect them with collect_gate_gram first.",
                )  # fmt: skip
            gates[name] = (group, optimal_gates(gram[name], stays, self.damping))
        scaled = copy_of(removal.module, _scaled_readers(removal.module, gates))
        return cut(scaled, removal.structure, removal.keep)


def optimal_gates(
    gram: Float64[Tensor, "num_channels num_channels"], stays: Bool[Tensor, " num_channels"], damping: float
) -> Float64[Tensor, " num_channels"]:
    """Return the scales of a group's channels that minimise the second-order loss once the others are gone.

    m_R = 1 + (M_RR + d I)^-1 M_RS 1 for the channels R that stay and S that go, 1 elsewhere, with d ``damping`` times
    the mean of the diagonal: the closed form of optimal brain surgery (Hassibi and Stork 1993) on gates, with the
    gate-gradient Gram matrix M as the Hessian. All are 1 where the matrix is zero.
    """
    ridge = damping * float(gram.diagonal().mean())
    found = torch.ones(len(gram), dtype=torch.float64)
    if ridge > 0 and bool(stays.any()):
        inner = gram[stays][:, stays] + ridge * torch.eye(int(stays.sum()), dtype=torch.float64)
        found[stays] += torch.linalg.solve(inner, gram[stays][:, ~stays].sum(1))
    return found


def _scaled_readers(module: nn.Module, gates: Mapping[str, tuple[Group, Tensor]]) -> dict[str, Tensor]:
    """Return the weights that read these groups' channels, each input at its channel's scale."""
    scales: dict[str, np.ndarray] = {}
    owners = {name: module.get_submodule(name.rpartition(".")[0]) for group, _ in gates.values()
              for name in (reader.weight for reader in group.readers)}  # fmt: skip
    for group, values in gates.values():
        if all(isinstance(owners[reader.weight], (_ConvNd, nn.Linear)) for reader in group.readers):
            for reader in group.readers:
                scale = scales.setdefault(reader.weight, np.ones(_num_inputs(owners[reader.weight])))
                scale[reader.positions] = values.numpy()[:, None]
    return {name: _read_at(module.get_parameter(name).detach(), owners[name], scales[name]) for name in scales}


def _num_inputs(owner: nn.Module) -> int:
    found: int = owner.in_channels if isinstance(owner, _ConvNd) else owner.in_features  # type: ignore[assignment]
    return found


def _read_at(weight: Tensor, owner: nn.Module, scale: Float64[np.ndarray, " inputs"]) -> Tensor:
    """Multiply the weight of a convolution or linear layer by one number for each of its inputs."""
    factors = torch.from_numpy(scale).to(weight)
    if isinstance(owner, _ConvTransposeNd):
        return weight * factors.reshape(-1, *(1,) * (weight.ndim - 1))
    groups = owner.groups if isinstance(owner, _ConvNd) else 1
    rows = factors.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1)
    return weight * rows.reshape(len(weight), -1, *(1,) * (weight.ndim - 2))
