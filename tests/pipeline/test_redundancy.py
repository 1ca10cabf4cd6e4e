"""Effective filters: a tail in nats, bounds, and what follows for the network."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.nn import functional

from secateur.artifacts import Group, Redundancy
from secateur.calibration.gram import GateGram, collect_gate_gram
from secateur.errors import DataError
from secateur.pipeline.redundancy import effective_filters, estimate, spectrum, tau_for_budget
from secateur.pipeline.structure import Structure, trace

torch.set_num_threads(1)

gradients = arrays(
    np.float64, st.tuples(st.integers(1, 12), st.integers(1, 8)), elements=st.floats(-3, 3, allow_subnormal=False)
)


def gram_of(g: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(g.T @ g / len(g))


@settings(deadline=None)
@given(g=gradients, tau=st.floats(0, 5))
def test_the_directions_left_out_are_worth_at_most_tau_and_one_more_would_be_too_many(
    g: np.ndarray, tau: float
) -> None:
    gram = gram_of(g)
    eigenvalues = np.sort(np.linalg.eigvalsh(gram.numpy()))[::-1].clip(0)
    r = effective_filters(gram, tau)
    slack = 1e-9 * (1 + eigenvalues.sum())
    assert 1 <= r <= len(gram)
    assert eigenvalues[r:].sum() / 2 <= tau + slack
    if r > 1:
        assert eigenvalues[r - 1 :].sum() / 2 >= tau - slack


@settings(deadline=None)
@given(g=gradients, taus=st.tuples(st.floats(0, 5), st.floats(0, 5)))
def test_a_larger_tail_never_needs_more_filters(g: np.ndarray, taus: tuple[float, float]) -> None:
    gram = gram_of(g)
    assert effective_filters(gram, max(taus)) <= effective_filters(gram, min(taus))


@settings(deadline=None)
@given(g=gradients)
def test_the_spectrum_descends_is_not_negative_and_sums_to_the_saliency(g: np.ndarray) -> None:
    gram = gram_of(g)
    values = spectrum(gram)
    assert (values.diff() <= 0).all()
    assert (values >= 0).all()
    assert values.sum().item() == pytest.approx(gram.diagonal().sum().item() / 2, rel=1e-9, abs=1e-9)


def test_effective_filters_do_not_depend_on_the_order_of_channels() -> None:
    g = np.random.default_rng(0).normal(size=(50, 10)) * np.logspace(0, -3, 10)
    order = np.random.default_rng(1).permutation(10)
    for tau in (1e-5, 1e-3, 0.1):
        assert effective_filters(gram_of(g), tau) == effective_filters(gram_of(g[:, order]), tau)


def test_planted_copies_are_superfluous() -> None:
    g = np.random.default_rng(0).normal(size=(200, 5))
    copied = np.concatenate([g, 2 * g[:, :3], np.zeros((200, 2))], axis=1)
    assert effective_filters(gram_of(copied), 1e-9) == 5


@given(width=st.integers(1, 70), floor=st.integers(0, 80), least=st.integers(1, 5), multiple=st.integers(1, 16))
def test_allowed_widths_can_be_cut_to(width: int, floor: int, least: int, multiple: int) -> None:
    group = Group(
        name="g", num_channels=width, block="", slices=(), readers=(), least=min(least, width), multiple=multiple
    )
    found = group.allowed_width(floor)
    assert min(width, max(floor, group.least)) <= found <= width
    assert found == width or found % multiple == 0
    assert found == width or found - multiple < max(floor, group.least)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 12, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip


def test_the_redundancy_of_a_network_with_dead_and_copied_channels() -> None:
    module = network()
    with torch.no_grad():
        module[0].weight[:4], module[0].bias[:4] = 0, -1
        module[0].weight[4:6], module[0].bias[4:6] = module[0].weight[6:8], module[0].bias[6:8]
        module[2].weight[:, 4:6] = module[2].weight[:, 6:8]
    images, targets = torch.randn(400, 3, 8, 8), torch.randint(0, 4, (400,))
    structure = trace(module, (images[:2],))
    gram = collect_gate_gram(module, structure.groups, [(images, targets)], functional.cross_entropy, labels="true")
    found = estimate(structure, gram, 1e-12)
    assert (found.labels, found.num_samples, found.tau) == ("true", 400, 1e-12)
    by_name = {group.name: group for group in found.groups}
    assert by_name["0"].num_effective == 10
    assert by_name["0"].redundancy == pytest.approx(6 / 16)
    assert len(by_name["0"].spectrum) == 16
    widths = {name: group.num_effective for name, group in by_name.items()}
    assert found.macs_effective == structure.macs(widths) < found.macs == structure.macs()
    assert found.parameters_effective == structure.parameters(widths) < found.parameters
    assert 0 < found.maximum_compression["macs"] < 1

    stepped = trace(module, (images[:2],), multiple=4)
    assert estimate(stepped, gram, 1e-12).macs_effective == stepped.macs({"0": 12, "2": widths["2"] + -widths["2"] % 4})


def test_a_gram_of_other_groups_is_refused() -> None:
    module = network()
    structure = trace(module, (torch.randn(2, 3, 8, 8),))
    eye = torch.eye(16, dtype=torch.float64)
    with pytest.raises(DataError, match="redundancy, group 2: found no Gram matrix; wanted one of shape"):
        estimate(structure, GateGram(gram={"0": eye}, num_samples=1), 0.1)
    with pytest.raises(DataError, match=r"redundancy, group 2: found a Gram matrix of shape \[16, 16\]"):
        estimate(structure, GateGram(gram={"0": eye, "2": eye}, num_samples=1), 0.1)
    with pytest.raises(DataError, match=r"redundancy: found tau=-1\.0; wanted a tail of at least 0 nats"):
        estimate(structure, GateGram(gram={}, num_samples=1), -1.0)
    with pytest.raises(DataError, match="redundancy, group 0: found a gate matrix that is not finite; wanted finite"):
        estimate(structure, GateGram(gram={"0": eye / 0}, num_samples=1), 0.1)


def estimated(tau: float) -> tuple[Structure, Redundancy]:
    module, images = network(), torch.randn(200, 3, 8, 8)
    structure = trace(module, (images[:2],))
    batches = [(images, torch.randint(0, 4, (200,)))]
    gram = collect_gate_gram(module, structure.groups, batches, functional.cross_entropy, labels="true")
    return structure, estimate(structure, gram, tau)


@pytest.mark.parametrize("share", [0.9, 0.6, 0.3, 0.1])
def test_the_smallest_tau_of_a_budget_makes_it_reachable_and_less_does_not(share: float) -> None:
    structure, redundancy = estimated(1e-9)
    budget = int(share * structure.macs())
    tau = tau_for_budget(redundancy, structure.cost_terms("macs"), budget, structure.groups)
    assert tau is not None
    assert estimated(tau)[1].macs_effective <= budget < estimated(0.9 * tau)[1].macs_effective


def test_no_tau_reaches_below_what_cannot_be_cut_and_none_is_needed_for_everything() -> None:
    structure, redundancy = estimated(0.1)
    terms, groups = structure.cost_terms("macs"), structure.groups
    assert tau_for_budget(redundancy, terms, 0, groups) is None
    assert tau_for_budget(redundancy, terms, structure.macs(), groups) == 0
