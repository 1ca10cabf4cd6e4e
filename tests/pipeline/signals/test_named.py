"""What is particular to each named signal."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.artifacts import Group, Reader, Slice
from secateur.errors import DataError
from secateur.pipeline.signals import SIGNALS, Evidence
from secateur.pipeline.signals.filters import writers
from secateur.pipeline.signals.joint import ascending, mended, unmended
from secateur.pipeline.signals.weight_norm import WeightNorm
from secateur.pipeline.structure import trace

torch.set_num_threads(1)


@pytest.mark.parametrize("name", sorted(SIGNALS.keys() - {"apoz", "hrank"}))
def test_scores_tell_channels_apart(name: str, network: Any, collect: Any, scores: Any) -> None:
    for score in scores(collect(network(), [SIGNALS[name]]), SIGNALS[name]).values():
        assert len(score.unique()) == len(score)


def test_a_group_without_batch_norm_has_no_scale() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    (group,) = trace(module, (torch.randn(2, 3, 8, 8),)).groups
    with pytest.raises(DataError, match="signal bn-scale, group 0: found no batch norm with a scale"):
        SIGNALS["bn-scale"](Evidence(module=module), group)


def test_a_filter_between_the_others_is_nearest_to_their_median() -> None:
    module = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Conv2d(3, 2, 1)).eval()
    module[0].weight.data.copy_(torch.tensor([1.0, 5.0, 3.5]).reshape(3, 1, 1, 1))
    (group,) = trace(module, (torch.randn(2, 1, 4, 4),)).groups
    found = SIGNALS["geometric-median"](Evidence(module=module), group)
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
        score = WeightNorm(power=power)(Evidence(module=module), group)
        torch.testing.assert_close(score, norm / norm.mean())


def test_a_group_of_zero_weights_scores_zero(network: Any, collect: Any, scores: Any) -> None:
    module = network()
    module.first.weight.data.zero_()
    found = scores(collect(module, [SIGNALS["l2"]]), SIGNALS["l2"])
    assert torch.equal(found["first"], torch.zeros(8, dtype=torch.float64))
