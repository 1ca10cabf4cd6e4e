"""Keep a cut network's weights near those they were, each as firmly as the teacher's loss depends on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.artifacts import Group, Model
from secateur.errors import TrainingError
from secateur.pipeline.structure.copying import canonical_names, tensors
from secateur.pipeline.structure.cut import along, cut_tensors, root_factors, surviving, taken
from secateur.pipeline.structure.paths import covers
from secateur.pipeline.structure.stand_in import stand_ins
from secateur.pipeline.structure.structure import Joints

__all__ = ["Anchor", "anchor_to", "channels_left"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Anchor:
    r"""How far a student's weights are from what a cut left of the teacher's, in nats.

    .. math:: \tfrac12 \sum_i F_i (w_i - w^T_{kept(i)})^2, \qquad F_i = E[(dL/dw_i)^2]

    With the Fisher information for the curvature, it is what the uncut network's loss would rise by, to second order,
    if its weights moved like the student's (Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3, with lambda 1).
    """

    weights: Mapping[str, Tensor]
    fisher: Mapping[str, Tensor]

    def __call__(self, student: nn.Module) -> Float[Tensor, ""]:
        """Return the distance of the weights that have Fisher information."""
        terms = [
            (self.fisher[name] * (parameter - self.weights[name]).square()).sum()
            for name, parameter in student.named_parameters()
            if name in self.weights
        ]
        return torch.stack(terms).sum() / 2


def anchor_to(
    teacher: Model, student: Model, groups: Sequence[Group], fisher: Mapping[str, Tensor], device: torch.device
) -> Anchor:
    """Cut the teacher's weights, and the Fisher information of each, as the student was cut from the teacher.

    ``groups`` are the teacher's; ``fisher`` maps the names of its parameters to tensors of their shapes. Where a cut
    scaled weights by f to make up for a division by the root of a width, their Fisher information falls by f^2.
    TrainingError where student, teacher, groups and Fisher information do not belong together.
    """
    module = teacher.module
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors(module).items()}
    joints = Joints(groups=tuple(groups), shapes=shapes)
    masks = channels_left(teacher, student, groups)
    first = canonical_names(module)
    weights = {name: tensor.detach() for name, tensor in module.named_parameters()}
    gone = tuple(stand_ins(student.module))
    worth = {n: fisher[n].to(weight) for n, weight in weights.items() if n in fisher and not covers(gone, n)}
    wrong = sorted(name for name, values in worth.items() if values.shape != weights[name].shape)
    factors = {first[name]: by_axis for name, by_axis in root_factors(joints, masks).items()}
    for name, axes in {first[name]: axes for name, axes in surviving(joints, masks).items()}.items():
        if name in worth and not wrong:
            for axis, factor in factors.get(name, {}).items():
                worth[name] = worth[name] / along(factor**2, worth[name], axis)
            worth[name] = taken(worth[name], axes)
    weights |= {first[name]: tensor for name, tensor in cut_tensors(module, joints, masks).items()}
    own = dict(student.module.named_parameters())
    wrong += sorted(name for name in worth if name not in own or own[name].shape != weights[name].shape)
    if wrong or not worth:
        raise TrainingError(
            "parameters held near the teacher's", f"none that fit for {wrong[0] if wrong else 'any parameter'}",
            "a student cut from the teacher, the teacher's groups, and the Fisher information of its parameters",
            "Give groups= of the teacher, and fisher= collected on it.",
        )  # fmt: skip
    return Anchor(
        weights={name: weights[name].to(device) for name in worth},
        fisher={name: values.to(device) for name, values in worth.items()},
    )


def channels_left(teacher: Model, student: Model, groups: Sequence[Group]) -> dict[str, np.ndarray]:
    """Return which of the teacher's channels the student still has, by group."""
    masks: dict[str, np.ndarray] = {}
    widths = {group.name: group.num_channels for group in groups}
    for name, kept in student.kept.items():
        mine = kept.cpu().numpy()
        theirs = teacher.kept[name].cpu().numpy() if name in teacher.kept else np.arange(widths.get(name, 0))
        mask = np.isin(theirs, mine)
        if name not in widths or len(theirs) != widths[name] or not np.array_equal(theirs[mask], mine):
            raise TrainingError(
                f"parameters held near the teacher's, group {name}", f"{len(mine)} kept channels of {len(theirs)}",
                "channels of one of the teacher's groups, in their order", "Give the groups of the uncut teacher.",
            )  # fmt: skip
        masks[name] = mask
    return masks
