"""How far a student's outputs are from its teacher's, for tasks that do not say so themselves."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


def squared_error(outputs: Any, teacher_outputs: Any, temperature: float) -> Tensor:
    """Return the mean squared difference of all outputs, one value a sample, shape [batch].

    Outputs may be a tensor or any nest of tensors, batch axis first; each tensor is divided by the teacher's power in
    the batch, so that outputs of different scale count alike. The temperature has no meaning here.
    """
    del temperature
    parts = []
    for mine, theirs in zip(tree_leaves(outputs), tree_leaves(teacher_outputs), strict=True):
        if isinstance(mine, Tensor) and mine.is_floating_point():
            power = theirs.square().mean().clamp_min(torch.finfo(theirs.dtype).tiny)
            parts.append((mine - theirs).square().flatten(1).mean(1) / power)
    return torch.stack(parts).mean(0)


def kullback_leibler(outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || student) of softened class scores, in nats, shape [batch].

    ``outputs`` are scores before the softmax, [batch, classes, ...]; further axes are averaged. The factor T^2 keeps
    the gradient's scale (Hinton et al., 2015, arXiv 1503.02531).
    """
    mine, theirs = log_probabilities(outputs, temperature), log_probabilities(teacher_outputs, temperature)
    divergence = (theirs.exp() * (theirs - mine)).sum(1)
    return temperature**2 * divergence.flatten(1).mean(1) if divergence.dim() > 1 else temperature**2 * divergence


def log_probabilities(outputs: Tensor, temperature: float) -> Tensor:
    """Return softened class scores as log-probabilities, in nats, [batch, classes, ...]."""
    return (outputs / temperature).log_softmax(1)
