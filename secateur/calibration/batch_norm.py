"""Measure batch-norm statistics again, for a network whose channels have changed."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.artifacts import Batch, as_tuple
from secateur.calibration.batches import device_of, to_device
from secateur.errors import DataError


def running_norms(module: nn.Module) -> list[_BatchNorm]:
    """Return the batch-norm layers that keep running statistics."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def reestimate_batch_norm(module: nn.Module, batches: Iterable[Batch]) -> None:
    """Replace the running statistics of every batch-norm layer by their average over these batches, in place.

    Everything else about the network stays: only these layers leave eval mode meanwhile. Batches count equally, so give
    batches of one size. Raises DataError where a batch has a single value a channel, from which no variance follows.
    """
    norms = running_norms(module)
    if not norms:
        return
    device = device_of(module)
    modes = {submodule: submodule.training for submodule in module.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    num_batches = 0
    try:
        module.eval()
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over batches
        with torch.no_grad():
            for inputs, _ in batches:
                module(*to_device(as_tuple(inputs), device))
                num_batches += 1
    except ValueError as error:
        raise DataError(
            "batch-norm statistics", str(error), "more than one value a channel", "Use larger batches."
        ) from error
    finally:
        for submodule, training in modes.items():
            submodule.training = training
        for norm, momentum in momenta.items():
            norm.momentum = momentum
    if num_batches == 0:
        raise DataError("batch-norm statistics", "no batches", "at least one", "Give a data set with samples.")
