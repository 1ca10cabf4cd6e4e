"""Residual networks for 32 x 32 pictures, with parameter-free shortcuts."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from secateur.errors import LoadError
from secateur.workloads.classification.weights import with_weights


class ResidualBlock(nn.Module):
    """Add two 3 x 3 convolutions to the input; where the block widens, the input is subsampled and padded with zeros.

    That shortcut has no parameters ("option A" of He et al. 2015, arXiv:1512.03385): every second pixel is taken and
    half of the new channels are put before, half after the old ones.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.new_channels = channels_out - channels_in

    def forward(self, x: Float[Tensor, "batch channels_in height width"]) -> Float[Tensor, "batch channels_out h w"]:
        """Return relu(input + residual)."""
        residual = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.new_channels:
            before = self.new_channels // 2
            x = functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before)
            )
        return functional.relu(x + residual)


class CifarResNet(nn.Module):
    """Classify 32 x 32 pictures with 6n + 2 layers: three stages of n blocks with 16, 32 and 64 channels.

    He, Zhang, Ren and Sun 2015, "Deep residual learning for image recognition", arXiv:1512.03385, section 4.2.
    """

    def __init__(self, depth: int = 20, num_classes: int = 10) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise LoadError(
                "CifarResNet", f"depth {depth}", "6n + 2 layers: 8, 14, 20, 26, 32, ...", "Choose such a depth."
            )
        num_blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, num_blocks)
        self.layer2 = _stage(16, 32, 2, num_blocks)
        self.layer3 = _stage(32, 64, 2, num_blocks)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        x = functional.relu(self.bn1(self.conv1(pictures)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def _stage(channels_in: int, channels_out: int, stride: int, num_blocks: int) -> nn.Sequential:
    first = ResidualBlock(channels_in, channels_out, stride)
    return nn.Sequential(first, *(ResidualBlock(channels_out, channels_out, 1) for _ in range(num_blocks - 1)))


def resnet20(weights: str | Path | None = None, num_classes: int = 10) -> CifarResNet:
    """Return the network of 20 layers (0.27 M parameters, 40.6 M multiply-adds), trained where weights are given."""
    return with_weights(CifarResNet(20, num_classes), weights)


def resnet32(weights: str | Path | None = None, num_classes: int = 10) -> CifarResNet:
    """Return the network of 32 layers (0.46 M parameters), trained where weights are given."""
    return with_weights(CifarResNet(32, num_classes), weights)


def resnet44(weights: str | Path | None = None, num_classes: int = 10) -> CifarResNet:
    """Return the network of 44 layers (0.66 M parameters), trained where weights are given."""
    return with_weights(CifarResNet(44, num_classes), weights)


def resnet56(weights: str | Path | None = None, num_classes: int = 10) -> CifarResNet:
    """Return the network of 56 layers (0.85 M parameters), trained where weights are given."""
    return with_weights(CifarResNet(56, num_classes), weights)
