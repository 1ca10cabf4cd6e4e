"""What users write and pruning tools stumble over: cut by the laws, or left alone with a reason."""

import pytest
import torch
import torchvision
from networks import Net
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from secateur.pipeline.structure import trace

WIDTH = 8
IMAGE = (2, 3, 8, 8)
VECTORS = (2, 5)
TOKENS = (2, 4, 5)


def convolution(channels_in, channels_out, **options):
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, **options)


def parameter(*shape):
    return nn.Parameter(torch.randn(*shape))


def image(forward, left=WIDTH, **layers):
    """Put a function between a convolution to 8 channels and one from what it leaves of them."""
    layers = {"a": convolution(3, WIDTH), "c": convolution(left, 2), **layers}
    return lambda: Net(lambda net, x: net.c(forward(net, net.a(x))), **layers), IMAGE


def vectors(forward, left=WIDTH, shape=VECTORS, **layers):
    """Put a function between a linear layer to 8 channels and one from what it leaves of them."""
    layers = {"a": nn.Linear(5, WIDTH), "c": nn.Linear(left, 2), **layers}
    return lambda: Net(lambda net, x: net.c(forward(net, net.a(x))), **layers), shape


def written_into(net, x):
    x[:, :4] = x[:, :4].relu()
    return x


def shifted(first, second):
    """Move some of the channels by one sample forward, as many backward, as temporal shifts do."""

    def forward(net, x):
        one, two = first(x), second(x)
        return torch.cat((x[:, :one].roll(1, 0), x[:, one:two].roll(-1, 0), x[:, two:]), 1)

    return forward


def shared_heads(per_head):
    """Let two heads of queries share one of keys and values, with heads of a fixed width or one that follows."""

    def forward(net, x):
        q, k, v = (t.unflatten(2, (heads, per_head)).transpose(1, 2) for t, heads in
                   ((net.q(x), 4), (net.k(x), 2), (net.v(x), 2)))  # fmt: skip
        y = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return net.c(y.transpose(1, 2).flatten(2))

    layers = {"q": nn.Linear(5, 16), "k": nn.Linear(5, 8), "v": nn.Linear(5, 8), "c": nn.Linear(16, 2)}
    return lambda: Net(forward, **layers), TOKENS


def styled(net, x):
    scale, shift = net.b(x.mean((2, 3))).view(2, 2, WIDTH, 1, 1).unbind(1)
    return functional.instance_norm(net.a(x)) * scale + shift


def modulated(net, x):
    scale, shift = net.b(x.mean((2, 3))).chunk(2, 1)
    return net.c(net.a(x) * scale[..., None, None] + shift[..., None, None])


def experts(net, x):
    gates = net.gate(x).softmax(-1).unbind(-1)
    return sum(g.unsqueeze(-1) * expert(x) for g, expert in zip(gates, net.experts, strict=True))


def expert():
    return nn.Sequential(nn.Linear(5, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3))


