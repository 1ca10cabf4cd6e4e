"""Whole residual branches: removed equals masked, costs are foretold, nothing of them is left to compute."""

import copy
from collections import Counter
from dataclasses import replace

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import SelfAttention, randomise_norms, scaled
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import Bottleneck

from secateur.errors import TraceError
from secateur.pipeline.structure import Plan, cut, cut_optimizer, load, mask, regrow, save, trace
from secateur.workloads.classification import CifarResNet


class Encoder(nn.Module):
    """A transformer block with attention of its own."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(12), nn.LayerNorm(12)])
        self.attention = SelfAttention(scaled)
        self.mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12), nn.Dropout(0.1))

    def forward(self, x):
        x = x + self.attention(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, 12), nn.Linear(12, 5)
        self.blocks = nn.Sequential(Encoder(), Encoder())

    def forward(self, x):
        return self.head(self.blocks(self.embed(x)).mean(1))


def convnext():
    return models.ConvNeXt([CNBlockConfig(16, 24, 2), CNBlockConfig(24, None, 2)], num_classes=10)


INVERTED = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]
"""Expansion, channels, number and stride of blocks."""


def image(side, count=2):
    return torch.randn(count, 3, side, side)


NETWORKS = {
    "resnet20": (lambda: CifarResNet(20), lambda: image(32), 9),
    "resnet18": (lambda: models.resnet18(num_classes=10), lambda: image(48), 8),
    "bottlenecks": (lambda: models.ResNet(Bottleneck, [2, 1, 1, 1], 10), lambda: image(48), 5),
    "mobilenet_v2": (lambda: models.MobileNetV2(10, inverted_residual_setting=INVERTED), lambda: image(48), 2),
    "convnext": (convnext, lambda: image(64), 4),
    "transformer": (Tokens, lambda: torch.randn(2, 7, 6), 4),
}


def build(name):
    torch.manual_seed(0)
    make, inputs, _ = NETWORKS[name]
    return randomise_norms(make()), (inputs(),)


def some_masks(structure, names, seed=0):
    """Draw masks of the groups outside of these branches."""
    inside = {group for branch in structure.branches if branch.name in names for group in branch.groups}
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for group in structure.groups:
        if group.name not in inside:
            width = group.allowed_width(-(-2 * group.num_channels // 3))
            order = torch.randperm(group.num_channels, generator=generator)
            masks[group.name] = torch.zeros(group.num_channels, dtype=torch.bool).index_fill(0, order[:width], True)
    return masks


def close(one, two, tolerance=1e-9):
    return (one - two).abs().max() <= tolerance * two.abs().max()


def assert_lawful(module, inputs, structure, names, masks):
    """Removed equals masked to 1e-9, costs are those of the network traced again, which looks as was foretold."""
    before = copy.deepcopy(module.state_dict())
    plan = Plan.of(structure, masks, names)
    small = cut(module, structure, plan)
    double = cut(copy.deepcopy(module).double(), structure_of_double(structure), plan)
    with torch.no_grad():
        wanted = mask(copy.deepcopy(module).double(), structure, plan)(*(x.double() for x in inputs))
        assert close(double(*(x.double() for x in inputs)), wanted)
        assert close(small(*inputs).double(), wanted, 1e-4)
    again = trace(small, inputs, branches=True)
    widths, left = plan.widths(structure), structure.without(plan.removed)
    assert again.widths == {name: widths[name] for name in left.widths}
    assert structure.macs(widths) == again.macs() == left.macs({name: widths[name] for name in left.widths})
    assert structure.parameters(widths) == again.parameters() == sum(p.numel() for p in small.parameters())
    assert {b.name for b in again.branches} == {b.name for b in structure.branches} - set(names)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    return small, plan


def structure_of_double(structure):
    """Return a structure whose constants are found in double precision."""
    return replace(structure, example_inputs=tuple(x.double() for x in structure.example_inputs))


def looks(structure):
    """Return all shapes, and where every group's channels live; the least widths may fall with a branch."""
    slices = {
        g.name: (g.num_channels, g.block, [(s.tensor, s.axis, s.indices.tolist()) for s in g.slices])
        for g in structure.groups
    }
    return structure.shapes, slices


