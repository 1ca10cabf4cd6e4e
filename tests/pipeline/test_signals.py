"""Laws that every signal keeps."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from secateur.artifacts import Group, Reader, Slice
from secateur.calibration.gram import collect_gate_gram
from secateur.errors import DataError
from secateur.pipeline.signals import SIGNALS, Evidence
from secateur.pipeline.signals.joint import ascending, mended, unmended
from secateur.pipeline.signals.weight_norm import WeightNorm, writers
from secateur.pipeline.structure import trace

torch.set_num_threads(1)


class Network(nn.Module):
    """A convolution with batch-norm whose channels a second one reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.second, self.last, self.head = nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm(self.first(x)))
        return self.head(functional.relu(self.last(self.second(x))).mean((2, 3)))


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    module = Network().eval()
    for norm in (module.norm, module.last):
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.uniform_(-0.2, 0.5)
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


# The distance to others and the scale alone do not tell that a channel is dead.
@pytest.mark.parametrize("name", sorted(SIGNALS.keys() - {"random", "geometric-median", "bn-scale"}))
def test_a_dead_channel_is_worth_least(name: str) -> None:
    module = network()
    module.first.weight.data[5] = 0
    module.norm.bias.data[5] = -1
    found = scores(module, name)["first"]
    assert int(found.argmin()) == 5
    assert found[5] <= 1e-2 * found.mean()  # optimal brain surgery sees the damping


@pytest.mark.parametrize("name", [name for name, signal in SIGNALS.items() if signal.needs_gram])
def test_signals_without_gate_gradients_say_what_to_do(name: str) -> None:
    group = trace(network(), (batch()[0][:2],)).groups[0]
    with pytest.raises(
        DataError, match=f"signal {name}, group first: found no gate gradients; wanted those of every group"
    ):
        SIGNALS[name](Evidence(module=network(), gate_gram=None), group)


def test_a_group_without_batch_norm_has_no_scale() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    (group,) = trace(module, (batch()[0][:2],)).groups
    with pytest.raises(DataError, match="signal bn-scale, group 0: found no batch norm with a scale"):
        SIGNALS["bn-scale"](Evidence(module=module, gate_gram=None), group)


def test_a_filter_between_the_others_is_nearest_to_their_median() -> None:
    module = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Conv2d(3, 2, 1)).eval()
    module[0].weight.data.copy_(torch.tensor([1.0, 5.0, 3.5]).reshape(3, 1, 1, 1))
    (group,) = trace(module, (torch.randn(2, 1, 4, 4),)).groups
    found = SIGNALS["geometric-median"](Evidence(module=module, gate_gram=None), group)
    torch.testing.assert_close(found, torch.tensor([6.5, 5.5, 4.0], dtype=torch.float64) * 3 / 16)


def gram_matrix(seed: int, channels: int = 7, rank: int = 5) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((rank, channels)) * np.linspace(0.5, 2, channels)
    return rows.T @ rows / rank


@pytest.mark.parametrize("seed", range(5))
def test_what_is_removed_together_costs_what_the_quadratic_form_says(seed: int) -> None:
    gram = gram_matrix(seed)
    order, added = unmended(gram)
    assert sorted(order) == list(range(7))
    for k in range(1, 8):
        gone = np.isin(np.arange(7), order[:k])
        assert added[:k].sum() == pytest.approx(gram[np.ix_(gone, gone)].sum() / 2)
        rest = [j for j in range(7) if j not in order[: k - 1]]
        among = [gram[np.ix_([*order[: k - 1], j], [*order[: k - 1], j])].sum() / 2 for j in rest]
        assert added[:k].sum() == pytest.approx(min(among))


@pytest.mark.parametrize("seed", range(5))
def test_what_is_removed_while_others_are_rescaled_costs_the_schur_complement(seed: int) -> None:
    gram, damping = gram_matrix(seed), 1e-3
    order, added = mended(gram, damping)
    full = gram + damping * gram.diagonal().mean() * np.eye(7)
    for k in range(1, 7):
        gone = np.isin(np.arange(7), order[:k])
        stays = full[np.ix_(~gone, ~gone)]
        schur = full[np.ix_(gone, gone)] - full[np.ix_(gone, ~gone)] @ np.linalg.solve(stays, full[np.ix_(~gone, gone)])
        assert added[:k].sum() == pytest.approx(schur.sum() / 2)
    assert mended(np.zeros((3, 3)), damping)[1].tolist() == [0, 0, 0]


def test_of_twins_one_is_worth_what_both_were_and_the_other_nothing() -> None:
    # Channels 0 and 1 do the same: once one is re-scaled the other is free; without that, both are needed.
    gram = np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 0.8]])
    order, added = mended(gram, 1e-6)
    assert order[0] in (0, 1)
    assert added == pytest.approx([0, 0.4, 2], abs=1e-4)
    assert unmended(gram)[1] == pytest.approx([0.4, 0.5, 1.5])


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_scores_ascend_in_the_order_of_removal_and_add_up(seed: int) -> None:
    order, added = unmended(gram_matrix(seed, channels=12, rank=4))
    found = ascending(order, added).numpy()
    assert (np.argsort(found, kind="stable") == order).all() or (found == 0).any()
    assert (np.diff(found[order]) >= 0).all()
    if added.min() >= 0:
        assert found.sum() == pytest.approx(added.sum(), rel=1e-6)


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
