"""Batch norm over the batches of all processes that train together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.calibration.processes import mean, num_processes

__all__ = ["synchronised"]


@contextmanager
def synchronised(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Let norms in training mode normalise by, and learn, the statistics of all processes' batches together.

    So P processes with batches of B samples train as one with batches of P B; every process must have as many samples
    as the others. PyTorch's own synchronised norm knows GPUs only. Nothing changes in a process that is alone.
    """
    changed = norms if num_processes() > 1 else ()
    for norm in changed:
        norm.forward = partial(_forward, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in changed:
            del norm.forward


def _forward(norm: _BatchNorm, inputs: Float[Tensor, "batch channels ..."]) -> Float[Tensor, "batch channels ..."]:
    if not norm.training:
        return type(norm).forward(norm, inputs)
    values = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    axes = [axis for axis in range(values.ndim) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(values.ndim)]
    centre = mean(values.mean(axes))
    centred = values - centre.view(shape)
    spread = mean(centred.square().mean(axes))
    _learn(norm, centre.detach(), spread.detach(), num_processes() * values.numel() // len(centre))
    result = centred * (spread + norm.eps).rsqrt().view(shape)
    if norm.weight is not None:
        result = result * norm.weight.view(shape)
    if norm.bias is not None:
        result = result + norm.bias.view(shape)
    return result.to(inputs.dtype)


def _learn(norm: _BatchNorm, centre: Float[Tensor, " channels"], spread: Float[Tensor, " channels"], num: int) -> None:
    """Move the running statistics as `torch.nn.BatchNorm2d` does; the variance that it keeps is unbiased."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    momentum = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(centre.to(norm.running_mean), momentum)
    norm.running_var.lerp_((spread * (num / max(1, num - 1))).to(norm.running_var), momentum)