def operators(module, inputs, tmp_path):
    """Export with any batch size, run other inputs through ONNX Runtime, and count the operators."""
    path, batch = tmp_path / "small.onnx", torch.export.Dim("batch", min=1, max=64)
    many = tuple(torch.cat([x, x.flip(0), x]) for x in inputs)
    program = torch.onnx.export(
        module, inputs, dynamo=True, dynamic_shapes=tuple({0: batch} for _ in inputs), verbose=False
    )
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), many, strict=True)})
    with torch.no_grad():
        assert close(torch.from_numpy(found[0]), module(*many), 1e-4)
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


@pytest.mark.parametrize("name", NETWORKS)
def test_removed_is_masked_and_its_cost_is_foretold(name):
    module, inputs = build(name)
    structure = trace(module, inputs, branches=True)
    assert len(structure.branches) == NETWORKS[name][2]
    assert not structure.unremovable
    names = [branch.name for branch in structure.branches[::2]]
    assert_lawful(module, inputs, structure, names, some_masks(structure, names))
    for branch in structure.branches:
        left = structure.without([branch.name])
        assert (structure.macs() - left.macs(), structure.parameters() - left.parameters()) == (
            branch.macs, branch.parameters,
        )  # fmt: skip
    every = [branch.name for branch in structure.branches]
    bare = cut(module, structure, Plan.of(structure, {}, every))
    assert looks(structure.without(every)) == looks(trace(bare, inputs))


@pytest.mark.parametrize("name", ["resnet20", "transformer"])
def test_nothing_of_it_is_left_in_onnx(name, tmp_path):
    module, inputs = build(name)
    structure = trace(module, inputs, branches=True)
    whole = operators(module, inputs, tmp_path)
    names = [branch.name for branch in structure.branches]
    small = cut(module, structure, Plan.of(structure, {}, names))
    left = operators(small, inputs, tmp_path)
    layers = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in small.modules())
    assert left["Conv"] + left["Gemm"] + left["MatMul"] <= layers < sum(whole[n] for n in ("Conv", "Gemm", "MatMul"))
    for kind in ("Softmax", "Erf", "Gelu", "LayerNormalization", "Clip"):
        assert left[kind] <= max(0, whole[kind] - len(names)), kind


def test_openvino_runs_no_convolution_of_it(tmp_path):
    openvino = pytest.importorskip("openvino")
    module, inputs = build("resnet20")
    structure = trace(module, inputs, branches=True)
    small = cut(module, structure, Plan.of(structure, {}, [branch.name for branch in structure.branches]))
    operators(small, inputs, tmp_path)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}  # processors with bfloat16 use it otherwise
    compiled = openvino.Core().compile_model(str(tmp_path / "small.onnx"), "CPU", settings)
    kinds = Counter(op.get_rt_info()["layerType"].astype(str) for op in compiled.get_runtime_model().get_ops())
    assert kinds["Convolution"] == sum(isinstance(m, nn.Conv2d) for m in small.modules()) == 1
    with torch.no_grad():
        assert close(torch.from_numpy(compiled(inputs[0].numpy())[0]), small(*inputs), 1e-3)


def test_any_batch_and_image_size_goes_through():
    module, inputs = build("resnet18")
    structure = trace(module, inputs, branches=True)
    plan = Plan.of(structure, {}, [branch.name for branch in structure.branches])
    small, masked = cut(module, structure, plan), mask(module, structure, plan)
    with torch.no_grad():
        for shape in ((1, 3, 48, 48), (3, 3, 47, 65)):
            x = torch.randn(shape)
            assert close(small(x), masked(x), 1e-4)


def test_example_inputs_of_one_sample_do_for_sums_in_place():
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 6)

        def forward(self, x):
            y = self.two(self.one(x).relu_())
            y += x
            return y

    module, x = nn.Sequential(nn.Linear(3, 6), Block(), nn.Linear(6, 2)).eval(), torch.randn(1, 3)
    structure = trace(module, (x,), branches=True)
    small = cut(module, structure, Plan.of(structure, {}, ["1.two"]))
    constant = small[1].two.value.detach().clone()
    with torch.no_grad():
        many = torch.randn(4, 3)
        assert close(small(many), module[2](module[0](many) + module[1].two.bias), 1e-6)
    assert torch.equal(small[1].two.value, constant)


