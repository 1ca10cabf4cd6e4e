"""Allocation keeps its laws on any costs, scores, floors and steps, and on real networks."""

from functools import cache

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from secateur.artifacts import Group
from secateur.errors import BudgetError, DataError
from secateur.pipeline.allocation import allocate, floor_cost
from secateur.pipeline.costs import CostTerms
from secateur.pipeline.structure import Structure, trace

torch.set_num_threads(1)


def group(name: str, width: int, *, least: int = 1, multiple: int = 1) -> Group:
    return Group(name=name, num_channels=width, block="", slices=(), readers=(), least=least, multiple=multiple)


def chain_terms(widths: list[int], coefficients: list[int]) -> CostTerms:
    """The costs of a chain of layers 3 -> w0 -> w1 ... -> 10, coefficients[n] the number of positions of layer n."""
    num = len(widths)
    a0, b0 = np.zeros(num + 1, dtype=np.int64), np.zeros(num + 1, dtype=np.int64)
    a0[num], b0[0] = 10, 3
    A, B = np.zeros((num + 1, num), dtype=np.int64), np.zeros((num + 1, num), dtype=np.int64)
    A[np.arange(num), np.arange(num)] = 1
    B[np.arange(1, num + 1), np.arange(num)] = 1
    return CostTerms(
        groups=tuple(f"g{i}" for i in range(num)), coefficient=np.array(coefficients, dtype=np.int64),
        a0=a0, A=A, b0=b0, B=B, constant=7,
    )  # fmt: skip


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Group], CostTerms, dict[str, torch.Tensor], dict[str, int]]:
    num = draw(st.integers(1, 5))
    groups = []
    for i in range(num):
        multiple, width = draw(st.sampled_from([1, 1, 2, 4, 8])), draw(st.integers(2, 24))
        multiple = min(multiple, width)
        groups.append(group(f"g{i}", width, least=draw(st.integers(1, 2)), multiple=multiple))
    coefficients = draw(st.lists(st.integers(1, 1000), min_size=num + 1, max_size=num + 1))
    scores = {
        g.name: torch.tensor(
            draw(st.lists(st.floats(1e-6, 10), min_size=g.num_channels, max_size=g.num_channels)), dtype=torch.float64
        )
        for g in groups
    }
    floors = {g.name: draw(st.integers(0, g.num_channels)) for g in groups if draw(st.booleans())}
    return groups, chain_terms([g.num_channels for g in groups], coefficients), scores, floors


def check_laws(
    keep: dict[str, torch.Tensor], terms: CostTerms, budget: int, groups: list[Group],
    scores: dict[str, torch.Tensor], floors: dict[str, int],
) -> None:  # fmt: skip
    widths = {name: int(mask.sum()) for name, mask in keep.items()}
    cost = terms.total(terms.vector(widths))
    assert set(keep) == {g.name for g in groups}
    assert cost <= budget
    for g in groups:
        width, mask, score = widths[g.name], keep[g.name], scores[g.name]
        assert width >= g.allowed_width(floors.get(g.name, 0)) >= min(floors.get(g.name, 0), g.num_channels)
        assert width == g.num_channels or width % g.multiple == 0
        if 0 < width < g.num_channels:
            assert score[mask].min() >= score[~mask].max()
            step = min(g.multiple, g.num_channels - width)
            # Not one more step would have fitted.
            assert terms.total(terms.vector({**widths, g.name: width + step})) > budget


@settings(max_examples=120, deadline=None)
@given(problem=problems(), share=st.floats(0, 1))
def test_the_budget_is_met_within_a_step_and_floors_hold(problem: tuple, share: float) -> None:
    groups, terms, scores, floors = problem
    whole, smallest = (
        terms.total(terms.vector({g.name: g.num_channels for g in groups})),
        floor_cost(terms, groups, floors),
    )
    budget = int(smallest + share * (whole - smallest))
    check_laws(allocate(scores, terms, budget, groups, floors), terms, budget, groups, scores, floors)


@settings(max_examples=30, deadline=None)
@given(problem=problems())
def test_a_budget_below_the_floors_says_what_can_be_reached(problem: tuple) -> None:
    groups, terms, scores, floors = problem
    smallest = floor_cost(terms, groups, floors)
    with pytest.raises(BudgetError) as caught:
        allocate(scores, terms, smallest - 1, groups, floors)
    assert f"budget: found {smallest - 1:,} of " in str(caught.value)
    assert f"wanted at least {smallest:,} (" in str(caught.value)
    assert "Keep more, or lower the floors or the multiple" in str(caught.value)
    reached = allocate(scores, terms, smallest, groups, floors)
    assert terms.total(terms.vector({name: int(m.sum()) for name, m in reached.items()})) == smallest


