"""A cut network settles: nothing is kept that does not lower the loss, and nothing else changes."""

import copy
import math
from functools import cache

import pytest
import torch
from networks import randomise_norms
from torch import nn
from torch.nn import functional

from secateur.calibration.batches import mean_loss
from secateur.calibration.gram import collect_gate_gram
from secateur.pipeline.compensation import COMPENSATIONS, Removal
from secateur.pipeline.proof import assert_cut_equals_masked
from secateur.pipeline.settling import Settle
from secateur.pipeline.structure import Plan, trace
from secateur.workloads.classification import resnet20


def loss(outputs, targets):
    return functional.cross_entropy(outputs, targets, reduction="none")


@cache
def removal():
    """Return half of the channels of a small ResNet, whose own predictions are the targets."""
    torch.manual_seed(0)
    module, x = randomise_norms(resnet20()), torch.randn(40, 3, 32, 32)
    with torch.no_grad():
        targets = module(x).argmax(1)
    samples = list(zip(x.split(16), targets.split(16), strict=True))
    structure = trace(module, (x[:2],))
    gram = collect_gate_gram(module, structure.groups, samples, loss)
    plan = Plan.random(structure, keep=0.75)
    return Removal(module=module, structure=structure, keep=plan.kept, samples=samples, gate_gram=gram)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("name", COMPENSATIONS)
def test_no_part_is_kept_that_does_not_lower_the_loss(name, batch_norm):
    cut = removal()
    before = copy.deepcopy(cut.module.state_dict())
    found = Settle(compensation=name, batch_norm=batch_norm)(cut, loss)
    bare = mean_loss(found.bare, loss, cut.samples)
    assert found.loss == pytest.approx(mean_loss(found.module, loss, cut.samples), rel=1e-5)
    assert found.loss <= bare
    assert found.compensation in {name, "none"}
    assert all(torch.equal(before[key], value) for key, value in cut.module.state_dict().items())
    assert_cut_equals_masked(
        cut.module, cut.structure.groups, cut.keep, found.bare, cut.samples[0][0], 1e-4
    )  # the bare one is the plain cut


def test_least_squares_is_what_pays_on_this_network():
    found = Settle(compensation="least-squares", batch_norm=False)(removal(), loss)
    assert found.compensation == "least-squares"
    assert found.loss < 0.5 * mean_loss(found.bare, loss, removal().samples)


def test_losses_that_are_not_finite_are_not_chosen():
    cut = removal()

    def broken(outputs, targets):
        return torch.full((len(outputs),), math.nan)

    assert Settle(compensation="least-squares")(cut, broken).loss == math.inf
    assert isinstance(Settle()(cut, broken).module, nn.Module)
