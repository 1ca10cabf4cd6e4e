"""The optimiser of a network's trainable parameters."""

from typing import Literal

import torch
from torch import nn

from secateur.errors import TrainingError

__all__ = ["OptimizerName", "build_optimizer"]

OptimizerName = Literal["adamw", "sgd"]


def build_optimizer(
    module: nn.Module, name: OptimizerName, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """Return AdamW or SGD with Nesterov momentum; only tensors of two or more axes decay.

    Decay of norms' scales and of biases would pull channels towards zero for no gain in generality. The learning rate
    is set before every step. TrainingError where every parameter is frozen.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise TrainingError(
            "fine-tuning", "no trainable parameter", "at least one with requires_grad",
            "Call module.requires_grad_(True), or leave fine-tuning out.",
        )  # fmt: skip
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0)
    return torch.optim.AdamW(groups, lr=0.0)