@settings(max_examples=40, deadline=None)
@given(problem=problems(), budgets=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_the_whole_network_stays_where_the_budget_allows(problem: tuple, budgets: tuple[float, float]) -> None:
    groups, terms, scores, floors = problem
    whole = terms.total(terms.vector({g.name: g.num_channels for g in groups}))
    assert all(mask.all() for mask in allocate(scores, terms, whole, groups, floors).values())


@settings(max_examples=40, deadline=None)
@given(problem=problems(), share=st.floats(0.1, 0.9), data=st.data())
def test_permuted_channels_are_kept_as_permuted(problem: tuple, share: float, data: st.DataObject) -> None:
    groups, terms, scores, floors = problem
    assume(all(len(score.unique()) == len(score) for score in scores.values()))
    whole, smallest = (
        terms.total(terms.vector({g.name: g.num_channels for g in groups})),
        floor_cost(terms, groups, floors),
    )
    budget = int(smallest + share * (whole - smallest))
    orders = {g.name: torch.tensor(data.draw(st.permutations(range(g.num_channels)))) for g in groups}
    kept = allocate(scores, terms, budget, groups, floors)
    permuted = allocate({name: scores[name][order] for name, order in orders.items()}, terms, budget, groups, floors)
    for name, order in orders.items():
        assert torch.equal(permuted[name], kept[name][order])


def test_expensive_channels_go_first_among_equals() -> None:
    groups, terms = [group("g0", 10), group("g1", 10)], chain_terms([10, 10], [100, 1, 1])
    ones = {g.name: torch.ones(10, dtype=torch.float64) for g in groups}
    kept = allocate(ones, terms, terms.total(np.array([10, 10])) - 3 * 310, groups)
    assert {name: int(mask.sum()) for name, mask in kept.items()} == {"g0": 7, "g1": 10}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(0, 1))
def test_savings_are_those_of_full_recounts_after_every_step(seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    groups = [group(f"g{i}", width) for i, width in enumerate(generator.integers(2, 20, size=4).tolist())]
    terms = chain_terms([g.num_channels for g in groups], generator.integers(1, 1000, size=5).tolist())
    scores = {g.name: torch.from_numpy(generator.random(g.num_channels)) for g in groups}
    widths = {g.name: g.num_channels for g in groups}
    whole, smallest = terms.total(terms.vector(widths)), floor_cost(terms, groups)
    budget = int(smallest + share * (whole - smallest))
    ascending = {name: score.sort().values.tolist() for name, score in scores.items()}
    while (cost := terms.total(terms.vector(widths))) > budget:
        rates = {
            g.name: ascending[g.name][g.num_channels - widths[g.name]]
            / (cost - terms.total(terms.vector({**widths, g.name: widths[g.name] - 1})))
            for g in groups
            if widths[g.name] > g.least
        }
        widths[min(rates, key=rates.get)] -= 1
    found = {name: int(mask.sum()) for name, mask in allocate(scores, terms, budget, groups).items()}
    assert all(found[name] >= widths[name] for name in widths)
    refilled = {name: found[name] for name in widths if found[name] > widths[name]}
    last = {name: terms.total(terms.vector({**widths, name: widths[name] + 1})) for name in refilled}
    assert all(cost <= budget for cost in last.values())


def test_dead_channels_go_before_any_other() -> None:
    groups = [group("g0", 8), group("g1", 8)]
    scores = {"g0": torch.ones(8, dtype=torch.float64), "g1": torch.ones(8, dtype=torch.float64)}
    scores["g1"][[1, 4]] = 0
    terms = chain_terms([8, 8], [1000, 1, 1])
    kept = allocate(scores, terms, terms.total(np.array([8, 6])), groups)
    assert (~kept["g1"]).nonzero()[:, 0].tolist() == [1, 4]
    assert kept["g0"].all()


def test_ties_do_not_empty_one_group_while_others_are_whole() -> None:
    groups = [group(f"g{i}", 16) for i in range(3)]
    zeros = {g.name: torch.zeros(16, dtype=torch.float64) for g in groups}
    terms = chain_terms([16] * 3, [10, 10, 10, 10])
    widths = [int(m.sum()) for m in allocate(zeros, terms, terms.total(np.full(3, 16)) // 2, groups).values()]
    assert min(widths) > 1


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "saliency: found no scores for group g0; wanted scores for every group"),
        ({"g0": torch.ones(3)}, r"saliency of g0: found shape \[3\]"),
        ({"g0": torch.tensor([1.0, float("nan")])}, "saliency of g0: .* wanted 2 finite values of at least 0"),
        ({"g0": torch.tensor([1.0, -0.5])}, "values down to -0.5"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(DataError, match=message):
        allocate(scores, chain_terms([2], [1, 1]), 50, [group("g0", 2)])


@cache
def traced(name: str, multiple: int) -> Structure:
    return trace(getattr(torchvision.models, name)().eval(), (torch.zeros(2, 3, 64, 64),), multiple=multiple)


@pytest.mark.parametrize("kind", ["macs", "parameters"])
@pytest.mark.parametrize(
    ("name", "multiple"), [("resnet18", 1), ("resnet18", 8), ("mobilenet_v2", 1), ("mobilenet_v2", 8)]
)
def test_real_networks_meet_their_budgets(name: str, multiple: int, kind: str) -> None:
    structure = traced(name, multiple)
    terms, groups = structure.cost_terms(kind), list(structure.groups)
    whole = terms.total(terms.vector(structure.widths))
    generator = torch.Generator().manual_seed(0)
    scores = {g.name: torch.rand(g.num_channels, generator=generator, dtype=torch.float64) ** 4 + 1e-9 for g in groups}
    floors = {g.name: g.num_channels // 10 for g in groups}
    for share in (0.7, 0.3):
        budget = int(share * whole)
        keep = allocate(scores, terms, budget, groups, floors)
        check_laws(keep, terms, budget, groups, scores, floors)
        assert structure.macs({n: int(m.sum()) for n, m in keep.items()}) < structure.macs()
