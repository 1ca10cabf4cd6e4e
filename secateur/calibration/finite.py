"""Refuse networks whose weights are broken."""

import math

import torch
from torch import Tensor, nn

from secateur.errors import LoadError


def require_finite(module: nn.Module, where: str = "network") -> None:
    """Raise `LoadError` naming the first parameter or buffer with a value that is NaN or infinite."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not is_finite(tensor):
            bad = int((~torch.isfinite(tensor)).sum())
            raise LoadError(
                where, f"{bad} of {tensor.numel()} values of {name} are NaN or infinite", "finite weights",
                "Load a checkpoint from before training diverged.",
            )  # fmt: skip


def is_finite(tensor: Tensor) -> bool:
    """Tell whether no entry is NaN or infinite, in one pass: least and greatest are NaN where any entry is."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(extreme) for extreme in torch.aminmax(tensor.detach()))
