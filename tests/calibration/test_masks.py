"""Masked and cut networks are one function."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.artifacts import Group
from secateur.calibration.masks import as_mask, masked
from secateur.errors import TraceError


def cut_by_hand(state: dict[str, Any], groups: tuple[Group, ...], keep: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Select the kept entries of every slice; the groups' slices never meet on one axis."""
    for group in groups:
        for part in group.slices:
            index = torch.from_numpy(part.indices)[keep[group.name]].ravel()
            state[part.tensor] = state[part.tensor].index_select(part.axis, index)
    return state


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_masking_is_cutting(residual: Callable[[int], Any], data: st.DataObject) -> None:
    example = residual(0)
    keep = {}
    for group in example.groups:
        flags = data.draw(st.lists(st.booleans(), min_size=group.num_channels, max_size=group.num_channels).filter(any))
        keep[group.name] = torch.tensor(flags)
    keep["skip"] = keep["stem"]
    module = example.module.eval()
    cut = type(module)(stream=int(keep["stem"].sum()), inner=int(keep["first"].sum())).double().eval()
    cut.load_state_dict(cut_by_hand(module.state_dict(), example.groups, keep))
    with torch.no_grad(), masked(module, example.groups, keep):
        switched_off = module(example.inputs)
    torch.testing.assert_close(switched_off, cut(example.inputs), rtol=1e-12, atol=1e-12)


def test_indices_mean_the_same_as_a_mask_and_absent_groups_stay_whole(residual: Callable[[int], Any]) -> None:
    example = residual(1)
    module = example.module.eval()
    with masked(module, example.groups, {"first": torch.tensor([0, 4])}):
        by_index = module(example.inputs)
    with masked(module, example.groups, {"first": torch.tensor([1, 0, 0, 0, 1, 0], dtype=torch.bool)}):
        by_mask = module(example.inputs)
    assert torch.equal(by_index, by_mask)
    assert not torch.equal(by_index, module(example.inputs))
    with masked(module, example.groups, {}):
        assert torch.equal(module(example.inputs), module(example.inputs))


def test_a_dead_infinity_is_cut_too(residual: Callable[[int], Any]) -> None:
    example = residual(0)
    example.module.first_norm.bias.data[2] = float("inf")
    keep = torch.ones(6, dtype=torch.bool)
    keep[2] = False
    with masked(example.module.eval(), example.groups, {"first": keep}):
        assert torch.isfinite(example.module(example.inputs)).all()


def test_a_mask_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(TraceError, match=r"mask: found shape \[3\]; wanted \[4\], one entry a channel"):
        as_mask(torch.ones(3, dtype=torch.bool), 4)
