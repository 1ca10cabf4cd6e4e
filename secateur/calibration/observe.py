"""Look at a network and leave it as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def observing(module: nn.Module) -> Iterator[None]:
    """Put the network in eval mode with frozen parameters, within the context.

    Afterwards modes, ``requires_grad``, buffers and the random states of torch are what they were, also where the
    context is left by an error. Gradients that are already stored stay untouched because no parameter collects any.
    """
    modes = {submodule: submodule.training for submodule in module.modules()}
    required = {parameter: parameter.requires_grad for parameter in module.parameters()}
    buffers = {buffer: buffer.detach().clone() for buffer in module.buffers()}
    devices = {tensor.device.index or 0 for tensor in (*required, *buffers) if tensor.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            module.eval()
            module.requires_grad_(False)
            yield
    finally:
        for submodule, training in modes.items():
            submodule.training = training
        for parameter, requires_grad in required.items():
            parameter.requires_grad_(requires_grad)
        with torch.no_grad():
            for buffer, value in buffers.items():
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
