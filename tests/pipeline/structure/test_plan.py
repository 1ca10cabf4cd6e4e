"""Plans: the laws of cutting, masking, composing, regrowing and carrying state, in double precision."""

import copy
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SelfAttention, randomise_norms, scaled
from torch import Tensor, nn
from torchvision import models

from secateur.errors import BudgetError, DataError, LoadError, StorageError, TraceError
from secateur.pipeline.structure import Plan, Structure, cut, cut_optimizer, load, mask, regrow, save, trace

NETWORKS = ["resnet18", "mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x0_5", "convnext_tiny"]


class Branches(nn.Module):
    """A depthwise and a grouped convolution, a gate, a concatenation and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.grouped = nn.Conv2d(12, 8, 3, padding=1, groups=4)
        self.gate = nn.Conv2d(12, 12, 1)
        self.up = nn.ConvTranspose2d(20, 6, 2, stride=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.deep(x) * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(self.up(torch.cat([x, self.grouped(x).relu()], 1)).relu().mean((2, 3)))


@functools.cache
def traced(name: str = "") -> tuple[nn.Module, Tensor, Structure]:
    torch.manual_seed(0)
    module = getattr(models, name)(weights=None, num_classes=10) if name else Branches()
    x = torch.randn(2, 3, 48, 48) if name else torch.randn(2, 3, 8, 8)
    module = randomise_norms(module).double().eval()
    return module, x.double(), trace(module, (x.double(),))


BRANCHES = traced()


def distance(one: Tensor, two: Tensor) -> float:
    return float((one - two).abs().max() / two.abs().max())


def same(one: nn.Module, two: nn.Module) -> bool:
    other = two.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_is_cut_before_and_after_a_training_step(name: str) -> None:
    module, x, structure = traced(name)
    before = copy.deepcopy(module)
    for keep in (0.25, 0.5, 0.75):
        plan = Plan.random(structure, keep=keep, seed=1)
        small, gated = cut(module, structure, plan), mask(module, structure, plan)
        with torch.no_grad():
            assert distance(small(x), gated(x)) < 1e-9
        for network in (small, gated):
            parameters = [p for p in network.parameters() if p.requires_grad]
            optimizer = torch.optim.SGD(parameters, lr=1e-3)
            network(x).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            assert distance(small(x), gated(x)) < 1e-9
            assert distance(cut(gated.ungated(), structure, plan)(x), gated(x)) < 1e-9
    assert same(before, module)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_foretold_is_what_is_counted(name: str) -> None:
    module, x, structure = traced(name)
    plan = Plan.random(structure, keep=0.5, seed=2)
    small = cut(module, structure, plan)
    again = trace(small, (x,))
    assert (again.macs(), again.parameters()) == (
        structure.macs(plan.widths(structure)), structure.parameters(plan.widths(structure)),
    )  # fmt: skip
    assert again.widths == plan.widths(structure)


@settings(max_examples=15, deadline=None)
@given(first=st.floats(0.3, 1), second=st.floats(0.3, 1), seed=st.integers(0, 1000))
def test_cutting_twice_is_cutting_once_by_the_composed_plan(first: float, second: float, seed: int) -> None:
    module, x, structure = BRANCHES
    one = Plan.random(structure, keep=first, seed=seed)
    small = cut(module, structure, one)
    left = trace(small, (x,))
    two = Plan.random(left, keep=second, seed=seed + 1)
    assert same(cut(small, left, two), cut(module, structure, one.then(two)))


@settings(max_examples=15, deadline=None)
@given(keep=st.floats(0.1, 1), seed=st.integers(0, 1000))
def test_what_was_cut_regrows(keep: float, seed: int) -> None:
    module, _, structure = BRANCHES
    plan = Plan.random(structure, keep=keep, seed=seed)
    small = cut(module, structure, plan)
    assert same(regrow(small, module, structure, plan), module)
    for parameter in small.parameters():
        parameter.data.add_(1)
    grown = regrow(small, module, structure, plan)
    assert same(cut(grown, structure, plan), small)
    assert {n: t.shape for n, t in grown.state_dict().items()} == {n: t.shape for n, t in module.state_dict().items()}


def permuted(module: nn.Module, structure: Structure, orders: dict[str, np.ndarray]) -> nn.Module:
    """Exchange the channels of groups, in all tensors that they live in."""
    result = copy.deepcopy(module)
    named = {**dict(result.named_parameters()), **dict(result.named_buffers())}
    sources: dict[tuple[str, int], np.ndarray] = {}
    for group in structure.groups:
        for s in group.slices:
            source = sources.setdefault((s.tensor, s.axis), np.arange(named[s.tensor].shape[s.axis]))
            source[s.indices] = s.indices[orders[group.name]]
    for (name, axis), source in sources.items():
        named[name].data = named[name].data.index_select(axis, torch.from_numpy(source))
    return result


@pytest.mark.parametrize("name", ["", *NETWORKS])
def test_the_order_of_channels_does_not_matter(name: str) -> None:
    module, x, structure = traced(name)
    generator = np.random.default_rng(0)
    orders = {g.name: generator.permutation(g.num_channels) for g in structure.groups}
    other = permuted(module, structure, orders)
    with torch.no_grad():
        assert distance(other(x), module(x)) < 1e-9
    again = trace(other, (x,))
    assert again.fingerprint == structure.fingerprint
    plan = Plan.random(structure, keep=0.5, seed=1)
    masks = {g: torch.from_numpy(mask[orders[g]]) for g, mask in plan.masks(structure).items()}
    with torch.no_grad():
        assert distance(cut(other, again, masks)(x), cut(module, structure, plan)(x)) < 1e-9


def test_keeping_everything_changes_nothing() -> None:
    module, _, structure = BRANCHES
    plan = Plan.random(structure, keep=1.0)
    assert plan.kept == {}
    assert same(cut(module, structure, plan), module)


def test_gates_can_be_differentiated() -> None:
    module, x, structure = BRANCHES
    gated = mask(module, structure, {})
    for gate in gated.gates:
        gate.requires_grad_(True)
    gated(x).sum().backward()
    step = 1e-6
    for group, gate in zip(structure.groups, gated.gates, strict=True):
        assert gate.grad is not None
        moved = mask(module, structure, {})
        position = gated.names.index(group.name)
        moved.gates[position].data = moved.gates[position].data.double()
        moved.gates[position].data[0] += step
        with torch.no_grad():
            slope = (moved(x).sum() - gated(x).sum()) / step
        assert float(gate.grad[0]) == pytest.approx(float(slope), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
        lambda parameters: torch.optim.Adam(parameters, lr=0.01, betas=(0.8, 0.9)),
    ],
    ids=["SGD", "Adam"],
)
def test_an_optimiser_goes_on_over_a_cut_as_if_masked(make) -> None:
    module, x, structure = traced()
    plan = Plan.random(structure, keep=0.5, seed=3)
    gated = mask(module, structure, plan)
    optimizer = make(gated.body.parameters())

    def steps(network: nn.Module, optimizer: torch.optim.Optimizer, num: int) -> None:
        for _ in range(num):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()

    steps(gated, optimizer, 3)
    small = cut(gated.ungated(), structure, plan)
    carried = cut_optimizer(optimizer, gated.body, small, structure, plan)
    assert carried.defaults == optimizer.defaults
    assert carried.param_groups[0]["lr"] == 0.01
    steps(gated, optimizer, 3)
    steps(small, carried, 3)
    with torch.no_grad():
        assert distance(small(x), gated(x)) < 1e-9


def test_means_of_gradients_follow_entries_that_are_scaled() -> None:
    module, x = SelfAttention(scaled).double().eval(), torch.randn(2, 5, 12).double()
    structure = trace(module, (x,))
    (rooted,) = [group for group in structure.groups if group.roots]
    plan = Plan.of(structure, {rooted.name: torch.arange(rooted.num_channels // 2)})
    optimizer = torch.optim.Adam(module.parameters())
    module(x).square().mean().backward()
    optimizer.step()
    small = cut(module, structure, plan)
    carried = cut_optimizer(optimizer, module, small, structure, plan).state[small.qkv.weight]
    whole = optimizer.state[module.qkv.weight]
    rows = next(s for s in rooted.slices if s.tensor == "qkv.weight").indices[: rooted.num_channels // 2]
    index = np.sort(rows.reshape(-1))
    scales = small.qkv.weight / module.qkv.weight[index]
    assert scales.min() < 0.9
    for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
        assert torch.allclose(whole[key][index] / carried[key], scales**power)


def test_another_networks_optimiser_is_refused() -> None:
    module, _, structure = BRANCHES
    plan = Plan.random(structure)
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    with pytest.raises(TraceError, match=r"a parameter of shape \[2, 2\] that is not the network's"):
        cut_optimizer(other, module, cut(module, structure, plan), structure, plan)


@pytest.mark.parametrize("kind", ["macs", "parameters"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_budget_is_met_within_a_channel(kind: str, share: float) -> None:
    structure = traced("mobilenet_v2")[2]
    generator = torch.Generator().manual_seed(0)
    scores = {g.name: torch.rand(g.num_channels, generator=generator) for g in structure.groups}
    plan = Plan.from_scores(structure, scores, **{kind: share})
    widths = plan.widths(structure)
    count = structure.macs if kind == "macs" else structure.parameters
    assert count(widths) <= share * count()
    missing = share * count() - count(widths)
    grown = [count({**widths, g.name: widths[g.name] + 1}) - count(widths)
             for g in structure.groups if widths[g.name] < g.num_channels]  # fmt: skip
    assert missing < min(grown)


def test_budgets_and_scores_that_do_not_fit_are_refused() -> None:
    _, _, structure = BRANCHES
    scores = {g.name: torch.ones(g.num_channels) for g in structure.groups}
    for wrong in ({}, {"macs": 0.5, "parameters": 0.5}):
        with pytest.raises(BudgetError, match="wanted either macs or parameters"):
            Plan.from_scores(structure, scores, **wrong)
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(BudgetError, match=r"wanted a share in \(0, 1\]"):
            Plan.from_scores(structure, scores, macs=share)
        with pytest.raises(BudgetError, match=r"wanted a share in \(0, 1\]"):
            Plan.random(structure, keep=share)
    with pytest.raises(BudgetError, match="the smallest that these floors allow"):
        Plan.from_scores(structure, scores, macs=1e-4)
    with pytest.raises(DataError, match="no scores for group"):
        Plan.from_scores(structure, {}, macs=0.5)


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    module, _, structure = BRANCHES
    plan = Plan.random(structure, seed=4)
    plan.save(tmp_path / "plan.json")
    read = Plan.load(tmp_path / "plan.json")
    assert read.fingerprint == plan.fingerprint
    assert same(cut(module, structure, read), cut(module, structure, plan))
    (tmp_path / "other.json").write_text('{"format": 2}')
    with pytest.raises(LoadError, match="wanted a plan in format 1"):
        Plan.load(tmp_path / "other.json")
    with pytest.raises(StorageError, match="No such file"):
        Plan.load(tmp_path / "none.json")


def test_a_plan_of_another_network_is_refused_with_both_fingerprints() -> None:
    module, _, structure = BRANCHES
    _, _, other = traced("squeezenet1_1")
    plan = Plan.random(other)
    assert structure.fingerprint != other.fingerprint == traced("squeezenet1_1")[2].fingerprint
    for act in (cut, mask):
        with pytest.raises(
            TraceError, match=f"the structure {other.fingerprint}; wanted one for {structure.fingerprint}"
        ):
            act(module, structure, plan)
    with pytest.raises(TraceError, match="as in the network that was traced"):
        mask(nn.Conv2d(3, 3, 1), structure, Plan.random(structure))
    with pytest.raises(TraceError, match=r"regrow, .*wanted shape .* as the plan leaves it"):
        regrow(module, module, structure, Plan.random(structure))


def test_a_later_plan_must_fit_what_is_left() -> None:
    _, _, structure = BRANCHES
    name = structure.groups[0].name
    few = Plan(kept={name: torch.tensor([0, 3])}, fingerprint=structure.fingerprint)
    many = Plan(kept={name: torch.tensor([0, 2])}, fingerprint="")
    with pytest.raises(TraceError, match="channel 2 in the later plan; wanted one of the 2 that the first plan leaves"):
        few.then(many)


def test_weights_go_to_disk_and_onto_a_fresh_original(tmp_path: Path) -> None:
    module, x, structure = BRANCHES
    small = cut(module, structure, Plan.random(structure, keep=0.4))
    save(small, tmp_path)
    fresh = Branches().double().eval()
    loaded = load(fresh, tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(x), small(x))
    assert fresh.stem.out_channels == 12
    with pytest.raises(LoadError, match="a skeleton of the network that was saved"):
        load(nn.Conv2d(3, 2, 1), tmp_path)
