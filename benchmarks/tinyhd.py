"""TinyHD (Hu et al. 2023, arXiv 2301.04619), a published saliency network for films, read from its own weights.

The network of ``d123s_rc4_rc1T.pth``: a MobileNetV2 of a quarter of the channels whose convolutions see time, three
decoders on its features, and a 1x1 convolution over their six maps. It predicts the last of 16 frames; of a still
picture, all frames are the same. Shapes come from the weights; what they do not say, strides and the ways between the
blocks, is written here.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

NUM_FRAMES, HEIGHT, WIDTH = 16, 192, 256
EXPANDED = {2: (1, 2, 2), 4: (2, 2, 2), 7: (2, 2, 2), 14: (1, 2, 2)}
"""Strides in time, height and width of the encoder's blocks; all others have one."""
STAGES = ((0, 1), (1, 3), (3, 6), (6, 13), (13, 18))
"""Layers of the encoder, from its second, whose outputs have one size."""


class TinyHD(nn.Module):
    """Take pictures in 0..1 to saliency in 0..1, with the weights of a ``student_model``; in evaluation mode."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        first = _Layer(weights, "encoder.encoder.0.0", "encoder.encoder.0.1", (2, 2, 2), bounded=True)
        blocks = [
            _Block(weights, f"encoder.encoder.{number}.conv", EXPANDED.get(number, (1, 1, 1)), shortcut=True)
            for number in range(1, 18)
        ]
        last = _Layer(weights, "encoder.encoder.18.0", "encoder.encoder.18.1", (1, 1, 1), bounded=True)
        self.encoder = nn.ModuleList([first, *blocks, last])
        names = [f"aggregator.aggregate_adapter.{number}.conv" for number in range(37)]
        # Where these blocks look at three moments, they halve their number.
        self.adapters = nn.ModuleList(
            _Block(weights, name, (2 if weights[f"{name}.1.0.weight"].shape[2] == 3 else 1, 1, 1), shortcut=False)
            for name in names
        )
        self.mix = nn.Conv2d(6, 1, 1)
        self.mix.load_state_dict({name: weights[f"decoder.decoder.0.{name}"] for name in ("weight", "bias")})
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.eval()

    def forward(self, pictures: Float[Tensor, "picture 3 192 256"]) -> Float[Tensor, "picture 192 256"]:
        """Return the saliency of still pictures."""
        maps = ((pictures - self.mean) / self.deviation)[:, :, None].expand(-1, -1, NUM_FRAMES, -1, -1)
        seen = []
        for layer in self.encoder:
            maps = layer(maps)
            seen.append(maps)
        stages = [torch.cat(seen[1:][first:last], 1) for first, last in STAGES]
        fine, *coarse = stages[0], *(_shuffled(stage) for stage in stages[1:])
        features = [torch.cat([fine, coarse[0]], 1), *coarse[1:]]
        read = [self._first(features), self._second(features), self._third(features)]
        mixed = self.mix(torch.cat(read, 1).sigmoid().squeeze(2))
        return mixed.sigmoid().squeeze(1)

    def _first(self, features: list[Tensor]) -> Tensor:
        """Bring every stage up to the picture's size by itself."""
        found = []
        for stage, (maps, shuffles) in enumerate(zip(features, ({1}, {0, 1}, {0, 1, 2}, {1, 2, 3}), strict=True)):
            for number, block in enumerate(self.adapters[4 * stage : 4 * stage + 4]):
                if stage == 3:  # the coarsest is enlarged before its blocks
                    maps = block(_shuffled(maps) if number in shuffles else _enlarged(maps))
                else:
                    maps = _shuffled(block(maps)) if number in shuffles else block(maps)
            found.append(maps)
        return torch.cat(found, 1)

    def _second(self, features: list[Tensor]) -> Tensor:
        """Add stages from the coarsest to the finest."""
        fine, middle, coarse, coarsest = features
        blocks = self.adapters[16:24]
        maps = _shuffled(blocks[0](coarsest)) + coarse
        maps = _shuffled(blocks[1](maps)) + blocks[2](middle)
        maps = _shuffled(blocks[3](maps)) + blocks[5](blocks[4](fine))
        return blocks[7](_enlarged(blocks[6](maps)))

    def _third(self, features: list[Tensor]) -> Tensor:
        """Add neighbours again and again, until one is left."""
        blocks = self.adapters[24:37]
        large = [_enlarged(maps) for maps in features]
        level = [large[0], *(m + block(f) for m, block, f in zip(large[1:], blocks[:3], features, strict=False))]
        raised = [_shuffled(block(maps)) for block, maps in zip(blocks[3:6], level[1:], strict=True)]
        level = [m + block(f) for m, block, f in zip(raised, blocks[6:9], level, strict=False)]
        level = [_shuffled(m) + block(f) for m, block, f in zip(level[1:], blocks[9:11], level, strict=False)]
        level = [_shuffled(m) + block(f) for m, block, f in zip(level[1:], blocks[11:12], level, strict=False)]
        return blocks[12](level[0])


