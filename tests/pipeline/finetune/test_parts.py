"""The schedule, the random numbers, the optimiser and the batch-norm layers, each by itself."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.calibration.randomness import randomness_kept
from secateur.errors import TrainingError
from secateur.pipeline.finetune.batch_norm import learning_norms
from secateur.pipeline.finetune.optimizer import build_optimizer
from secateur.pipeline.finetune.randomness import SeededItems, order_of_epoch, seed_step, split
from secateur.pipeline.finetune.schedule import learning_rate

LAWS = settings(max_examples=50, deadline=None)


@LAWS
@given(num_steps=st.integers(1, 400), warmup=st.floats(0, 0.9), peak=st.floats(1e-6, 10))
def test_the_rate_rises_to_the_peak_and_falls_and_never_is_zero(num_steps, warmup, peak):
    rates = [learning_rate(step, num_steps, peak, warmup) for step in range(num_steps)]
    top = int(np.argmax(rates))
    assert all(0 < rate <= peak for rate in rates)
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in pairwise(rates[top:]))
    assert top >= warmup * num_steps - 1


@LAWS
@given(num=st.integers(1, 300), share=st.floats(0, 0.99), seed=st.integers(0, 2**40))
def test_a_split_is_disjoint_and_complete(num, share, seed):
    train, held_out = split(num, int(share * num), seed)
    assert sorted(train + held_out) == list(range(num))
    assert len(held_out) == int(share * num)
    assert split(num, int(share * num), seed) == (train, held_out)


@LAWS
@given(num=st.integers(20, 200), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
def test_every_epoch_visits_every_sample_once_in_an_order_of_its_own(num, seed, epoch):
    order = order_of_epoch(num, seed, epoch)
    assert sorted(order) == list(range(num))
    assert order == order_of_epoch(num, seed, epoch)
    assert order != order_of_epoch(num, seed, epoch + 1)
    assert order != order_of_epoch(num, seed + 1, epoch)


class Draws(torch.utils.data.Dataset):
    def __len__(self):
        return 50

    def __getitem__(self, index):
        return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002


def test_what_an_item_draws_depends_on_seed_epoch_and_index_alone():
    items = SeededItems(dataset=Draws(), indices=[7, 3, 9], seed=1, epoch=2)
    first = [items[i] for i in range(3)]
    torch.rand(10)
    assert [items[i] for i in (2, 1, 0)] == first[::-1]
    assert SeededItems(dataset=Draws(), indices=[3], seed=1, epoch=2)[0] == first[1]
    others = [
        SeededItems(dataset=Draws(), indices=[index], seed=seed, epoch=epoch)[0]
        for index, seed, epoch in ((3, 2, 2), (3, 1, 3), (4, 1, 2))
    ]
    assert len({value for draw in (*others, *first) for value in draw}) == 18


def test_the_global_generators_go_on_as_if_nothing_had_been_drawn():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    expected = Draws()[0]
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    with randomness_kept(torch.device("cpu")):
        seed_step(3, 4)
        SeededItems(dataset=Draws(), indices=[0], seed=0)[0]
    assert Draws()[0] == expected


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_norms_and_biases_do_not_decay(name):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    optimizer = build_optimizer(net, name, weight_decay=0.5, momentum=0.9)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    changed = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"0.weight", "3.weight"}


def test_frozen_parameters_are_left_alone_and_some_must_be_free():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    net[0].requires_grad_(False)
    handed = {id(p) for group in build_optimizer(net, "adamw", 0.0, 0.9).param_groups for p in group["params"]}
    assert handed == {id(p) for p in net[1].parameters()}
    net.requires_grad_(False)
    with pytest.raises(TrainingError, match=r"no trainable parameter.*requires_grad_\(True\)"):
        build_optimizer(net, "sgd", 0.0, 0.9)


def test_norms_that_were_folded_learn_nothing_and_others_do():
    folded, working, bare = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False)
    nn.init.constant_(folded.running_var, 1 - folded.eps)
    nn.init.constant_(working.running_var, 2.0)
    nn.init.constant_(bare.running_mean, 0.1)
    stateless = nn.BatchNorm2d(3, track_running_stats=False)
    net = nn.Sequential(folded, working, bare, stateless)
    assert learning_norms(net, "auto", 16) == [working, bare]
    assert learning_norms(net, "auto", 15) == []
    assert learning_norms(net, "frozen", 64) == []
    assert learning_norms(net, "train", 1) == [folded, working, bare]
