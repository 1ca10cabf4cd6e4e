"""Attention as networks write it: every head loses the same channels, and what forward computes stays right."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

from secateur.pipeline.structure import Plan, cut, load, regrow, save, trace

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


class Normed(nn.Module):
    """Normalise what is multiplied: ``LayerNorm`` works on heads, ``BatchNorm`` right behind the layer."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.num_heads, self.head_dim = kind, HEADS, WIDTH // HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm = nn.BatchNorm1d(3 * WIDTH) if kind == "batch" else nn.LayerNorm(self.head_dim)
        if kind == "batch":
            nn.init.normal_(self.norm.bias)

    def forward(self, x):
        x = self.qkv(x)
        if self.kind == "batch":
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        q, k, v = x.unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        if self.kind == "heads":
            q, k = self.norm(q), self.norm(k)
        return self.proj((q @ k.mT * 0.3).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


class Separate(nn.Module):
    """Make queries, keys and values apart, each as wide as the stream; heads may talk to each other."""

    def __init__(self, talks):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.talk = nn.Linear(HEADS, HEADS) if talks else nn.Identity()

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = (f(x).reshape(batch, tokens, HEADS, width // HEADS).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = self.talk((q @ k.mT / math.sqrt(width // HEADS)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, width))


class KeyWidth(nn.Module):
    """Give keys another width than values, as numbers of its own."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.key_dim, self.value_dim, self.all_values = HEADS, 4, 8, 8 * HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, HEADS * 16), nn.Linear(8 * HEADS, WIDTH)

    def forward(self, x):
        batch, tokens, _ = x.shape
        sizes = [self.key_dim, self.key_dim, self.value_dim]
        q, k, v = self.qkv(x).view(batch, tokens, self.num_heads, -1).transpose(1, 2).split(sizes, -1)
        y = (q @ k.mT * 0.5).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, self.all_values))


class Rotary(nn.Module):
    """Turn pairs of neighbouring channels of queries and keys by angles that a buffer holds."""

    def __init__(self):
        super().__init__()
        self.inner = Attention("scale stored")
        self.register_buffer("angles", torch.rand(5, WIDTH // HEADS // 2))

    def turned(self, x):
        sine, cosine = (f(self.angles).repeat_interleave(2, -1) for f in (torch.sin, torch.cos))
        return x * cosine + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * sine

    def forward(self, x):
        own = self.inner
        q, k, v = own.qkv(x).unflatten(-1, (3, HEADS, own.head_dim)).permute(2, 0, 3, 1, 4)
        y = (self.turned(q) * own.scale @ self.turned(k).mT).softmax(-1) @ v
        return own.proj(y.transpose(1, 2).flatten(2))


class Correlated(nn.Module):
    """Correlate places of one map with each other, divided by the root of its width."""

    def __init__(self):
        super().__init__()
        self.features, self.out = nn.Linear(WIDTH, 16), nn.Linear(5, WIDTH)

    def forward(self, x):
        one, two = self.features(torch.cat((x, x.flip(1)))).chunk(2)
        return self.out(one @ two.mT / math.sqrt(one.shape[-1]))


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


@pytest.mark.parametrize("kind", ["heads", "batch"])
def test_a_mask_sits_behind_the_norm_of_queries(kind, tokens, lawful):
    module = Network(Normed(kind))
    structure = lawful(module, tokens)
    assert not [n for n in structure.numbers if n.module == "attention.norm"]  # its tensors tell
    assert structure.widths == {"stem": WIDTH, "attention.qkv": WIDTH // HEADS}
    assert {w.weight for w in structure.group("attention.qkv").writers} == {"attention.norm.weight"}


@pytest.mark.parametrize("talks", [False, True])
def test_layers_of_their_own_go_with_the_stream(talks, tokens, lawful):
    structure = lawful(Network(Separate(talks)), tokens)
    assert structure.widths == {"stem": WIDTH // HEADS}
    assert [p.tensor for p in structure.pinned] == [*(["attention.talk.weight"] if talks else []), "head.weight"]


def test_keys_and_values_have_widths_of_their_own(tokens, lawful):
    structure = lawful(Network(KeyWidth()), tokens)
    assert sorted(structure.widths.values()) == [4, 8, WIDTH]


def test_channels_that_turn_in_pairs_are_cut_in_pairs(tokens, lawful):
    structure = lawful(Network(Rotary()), tokens)
    assert structure.widths == {"stem": WIDTH, "attention.inner.qkv": WIDTH // HEADS // 2}


def test_a_correlation_of_a_map_with_itself_counts_its_scale_once(tokens, lawful):
    structure = lawful(Network(Correlated()), tokens)
    assert structure.widths == {"stem": WIDTH, "attention.features": 16}
    assert {root.power for root in structure.group("attention.features").roots} == {0.25}


@pytest.mark.parametrize("build", [
    *(lambda way=way: Attention(way) for way in ("fused", "chunks", "einsum", "scale stored", "from the stream")),
    MultiHead, KeyWidth, Rotary,
])  # fmt: skip
def test_attention_comes_back_from_disk(build, tokens, tmp_path):
    module = Network(build()).eval()
    structure = trace(module, (tokens,))
    small = cut(module, structure, Plan.random(structure, 0.5))
    save(small, tmp_path / "small")
    assert torch.equal(load(Network(build()).eval(), tmp_path / "small")(tokens), small(tokens))


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


@pytest.mark.parametrize("kind", ["scale stored", "fused"])
def test_training_the_gated_network_is_training_the_cut_one(kind, tokens):
    from secateur import mask

    module = Network(Attention(kind)).double().eval()
    inputs = tokens.double()
    structure = trace(module, (inputs,))
    plan = Plan.random(structure, 0.5)
    gated, small = mask(module, structure, plan), cut(module, structure, plan)
    for network in (gated, small):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        network(inputs).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(gated(inputs), small(inputs), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(cut(gated.ungated(), structure, plan)(inputs), small(inputs), rtol=1e-9, atol=1e-12)


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


@pytest.mark.parametrize("attention", [lambda: Normed("batch"), KeyWidth, Rotary, lambda: Attention("einsum")])
def test_the_gram_holds_the_gradients_of_the_masks_gates(attention, tokens):
    from secateur import mask
    from secateur.calibration.gram import collect_gate_gram

    torch.manual_seed(0)
    module, inputs, targets = Network(attention()).double().eval(), tokens.double(), torch.tensor([1, 3])
    structure = trace(module, (inputs,))
    loss = lambda outputs, wanted: functional.cross_entropy(outputs, wanted, reduction="none")  # noqa: E731
    gram = collect_gate_gram(module, structure.groups, [(inputs, targets)], loss).gram
    gated = mask(module, structure, Plan.of(structure, {}))
    for number, name in enumerate(gated.names):
        if structure.group(name).norms:
            continue  # the gate in the norm's statistics has a gradient too, which the Gram leaves out
        gate, wanted = gated.gates[number].double().requires_grad_(True), 0
        gated.gates[number] = nn.Parameter(gate.detach().clone())
        for sample, target in zip(inputs, targets, strict=True):
            (g,) = torch.autograd.grad(functional.cross_entropy(gated(sample[None]), target[None]), gated.gates[number])
            wanted = wanted + torch.outer(g, g) / 2
        torch.testing.assert_close(gram[name], wanted)


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
