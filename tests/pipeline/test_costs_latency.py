"""The latency of layers follows the widths in the hardware's steps, and every allocator keeps its laws on it."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.artifacts import LatencyGrid, Layer
from secateur.errors import BudgetError, TraceError
from secateur.pipeline.allocation import ALLOCATORS, floor_cost, saliency_bound
from secateur.pipeline.allocation.programme import Programme
from secateur.pipeline.allocation.search import Search
from secateur.pipeline.costs import Cost
from secateur.pipeline.costs_latency import LatencyCost
from secateur.pipeline.structure import Structure, cut, trace
from secateur.pipeline.structure.layer_calls import latency_cost, layers_of

torch.set_num_threads(1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 24, 3, stride=2, padding=1, groups=24), nn.ReLU(),
        nn.Conv2d(24, 40, 1), nn.ReLU(),
        nn.ConvTranspose2d(40, 16, 2, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    ).eval()  # fmt: skip


INPUTS = (torch.zeros(2, 3, 12, 12),)


@cache
def parts() -> tuple[Structure, tuple[Layer, ...]]:
    module = network()
    return trace(module, INPUTS), layers_of(module, INPUTS)


def grid(layer: Layer, step: int, generator: np.random.Generator) -> LatencyGrid:
    """A staircase that grows with both lengths, with noise that is not monotone."""
    rows = np.unique(np.append(np.arange(step, layer.rows, step), layer.rows))
    columns = np.unique(np.append(np.arange(step, layer.columns, step), layer.columns))
    noise = 1 + 0.3 * generator.random((len(rows), len(columns)))
    return LatencyGrid(rows=rows, columns=columns, latency_s=1e-6 * rows[:, None] * columns * noise)


def cost_of(step: int, seed: int) -> LatencyCost:
    structure, layers = parts()
    generator = np.random.default_rng(seed)
    return latency_cost(structure, [(layer.weight, grid(layer, step, generator)) for layer in layers])


def test_layers_are_found_with_their_geometry() -> None:
    found = {layer.weight: layer for layer in parts()[1]}
    assert list(found) == ["0.weight", "3.weight", "5.weight", "7.weight", "11.weight"]
    assert found["0.weight"].shape.kernel == (3, 3)
    assert found["0.weight"].shape.size == (12, 12)
    assert (found["3.weight"].shape.groups, found["3.weight"].shape.stride) == (0, (2, 2))
    assert found["7.weight"].shape.operator == "transposed"
    assert (found["7.weight"].rows, found["7.weight"].columns) == (40, 16)
    assert (found["11.weight"].shape.operator, found["11.weight"].shape.size) == ("linear", (1,))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), step=st.sampled_from([1, 4, 8]), data=st.data())
def test_the_saving_is_the_difference_of_totals_and_never_negative(seed: int, step: int, data: st.DataObject) -> None:
    cost, structure = cost_of(step, seed), parts()[0]
    widths = np.array([data.draw(st.integers(1, g.num_channels)) for g in structure.groups])
    steps = np.array([data.draw(st.integers(0, int(w) - 1)) for w in widths])
    saved = cost.saving(widths, steps)
    for g, channels in enumerate(steps):
        fewer = widths.copy()
        fewer[g] -= channels
        assert saved[g] == cost.total(widths) - cost.total(fewer) >= 0
    assert isinstance(cost, Cost)


def test_between_two_steps_a_layer_takes_what_it_takes_at_the_larger_one() -> None:
    cost, structure = cost_of(8, 0), parts()[0]
    first = structure.groups[0]
    totals = [
        cost.total(cost.vector({**structure.widths, first.name: width})) for width in range(1, first.num_channels + 1)
    ]
    assert len(set(totals[:8])) == len(set(totals[8:16])) == len(set(totals[16:])) == 1
    assert totals[0] < totals[8] < totals[16]


def test_the_cost_of_a_cut_network_is_the_one_foretold() -> None:
    structure, layers = parts()
    generator = np.random.default_rng(0)
    grids = [(layer.weight, grid(layer, 4, generator)) for layer in layers]
    keep = {g.name: torch.arange(g.num_channels) % 3 > 0 for g in structure.groups}
    after = trace(cut(network(), structure, keep), INPUTS)
    whole = latency_cost(structure, grids)
    foretold = whole.total(whole.vector({name: int(mask.sum()) for name, mask in keep.items()}))
    cost = latency_cost(after, grids)
    assert cost.total(cost.vector(after.widths)) == foretold < whole.total(whole.vector(structure.widths))


@pytest.mark.parametrize("name", ALLOCATORS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), step=st.sampled_from([4, 8]), share=st.floats(0, 1))
def test_allocators_keep_their_laws_on_plateaus(name: str, seed: int, step: int, share: float) -> None:
    cost, groups = cost_of(step, seed), parts()[0].groups
    generator = torch.Generator().manual_seed(seed % 1000)
    scores = {g.name: torch.rand(g.num_channels, generator=generator, dtype=torch.float64) + 1e-6 for g in groups}
    floors = {groups[0].name: 5}
    whole, smallest = cost.total(cost.vector(parts()[0].widths)), floor_cost(cost, groups, floors)
    budget = int(smallest + share * (whole - smallest))
    keep = ALLOCATORS[name](scores, cost, budget, groups, floors)
    widths = {name: int(mask.sum()) for name, mask in keep.items()}
    assert cost.total(cost.vector(widths)) <= budget
    assert widths[groups[0].name] >= 5
    for g in groups:
        if (width := widths[g.name]) < g.num_channels:
            assert scores[g.name][keep[g.name]].min() >= scores[g.name][~keep[g.name]].max()
            assert cost.total(cost.vector({**widths, g.name: width + 1})) > budget
    value = sum(float(scores[name][mask].sum()) for name, mask in keep.items())
    assert value <= saliency_bound(scores, cost, budget, groups, floors) * (1 + 1e-9)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(0.1, 0.9))
def test_the_programme_of_latencies_finds_the_best_of_all_widths(seed: int, share: float) -> None:
    cost, structure = cost_of(8, seed), trace(network(), INPUTS, multiple=8)
    generator = torch.Generator().manual_seed(seed % 1000)
    scores = {g.name: torch.rand(g.num_channels, generator=generator, dtype=torch.float64) for g in structure.groups}
    whole, smallest = cost.total(cost.vector(structure.widths)), floor_cost(cost, structure.groups)
    budget = int(smallest + share * (whole - smallest))
    search = Search.of(scores, cost, budget, structure.groups, None)
    best = max(
        search.value_at(np.array(choice))
        for choice in itertools.product(*(search.allowed(g).tolist() for g in range(len(search.groups))))
        if cost.total(np.array(choice)) <= budget
    )
    found = Programme.of(search, budget).solve(num_nodes=10_000, gap=0.0)
    search.move_to(found.widths)
    assert search.account.total <= budget
    assert search.value == pytest.approx(best, rel=1e-5)
    assert found.bound == pytest.approx(best, rel=1e-5)


def test_a_budget_below_the_floors_is_refused_in_latency_too() -> None:
    cost, groups = cost_of(8, 0), parts()[0].groups
    scores = {g.name: torch.ones(g.num_channels) for g in groups}
    with pytest.raises(BudgetError, match="the smallest that these floors allow"):
        ALLOCATORS["knapsack"](scores, cost, floor_cost(cost, groups) - 1, groups)


def test_the_table_of_another_network_is_refused() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(TraceError, match=r"a table of layer 'conv9\.weight'"):
        latency_cost(parts()[0], [("conv9.weight", grid(parts()[1][0], 4, generator))])


def test_every_layer_of_a_published_network_is_found() -> None:
    module = torchvision.models.mobilenet_v2().eval()
    found = layers_of(module, (torch.zeros(2, 3, 64, 64),))
    layers = [name for name, m in module.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert [layer.weight for layer in found] == [f"{name}.weight" for name in layers]
