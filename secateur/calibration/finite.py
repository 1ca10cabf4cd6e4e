"""Refuse networks whose weights are broken."""

import torch
from torch import nn

from secateur.errors import LoadError


def require_finite(module: nn.Module, where: str = "network") -> None:
    """Raise `LoadError` naming the first parameter or buffer with a value that is NaN or infinite."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise LoadError(
                where, f"{bad} of {tensor.numel()} values of {name} are NaN or infinite", "finite weights",
                "Load a checkpoint from before training diverged.",
            )  # fmt: skip
