"""Ways of cutting gaze networks: all meet the budget, and none is trained more than another."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.workloads.gaze.backbones import DeepGaze

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SIZE, STEPS = (48, 64), 40


@pytest.fixture
def curve(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gaze_curve")


@pytest.fixture
def given(curve: Any) -> Any:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.BatchNorm2d(24))
    network = DeepGaze(trunk, 24, log_prior=torch.zeros(6, 8)).eval()

    def pictures(num: int) -> list[Any]:
        return [(torch.rand(num, 3, *SIZE), torch.rand(num, 6, 8).gt(0.8).float()) for _ in range(2)]

    trained: list[int] = []

    def train(network: nn.Module, num_steps: int) -> None:
        trained.append(num_steps)

    budget = curve.budgets_of(network, SIZE, [1.5])[0]
    made = curve.Given(
        network=network, budget=budget, samples=pictures(8), judged=pictures(4), size=SIZE, train=train, num_steps=STEPS
    )
    return made, trained


def test_every_way_meets_the_budget_without_training(curve: Any, given: Any) -> None:
    made, trained = given
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    for name, way in curve.ways().items():
        cut = way(made)
        assert curve.multiply_adds(cut.network, SIZE) <= made.budget, name
        assert cut.num_steps == 0
    assert not trained
    assert all(torch.equal(before[name], tensor) for name, tensor in made.network.state_dict().items())


def test_the_price_of_flops_is_the_one_with_the_least_loss_on_pictures_that_nothing_was_measured_on(
    curve: Any, given: Any
) -> None:
    cut = curve.ways()["Fisher with FLOPs"](given[0])
    losses = cut.facts["judged_loss_by_beta"]
    assert len(losses) > 5
    assert min(losses.values()) == losses[f"{cut.facts['beta']:.3g}"]
    assert curve.loss_on(cut.network, given[0].judged) == pytest.approx(min(losses.values()), rel=1e-6)


@pytest.mark.parametrize("name", ["Fisher with FLOPs, one at a time", "Fisher, automatic beta, one at a time"])
def test_one_at_a_time_spends_half_of_the_training_while_it_cuts(curve: Any, given: Any, name: str) -> None:
    made, trained = given
    cut = curve.OneAtATime(allocator=curve.ONE_AT_A_TIME[name], multiple=4)(made)
    assert curve.multiply_adds(cut.network, SIZE) <= made.budget
    assert cut.num_steps == sum(trained) == STEPS // 2
    assert cut.facts["removals"] >= len(trained) > 1
    assert ("beta" in cut.facts) == ("FLOPs" in name)


def test_one_at_a_time_trains_as_long_as_it_is_asked_to_after_every_removal(curve: Any, given: Any) -> None:
    made, trained = given
    cut = curve.OneAtATime(allocator=curve.ALLOCATORS["ranked"], multiple=4, num_steps=10)(made)
    assert set(trained) == {10}
    assert (len(trained), cut.num_steps) == (cut.facts["removals"], 0)


def test_a_trained_trunk_learns_at_its_own_rate_and_the_rest_at_the_whole(curve: Any, given: Any) -> None:
    training = importlib.import_module("gaze_training")
    network, (pictures, counts) = given[0].network, given[0].samples[0]
    before = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
    fit = training.Fit(limit=training.Limit(steps=1), learning_rate=1e-2, warmup=0, weight_decay=0.0, trunk=1e-3)
    fit(network, lambda: training.fixation_term(network(pictures), counts))
    moved = {name: float((tensor.detach() - before[name]).abs().max()) for name, tensor in network.named_parameters()}
    assert 0 < max(value for name, value in moved.items() if name.startswith("trunk")) < 1.1e-5
    assert max(value for name, value in moved.items() if name.startswith("readout")) > 5e-3