class _Layer(nn.Sequential):
    """A convolution over time, height and width, its norm, and a ReLU6 where its outputs are bounded."""

    def __init__(
        self, weights: Mapping[str, Tensor], convolution: str, norm: str, stride: tuple[int, ...], *, bounded: bool
    ) -> None:
        kernel = weights[f"{convolution}.weight"]
        num_outputs, num_inputs, *size = kernel.shape
        by_channel = num_inputs == 1 and size[1] > 1
        layer = nn.Conv3d(
            num_outputs if by_channel else num_inputs, num_outputs, tuple(size), stride,
            padding=tuple(side // 2 for side in size), groups=num_outputs if by_channel else 1, bias=False,
        )  # fmt: skip
        layer.load_state_dict({"weight": kernel})
        scale = nn.BatchNorm3d(num_outputs)
        scale.load_state_dict({name: weights[f"{norm}.{name}"] for name in scale.state_dict()})
        super().__init__(layer, scale, *([nn.ReLU6()] if bounded else []))


class _Block(nn.Module):
    """An inverted residual block (Sandler et al. 2018, arXiv 1801.04381), with or without its shortcut."""

    def __init__(
        self, weights: Mapping[str, Tensor], name: str, stride: tuple[int, int, int], *, shortcut: bool
    ) -> None:  # fmt: skip
        super().__init__()
        expands = f"{name}.1.0.weight" in weights
        deep, last = (1, 2) if expands else (0, 1)
        layers = [_Layer(weights, f"{name}.0.0", f"{name}.0.1", (1, 1, 1), bounded=True)] if expands else []
        layers.append(_Layer(weights, f"{name}.{deep}.0", f"{name}.{deep}.1", stride, bounded=True))
        layers.append(_Layer(weights, f"{name}.{last}", f"{name}.{last + 1}", (1, 1, 1), bounded=False))
        self.layers = nn.Sequential(*layers)
        self.shortcut = shortcut and stride == (1, 1, 1) and layers[0][0].in_channels == layers[-1][0].out_channels

    def forward(self, maps: Tensor) -> Tensor:
        found: Tensor = self.layers(maps)
        return maps + found if self.shortcut else found


def tinyhd(file: Path) -> TinyHD:
    """Read the network from its file."""
    return TinyHD(torch.load(file, weights_only=True, map_location="cpu")["student_model"])


def _shuffled(maps: Tensor) -> Tensor:
    """Lay four channels out as two by two pixels, moment by moment."""
    return functional.pixel_shuffle(maps.transpose(1, 2), 2).transpose(1, 2)


def _enlarged(maps: Tensor) -> Tensor:
    """Double height and width by linear interpolation between the corners."""
    frames = maps.transpose(1, 2).flatten(0, 1)
    large = functional.interpolate(frames, scale_factor=2.0, mode="bilinear", align_corners=True)
    return large.unflatten(0, (len(maps), -1)).transpose(1, 2)
