"""Gated norms are the norms of the channels that are left."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.artifacts import Group, Reader
from secateur.calibration.norms import gated_norms

STAYS = torch.tensor([True, False, True, True, False, False, False, True])
NORM = Reader(weight="weight", positions=np.arange(8)[:, None])
GROUP = Group(name="g", num_channels=8, block="", slices=(), readers=(), norms=(NORM,))

CASES = {
    "layer": (
        nn.LayerNorm(8),
        lambda n, x: functional.layer_norm(x[..., STAYS], (4,), n.weight[STAYS], n.bias[STAYS], n.eps),
        -1,
    ),
    "layer, no bias": (
        nn.LayerNorm(8, bias=False),
        lambda n, x: functional.layer_norm(x[..., STAYS], (4,), n.weight[STAYS]),
        -1,
    ),
    "rms": (nn.RMSNorm(8), lambda n, x: functional.rms_norm(x[..., STAYS], (4,), n.weight[STAYS]), -1),
    "rms, eps": (
        nn.RMSNorm(8, eps=0.1),
        lambda n, x: functional.rms_norm(x[..., STAYS], (4,), n.weight[STAYS], 0.1),
        -1,
    ),
    "group": (
        nn.GroupNorm(2, 8),
        lambda n, x: functional.group_norm(x[:, KEPT], 2, n.weight[KEPT], n.bias[KEPT], n.eps),
        1,
    ),
}
KEPT = torch.tensor([True, False, True, False, False, True, True, False])  # as many in each group of four


def build(name: str) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    norm, survivors, axis = CASES[name]
    generator = torch.Generator().manual_seed(0)
    for parameter in norm.parameters():
        parameter.data = torch.randn(8, generator=generator, dtype=torch.float64)
    x = torch.randn((3, 8, 5, 2) if axis == 1 else (3, 5, 8), generator=generator, dtype=torch.float64)
    gate = KEPT if axis == 1 else STAYS
    with torch.no_grad():
        return norm, x, gate, survivors(norm, x)


@pytest.mark.parametrize("name", CASES)
def test_removed_channels_leave_the_statistics(name: str) -> None:
    norm, x, gate, wanted = build(name)
    axis = CASES[name][2]
    with gated_norms(norm, [GROUP], {"g": gate}):
        found = norm(x).index_select(axis, gate.nonzero().flatten())
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_open_gates_and_groups_that_are_not_named_change_nothing(name: str) -> None:
    norm, x, _, _ = build(name)
    whole = norm(x)
    with gated_norms(norm, [GROUP], {"g": torch.ones(8)}):
        assert torch.allclose(norm(x), whole, rtol=1e-12, atol=1e-12)
    with gated_norms(norm, [GROUP], {}):
        assert torch.equal(norm(x), whole)
    assert torch.equal(norm(x), whole)
