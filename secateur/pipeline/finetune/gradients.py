"""Gradients of processes that train together."""

import torch
from torch import Tensor, nn

from secateur.calibration.processes import mean, num_processes

__all__ = ["share_gradients"]


def share_gradients(module: nn.Module) -> None:
    """Give every process the mean of all processes' gradients, in one message for each type of number.

    The same parameters must have gradients everywhere.
    """
    if num_processes() == 1:
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for parameter in module.parameters():
        if parameter.grad is not None:
            by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_type.values():
        shared = mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, torch.split(shared, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view(gradient.shape))
