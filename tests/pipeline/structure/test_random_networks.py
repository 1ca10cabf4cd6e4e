"""Networks drawn at random from blocks of every kind through the laws of a cut."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

SIDE = 8


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.BatchNorm2d(2 * width), nn.SiLU(),
                                  nn.Conv2d(2 * width, width, 3, padding=1))  # fmt: skip

    def forward(self, x):
        return x + self.body(x)


class Dense(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.grow, self.mix = nn.Conv2d(width, 4, 3, padding=1), nn.Conv2d(width + 4, width, 1)

    def forward(self, x):
        return self.mix(torch.cat((x, self.grow(x).relu()), 1))


class SqueezeExcite(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x):
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Shuffle(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1, groups=2)

    def forward(self, x):
        return functional.channel_shuffle(self.conv(x), 2)


class Gated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, 2 * width, 1)

    def forward(self, x):
        value, gate = self.conv(x).chunk(2, 1)
        return value * gate.tanh()


class Swapped(nn.Module):
    """Split into unequal parts of sizes that are kept, work on one, put them together the other way round."""

    def __init__(self, width):
        super().__init__()
        self.sizes = [width // 4, width - width // 4]
        self.conv = nn.Conv2d(width // 4, width // 4, 3, padding=1)

    def forward(self, x):
        few, most = x.split(self.sizes, 1)
        return torch.cat((most, self.conv(few)), 1)


class Tokens(nn.Module):
    """Attend to places, channels last, with a position embedding."""

    def __init__(self, width):
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, width, SIDE * SIDE))
        self.norm, self.inner = nn.LayerNorm(width), nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x):
        tokens = self.norm((x.flatten(2) + self.place).transpose(1, 2))
        tokens = tokens + self.inner(tokens, tokens, tokens, need_weights=False)[0]
        return tokens.transpose(1, 2).reshape(x.shape[0], -1, SIDE, SIDE)


class Mixer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix = nn.Linear(SIDE * SIDE, SIDE * SIDE)

    def forward(self, x):
        return x + self.mix(x.flatten(2)).unflatten(2, (SIDE, SIDE))


class Twice(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return self.conv(self.conv(x).relu())


class LayerScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.factor = nn.Parameter(torch.rand(width, 1, 1))

    def forward(self, x):
        return x.roll(1, 2) * self.factor


class Stacked(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.Conv2d(2 * width, width, 1)

    def forward(self, x):
        return self.mix(torch.stack((self.one(x), self.two(x).relu()), 2).flatten(1, 2))


class Repeated(nn.Module):
    """Repeat channels, and expand a parameter."""

    def __init__(self, width):
        super().__init__()
        self.mix, self.bias = nn.Conv2d(2 * width, width, 1), nn.Parameter(torch.randn(1, width, 1, 1))

    def forward(self, x):
        return self.mix(x.repeat(1, 2, 1, 1)) + self.bias.expand(-1, -1, SIDE, SIDE)


class Bare(nn.Module):
    """Call functions on parameters that no layer owns."""

    def __init__(self, width):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(width, width, 1, 1) / width**0.5)
        self.matrix = nn.Parameter(torch.randn(width, width) / width**0.5)

    def forward(self, x):
        x = functional.conv2d(x, self.kernel).relu()
        return torch.einsum("nchw,dc->ndhw", x, self.matrix)


class Lines(nn.Module):
    """Convolve rows in one dimension, then frames in three."""

    def __init__(self, width):
        super().__init__()
        self.rows, self.frames = (
            nn.Conv1d(width, width, 3, padding=1),
            nn.Conv3d(width, width, (1, 3, 3), padding="same"),
        )

    def forward(self, x):
        x = self.rows(x.flatten(2)).unflatten(2, (SIDE, SIDE)).relu()
        return self.frames(x.unsqueeze(2)).squeeze(2)


class Patches(nn.Module):
    """Gather neighbourhoods into channels and add them up again, with what an embedding says of places."""

    def __init__(self, width):
        super().__init__()
        self.mix, self.place = nn.Conv1d(9 * width, width, 1), nn.Embedding(SIDE * SIDE, width)
        self.spread = nn.Conv1d(width, 4 * width, 1)

    def forward(self, x):
        x = self.mix(functional.unfold(x, 3, padding=1)) + self.place(torch.arange(SIDE * SIDE)).T
        cells = x.relu().unflatten(2, (SIDE, SIDE)).unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
        return functional.fold(self.spread(cells.flatten(2)), (SIDE, SIDE), 2, stride=2)


class Sampled(nn.Module):
    """Move places by what channels say, and resize with care."""

    def __init__(self, width):
        super().__init__()
        self.flow = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        x = functional.grid_sample(x, self.flow(x).tanh().permute(0, 2, 3, 1), align_corners=False)
        small = functional.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
        return functional.interpolate(
            functional.pad(small, (1, 1, 1, 1), "reflect"), (SIDE, SIDE), mode="nearest-exact"
        )


class Flipped(nn.Module):
    """Read channels in reverse, and in another order that is kept."""

    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.register_buffer("order", torch.randperm(width))

    def forward(self, x):
        return self.two(self.one(x.flip(1)).index_select(1, self.order))


BLOCKS = {
    "convolution": lambda w: nn.Conv2d(w, w + 4, 3, padding=1),
    "depthwise": lambda w: nn.Conv2d(w, w, 3, padding=1, groups=w),
    "grouped": lambda w: nn.Conv2d(w, w, 3, padding=1, groups=2),
    "transposed": lambda w: nn.ConvTranspose2d(w, w, 3, padding=1),
    "pixel shuffle": lambda w: nn.Sequential(nn.PixelShuffle(2), nn.Conv2d(w // 4, w, 2, stride=2)),
    "pixel unshuffle": lambda w: nn.Sequential(nn.PixelUnshuffle(2), nn.ConvTranspose2d(4 * w, w, 2, stride=2)),
    "resize": lambda _: nn.Sequential(
        nn.Upsample(scale_factor=2), nn.MaxPool2d(2), nn.ReflectionPad2d(1), nn.AvgPool2d(3, 1)
    ),
    "batch norm": nn.BatchNorm2d,
    "group norm": lambda w: nn.GroupNorm(2, w),
    "instance norm": lambda w: nn.InstanceNorm2d(w, affine=True),
    "bare instance norm": nn.InstanceNorm2d,
    "prelu": nn.PReLU,
    "residual": Residual,
    "dense": Dense,
    "squeeze and excite": SqueezeExcite,
    "shuffle": Shuffle,
    "gated": Gated,
    "swapped": Swapped,
    "attention": Tokens,
    "token mixing": Mixer,
    "shared": Twice,
    "layer scale": LayerScale,
    "stacked": Stacked,
    "repeated": Repeated,
    "bare": Bare,
    "lines": Lines,
    "patches": Patches,
    "sampled": Sampled,
    "flipped": Flipped,
}  # fmt: skip


def network(names, width):
    layers = [nn.Conv2d(3, width, 3, padding=1)]
    for name in names:
        layers.append(BLOCKS[name](width))
        width += 4 if name == "convolution" else 0
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 3))


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_alone(name, lawful):
    torch.manual_seed(0)
    structure = lawful(network([name], 8), torch.randn(2, 3, SIDE, SIDE))
    assert structure.groups
    assert structure.pinned[-1].reason


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.sampled_from(sorted(BLOCKS)), min_size=2, max_size=6),
    width=st.sampled_from([16, 24]),
    seed=st.integers(0, 99),
)
def test_any_row_of_blocks(names, width, seed, lawful):
    torch.manual_seed(seed)
    # Heads that are one channel wide are not recognised as heads: what is cut here leaves more of them.
    lawful(network(names, width), torch.randn(2, 3, SIDE, SIDE), seed=seed, share=0.75)
