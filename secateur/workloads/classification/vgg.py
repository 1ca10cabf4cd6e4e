"""The VGG network as the pruning literature uses it: for 32 x 32 pictures, with batch norm and one linear layer."""

from collections.abc import Iterator
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from secateur.workloads.classification.weights import with_weights

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""The channels of the convolutions of each stage; the picture is halved after each."""


class CifarVGG(nn.Module):
    """Classify 32 x 32 pictures with thirteen 3 x 3 convolutions and a linear layer.

    Simonyan and Zisserman 2014, arXiv:1409.1556, configuration D; batch norm in place of the hidden linear layers as
    in Liu et al. 2017, "Learning efficient convolutional networks through network slimming", arXiv:1708.06519.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(*_layers())
        self.classifier = nn.Linear(STAGES[-1][-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        return self.classifier(self.features(pictures).mean(dim=(2, 3)))


def _layers() -> Iterator[nn.Module]:
    before = 3
    for stage in STAGES:
        for width in stage:
            yield nn.Conv2d(before, width, 3, padding=1, bias=False)
            yield nn.BatchNorm2d(width)
            yield nn.ReLU(inplace=True)
            before = width
        yield nn.MaxPool2d(2)


def vgg16(weights: str | Path | None = None, num_classes: int = 10) -> CifarVGG:
    """Return the network (14.72 M parameters, 313.2 M multiply-adds), trained where weights are given."""
    return with_weights(CifarVGG(num_classes), weights)
