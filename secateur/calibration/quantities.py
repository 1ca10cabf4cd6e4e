"""What a sample says of a channel: numbers that are read off where layers read the channel."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.calibration.layout import Layout


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What one call of a layer reads of a batch.

    ``entries`` are its inputs, with their channels on the negative axis ``channels``. ``gradient`` is the derivative
    of each sample's own loss there, ``mean`` [channels] what the channels are on average over all samples and places;
    they are there for quantities that need them, and empty for others.
    """

    entries: Tensor
    gradient: Tensor
    mean: Tensor
    channels: int
    layout: Layout
    num_samples: int

    @property
    def centred(self) -> Tensor:
        """The entries without their channel's mean."""
        return self.entries - self.mean.reshape(-1, *(1,) * (-1 - self.channels))

    def sum(self, values: Tensor) -> Float[Tensor, "batch channels"]:
        """Sum values, one an entry, over all places of each sample and channel."""
        return self.layout.sum(values, self.channels, self.num_samples)

    def constant(self, value: float) -> Float[Tensor, "batch channels"]:
        """Return one value for every sample and channel."""
        return self.entries.new_full((self.num_samples, self.entries.shape[self.channels]), value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantity:
    """A number that a sample has at every channel: the sum of ``of(reading)`` over all layers that read the channel.

    ``of`` returns [batch, channels of the layer]. Needing means takes another forward of all batches.
    """

    of: Callable[[Reading], Tensor]
    needs_gradient: bool = False
    needs_mean: bool = False


GATE_GRADIENT = Quantity(of=lambda reading: reading.sum(reading.entries * reading.gradient), needs_gradient=True)
"""The derivative of a sample's loss with respect to a gate that multiplies the channel wherever it is read."""


def _num_places(reading: Reading) -> Tensor:
    entries = reading.entries
    return reading.constant(entries.numel() / (entries.shape[reading.channels] * reading.num_samples))


PLACES = Quantity(of=_num_places)
"""How many entries of the channel are read."""


def sum_type(module: nn.Module) -> torch.dtype:
    """Return the type in which a sample's entries are summed: the network's own, float32 at least."""
    types = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    return torch.float64 if torch.float64 in types else torch.float32


def exact(values: Tensor) -> Tensor:
    """Return values in double precision, for sums over samples; on the CPU where a device, Apple's GPUs, has none."""
    return (values.cpu() if values.device.type == "mps" else values).double()
