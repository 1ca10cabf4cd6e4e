"""Densely connected networks for 32 x 32 pictures, without bottlenecks."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from secateur.errors import LoadError
from secateur.workloads.classification.weights import with_weights


class DenseLayer(nn.Module):
    """Append the channels of a 3 x 3 convolution to its input."""

    def __init__(self, channels_in: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels_in)
        self.conv = nn.Conv2d(channels_in, growth, 3, padding=1, bias=False)

    def forward(self, x: Float[Tensor, "batch channels_in height width"]) -> Float[Tensor, "batch more height width"]:
        """Return the input with ``growth`` channels more."""
        return torch.cat([x, self.conv(functional.relu(self.bn(x)))], 1)


class Transition(nn.Module):
    """Mix the channels and halve the picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "batch channels_in height width"]) -> Float[Tensor, "batch channels_out h w"]:
        """Return as many channels at half the resolution."""
        return functional.avg_pool2d(self.conv(functional.relu(self.bn(x))), 2)


class CifarDenseNet(nn.Module):
    """Classify 32 x 32 pictures with 3n + 4 layers: three dense blocks of n convolutions.

    Huang, Liu, van der Maaten and Weinberger 2016, "Densely connected convolutional networks", arXiv:1608.06993, the
    basic network without bottlenecks and compression, whose first convolution has 16 channels.
    """

    def __init__(self, depth: int = 40, growth: int = 12, num_classes: int = 10) -> None:
        super().__init__()
        if depth < 7 or (depth - 4) % 3:
            raise LoadError(
                "CifarDenseNet", f"depth {depth}", "3n + 4 layers: 7, 10, ..., 40, ..., 100", "Choose such a depth."
            )
        channels = 16
        self.conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.blocks = nn.Sequential()
        for block in range(3):
            for _ in range((depth - 4) // 3):
                self.blocks.append(DenseLayer(channels, growth))
                channels += growth
            if block < 2:
                self.blocks.append(Transition(channels))
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        x = functional.relu(self.bn(self.blocks(self.conv(pictures))))
        return self.linear(x.mean(dim=(2, 3)))


def densenet40(weights: str | Path | None = None, num_classes: int = 10) -> CifarDenseNet:
    """Return the network of 40 layers (1.02 M parameters, 264.8 M multiply-adds), trained where weights are given."""
    return with_weights(CifarDenseNet(40, 12, num_classes), weights)
