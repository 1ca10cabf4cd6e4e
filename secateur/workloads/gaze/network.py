"""A gaze network after DeepGaze: backbone features, a 1x1 readout, blur, centre bias, one softmax over all pixels."""

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from secateur.artifacts import Pictures

INPUT_SIZE = (192, 256)
"""Height and width of the pictures the network sees."""

PREPARATION = Pictures(size=INPUT_SIZE)
"""How pictures become inputs: stretched to this size, values in 0..1."""

GRID_SIZE = (48, 64)
"""Rows and columns of the density: one cell is 4 x 4 pixels of the input."""

BLUR_RADIUS = 6
"""The blur's window reaches this many cells to either side."""


class SeparableBlur(nn.Module):
    """Blur one channel with a Gaussian of trainable width, as two 1-D convolutions.

    The taps are exp(-d^2 / (2 sigma^2)) over d = -radius..radius, normalised to sum 1; the border is repeated so that
    the blur neither darkens nor lightens it. Two passes of 2r+1 taps cost (2r+1)/2 times less than one (2r+1)^2 window.
    """

    offsets: Tensor

    def __init__(self, *, sigma: float = 1.5, radius: int = BLUR_RADIUS) -> None:
        super().__init__()
        self.radius = radius
        self.log_sigma = nn.Parameter(torch.tensor(sigma).log())
        self.register_buffer("offsets", torch.arange(-radius, radius + 1, dtype=torch.float32), persistent=False)

    def forward(self, maps: Float[Tensor, "batch 1 rows columns"]) -> Float[Tensor, "batch 1 rows columns"]:
        """Blur maps; shapes stay."""
        taps = torch.softmax(-0.5 * (self.offsets / self.log_sigma.exp()) ** 2, dim=0)
        reach = self.radius
        padded = functional.pad(maps, (reach, reach, reach, reach), mode="replicate")
        return functional.conv2d(functional.conv2d(padded, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))


class GazeNetwork(nn.Module):
    """Predict where people look: pictures in, a log-density over a grid of cells out.

    Q(x, y | I) = softmax over (x, y) of  G_sigma * U(R(F(I))) + w log P(x, y), with F the features of MobileNetV2 at
    strides 8, 16 and 32, R the readout of 1x1 convolutions of widths 16, 32, 2, 1, U bilinear upsampling, G_sigma a
    Gaussian blur and P the centre bias (Theis et al. 2018, arXiv 1801.05787, equation 1; MobileNetV2: Sandler et al.
    2018, arXiv 1801.04381). The readout runs before the upsampling: 1x1 convolution and bilinear interpolation commute,
    so the first readout layer on concatenated upsampled features is the sum of three small convolutions, each at
    its features' own stride. Only the last channel is ever upsampled to the grid.

    Pictures are RGB in 0..1, the normalisation is part of the network. ``width`` scales the backbone's channels.
    """

    mean: Tensor
    deviation: Tensor
    log_prior: Tensor

    def __init__(self, *, log_prior: Float[Tensor, "rows columns"] | None = None, width: float = 1.0) -> None:
        super().__init__()
        features = torchvision.models.mobilenet_v2(weights=None, width_mult=width).features
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.stride8 = nn.Sequential(*features[:7])
        self.stride16 = nn.Sequential(*features[7:14])
        self.stride32 = nn.Sequential(*features[14:18])
        fine, middle, coarse = (_width(stage[-1]) for stage in (self.stride8, self.stride16, self.stride32))
        self.read8 = nn.Conv2d(fine, 16, 1, bias=False)
        self.read16 = nn.Conv2d(middle, 16, 1, bias=False)
        self.read32 = nn.Conv2d(coarse, 16, 1, bias=False)
        self.readout = nn.Sequential(*readout_layers())
        self.blur = SeparableBlur()
        self.register_buffer("log_prior", prior_or_none(log_prior))
        self.prior_weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, pictures: Float[Tensor, "batch 3 192 256"]) -> Float[Tensor, "batch 48 64"]:
        """Return the log-density of the next fixation, in nats; every map's exponential sums to 1."""
        return self.from_features(*self.features(pictures))

    def features(self, pictures: Float[Tensor, "batch 3 192 256"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the readout reads, at strides 8, 16 and 32."""
        fine = self.stride8((pictures - self.mean) / self.deviation)
        middle = self.stride16(fine)
        return fine, middle, self.stride32(middle)

    def from_features(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Float[Tensor, "batch 48 64"]:
        """Return the log-density that the readout makes of features."""
        hidden = self.read8(fine) + _upsample(self.read16(middle) + _upsample(self.read32(coarse)))
        saliency = self.blur(_upsample(self.readout(hidden)))
        return log_density(saliency, self.prior_weight * self.log_prior)


def readout_layers() -> list[nn.Module]:
    """Return the layers behind the first of the readout's 1x1 convolutions: widths 16, 32, 2, 1."""
    return [
        nn.BatchNorm2d(16), nn.PReLU(),
        nn.Conv2d(16, 32, 1), nn.PReLU(),
        nn.Conv2d(32, 2, 1), nn.PReLU(),
        nn.Conv2d(2, 1, 1, bias=False),
    ]  # fmt: skip


def prior_or_none(log_prior: Float[Tensor, "rows columns"] | None) -> Float[Tensor, "rows columns"]:
    """Return a copy of the centre bias in nats, or none at all: zeros over the usual grid."""
    return torch.zeros(GRID_SIZE) if log_prior is None else log_prior.to(torch.float32).clone()


def log_density(
    saliency: Float[Tensor, "batch 1 rows columns"], weighed_prior: Float[Tensor, "rows columns"]
) -> Float[Tensor, "batch rows columns"]:
    """Add the centre bias to a map and normalise over all cells; nats."""
    logits = saliency.squeeze(1) + weighed_prior
    return torch.log_softmax(logits.flatten(1), dim=1).view_as(logits)


def _upsample(maps: Tensor) -> Tensor:
    return functional.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)


def _width(block: nn.Module) -> int:
    """Return the number of channels a MobileNetV2 block puts out."""
    return int(block.out_channels)  # type: ignore[arg-type]
