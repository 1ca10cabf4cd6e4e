"""Measure what becomes of a network without its dead channels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.artifacts import DeadChannels, DeadRemoval, Group, as_tuple
from secateur.calibration.activations import Activations
from secateur.calibration.batches import device_of, to_device
from secateur.calibration.observe import observing
from secateur.equality import difference
from secateur.pipeline.fold_means import can_carry, cut_to_means
from secateur.pipeline.structure import Structure, cut
from secateur.pipeline.structure.capture import flat_outputs


def without_dead(module: nn.Module, structure: Structure, dead: Mapping[str, DeadChannels]) -> dict[str, Tensor]:
    """Return which channels stay, bool [num_channels] by group, when as many dead ones go as widths allow.

    Channels of zeros go first. Where a reader cannot carry on a mean, see `can_carry`, only these go.
    """
    keep = {}
    for group in structure.groups:
        order = _order(module, group, dead[group.name])
        num_gone = group.num_channels - group.allowed_width(group.num_channels - len(order))
        if num_gone:
            keep[group.name] = torch.ones(group.num_channels, dtype=torch.bool)
            keep[group.name][order[:num_gone]] = False
    return keep


def measure_removal(
    module: nn.Module, structure: Structure, dead: Mapping[str, DeadChannels], activations: Activations, inputs: Any
) -> DeadRemoval | None:
    """Return how far the outputs on ``inputs`` move without the dead channels, None where none can go.

    Once with their means carried on by biases, once without. The network is left as it was.
    """
    keep = without_dead(module, structure, dead)
    if not keep:
        return None
    widths = {name: int(mask.sum()) for name, mask in keep.items()}
    wanted = _outputs(module, inputs)
    return DeadRemoval(
        num_channels=sum(len(mask) for mask in keep.values()) - sum(widths.values()),
        macs=structure.macs(widths),
        parameters=structure.parameters(widths),
        residual=difference(wanted, _outputs(cut_to_means(module, structure, keep, activations), inputs)).relative,
        residual_zero=difference(wanted, _outputs(cut(module, structure, keep), inputs)).relative,
    )


def _order(module: nn.Module, group: Group, dead: DeadChannels) -> list[int]:
    carries = all(can_carry(module, reader.weight) for reader in group.readers)
    others = set(dead.all) - set(dead.zero) if carries else set()
    return [*dead.zero, *sorted(others)]


def _outputs(module: nn.Module, inputs: Any) -> list[np.ndarray]:
    with observing(module), torch.no_grad():
        outputs = flat_outputs(module(*to_device(as_tuple(inputs), device_of(module))))
    return [tensor.detach().cpu().double().numpy() for tensor in outputs]
