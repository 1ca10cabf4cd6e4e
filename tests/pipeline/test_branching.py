"""Branches go where that loses less at the same budget, and a budget is met exactly with them gone."""

from functools import cache, partial

import numpy as np
import pytest
import torch
from networks import randomise_norms
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from secateur.artifacts import Data, LatencyGrid, Metric, Model, Task
from secateur.calibration.gram import collect_gate_gram
from secateur.errors import BudgetError, TraceError
from secateur.pipeline.allocation import ALLOCATORS
from secateur.pipeline.branching import Branching, branch_losses
from secateur.pipeline.budget import Limited
from secateur.pipeline.finetune.anchor import anchor_to
from secateur.pipeline.finetune.features import match_readers
from secateur.pipeline.prune import Prune
from secateur.pipeline.structure import Structure, load_model, save_model, trace
from secateur.pipeline.structure.layer_calls import layers_of

KINDS = ("macs", "parameters", "bytes", "latency")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(functional.relu_(self.bn1(self.conv1(x)))))
        out += x
        return functional.relu_(out)


def build() -> tuple[nn.Module, tuple[Tensor]]:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), Block(), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    return randomise_norms(module), (torch.randn(2, 3, 10, 10),)


@cache
def traced() -> Structure:
    return trace(*build(), branches=True)


def scores(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(w, generator=generator, dtype=torch.float64) for n, w in traced().widths.items()}


def grids(step: int = 2) -> list[tuple[str, LatencyGrid]]:
    """A microsecond for each pair of channels of every layer, in steps, and one more for the call."""
    return [
        (layer.weight, LatencyGrid(rows=rows, columns=columns, latency_s=1e-6 * (1 + rows[:, None] * columns)))
        for layer in layers_of(*build())
        for rows, columns in [
            tuple(np.unique(np.append(np.arange(step, n, step), n)) for n in (layer.rows, layer.columns))
        ]
    ]


@cache
def limited(kind: str) -> Limited:
    return Limited(kind=kind, latencies=grids() if kind == "latency" else ())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALLOCATORS)
def test_less_is_lost_within_the_same_budget(name: str, kind: str) -> None:
    structure = traced()
    for seed, share in enumerate((0.2, 0.35, 0.5, 0.8)):
        saliency, floors = scores(seed), dict.fromkeys(structure.widths, 2)
        generator = torch.Generator().manual_seed(seed)
        losses = {b.name: 12 * float(torch.rand((), generator=generator)) for b in structure.branches}
        budget = int(share * limited(kind).whole(structure))
        branching = Branching(allocator=ALLOCATORS[name], cost=limited(kind).cost, losses=losses)
        keep = branching(saliency, budget, structure, floors)
        widths = {group: int(mask.sum()) for group, mask in keep.items()}
        removed = structure.removed_at(widths)
        left = structure.without(removed)
        cost = limited(kind).cost(left)
        assert cost.total(cost.vector(widths)) <= budget
        assert all(widths[group] >= 2 for group in left.widths)
        lost = sum(losses[n] for n in removed) + sum(
            float(saliency[group][~keep[group]].sum()) for group in left.widths
        )
        plain = ALLOCATORS[name](saliency, limited(kind).cost(structure), budget, structure.groups, floors)
        assert lost <= sum(float(saliency[group][~mask].sum()) for group, mask in plain.items()) + 1e-12


def test_a_worthless_branch_goes_and_a_dear_one_stays() -> None:
    structure = traced()
    one, two, three = (branch.name for branch in structure.branches)
    terms = structure.cost_terms("macs")
    budget = terms.total(terms.vector(structure.widths)) // 2
    branching = Branching(
        allocator=ALLOCATORS["hierarchical"], cost=lambda left: left.cost_terms("macs"),
        losses={one: 100.0, two: 0.0, three: 100.0},
    )  # fmt: skip
    keep = branching(scores(0), budget, structure, {})
    assert structure.removed_at({name: int(mask.sum()) for name, mask in keep.items()}) == (two,)


def test_branches_go_until_the_floors_fit_the_budget() -> None:
    structure = traced()
    one, two, three = (branch.name for branch in structure.branches)
    left = structure.without([one, three]).cost_terms("macs")
    budget = left.total(left.vector(structure.widths))
    branching = Branching(
        allocator=ALLOCATORS["hierarchical"], cost=lambda left: left.cost_terms("macs"),
        losses={one: 1.0, two: 100.0, three: 1.0},
    )  # fmt: skip
    keep = branching(scores(0), budget, structure, structure.widths)
    assert structure.removed_at({name: int(mask.sum()) for name, mask in keep.items()}) == (one, three)
    with pytest.raises(BudgetError, match="smallest that these floors allow"):
        branching(scores(0), structure.bare.macs() - 1, structure, structure.widths)


def test_a_budget_below_all_floors_is_reached_without_branches() -> None:
    module, inputs = build()
    model, data = Model(module=module, example_inputs=inputs), Data(train=samples(), test=samples())
    prune = partial(Prune, keep=0.3, rounds=2, samples=32, labels="true", multiple=8)
    with pytest.raises(BudgetError, match="smallest that these floors allow"):
        prune()(model, TASK, data)
    small, result = prune(branches=True)(model, TASK, data)
    assert any(done.removed for done in result.rounds)
    assert trace(small.module, inputs).macs() == result.macs_after <= 0.3 * result.macs_before


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


