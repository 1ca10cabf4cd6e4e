"""Compute in several processes as in one: sums, means and batches over all that were launched together.

Every function is the identity in a process that is alone. The others are collective: all processes call them in the
same order, with tensors of the same shape. They are what ``torchrun`` started and `torch.distributed` connects.
"""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed

__all__ = ["gathered", "mean", "num_processes", "rank", "total"]


def num_processes() -> int:
    """Return how many processes compute together, 1 where none were connected."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return this process's number among them, from 0."""
    return distributed.get_rank() if num_processes() > 1 else 0


def total(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Return the sum over the processes; no gradient flows through it."""
    if num_processes() == 1:
        return tensor
    summed = tensor.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(summed)
    return summed


def mean(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Return the mean over the processes; gradients of every process's loss flow back to all of them."""
    return tensor if num_processes() == 1 else _Mean.apply(tensor)


def gathered(tensor: Shaped[Tensor, "own ..."]) -> Shaped[Tensor, "all ..."]:
    """Return all processes' batches one after the other; gradients flow back to where a sample came from."""
    return tensor if num_processes() == 1 else _Gathered.apply(tensor)


class _Mean(torch.autograd.Function):
    """y = (1/P) sum_r x_r, so that the sum of all losses has d/dx_r = (1/P) sum_s dL_s/dy."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return total(tensor) / num_processes()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient) / num_processes()


class _Gathered(torch.autograd.Function):
    """Y stacks all x_r, so that the sum of all losses has d/dx_r = (sum_s dL_s/dY)_r."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.num_own = len(tensor)
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(num_processes())]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient)[rank() * ctx.num_own : (rank() + 1) * ctx.num_own]
