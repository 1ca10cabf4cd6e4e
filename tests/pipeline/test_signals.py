"""Laws that every signal keeps."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from secateur.artifacts import Group, Reader, Slice
from secateur.calibration.gram import collect_gate_gram
from secateur.errors import DataError
from secateur.pipeline.signals import SIGNALS, Evidence
from secateur.pipeline.signals.weight_norm import WeightNorm, writers
from secateur.pipeline.structure import trace

torch.set_num_threads(1)


class Network(nn.Module):
    """A convolution with batch-norm whose channels a second convolution reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm(self.first(x)))
        return self.head(functional.relu(self.second(x)).mean((2, 3)))


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    module = Network().eval()
    module.norm.weight.data.uniform_(0.5, 1.5)
    module.norm.bias.data.uniform_(-0.2, 0.5)
    return module


@cache
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(24, 3, 8, 8), torch.randint(0, 4, (24,))


def scores(module: nn.Module, name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    groups = trace(module, (batch()[0][:2],)).groups
    gram = collect_gate_gram(module, groups, [batch()], functional.cross_entropy)
    evidence = Evidence(module=module, gate_gram=gram, seed=seed)
    return {group.name: SIGNALS[name](evidence, group) for group in groups}


@pytest.mark.parametrize("name", SIGNALS)
def test_scores_are_finite_not_negative_and_one_a_channel(name: str) -> None:
    found = scores(network(), name)
    assert {group: len(score) for group, score in found.items()} == {"first": 8, "second": 6}
    for score in found.values():
        assert score.dtype == torch.float64
        assert torch.isfinite(score).all()
        assert (score >= 0).all()
        assert len(score.unique()) == len(score)


@pytest.mark.parametrize("name", SIGNALS)
def test_scores_depend_on_the_seed_only_where_the_signal_is_random(name: str) -> None:
    first, again, other = (scores(network(), name, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[group], again[group]) for group in first)
    assert all(torch.equal(first[group], other[group]) for group in first) == (name != "random")


@pytest.mark.parametrize("name", [name for name in SIGNALS if name != "random"])
def test_scores_follow_their_channels_when_those_are_permuted(name: str) -> None:
    module, permuted = network(), network()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    permuted.first.weight.data = module.first.weight.data[order]
    permuted.norm.load_state_dict(
        {key: value[order] if value.ndim else value for key, value in module.norm.state_dict().items()}
    )
    permuted.second.weight.data = module.second.weight.data[:, order]
    before, after = scores(module, name), scores(permuted, name)
    torch.testing.assert_close(after["first"], before["first"][order], rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(after["second"], before["second"], rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("name", ["fisher", "l1", "l2"])
def test_a_dead_channel_is_worth_nothing(name: str) -> None:
    module = network()
    module.first.weight.data[5] = 0
    module.norm.bias.data[5] = -1
    found = scores(module, name)["first"]
    assert found[5] == 0
    assert (found > 0).sum() == 7


def test_fisher_without_gate_gradients_says_what_to_do() -> None:
    group = trace(network(), (batch()[0][:2],)).groups[0]
    with pytest.raises(
        DataError, match="signal fisher, group first: found no gate gradients; wanted those of every group"
    ):
        SIGNALS["fisher"](Evidence(module=network(), gate_gram=None), group)


def test_norms_count_the_filters_that_write_and_not_those_that_read() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ConvTranspose2d(3, 2, 1))
    channels = np.arange(3)[:, None]
    group = Group(
        name="0", num_channels=3, block="", readers=(Reader(weight="1.weight", positions=channels),),
        slices=tuple(Slice(tensor=t, axis=0, indices=channels) for t in ("0.weight", "0.bias", "1.weight")),
    )  # fmt: skip
    assert [part.tensor for part in writers(module, group)] == ["0.weight"]
    filters = module[0].weight.detach().flatten(1).double()
    for power in (1, 2):
        norm = filters.norm(p=power, dim=1)
        score = WeightNorm(power=power)(Evidence(module=module, gate_gram=None), group)
        torch.testing.assert_close(score, norm / norm.mean())


def test_a_group_of_zero_weights_scores_zero() -> None:
    module = network()
    module.first.weight.data.zero_()
    assert torch.equal(scores(module, "l2")["first"], torch.zeros(8, dtype=torch.float64))
