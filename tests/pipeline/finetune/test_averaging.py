"""The running average of weights: its formula, what it leaves alone, and that it follows a cut."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.artifacts import Metric, Model
from secateur.calibration.batches import evaluate
from secateur.errors import RecipeError
from secateur.pipeline.finetune import Averaging, DistillationWeights, Finetune, SoftTargets
from secateur.pipeline.finetune.averaging import WeightAverage
from secateur.pipeline.finetune.randomness import SeededItems, split
from secateur.pipeline.structure import Plan, cut, trace

LAWS = settings(max_examples=25, deadline=None)
QUICK = Finetune(
    epochs=3, batch_size=16, learning_rate=1e-2, validation_share=0.2, checkpoint_every_s=0.0,
    averaging=Averaging(decay=0.95), targets=SoftTargets(mixup=0.4),
)  # fmt: skip


@LAWS
@given(decay=st.floats(0, 0.9999), num=st.integers(1, 40))
def test_the_average_is_the_sum_of_its_formula(decay, num):
    values = torch.randn(num + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(num))
    net = nn.Linear(1, 1, bias=False).double()
    net.weight.data.fill_(values[0])
    average = WeightAverage.of(net, Averaging(decay=decay))
    wanted = float(values[0])
    for step, value in enumerate(values[1:].tolist()):
        net.weight.data.fill_(value)
        average.update(net, step)
        share = min(decay, (1 + step) / (10 + step))
        wanted = share * wanted + (1 - share) * value
    assert float(average.state["weight"]) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@LAWS
@given(decay=st.floats(0, 0.9999), step=st.integers(0, 10**6))
def test_the_decay_rises_to_its_limit(decay, step):
    averaging = Averaging(decay=decay)
    assert averaging.at(step) <= averaging.at(step + 1) <= decay
    assert averaging.at(10**9) == decay


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(RecipeError, match=rf"finetune\.ema: found {decay}; wanted a number in \[0, 1\)"):
        Averaging(decay=decay)


def test_whole_numbers_are_taken_over_and_the_network_gets_its_own_weights_back():
    net = nn.BatchNorm1d(3)
    average = WeightAverage.of(net, Averaging(decay=0.9))
    net.train()(torch.randn(8, 3))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    average.update(net, 100)
    with average.in_place_of(net):
        assert int(net.num_batches_tracked) == 1
        assert not torch.equal(net.running_mean, before["running_mean"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_cut_of_the_average_is_the_average_of_the_cuts(teacher):
    """So an average that goes through a cut needs no care of its own: it is a network like the other."""
    structure = trace(teacher.module, teacher.example_inputs)
    plan = Plan.of(structure, {g.name: torch.arange(g.num_channels) % 3 > 0 for g in structure.groups})
    averaging, wide = Averaging(decay=0.8), teacher.clone().module
    average = WeightAverage.of(wide, averaging)
    cuts = WeightAverage.of(cut(wide, structure, plan), averaging)
    for step in range(6):
        with torch.no_grad():
            for parameter in wide.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(wide, step)
        cuts.update(cut(wide, structure, plan), step)
    with average.in_place_of(wide):
        narrow = cut(wide, structure, plan)
    state = dict([*narrow.named_parameters(), *narrow.named_buffers()])
    assert len(state) == len(cuts.state)
    for name, tensor in cuts.state.items():
        torch.testing.assert_close(state[name].detach(), tensor)


@pytest.fixture
def train(student, teacher, task, data, groups):
    def with_settings(settings=QUICK, **other):
        given = {"groups": groups(teacher), "student_groups": groups(student), **other}
        return settings(given.pop("student", student), teacher, given.pop("task", task), data, **given)

    return with_settings


def test_what_is_evaluated_and_returned_is_the_average(train, task, data):
    steps = replace(QUICK, validation_share=0.0, num_steps=10, targets=SoftTargets())
    last, _ = train(replace(steps, averaging=None))
    averaged, _ = train(steps)
    without_memory, _ = train(replace(steps, averaging=Averaging(decay=0.0)))
    mine, own = averaged.module.state_dict(), last.module.state_dict()
    assert any(not torch.equal(value, own[name]) for name, value in mine.items())
    assert all(torch.equal(value, own[name]) for name, value in without_memory.module.state_dict().items())


def test_the_metrics_of_the_best_epoch_are_those_of_the_network_that_is_returned(train, task, data):
    likelihood = Metric(per_sample=lambda outputs, targets: -task.loss(outputs, targets))
    fine = replace(task, metrics={"likelihood": likelihood}, primary="likelihood")
    model, result = train(replace(QUICK, weights=DistillationWeights(task=1.0)), task=fine)
    _, held_out = split(len(data.train), round(0.2 * len(data.train)), QUICK.seed)
    found = evaluate(model.module, fine, SeededItems(dataset=data.train, indices=held_out, seed=QUICK.seed), 16)
    assert result.best_epoch > 0
    assert found.metrics == pytest.approx(result.epochs[result.best_epoch].metrics, rel=1e-6)


class StopError(Exception):
    pass


@pytest.mark.parametrize("stop", [3, 4, 9])
def test_an_averaged_and_mixed_training_that_was_cut_off_ends_bit_for_bit_the_same(train, tmp_path, stop):
    def stopping(_: str, done: int, __: int) -> None:
        if done == stop:
            raise StopError

    whole, whole_result = train()
    with pytest.raises(StopError):
        train(checkpoint_folder=tmp_path, progress=stopping)
    resumed, result = train(checkpoint_folder=tmp_path)
    theirs = whole.module.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in resumed.module.state_dict().items())
    assert result == whole_result


def test_the_student_given_is_left_alone(train, student: Model):
    before = {name: value.clone() for name, value in student.module.state_dict().items()}
    train()
    assert all(torch.equal(value, before[name]) for name, value in student.module.state_dict().items())
