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
from secateur.pipeline.structure.cut import require_traced
from secateur.pipeline.structure.plan import Plan
from secateur.pipeline.structure.structure import Structure

Positions = dict[str, list[tuple[int, np.ndarray]]]


class Masked(nn.Module):
    """A copy of a network whose channels pass through gates where layers read them.

    ``gates[g]`` is a parameter [num_channels] of group ``names[g]``: 1 for a channel that stays, 0 for one that a cut
    would remove (the gates of Theis et al. 2018, arXiv 1801.05787, on the readers' side). They are constants until
    their ``requires_grad`` is set; then they can be differentiated and trained like any parameter. Removed channels get
    no gradient, so training the survivors is training the cut network, except for queries that a cut scales because the
    network divides by the root of their width (``Group.roots``): there the steps of an optimiser differ.
    """

    def __init__(self, network: nn.Module, structure: Structure, plan: Plan) -> None:
        super().__init__()
        masks = plan.masks(structure)
        device = device_of(network)
        self.network = network
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
        with gated_norms(self.network, self._groups, gates), tap_readers(self.network, inside, outside):
            return self.network(*inputs, **options)

    def _transforms(self, positions: Positions) -> dict[str, Transform]:
        weights = weights_of(self.network, positions)
        return {name: self._gated(positions[name], channel_axis(weight)) for name, weight in weights.items()}

    def _gated(self, parts: list[tuple[int, np.ndarray]], axis: int) -> Transform:
        """Return the function that multiplies channels by the gates of the groups, by number, at their positions."""

        def apply(inputs: Tensor) -> Tensor:
            gate = torch.ones(inputs.shape[axis], dtype=inputs.dtype, device=inputs.device)
            for number, positions in parts:
                index = torch.from_numpy(positions).to(inputs.device)
                values = self.gates[number].to(inputs.dtype)[:, None].expand(index.shape)
                gate = gate.index_put((index,), values)
            return inputs * gate.reshape((-1,) + (1,) * (-1 - axis))

        return apply


def mask(module: nn.Module, structure: Structure, keep: Plan | Mapping[str, Tensor]) -> Masked:
    """Return a copy of the network that computes what `cut` with the same channels would; the one given is left alone.

    ``keep`` is a plan, or masks or indices of the channels that stay, see `cut`; groups that are not named stay whole.
    Raises TraceError for a plan or a network that does not fit the structure.
    """
    plan = keep if isinstance(keep, Plan) else Plan.of(structure, keep)
    require_traced(module, structure)
    return Masked(copy_of(module), structure, plan)
