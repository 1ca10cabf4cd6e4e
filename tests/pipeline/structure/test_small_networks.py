"""Patterns that pruning tools crash on or get wrong, each put through the laws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Net
from torch import nn
from torch.nn import functional

from secateur.pipeline.structure import cut, trace


def conv(channels_in, channels_out, **options):
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, **options)


class OptionABlock(nn.Module):
    def __init__(self, channels_in, planes, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(channels_in, planes, stride=stride, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, bias=False), nn.BatchNorm2d(planes)
        self.quarter = planes // 4 if planes != channels_in else 0

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.quarter:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.quarter, self.quarter))
        return functional.relu(x + y)


def option_a():
    blocks = [OptionABlock(8, 8, 1), OptionABlock(8, 16, 2), OptionABlock(16, 16, 1), OptionABlock(16, 32, 2)]
    return nn.Sequential(conv(3, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(32, 5))  # fmt: skip


def shuffle(x, groups=2):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def chunked(net, x):
    one, two = net.b(functional.relu(net.a(x))).chunk(2, 1)
    return net.d(torch.cat([one, net.c(two)], 1)).mean((2, 3))


def shared(net, x):
    x = functional.relu(net.a(x))
    return net.c(functional.relu(net.b(functional.relu(net.b(x))))).mean((2, 3))


def towers(net, x, y):
    features = [functional.max_pool2d(functional.relu(net.bn(net.a(t))), 2).flatten(1) for t in (x, y)]
    features.append(net.b(x).relu().view(len(x), -1))
    return net.d(net.c(torch.cat(features, 1)).relu())


def gated(net, x):
    x = net.a(x).relu()
    return net.c(x * torch.sigmoid(net.b(x))).mean((2, 3))


def excited(net, x):
    x = net.bn(net.a(x))
    gate = torch.sigmoid(net.c(net.b(x.mean((2, 3))).relu()))
    return net.d(x * gate[:, :, None, None])


def scaled(net, x):
    return net.b(net.a(x) * net.gamma + net.shift.view(1, -1, 1, 1))


def partly(net, x):
    x = net.a(x)
    return net.c(torch.cat([net.b(x[:, :3]), x[:, 3:]], 1))


def unused(net, x):
    x = net.a(x).relu()
    net.b(x)
    return net.c(x)


def recurrent(kind):
    return Net(
        lambda net, x: net.c(net.b(net.a(x).relu())[0]).relu(),
        a=nn.Linear(4, 8),
        b=kind(8, 6, batch_first=True),
        c=nn.Linear(6, 2),
    )


def transposed(net, x):
    x = net.bn(net.a(x)).relu()
    return net.d(net.c(net.b(x).relu()).relu())


def parameter(*shape):
    return nn.Parameter(torch.rand(*shape) + 0.5)


IMAGE = (2, 3, 8, 8)
NETWORKS = {
    "option A": (option_a, [IMAGE]),
    "grouped": (
        lambda: nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 12, groups=4), nn.ReLU(), conv(12, 4)),
        [IMAGE],
    ),
    "depthwise": (
        lambda: nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8, groups=8), nn.ReLU(), conv(8, 4)),
        [IMAGE],
    ),
    "depthwise with multiplier": (
        lambda: nn.Sequential(conv(3, 6), conv(6, 12, groups=6), nn.BatchNorm2d(12), nn.ReLU(), conv(12, 4)),
        [IMAGE],
    ),
    "depthwise on the image": (lambda: nn.Sequential(conv(3, 6, groups=3), nn.ReLU(), conv(6, 8), conv(8, 4)), [IMAGE]),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 8, 5),
            nn.BatchNorm1d(8),
            nn.PReLU(8),
            nn.MaxPool1d(2),
            nn.Conv1d(8, 6, 3),
            nn.Flatten(),
            nn.Linear(24, 3),
        ),
        [(2, 2, 16)],
    ),
    "conv3d": (
        lambda: nn.Sequential(
            nn.Conv3d(2, 6, 3), nn.BatchNorm3d(6), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3)
        ),
        [(2, 2, 5, 5, 5)],
    ),
    "perceptron": (
        lambda: nn.Sequential(
            nn.Linear(5, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)
        ),
        [(3, 5)],
    ),
    "flatten": (
        lambda: nn.Sequential(
            conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10), nn.Hardswish(), nn.Linear(10, 2)
        ),
        [IMAGE],
    ),
    "unflatten": (
        lambda: nn.Sequential(
            nn.Linear(4, 8), nn.Unflatten(1, (8, 1, 1)), nn.ConvTranspose2d(8, 6, 4), nn.ReLU(), nn.Conv2d(6, 2, 3)
        ),
        [(2, 4)],
    ),
    "pixel shuffle": (
        lambda: nn.Sequential(
            conv(3, 16), nn.PixelShuffle(2), nn.ReLU(), conv(4, 5), nn.PixelUnshuffle(2), conv(20, 2)
        ),
        [IMAGE],
    ),
    "shared convolution": (lambda: Net(shared, a=conv(3, 6), b=conv(6, 6), c=conv(6, 2)), [IMAGE]),
    "flattened towers": (
        lambda: Net(
            towers,
            a=conv(3, 5),
            bn=nn.BatchNorm2d(5),
            b=conv(3, 4),
            c=nn.Linear(2 * 5 * 16 + 4 * 64, 12),
            d=nn.Linear(12, 2),
        ),
        [IMAGE, IMAGE],
    ),
    "spatial gate": (lambda: Net(gated, a=conv(3, 8), b=conv(8, 1), c=conv(8, 4)), [IMAGE]),
    "squeeze and excitation": (
        lambda: Net(excited, a=conv(3, 8), bn=nn.BatchNorm2d(8), b=nn.Linear(8, 4), c=nn.Linear(4, 8), d=conv(8, 2)),
        [IMAGE],
    ),
    "layer scale": (
        lambda: Net(scaled, a=conv(3, 8), gamma=parameter(8, 1, 1), shift=parameter(8), b=conv(8, 2)),
        [IMAGE],
    ),
    "channel shuffle": (
        lambda: Net(
            lambda net, x: net.c(shuffle(net.b(net.a(x).relu()))), a=conv(3, 8), b=conv(8, 8, groups=2), c=conv(8, 2)
        ),
        [IMAGE],
    ),
    "chunk and cat": (lambda: Net(chunked, a=conv(3, 6), b=conv(6, 8), c=conv(4, 5), d=conv(9, 2)), [IMAGE]),
    "channel slice": (lambda: Net(partly, a=conv(3, 8), b=conv(3, 5), c=conv(10, 2)), [IMAGE]),
    "unused output": (lambda: Net(unused, a=conv(3, 8), b=conv(8, 5), c=conv(8, 2)), [IMAGE]),
    "transposed": (
        lambda: Net(
            transposed,
            a=conv(3, 8),
            bn=nn.BatchNorm2d(8),
            b=nn.ConvTranspose2d(8, 6, 2, stride=2),
            c=nn.ConvTranspose2d(6, 6, 3, groups=6),
            d=nn.ConvTranspose2d(6, 4, 3, groups=2),
        ),
        [IMAGE],
    ),
    "glu": (lambda: nn.Sequential(conv(3, 12), nn.GLU(1), conv(6, 2)), [IMAGE]),
    "group norm": (
        lambda: nn.Sequential(conv(3, 8), nn.GroupNorm(2, 8), nn.ReLU(), conv(8, 6), nn.ReLU(), conv(6, 2)),
        [IMAGE],
    ),
    "rms norm": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.RMSNorm(8), nn.Linear(8, 6), nn.RMSNorm(6), nn.Linear(6, 2)),
        [(2, 5, 4)],
    ),
    "norms without weights": (
        lambda: nn.Sequential(
            nn.Linear(4, 8),
            nn.LayerNorm(8, elementwise_affine=False),
            nn.Linear(8, 6),
            nn.LayerNorm(6, bias=False),
            nn.Linear(6, 2),
        ),
        [(2, 5, 4)],
    ),
    "normalised over space too": (
        lambda: nn.Sequential(conv(3, 6), nn.LayerNorm([6, 8, 8]), conv(6, 2)),
        [IMAGE],
    ),
    "tokens": (
        lambda: Net(
            lambda net, x: net.c(
                net.b(net.norm(torch.cat([net.first.expand(len(x), -1, -1), net.a(x)], 1) + net.place)).relu()[:, 0]
            ),
            a=nn.Linear(4, 8),
            b=nn.Linear(8, 6),
            c=nn.Linear(6, 2),
            norm=nn.LayerNorm(8),
            first=nn.Parameter(torch.randn(1, 1, 8)),
            place=nn.Parameter(torch.randn(1, 6, 8)),
        ),
        [(2, 5, 4)],
    ),
    "transformer": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)),
        [(2, 5, 8)],
    ),
    "lstm": (lambda: recurrent(nn.LSTM), [(2, 5, 4)]),
    "gru": (lambda: recurrent(nn.GRU), [(2, 5, 4)]),
    "fixed view": (
        lambda: Net(
            lambda net, x: net.c(net.b(net.a(x).relu()).relu().view(-1, 384)),
            a=conv(3, 8),
            b=conv(8, 6),
            c=nn.Linear(384, 2),
        ),
        [IMAGE],
    ),
    "dictionary": (
        lambda: Net(
            lambda net, x: {"y": net.b(net.a(x)), "z": (net.a(x).amax((2, 3)) @ torch.ones(8, 1),)},
            a=conv(3, 8),
            b=conv(8, 2),
        ),
        [IMAGE],
    ),
}


def build(name):
    torch.manual_seed(0)
    make, shapes = NETWORKS[name]
    return make().eval(), tuple(torch.randn(shape) for shape in shapes)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cut_is_lawful(name, lawful):
    module, inputs = build(name)
    lawful(module, *inputs)


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(["option A", "grouped", "flattened towers", "chunk and cat"]),
    seed=st.integers(0, 2**31),
    share=st.floats(0, 1),
)
def test_any_masks_are_lawful(name, seed, share, lawful):
    module, inputs = build(name)
    lawful(module, *inputs, seed=seed, share=share)


WIDTHS = {
    "grouped": {"0": 2, "3": 3},
    "depthwise": {"0": 8},
    "depthwise with multiplier": {"0": 6},
    "depthwise on the image": {"2": 8},
    "pixel shuffle": {"0": 4, "3": 5},
    "shared convolution": {"a": 6},
    "flattened towers": {"a": 5, "b": 4, "c": 12},
    "spatial gate": {"a": 8},
    "squeeze and excitation": {"a": 8, "b": 4},
    "layer scale": {"a": 8},
    "channel shuffle": {"a": 4, "b": 4},
    "chunk and cat": {"a": 6, "b": 4, "c": 5},
    "channel slice": {"a": 5, "b": 5},
    "unused output": {"a": 8, "b": 5},
    "transposed": {"a": 8, "b": 3},
    "glu": {"0": 6},
    "group norm": {"0": 4, "3": 6},
    "rms norm": {"0": 8, "2": 6},
    "norms without weights": {"2": 6},
    "normalised over space too": {},
    "tokens": {"a": 8, "b": 6},
    "transformer": {"0.linear1": 16},
    "lstm": {},
    "gru": {},
    "fixed view": {"a": 8},
    "dictionary": {},
}


@pytest.mark.parametrize("name", WIDTHS)
def test_what_can_be_cut(name):
    module, inputs = build(name)
    assert trace(module, inputs).widths == WIDTHS[name]


def test_padded_shortcuts_tie_the_middle_and_pin_the_padding():
    module, inputs = build("option A")
    structure = trace(module, inputs)
    stream = structure.group("0")
    rows = {s.tensor: s.indices[:, 0].tolist() for s in stream.slices if s.axis == 0}
    assert rows["4.conv2.weight"] == list(range(4, 12))
    assert rows["6.conv2.weight"] == list(range(12, 20))
    assert {g.name for g in structure.groups} == {"0", "3.conv1", "4.conv1", "5.conv1", "6.conv1"}
    padded = [p for p in structure.pinned if p.tensor == "4.conv2.weight"]
    assert [(p.num_channels, p.operator) for p in padded] == [(8, "aten.add.Tensor")]


REASONS = {
    "norms without weights": ("0.weight", "channels are normalised together", "aten.layer_norm.default", "1"),
    "normalised over space too": ("0.weight", "channels are normalised together", "aten.layer_norm.default", "1"),
    "lstm": ("a.weight", "an operator that is not followed", "aten.lstm.input", "b"),
    "gru": ("a.weight", "an operator that is not followed", "aten.gru.input", "b"),
    "spatial gate": ("b.weight", "one channel is spread over many", "aten.mul.Tensor", ""),
    "channel slice": ("a.weight", "a slice has a fixed bound among channels", "aten.slice.Tensor", ""),
    "unused output": ("c.weight", "output of the network", "output", "c"),
    "dictionary": ("a.weight", "activations are multiplied with each other over this axis", "aten.matmul.default", ""),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_is_pinned_says_why(name):
    module, inputs = build(name)
    tensor, reason, operator, path = REASONS[name]
    found = [p for p in trace(module, inputs).pinned if p.tensor == tensor]
    assert (reason, operator, path) in [(p.reason, p.operator, p.module) for p in found]


def test_fixed_sizes_in_forward_pin_by_a_trial_cut():
    module, inputs = build("fixed view")
    (pinned,) = [p for p in trace(module, inputs).pinned if p.tensor == "b.weight"]
    assert pinned.num_channels == 6
    assert "does not follow the new width" in pinned.reason


def test_a_branch_that_only_trains_is_cut_too(draw_masks):
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = conv(3, 8), conv(8, 2), nn.Conv2d(8, 5, 1)

        def forward(self, x):
            x = self.a(x)
            return (self.b(x), self.head(x)) if self.training else self.b(x)

    module, inputs = Auxiliary().eval(), (torch.randn(IMAGE),)
    structure = trace(module, inputs)
    (group,) = structure.groups
    assert {r.weight for r in group.readers} == {"b.weight", "head.weight"}
    small = cut(module, structure, draw_masks(structure))
    assert [tuple(o.shape) for o in small.train()(*inputs)] == [(2, 2, 8, 8), (2, 5, 8, 8)]
