"""Gaze networks on the backbones of the literature: a DeepGaze-II-like teacher, FastGaze, DenseGaze, SqueezeGaze.

All are of Theis et al. 2018 (arXiv 1801.05787), equation 1, and take the same pictures to the same grid as
`secateur.workloads.gaze.network.GazeNetwork`, at twice its input size: a grid cell is 8 x 8 pixels of the input.
"""

from collections.abc import Callable, Sequence

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.vgg import cfgs, make_layers

from secateur.workloads.gaze.network import SeparableBlur, log_density, prior_or_none, readout_layers

DEEP_INPUT_SIZE = (384, 512)
"""Height and width of the pictures that these networks see, those that Theis et al. measure latency at."""

LOG_PRIOR = Float[Tensor, "rows columns"]


class DeepGaze(nn.Module):
    """Predict where people look from one stack of features: pictures in, a log-density over a grid of cells out.

    Q(x, y | I) = softmax over (x, y) of  G_sigma * U(R(F(I))) + w log P(x, y), as in equation 1 of Theis et al. 2018
    (arXiv 1801.05787): F the ``trunk``'s features, R the readout of 1x1 convolutions of widths 16, 32, 2, 1, U bilinear
    upsampling to the grid, G_sigma a Gaussian blur of trainable width and P the centre bias, ``log_prior`` in nats.
    The readout runs before the upsampling, so that one channel is upsampled, not all of them.

    Pictures are RGB in 0..1, the normalisation is part of the network. The grid is that of ``log_prior``.
    """

    mean: Tensor
    deviation: Tensor
    log_prior: Tensor

    def __init__(self, trunk: nn.Module, num_features: int, *, log_prior: LOG_PRIOR | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.trunk = trunk
        self.readout = nn.Sequential(nn.Conv2d(num_features, 16, 1, bias=False), *readout_layers())
        self.blur = SeparableBlur()
        self.register_buffer("log_prior", prior_or_none(log_prior))
        self.prior_weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch rows columns"]:
        """Return the log-density of the next fixation, in nats; every map's exponential sums to 1."""
        return self.from_features(self.features(pictures))

    def features(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features _ _"]:
        """Return what the readout reads."""
        features: Tensor = self.trunk((pictures - self.mean) / self.deviation)
        return features

    def from_features(self, features: Float[Tensor, "batch features _ _"]) -> Float[Tensor, "batch rows columns"]:
        """Return the log-density that the readout makes of features."""
        grid = self.log_prior.shape
        read = functional.interpolate(self.readout(features), size=grid, mode="bilinear", align_corners=False)
        return log_density(self.blur(read), self.prior_weight * self.log_prior)


class Tapped(nn.Sequential):
    """A sequence of layers of which some, by their number, give their outputs, one channel after the other."""

    def __init__(self, layers: Sequence[nn.Module], taps: Sequence[int]) -> None:
        super().__init__(*layers)
        self.taps = tuple(taps)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the tapped layers' outputs, concatenated."""
        found = []
        for number, layer in enumerate(self):
            maps = layer(maps)
            if number in self.taps:
                found.append(maps)
        return torch.cat(found, dim=1)


def deep_gaze(*, log_prior: LOG_PRIOR | None = None) -> DeepGaze:
    """Return a network like DeepGaze II: VGG-19 read at conv5_1, relu5_1, relu5_2, conv5_3 and relu5_4.

    These are 2560 channels (Kuemmerer et al. 2016, arXiv 1610.01563). Convolutions have batch norms behind them.
    """
    layers = _vgg("E")
    first = [number for number, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)][3] + 1
    # Three modules a convolution: itself, its norm, its ReLU.
    conv1, relu1, relu2, conv3, relu4 = (first + step for step in (1, 2, 5, 7, 11))
    return DeepGaze(Tapped(layers[: relu4 + 1], (conv1, relu1, relu2, conv3, relu4)), 5 * 512, log_prior=log_prior)


def fast_gaze(depth: int = 11, *, log_prior: LOG_PRIOR | None = None) -> DeepGaze:
    """Return FastGaze: VGG-11, or the VGG-13 shape that was published later, read at its last convolution.

    Convolutions have batch norms behind them, which fold into them.
    """
    layers = _vgg({11: "A", 13: "B"}[depth])
    # Without the last ReLU and the last pooling.
    return DeepGaze(nn.Sequential(*layers[:-2]), 512, log_prior=log_prior)


def dense_gaze(*, log_prior: LOG_PRIOR | None = None) -> DeepGaze:
    """Return DenseGaze: DenseNet-121 up to its third dense block, 1024 channels (Huang et al. 2017, 1608.06993)."""
    features = torchvision.models.densenet121(weights=None).features
    last = [name for name, _ in features.named_children()].index("denseblock3")
    return DeepGaze(_not_in_place(nn.Sequential(*list(features)[: last + 1])), 1024, log_prior=log_prior)


def squeeze_gaze(*, log_prior: LOG_PRIOR | None = None) -> DeepGaze:
    """Return a light network on SqueezeNet 1.1, read at its last fire module (Iandola et al. 2016, 1602.07360)."""
    features = torchvision.models.squeezenet1_1(weights=None).features
    return DeepGaze(_not_in_place(features), 512, log_prior=log_prior)


BACKBONES: dict[str, Callable[..., DeepGaze]] = {
    "deepgaze-vgg19": deep_gaze,
    "fastgaze-vgg11": fast_gaze,
    "fastgaze-vgg13": lambda **settings: fast_gaze(13, **settings),
    "densegaze": dense_gaze,
    "squeezegaze": squeeze_gaze,
}
"""Every network by its name. A new one is one function and one line here."""


def _vgg(configuration: str) -> list[nn.Module]:
    layers = _not_in_place(make_layers(cfgs[configuration], batch_norm=True))
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            # The norm behind it has a bias of its own.
            layer.bias = None
    return list(layers)


def _not_in_place(layers: nn.Sequential) -> nn.Sequential:
    """Keep what ReLUs read, which taps may read as well."""
    for layer in layers.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return layers
