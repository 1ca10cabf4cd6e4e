"""Remove the channels that do nothing by themselves, before anything is weighed up."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from secateur.artifacts import Batch, DeadRemoval, Model
from secateur.calibration.activations import collect_activations
from secateur.pipeline.fold_means import cut_to_means
from secateur.pipeline.kept import compose
from secateur.pipeline.proof import assert_cut_equals_masked
from secateur.pipeline.redundancy.dead import FindDead
from secateur.pipeline.redundancy.removal import measure_removal, without_dead
from secateur.pipeline.structure import Structure, cut


def remove_dead(
    model: Model, structure: Structure, samples: Sequence[Batch], tolerance: float
) -> tuple[Model, DeadRemoval] | None:
    """Return the network without its dead channels, and what moved; None where there are none that can go.

    Those that are constant on the samples hand their mean on to biases and running means, see `cut_to_means`: exact but
    for the borders of layers that pad with zeros. Zero and unread ones leave no trace. The network given is left as it
    was. Raises EqualityError where the cut without means differs from the masked network by more than ``tolerance``,
    otherwise as `collect_activations` and `cut_to_means` do.
    """
    module, groups = model.module, structure.groups
    activations = collect_activations(module, groups, samples)
    dead = FindDead()(module, structure, activations)
    keep = without_dead(module, structure, dead)
    removal = measure_removal(module, structure, dead, activations, samples[0][0])
    if removal is None:
        return None
    assert_cut_equals_masked(module, groups, keep, cut(module, structure, keep), samples[0][0], tolerance)
    masks = {group.name: torch.ones(group.num_channels, dtype=torch.bool) for group in groups} | keep
    small = cut_to_means(module, structure, keep, activations).eval()
    return replace(model, module=small, kept=compose(model.kept, groups, masks)), removal
