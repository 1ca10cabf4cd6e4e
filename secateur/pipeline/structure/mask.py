"""A network that computes what its cut would, with all its weights in place and gates to differentiate."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.calibration.norms import gated_norms
from secateur.calibration.readers import Transform, channel_axis, tap_readers, weights_of
from secateur.pipeline.structure.capture import device_of
from secateur.pipeline.structure.copying import copy_of
from secateur.pipeline.structure.cut import along, require_traced, root_factors
from secateur.pipeline.structure.plan import Plan
from secateur.pipeline.structure.structure import Structure

Positions = dict[str, list[tuple[int, np.ndarray]]]


class Masked(nn.Module):
    """A copy of a network whose channels pass through gates where layers read them.

    ``gates[g]`` is a parameter [num_channels] of group ``names[g]``: 1 for a channel that stays, 0 for one that a cut
    would remove (the gates of Theis et al. 2018, arXiv 1801.05787, on the readers' side). They are constants until
    their ``requires_grad`` is set; then they can be differentiated and trained like any parameter. Removed channels get
    no gradient, so training the survivors is training the cut network. Queries that a cut scales, because the network
    divides by the root of their width (``Group.roots``), have the cut's scale in ``body`` too, and what they make is
    divided by it again, so that an optimiser takes the same steps; `ungated` gives the network back.
    """

    def __init__(self, network: nn.Module, structure: Structure, plan: Plan) -> None:
        super().__init__()
        masks = plan.masks(structure)
        device = device_of(network)
        self.body = network
        self.names = tuple(group.name for group in structure.groups)
        self._groups = structure.groups
        self.gates = nn.ParameterList(
            nn.Parameter(
                torch.from_numpy(masks[group.name]).to(device, torch.get_default_dtype())
                if group.name in masks
                else torch.ones(group.num_channels, device=device),
                requires_grad=False,
            )
            for group in structure.groups
        )
        self._factors = root_factors(*plan.remainder(structure))
        _scale(network, self._factors, 1)
        self._inputs: Positions = {}
        self._outputs: Positions = {}
        for number, group in enumerate(structure.groups):
            for positions, layers in ((self._inputs, group.readers), (self._outputs, group.writers)):
                for layer in layers:
                    positions.setdefault(layer.weight, []).append((number, layer.positions))

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Call the network with its channels gated."""
        inside, outside = self._transforms(self._inputs), self._transforms(self._outputs)
        gates = dict(zip(self.names, self.gates, strict=True))
        with gated_norms(self.body, self._groups, gates), tap_readers(self.body, inside, outside):
            return self.body(*inputs, **options)

    def ungated(self) -> nn.Module:
        """Return a copy of the network as it is now, without gates, in the shapes and scales of the one given.

        Cut by the same plan it computes what this one does.
        """
        network = copy_of(self.body)
        _scale(network, self._factors, -1)
        return network

    def _transforms(self, positions: Positions) -> dict[str, Transform]:
        weights = weights_of(self.body, positions)
        factors = self._factors if positions is self._outputs else {}
        return {
            name: self._gated(positions[name], channel_axis(weight), next(iter(factors.get(name, {}).values()), None))
            for name, weight in weights.items()
        }

    def _gated(self, parts: list[tuple[int, np.ndarray]], axis: int, scaled: np.ndarray | None) -> Transform:
        """Return the function that multiplies channels by the gates of the groups, by number, at their positions.

        What a layer has made of entries that are ``scaled``, [channels], is divided by their factors.
        """

        def apply(inputs: Tensor) -> Tensor:
            gate = torch.ones(inputs.shape[axis], dtype=inputs.dtype, device=inputs.device)
            if scaled is not None:
                gate = gate / along(scaled, gate, 0)
            for number, positions in parts:
                index = torch.from_numpy(positions).to(inputs.device)
                values = self.gates[number].to(inputs.dtype)[:, None].expand(index.shape)
                gate = gate.index_put((index,), values * gate[index])
            return inputs * gate.reshape((-1,) + (1,) * (-1 - axis))

        return apply


def _scale(network: nn.Module, factors: Mapping[str, Mapping[int, np.ndarray]], power: int) -> None:
    """Multiply entries of parameters, in place, by a power of their factors."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, axes in factors.items():
            for axis, factor in axes.items():
                parameters[name].mul_(along(factor**power, parameters[name], axis))


def mask(module: nn.Module, structure: Structure, keep: Plan | Mapping[str, Tensor]) -> Masked:
    """Return a copy of the network that computes what `cut` with the same channels would; the one given is left alone.

    ``keep`` is a plan, or masks or indices of the channels that stay, see `cut`; groups that are not named stay whole.
    Raises TraceError for a plan or a network that does not fit the structure.
    """
    plan = keep if isinstance(keep, Plan) else Plan.of(structure, keep)
    require_traced(module, structure)
    return Masked(copy_of(module), structure, plan)