def test_constants_train_and_the_network_still_learns():
    module, inputs = build("transformer")
    structure = trace(module, inputs, branches=True)
    small = cut(module, structure, Plan.of(structure, {}, [structure.branches[0].name])).train()
    before = {name: p.detach().clone() for name, p in small.named_parameters()}
    small(*inputs).square().sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    torch.optim.SGD(small.parameters(), lr=0.1).step()
    value = next(name for name in before if name.endswith("value"))
    assert not torch.equal(before[value], dict(small.named_parameters())[value])
    module.requires_grad_(False)
    frozen = cut(module, structure, Plan.of(structure, {}, [structure.branches[0].name]))
    assert not any(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize("name", ["resnet20", "convnext", "transformer"])
def test_a_cut_of_a_cut_is_one_cut(name, tmp_path):
    module, inputs = build(name)
    structure = trace(module, inputs, branches=True)
    names = [branch.name for branch in structure.branches]
    first = Plan.of(structure, some_masks(structure, names[:1]), names[:1])
    once = cut(module, structure, first)
    between = trace(once, inputs, branches=True)
    second = Plan.of(between, some_masks(between, names[1:2], seed=1), names[1:2])
    twice = cut(once, between, second)
    both = first.then(second)
    at_once = cut(module, structure, both)
    assert both.removed == tuple(names[:2])
    with torch.no_grad():
        assert close(at_once(*inputs), twice(*inputs), 1e-5)
    both.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again.removed == both.removed
    assert again.widths(structure) == both.widths(structure)
    save(twice, tmp_path / "network")
    loaded = load(module, tmp_path / "network")
    assert type(loaded) is type(module)
    with torch.no_grad():
        assert torch.equal(loaded(*inputs), twice(*inputs))
    with pytest.raises(TraceError, match="no branch"):
        cut(module, trace(module, inputs), both)


def test_a_plan_without_branches_reads_as_before(tmp_path):
    path = tmp_path / "plan.json"
    module, inputs = build("transformer")
    structure = trace(module, inputs, branches=True)
    path.write_text(f'{{"format":1,"fingerprint":"{trace(module, inputs).fingerprint}","kept":{{}}}}')
    assert Plan.load(path).removed == ()
    assert Plan.load(path).widths(structure) == structure.widths


def test_masks_without_channels_remove_their_branch_and_no_other_group():
    module, inputs = build("resnet20")
    structure = trace(module, inputs, branches=True)
    branch = structure.branches[3]
    none = {name: torch.zeros(structure.widths[name], dtype=torch.bool) for name in branch.groups}
    assert Plan.of(structure, none).removed == (branch.name,)
    stream = next(g.name for g in structure.groups if all(g.name not in b.groups for b in structure.branches))
    with pytest.raises(TraceError, match=r"0 channels to stay.*at least 1"):
        Plan.of(structure, {stream: torch.zeros(structure.widths[stream], dtype=torch.bool)})


def test_branches_regrow_and_optimisers_follow():
    module, inputs = build("resnet20")
    structure = trace(module, inputs, branches=True)
    names = [structure.branches[0].name, structure.branches[3].name]
    plan = Plan.of(structure, some_masks(structure, names), names)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(*inputs).sum().backward()
    optimiser.step()
    small = cut(module, structure, plan)
    carried = cut_optimizer(optimiser, module, small, structure, plan)
    trained = {id(p) for group in carried.param_groups for p in group["params"]}
    assert trained == {id(p) for p in small.parameters()}
    assert all(state["momentum_buffer"].shape == p.shape for p, state in carried.state.items())
    grown = regrow(small, module, structure, plan)
    with torch.no_grad():
        for name, value in grown.state_dict().items():
            assert value.shape == module.state_dict()[name].shape
        assert close(cut(grown, structure, plan)(*inputs), small(*inputs), 1e-5)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)

    def forward(self, x):
        return x + self.two(self.one(x).relu())


class Gated(Block):
    def forward(self, x):
        return x + self.two(self.one(x).relu()) * x.mean((2, 3), keepdim=True).sigmoid()


class Twice(Block):
    def forward(self, x):
        x = x + self.two(self.one(x).relu())
        return x + self.two(self.one(x).tanh())


class Watched(Block):
    def forward(self, x):
        return x + self.two(self.one(x).relu()) * (self.two.weight.shape[0] / 8)


