"""Refuse networks whose weights are broken."""

import math

import torch
from torch import Tensor, nn

from secateur.errors import LoadError


def require_finite(module: nn.Module, where: str = "network") -> None:
    """Raise `LoadError` naming the first parameter or buffer with a value that is NaN or infinite."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if bad := num_not_finite(tensor):
            raise LoadError(
                where, f"{bad} of {tensor.numel()} values of {name} are NaN or infinite", "finite weights",
                "Load a checkpoint from before training diverged.",
            )  # fmt: skip


def num_not_finite(tensor: Tensor) -> int:
    """Count the entries that are NaN or infinite; one pass where there are none: then their sum is finite, too."""
    if not tensor.is_floating_point() or not tensor.numel() or math.isfinite(tensor.detach().sum()):
        return 0
    return int((~torch.isfinite(tensor)).sum())
