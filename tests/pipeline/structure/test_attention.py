"""Attention as networks write it: every head loses the same channels, and what forward computes stays right."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

from secateur.pipeline.structure import Plan, cut, regrow, trace

WIDTH, HEADS = 24, 3


class Attention(nn.Module):
    """Self-attention on [batch, tokens, 24]; ``way`` says how its forward is written."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.num_heads, self.head_dim = way, HEADS, WIDTH // HEADS
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        batch, tokens, width = x.shape
        if self.way == "chunks":
            q, k, v = (
                part.view(batch, tokens, self.num_heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
            )
        else:
            each = width // self.num_heads if self.way == "from the stream" else self.head_dim
            q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, each).permute(2, 0, 3, 1, 4).unbind(0)
        if self.way in ("fused", "chunks"):
            y = functional.scaled_dot_product_attention(q, k, v)
        elif self.way == "einsum":
            scores = torch.einsum("bhik,bhjk->bhij", q, k) * self.scale
            y = torch.einsum("bhij,bhjc->bhic", scores.softmax(-1), v)
        elif self.way == "scale computed":
            y = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
        else:
            y = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        joined = y.transpose(1, 2)
        return self.proj(joined.reshape(batch, tokens, width) if self.way == "from the stream" else joined.flatten(2))


class Network(nn.Module):
    """Tokens through attention on a residual stream and a classifier."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.stem, self.norm, self.attention, self.head = (
            nn.Linear(6, WIDTH), nn.LayerNorm(WIDTH), attention, nn.Linear(WIDTH, 4),
        )  # fmt: skip

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.attention(self.norm(x))).mean(1))


class MultiHead(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)[0]


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return torch.randn(2, 5, 6)


@pytest.mark.parametrize("way", ["fused", "chunks", "einsum", "scale stored", "scale computed"])
def test_heads_are_cut_apart_from_the_stream_where_forward_allows(way, tokens, lawful):
    structure = lawful(Network(Attention(way)), tokens)
    assert structure.widths == {"stem": WIDTH, "attention.qkv": WIDTH // HEADS}
    group = structure.group("attention.qkv")
    assert {reader.weight for reader in group.readers} == {"attention.proj.weight"}
    assert {writer.weight for writer in group.writers} == {"attention.qkv.weight"}
    assert bool(group.roots) is (way in ("fused", "chunks", "scale computed"))
    assert [p.reason for p in structure.pinned] == ["output of the network"]


@pytest.mark.parametrize("attention", [lambda: Attention("from the stream"), MultiHead], ids=["own", "nn"])
def test_heads_go_with_the_stream_where_forward_wants_them_as_wide(attention, tokens, lawful):
    structure = lawful(Network(attention()), tokens)
    assert structure.widths == {"stem": WIDTH // HEADS}
    assert [p.reason for p in structure.pinned] == ["output of the network"]


def test_numbers_of_a_cut_attention_are_its_widths(tokens):
    module = Network(MultiHead()).eval()
    structure = trace(module, (tokens,))
    small = cut(module, structure, {"stem": torch.arange(5)}).attention.inner
    assert (small.embed_dim, small.head_dim, small.num_heads) == (15, 5, 3)
    assert small.out_proj.in_features == 15


def test_a_scale_that_follows_the_width_keeps_its_uncut_value(tokens):
    module = Network(Attention("fused")).eval()
    structure = trace(module, (tokens,))
    small = cut(module, structure, {"attention.qkv": torch.arange(2)})
    kept = module.attention.qkv.weight[:2] * math.sqrt(2 / 8)
    torch.testing.assert_close(small.attention.qkv.weight[:2], kept)
    torch.testing.assert_close(small.attention.qkv.weight[6:8], module.attention.qkv.weight[24:26])
    whole = regrow(small, module, structure, Plan.of(structure, {"attention.qkv": torch.arange(2)}))
    torch.testing.assert_close(whole.attention.qkv.weight, module.attention.qkv.weight)


def test_training_the_gated_network_is_training_the_cut_one(tokens):
    from secateur import mask

    module = Network(Attention("scale stored")).double().eval()
    inputs = tokens.double()
    structure = trace(module, (inputs,))
    plan = Plan.random(structure, 0.5)
    gated, small = mask(module, structure, plan), cut(module, structure, plan)
    for network in (gated, small):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        network(inputs).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(gated(inputs), small(inputs), rtol=1e-9, atol=1e-12)


def test_the_gate_of_a_head_channel_counts_queries_and_values_once(tokens):
    """The gate's gradient is that of a number which multiplies queries and attended values, nothing else."""
    from secateur.calibration.gram import collect_gate_gram

    module = Network(Attention("scale stored")).double().eval()
    structure = trace(module, (tokens.double(),))
    inputs, targets = tokens.double(), torch.tensor([1, 3])
    loss = lambda outputs, wanted: functional.cross_entropy(outputs, wanted, reduction="none")  # noqa: E731
    gram = collect_gate_gram(module, structure.groups, [(inputs, targets)], loss).gram["attention.qkv"]
    wanted = torch.zeros(8, 8, dtype=torch.float64)
    own = module.attention
    for sample, target in zip(inputs, targets, strict=True):
        gate = torch.ones(8, dtype=torch.float64, requires_grad=True)
        x = module.stem(sample[None])
        q, k, v = own.qkv(module.norm(x)).reshape(1, 5, 3, HEADS, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q * gate * own.scale) @ k.mT).softmax(-1) @ v * gate
        outputs = module.head((x + own.proj(y.transpose(1, 2).flatten(2))).mean(1))
        (gradient,) = torch.autograd.grad(functional.cross_entropy(outputs, target[None]), gate)
        wanted += torch.outer(gradient, gradient) / 2
    torch.testing.assert_close(gram, wanted)


NETWORKS = {
    "swin": lambda: SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=5),
    "swin v2": lambda: SwinTransformer(
        [2, 2],
        16,
        [2, 2],
        [2, 4],
        [4, 4],
        num_classes=5,
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    ),
    "maxvit": lambda: MaxVit((64, 64), 8, 2, [8, 16], [1, 1], 8, 0.0, num_classes=5),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_window_attention_with_position_bias(name, lawful):
    torch.manual_seed(0)
    structure = lawful(NETWORKS[name]().eval(), torch.randn(2, 3, 64, 64))
    whole = [p.tensor for p in structure.pinned if p.reason != "output of the network"]
    # The layer that makes one number for every head stays whole, as the heads do.
    assert whole == [name for name in structure.shapes if name.endswith("cpb_mlp.2.weight")]
    assert len(whole) == (4 if name == "swin v2" else 0)
    assert len(structure.pinned) == len(whole) + 1
    half = {g.name: g.allowed_width(g.num_channels // 2) for g in structure.groups}
    assert structure.macs(half) <= 0.35 * structure.macs()


def test_macs_of_products_shrink_with_the_heads():
    torch.manual_seed(0)
    module = models.VisionTransformer(32, 8, 1, 4, 32, 48, num_classes=10).eval()
    structure = trace(module, (torch.randn(2, 3, 32, 32),))
    tokens = 17
    spared = structure.macs() - structure.macs({"conv_proj": 7})
    products = 2 * tokens * tokens * 4  # one channel less in each of four heads, scores and sums
    layers = tokens * (32 * 96 - 28 * 84) + tokens * (32 * 32 - 28 * 28) + 2 * tokens * 4 * 48
    assert spared == products + layers + 16 * 4 * 3 * 64 + 4 * 10