NETWORKS = {
    "written into": (*image(written_into), [4]),
    "shift of fixed parts": (*image(shifted(lambda x: 2, lambda x: 4)), [4]),
    "shift of quarters": (*image(shifted(lambda x: x.shape[1] // 4, lambda x: x.shape[1] // 2)), [2]),
    "last channels by number": (*image(lambda net, x: torch.cat((x[:, -3:].relu(), x[:, :-3]), 1)), [5]),
    "last channels by width": (*image(lambda net, x: torch.cat((x[:, x.shape[1] - 3 :].relu(), x[:, :-3]), 1)), []),
    "part of the channels summed": (*image(lambda net, x: torch.cat((x[:, :3] + x[:, 3:6], x[:, 6:]), 1), 5), [2]),
    "shared heads": (*shared_heads(-1), [4, 4]),
    "shared heads of fixed width": (*shared_heads(4), []),
    "style": (lambda: Net(lambda n, x: n.c(styled(n, x)), a=convolution(3, 8), b=nn.Linear(3, 16),
                                                           c=convolution(8, 2)), IMAGE, []),
    "modulation": (lambda: Net(modulated, a=convolution(3, 8), b=nn.Linear(3, 16), c=convolution(8, 2)),
                   IMAGE, [8]),
    "experts": (lambda: Net(experts, gate=nn.Linear(5, 2), experts=nn.ModuleList([expert(), expert()])),
                VECTORS, [8, 8]),
    "expert matrices": (*vectors(lambda net, x: torch.einsum("bi,eio->beo", x, net.w).mean(1), 6, w=parameter(3, 8, 6)),
                        [8]),
    "where": (*image(lambda net, x: torch.where(x > 0, x, 2 * x)), [8]),
    "sums over places": (*image(lambda net, x: x.cumsum(2)), [8]),
    "sums over channels": (*image(lambda net, x: x.cumsum(1)), []),
    "chances": (*image(lambda net, x: x.softmax(1)), []),
    "sorted": (*image(lambda net, x: x.sort(1)[0]), []),
    "largest": (*image(lambda net, x: x.amax(1, keepdim=True), 1), []),
    "centred": (*image(lambda net, x: x - x.mean(1, keepdim=True)), []),
    "unit length": (*image(lambda net, x: functional.normalize(x, dim=1)), [8]),
    "spectra": (*image(lambda net, x: torch.fft.irfft2(torch.fft.rfft2(x) * 2, s=(8, 8))), []),
    "gathered": (*image(lambda net, x: x.gather(1, torch.arange(8).flip(0).view(1, 8, 1, 1).expand(2, 8, 8, 8))), []),
    "picked by a mask": (*image(lambda net, x: x[:, torch.tensor([True, False] * 4)], 4), []),
    "picked by numbers": (*image(lambda net, x: x[:, [0, 3, 5]], 3), []),
    "even and odd": (*image(lambda net, x: torch.cat((x[:, ::2], x[:, 1::2]), 1)), [4]),
    "repeated in place": (*image(lambda net, x: x.repeat_interleave(2, 1), 16), [8]),
    "repeated as a whole": (*image(lambda net, x: torch.tile(x, (1, 3, 1, 1)), 24), [8]),
    "rolled channels": (*image(lambda net, x: x.roll(1, 1)), []),
    "pooled channels": (*vectors(lambda net, x: functional.max_pool1d(x, 2), 4, TOKENS), []),
    "neighbours of channels": (*image(lambda net, x: net.b(x), b=nn.LocalResponseNorm(3)), []),
    "global response": (*image(lambda net, x: x * (g := x.norm(dim=(2, 3), keepdim=True)) / g.mean(1, keepdim=True)),
                        []),
    "divided by the root of the width": (*image(lambda net, x: x / x.shape[1] ** 0.5), []),
    "the width added": (*image(lambda net, x: x + x.shape[1]), []),
    "another way below a width": (*image(lambda net, x: x.relu() if x.shape[1] > 6 else x), []),
    "the width asked of the layer": (*vectors(lambda net, x: x.view(2, net.a.out_features, -1).mean(2)), [8]),
    "coordinates": (*image(lambda net, x: torch.cat((x, torch.linspace(-1, 1, 8).view(1, 1, 8, 1).expand(2, 1, 8, 8)),
                                                    1), 9), [8]),
    "a buffer of factors": (*image(lambda net, x: x * net.m, m=nn.Buffer(torch.rand(8, 1, 1))), [8]),
    "factors made in forward": (*image(lambda net, x: x * torch.linspace(0, 1, 8).view(8, 1, 1)), []),
    "weight norm": (*image(lambda net, x: net.b(x), b=parametrizations.weight_norm(convolution(8, 8))), []),
    "spectral norm": (*image(lambda net, x: net.b(x), b=parametrizations.spectral_norm(convolution(8, 8))), []),
    "a compiled layer": (*image(lambda net, x: net.b(x), b=torch.jit.script(convolution(8, 8))), []),
    "half of a weight": (*image(lambda net, x: functional.conv2d(x, net.b.weight[:6], padding=1), 6,
                                b=convolution(8, 8)), []),
    "frozen statistics": (*image(lambda net, x: net.b(x), b=torchvision.ops.FrozenBatchNorm2d(8)), [8]),
    "deformable": (*image(lambda net, x: net.b(x, net.o(x)), 6, b=torchvision.ops.DeformConv2d(8, 6, 3, padding=1),
                          o=convolution(8, 18)), []),
    "regions": (*image(lambda net, x: torchvision.ops.roi_align(x, [torch.tensor([[0.0, 0, 4, 4]])] * 2, 2)), []),
    "checkpointed": (*image(lambda net, x: checkpoint(net.b, x, use_reentrant=False), 6, b=convolution(8, 6)), [8, 6]),
    "distances": (*vectors(lambda net, x: torch.cdist(x, net.p), 6, p=parameter(6, 8)), []),
    "outer products": (*vectors(lambda net, x: torch.einsum("bi,bj->bij", x, x.relu()).flatten(1), 64), []),
    "added in a product": (*vectors(lambda net, x: torch.baddbmm(net.b, x[None].expand(3, -1, -1), net.w).sum(0), 6,
                                    b=parameter(3, 1, 6), w=parameter(3, 8, 6)), []),
    "a cell": (*vectors(lambda net, x: net.b(x), 6, b=nn.GRUCell(8, 6)), []),
    "mapped": (lambda: Net(lambda net, x: net.c(torch.vmap(net.a)(x)), a=nn.Linear(5, 8), c=nn.Linear(8, 2)),
               VECTORS, []),
    "many devices": (lambda: nn.DataParallel(nn.Sequential(convolution(3, 8), nn.ReLU(), convolution(8, 2))), IMAGE,
                     [8]),
}  # fmt: skip


def build(name):
    torch.manual_seed(0)
    make, shape, widths = NETWORKS[name]
    return make().eval(), torch.randn(shape), widths


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_cut_by_the_laws_or_left_alone(name, lawful):
    network, inputs, widths = build(name)
    assert sorted(group.num_channels for group in lawful(network, inputs, share=0.6).groups) == sorted(widths)


@pytest.mark.parametrize("name", [name for name, (_, _, widths) in NETWORKS.items() if not widths])
def test_what_is_left_alone_has_a_reason_beside_the_outputs(name):
    network, inputs, _ = build(name)
    pinned = trace(network, (inputs,)).pinned
    cut_off = {"a compiled layer", "half of a weight", "weight norm", "spectral norm"}
    assert {p.reason for p in pinned} - {"output of the network"} or name in cut_off
