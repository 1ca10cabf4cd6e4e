"""Tau is found by measuring: the loss at it was measured and is allowed, and that of the next step is not."""

import bisect
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.artifacts import Group, GroupRedundancy, Redundancy
from secateur.errors import BudgetError, DataError, TrainingError
from secateur.pipeline.redundancy import calibrate_tau
from secateur.pipeline.redundancy.estimators import Tail

torch.set_num_threads(1)


def made(
    widths: list[int], multiple: int, seed: int, matrix: str = "gate"
) -> tuple[list[Group], Redundancy, dict[str, torch.Tensor]]:
    generator = np.random.default_rng(seed)
    groups, found, spectra = [], [], {}
    for number, width in enumerate(widths):
        name = f"g{number}"
        values = tuple(np.sort(10.0 ** generator.uniform(-6, 0, width))[::-1].tolist())
        groups.append(Group(name=name, num_channels=width, block="", slices=(), readers=(), multiple=multiple))
        found.append(GroupRedundancy(name=name, block="", num_channels=width, num_effective=width, spectrum=values))
        spectra[name] = torch.tensor(values, dtype=torch.float64)
    redundancy = Redundancy(
        tau=0.0, labels="true", num_samples=100, groups=tuple(found), macs=1, macs_effective=1, parameters=1,
        parameters_effective=1, matrix=matrix,
    )  # fmt: skip
    return groups, redundancy, spectra


def floors(groups: list[Group], spectra: Mapping[str, torch.Tensor], tau: float) -> dict[str, int]:
    return {g.name: g.allowed_width(Tail(threshold=tau)(spectra[g.name], 100)) for g in groups}


@settings(deadline=None, max_examples=60)
@given(
    widths=st.lists(st.integers(2, 40), min_size=1, max_size=5),
    multiple=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 1000),
    share=st.floats(0, 1.2),
)
def test_the_largest_step_that_stands(widths: list[int], multiple: int, seed: int, share: float) -> None:
    groups, redundancy, spectra = made(widths, multiple, seed)
    costs = np.random.default_rng(seed).uniform(0.1, 1, len(widths)).tolist()
    asked: list[dict[str, int]] = []

    def probe(at: Mapping[str, int]) -> float:
        asked.append(dict(at))
        return 2.0 + sum(c * (g.num_channels - at[g.name]) for c, g in zip(costs, groups, strict=True))

    worst = probe(floors(groups, spectra, math.inf)) - 2.0
    asked.clear()
    taus = sorted({0.0, *(t for v in spectra.values() for t in v.flip(0).cumsum(0).tolist())})
    allowed = [probe(floors(groups, spectra, tau)) <= 2.0 + share * worst for tau in taus]
    wanted = floors(groups, spectra, taus[bisect.bisect_left(allowed, True, key=lambda stands: not stands) - 1])
    asked.clear()
    if wanted == {g.name: g.num_channels for g in groups}:
        with pytest.raises(BudgetError, match=r"calibration of tau: found .*; wanted at most .* more"):
            calibrate_tau(redundancy, groups, probe, loss_before=2.0, loss_increase=share * worst, num_samples=9)
        return
    tau, done = calibrate_tau(redundancy, groups, probe, loss_before=2.0, loss_increase=share * worst, num_samples=9)
    assert floors(groups, spectra, tau) == wanted
    assert done.loss == probe(wanted) <= 2.0 + share * worst
    assert [p.loss for p in done.probes if p.tau == tau] == [done.loss]
    assert len(done.probes) == len(asked) - 1 <= math.ceil(math.log2(sum(widths) + 1)) + 1
    assert (done.loss_before, done.num_samples) == (2.0, 9)


def test_a_network_of_which_nothing_can_go_is_told_apart_from_one_that_suffers() -> None:
    groups, redundancy, _ = made([4], 4, 0)
    with pytest.raises(BudgetError, match="found no channel that can go"):
        calibrate_tau(redundancy, groups, lambda _: 0.0, loss_before=0.0, loss_increase=1.0, num_samples=1)
    groups, redundancy, _ = made([4], 1, 0)
    with pytest.raises(BudgetError, match="found 9 more loss at the first step, tau="):
        calibrate_tau(redundancy, groups, lambda _: 9.0, loss_before=0.0, loss_increase=1.0, num_samples=1)


def test_losses_that_are_not_finite_and_spectra_that_are_not_in_nats_are_refused() -> None:
    groups, redundancy, _ = made([4], 1, 0)
    with pytest.raises(TrainingError, match="a loss of nan; wanted a finite loss"):
        calibrate_tau(redundancy, groups, lambda _: math.nan, loss_before=0.0, loss_increase=1.0, num_samples=1)
    groups, redundancy, _ = made([4], 1, 0, matrix="activation")
    with pytest.raises(DataError, match="found spectra of the activation matrix; wanted those of gate gradients"):
        calibrate_tau(redundancy, groups, lambda _: 0.0, loss_before=0.0, loss_increase=1.0, num_samples=1)
