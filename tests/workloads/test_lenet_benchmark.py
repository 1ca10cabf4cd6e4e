"""Ways of cutting LeNet-5: they meet the budget, and what trains while it cuts trains as much as the others."""

import argparse
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def lenet(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("lenet")


@pytest.mark.parametrize("name", ["Fisher with FLOPs", "Fisher with FLOPs, one at a time", "ours"])
def test_a_way_meets_its_budget_and_trains_by_what_it_saved(lenet: Any, monkeypatch: Any, name: str) -> None:
    torch.manual_seed(0)
    whole = lenet.LeNet().eval()
    whole[5] = nn.Linear(800, 20)
    whole[7] = nn.Linear(20, 10)
    data = {"x": torch.rand(64, 1, 28, 28), "y": torch.randint(10, (64,))}
    trained: list[int] = []
    monkeypatch.setattr(lenet, "train", lambda network, data, num_steps, *_, **__: trained.append(num_steps))
    beta = lenet.betas(whole, 0.49, lenet.samples_of(data))[3] if "FLOPs" in name else None
    settings = argparse.Namespace(round_steps=100, rate=1e-3)
    most = 0.49 * lenet.operations(whole)
    small = lenet.cut_to(whole, most, name, beta, data, torch.zeros(64, 10), settings)
    assert 0.4 * lenet.operations(whole) < lenet.operations(small) <= most
    # Three tenths go twice, and a hundred steps are due each time.
    assert 170 <= sum(trained) <= 300
    assert (len(trained) > 4) == ("one at a time" in name)


def test_rows_at_another_price_do_not_count(lenet: Any) -> None:
    price = {"chosen": 0.5}
    assert lenet.beta_of("Fisher with FLOPs", price) == lenet.beta_of("Fisher with FLOPs, one at a time", price) == 0.5
    assert lenet.beta_of("Fisher, beta = 0", price) is lenet.beta_of("uncut", price) is None