class Padded(Block):
    """A constant that differs at the border."""

    def __init__(self):
        super().__init__()
        self.three = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x):
        return x + self.three(self.two(self.one(x).relu()))


class Written(Block):
    """The branch changes what it reads, and the sum sees it."""

    def forward(self, x):
        return x + self.two(self.one(x.relu_()).relu())


class Inline(Block):
    def forward(self, x):
        return x + nn.functional.conv2d(self.one(x).relu(), self.two.weight, self.two.bias)


STAY = {
    Gated: "in other ways than through channels",
    Twice: "work outside of its modules, or also elsewhere",
    Watched: "does not go without it",
    Padded: "not one constant a channel",
    Inline: "work outside of its modules, or also elsewhere",
}


@pytest.mark.parametrize("kind", STAY)
def test_what_cannot_go_stays_with_a_reason(kind):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 1), kind(), Block(), nn.Conv2d(8, 3, 1)).eval()
    structure = trace(module, (image(8),), branches=True)
    assert [branch.name for branch in structure.branches] == ["2.two"]
    (reason,) = set(structure.unremovable.values())
    assert STAY[kind] in reason


def test_what_the_branch_writes_into_the_stream_stays_written():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 1), Written(), nn.Conv2d(8, 3, 1)).eval()
    structure = trace(module, (image(8),), branches=True)
    assert_lawful(module, (image(8),), structure, [branch.name for branch in structure.branches], {})


def test_the_users_modules_and_attention_of_pytorch_stay():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 1), Block(), nn.Conv2d(8, 3, 1)).eval()
    structure = trace(module, (image(8),), branches=True, keep=["1.two"])
    assert structure.unremovable == {"1.two": "kept by the user"}
    assert not structure.branches
    vision = models.VisionTransformer(32, 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=10)
    structure = trace(vision.eval(), (image(32),), branches=True)
    assert [branch.name.rpartition(".")[2] for branch in structure.branches] == ["mlp", "mlp"]
    assert set(structure.unremovable.values()) == {"none of its inner channels can be cut"}


def test_networks_without_residual_sums_have_no_branches():
    torch.manual_seed(0)
    dense = models.DenseNet(8, (2, 2), 16, num_classes=4).eval()
    structure = trace(dense, (image(32),), branches=True)
    assert not structure.branches
    assert not structure.unremovable


class Drawn(nn.Module):
    """A residual block of drawn parts."""

    def __init__(self, width, inner, stride, norm, in_place, squeeze):
        super().__init__()
        self.layers = nn.ModuleList()
        for number in range(len(inner) + 1):
            a, b = ([width, *inner][number], [*inner, width][number])
            self.layers.append(nn.Conv2d(a, b, 3, padding=1, stride=stride if number == 0 else 1, bias=not norm))
            self.layers.append(nn.BatchNorm2d(b) if norm else nn.Identity())
        self.shortcut = nn.Conv2d(width, width, 1, stride=stride) if stride > 1 else None
        self.gate = nn.Conv2d(width, width, 1) if squeeze else None
        self.in_place = in_place

    def forward(self, x):
        y = x
        for number, layer in enumerate(self.layers):
            y = layer(y)
            if number % 2 and number < len(self.layers) - 1:
                y = torch.relu_(y) if self.in_place else nn.functional.silu(y)
        if self.gate is not None:
            y = y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
        x = x if self.shortcut is None else self.shortcut(x)
        if self.in_place:
            y += x
            return y
        return x + y


BLOCKS = st.builds(
    Drawn, st.just(8), st.lists(st.integers(2, 6), min_size=1, max_size=2), st.integers(1, 2), st.booleans(),
    st.booleans(), st.booleans(),
)  # fmt: skip


@settings(max_examples=10, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks=st.lists(BLOCKS, min_size=1, max_size=3), seed=st.integers(0, 9))
def test_any_residual_network_is_lawful(blocks, seed):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    randomise_norms(module)
    inputs = (image(11),)
    structure = trace(module, inputs, branches=True)
    assert len(structure.branches) == len(blocks)
    names = [branch.name for branch in structure.branches][seed % 2 :]
    small, plan = assert_lawful(module, inputs, structure, names, some_masks(structure, names, seed))
    other = image(14, 3)
    with torch.no_grad():
        assert close(small(other), mask(module, structure, plan)(other), 1e-4)