TASK = Task(
    name="noise", loss=cross_entropy, primary="accuracy",
    metrics={"accuracy": Metric(per_sample=lambda o, t: (o.argmax(1) == t).double())},
    distill=lambda o, t, _: (o - t).square().mean(1),
)  # fmt: skip


def samples() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(
        torch.randn(32, 3, 10, 10, generator=generator), torch.randint(0, 4, (32,), generator=generator)
    )


def test_the_loss_of_a_branch_is_that_of_one_gate_on_all_of_it() -> None:
    module, _ = build()
    structure = traced()
    inputs, targets = samples().tensors
    gram = collect_gate_gram(module, structure.groups, [(inputs, targets)], cross_entropy)
    found = branch_losses(structure, scores(0), "fisher", gram)
    for number, branch in enumerate(structure.branches, start=1):
        gates = torch.ones(len(inputs), 1, 1, 1, requires_grad=True)
        hook = module[number].conv2.register_forward_pre_hook(lambda _, args, gates=gates: (args[0] * gates,))
        (each,) = torch.autograd.grad(cross_entropy(module(inputs), targets).sum(), gates)
        hook.remove()
        assert found[branch.name] == pytest.approx(float(each.double().square().mean()) / 2, rel=1e-4)
        assert branch_losses(structure, scores(0), "l1", gram)[branch.name] == pytest.approx(
            float(scores(0)[branch.gates[0]].sum())
        )


def damped(module: nn.Module, number: int) -> nn.Module:
    """Let a block add next to nothing that depends on its input."""
    nn.init.constant_(module[number].bn2.weight, 1e-4)
    return module


def test_pruning_removes_what_adds_nothing_and_all_that_follows_knows(tmp_path) -> None:
    module, inputs = build()
    model = Model(module=damped(module, 2), example_inputs=inputs)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    prune = partial(Prune, keep=0.4, rounds=2, samples=32, labels="true")
    data = Data(train=samples(), test=samples())
    small, result = prune(branches=True)(model, TASK, data)
    assert [name for done in result.rounds for name in done.removed] == ["2.bn2"]
    assert (result.widths_after["2.conv1"], result.widths_before["2.conv1"]) == (0, 12)
    assert type(small.module[2]) is Block
    assert result.macs_after <= 0.4 * result.macs_before
    assert all(done.cut_error <= 1e-4 for done in result.rounds)
    again = trace(small.module, inputs)
    assert (again.macs(), again.parameters()) == (result.macs_after, result.parameters_after)
    assert again.widths == {name: width for name, width in result.widths_after.items() if width}
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    save_model(small, tmp_path)
    loaded = load_model(tmp_path, module, inputs)
    with torch.no_grad():
        assert torch.equal(loaded.module(*inputs), small.module(*inputs))
    groups = trace(module, inputs).groups
    assert match_readers(small, model, again.groups, groups, {})
    fisher = {name: torch.ones_like(parameter) for name, parameter in module.named_parameters()}
    anchor = anchor_to(model, small, groups, fisher, torch.device("cpu"))
    assert set(anchor.weights) == {n for n, _ in small.module.named_parameters() if not n.endswith("value")}
    whole, without = prune()(model, TASK, data)
    assert not any(done.removed for done in without.rounds)
    assert all(width for width in without.widths_after.values())
    assert whole.module[2].conv1.out_channels == without.widths_after["2.conv1"]


@pytest.mark.parametrize("compensation", ["gates", "least-squares"])
def test_compensations_go_with_it(compensation: str) -> None:
    module, inputs = build()
    model = Model(module=damped(module, 1), example_inputs=inputs)
    prune = Prune(keep=0.4, rounds=1, samples=32, labels="true", branches=True, compensation=compensation)
    _, result = prune(model, TASK, Data(train=samples(), test=samples()))
    assert result.rounds[0].removed == ("1.bn2",)


def test_a_branch_saves_the_latency_of_all_its_layers() -> None:
    module, inputs = build()
    model, data = Model(module=damped(module, 2), example_inputs=inputs), Data(train=samples(), test=samples())
    prune = Prune(keep=0.5, kind="latency", rounds=2, samples=32, labels="true", branches=True)
    small, result = prune(model, TASK, data, latencies=grids())
    assert [name for done in result.rounds for name in done.removed] == ["2.bn2"]
    left = {layer.weight: (layer.rows, layer.columns) for layer in layers_of(small.module, inputs)}
    assert not {"2.conv1.weight", "2.conv2.weight"} & set(left)
    whole = sum(grid.latency_s[-1, -1] for _, grid in grids())
    taken = sum(
        grid.latency_s[np.searchsorted(grid.rows, left[weight][0]), np.searchsorted(grid.columns, left[weight][1])]
        for weight, grid in grids() if weight in left
    )  # fmt: skip
    assert taken <= 0.5 * whole
    assert result.rounds[-1].target_latency_s == pytest.approx(0.5 * whole, rel=1e-3)
    with pytest.raises(TraceError, match=r"a table of layer '9\.weight'"):
        prune(model, TASK, data, latencies=[*grids(), ("9.weight", grids()[0][1])])
