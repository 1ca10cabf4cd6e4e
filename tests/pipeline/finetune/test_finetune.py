"""Whole trainings of a small network: what they change, what they leave, what they refuse."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from torch import nn

from secateur.artifacts import Data, Metric, Model, Task
from secateur.errors import RecipeError, TrainingError
from secateur.pipeline.finetune import Averaging, DistillationWeights, Finetune, SoftTargets
from secateur.pipeline.structure import trace

TASK_ONLY = DistillationWeights(task=1.0, output=0.0, feature=0.0)
QUICK = Finetune(epochs=2, batch_size=16, learning_rate=1e-2, validation_share=0.2)


def weights_of(model):
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def train(student, teacher, task, data, groups):
    def with_settings(settings=QUICK, **other):
        given = {
            "student": student,
            "teacher": teacher,
            "task": task,
            "data": data,
            "groups": groups(teacher),
            "student_groups": groups(student),
            "importance": {"conv1": torch.arange(8.0)},
            **other,
        }
        return settings(**given)

    return with_settings


def test_an_uncut_student_that_only_imitates_its_teacher_stays_where_it_is(train, teacher, data, groups):
    settings = Finetune(
        epochs=3, batch_size=16, learning_rate=0.1, optimizer="sgd", weight_decay=0.0, batch_norm="frozen",
        weights=DistillationWeights(task=0.0, output=1.0, feature=1.0), validation_share=0.2,
    )  # fmt: skip
    teacher.module.double()
    exact = replace(data, train=replace(data.train, dtype=torch.float64))
    trained, result = train(settings, student=teacher, student_groups=groups(teacher), data=exact)
    for name, value in teacher.module.state_dict().items():
        torch.testing.assert_close(trained.module.state_dict()[name], value, atol=1e-10, rtol=0)
    assert all(abs(epoch.distillation_loss) < 1e-12 and epoch.feature_loss < 1e-12 for epoch in result.epochs)


def test_training_heals_a_cut_network(train, task, data):
    _, result = train(replace(QUICK, epochs=8, learning_rate=3e-2, weights=TASK_ONLY))
    first, last = result.epochs[0], result.epochs[-1]
    assert last.task_loss < 0.5 * first.task_loss
    assert result.epochs[result.best_epoch].metrics["accuracy"] > 0.8


@pytest.mark.parametrize("longest", [1e-3, 1e-2])
def test_gradients_are_no_longer_than_allowed(train, student, longest):
    step = Finetune(
        num_steps=1, batch_size=16, learning_rate=1.0, warmup=0.0, optimizer="sgd", momentum=0.0, weight_decay=0.0,
        batch_norm="frozen", weights=TASK_ONLY, validation_share=0.0, clip_norm=longest,
    )  # fmt: skip
    lengths = []
    for settings in (step, replace(step, clip_norm=None)):
        after = dict(train(settings)[0].module.named_parameters())
        moved = [(after[name] - before).flatten() for name, before in student.module.named_parameters()]
        lengths.append(float(torch.cat(moved).detach().norm()))
    assert lengths[0] == pytest.approx(longest, rel=1e-2)
    assert lengths[1] > 2 * longest


def test_distillation_alone_brings_outputs_and_features_nearer_to_the_teacher(train):
    settings = replace(
        QUICK, epochs=8, batch_norm="frozen", weights=DistillationWeights(task=0.0, output=1.0, feature=1.0)
    )
    _, result = train(settings)
    assert result.epochs[-1].task_loss == 0
    assert result.epochs[-1].distillation_loss < 0.7 * result.epochs[0].distillation_loss
    assert result.epochs[-1].feature_loss < 0.9 * result.epochs[0].feature_loss


def test_the_feature_term_is_what_brings_features_nearer(train):
    base = replace(QUICK, epochs=6, batch_norm="frozen", batch_size=8)
    ends = {}
    for weight in (1e-6, 10.0):
        weights = DistillationWeights(task=0.0, output=1.0, feature=weight)
        ends[weight] = train(replace(base, weights=weights))[1].epochs[-1].feature_loss
    assert ends[10.0] < 0.9 * ends[1e-6]


def test_student_teacher_and_random_states_are_left_alone(train, student, teacher):
    teacher.module.train()
    teacher.module.bn1.eval()
    for parameter in student.module.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [weights_of(student), weights_of(teacher)]
    modes = [[m.training for m in model.module.modules()] for model in (student, teacher)]
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    trained, _ = train()
    assert same(before[0], weights_of(student))
    assert same(before[1], weights_of(teacher))
    assert modes == [[m.training for m in model.module.modules()] for model in (student, teacher)]
    assert all(p.requires_grad for model in (student, teacher) for p in model.module.parameters())
    assert all(bool((p.grad == 1).all()) for p in student.module.parameters())
    assert all(p.grad is None for p in teacher.module.parameters())
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert not is_initialized()
    assert not same(weights_of(trained), weights_of(student))
    assert not trained.module.training
    assert trained.kept is student.kept
    assert all(p.requires_grad and p.grad is None for p in trained.module.parameters())


def test_a_seed_repeats_a_training_whatever_the_workers_and_another_seed_does_not(train):
    a, first = train(replace(QUICK, epochs=1))
    torch.manual_seed(99)
    b, second = train(replace(QUICK, epochs=1, num_workers=2))
    c, third = train(replace(QUICK, epochs=1, seed=1))
    assert same(weights_of(a), weights_of(b))
    assert first == second
    assert not same(weights_of(a), weights_of(c))
    assert first != third


def test_the_best_epoch_by_the_primary_metric_is_kept(train, task, data):
    _, result = train(replace(QUICK, epochs=4))
    values = [epoch.metrics["accuracy"] for epoch in result.epochs]
    assert [epoch.epoch for epoch in result.epochs] == [0, 1, 2, 3, 4]
    assert values[result.best_epoch] == max(values)
    lower = replace(task, metrics={"accuracy": replace(task.metrics["accuracy"], higher_is_better=False)})
    _, result = train(replace(QUICK, epochs=4), task=lower)
    values = [epoch.metrics["accuracy"] for epoch in result.epochs]
    assert values[result.best_epoch] == min(values)


def test_a_training_that_only_does_harm_gives_the_student_back(train, student, teacher, task):
    nearness = Metric(per_sample=lambda outputs, targets: -outputs.square().mean(1))
    small = replace(task, metrics={"smallness": nearness}, primary="smallness")
    with torch.no_grad():
        student.module.linear.weight.zero_()
        student.module.linear.bias.zero_()
    trained, result = train(task=small)
    assert result.best_epoch == 0
    assert same(weights_of(trained), weights_of(student))


def test_without_validation_the_last_epoch_is_kept(train):
    _, result = train(replace(QUICK, validation_share=0.0, epochs=2))
    assert [epoch.epoch for epoch in result.epochs] == [1, 2]
    assert result.best_epoch == 2
    assert all(epoch.metrics == {} for epoch in result.epochs)


@pytest.mark.parametrize("settings", [replace(QUICK, epochs=0), replace(QUICK, num_steps=0)])
def test_no_steps_leave_the_network_as_it_is(train, student, settings):
    trained, result = train(settings)
    assert same(weights_of(trained), weights_of(student))
    assert (result.best_epoch, len(result.epochs)) == (0, 1)


def test_so_many_steps_are_trained_as_are_asked_for_and_all_are_reported(train):
    told = []
    _, result = train(replace(QUICK, num_steps=7), progress=lambda *call: told.append(call))
    assert [(done, total) for _, done, total in told] == [(i, 7) for i in range(1, 8)]
    assert told[0][0].startswith("fine-tuning, epoch 1 of 2, loss ")
    assert told[-1][0].startswith("fine-tuning, epoch 2 of 2, loss ")
    assert len(result.epochs) == 3


def test_a_set_smaller_than_a_batch_is_one_batch(train, data):
    few = torch.utils.data.Subset(data.train, [0, 1, 2, 4])
    told = []
    train(replace(QUICK, batch_size=64, epochs=3), data=replace(data, train=few), progress=lambda *c: told.append(c))
    assert len(told) == 3


def test_the_part_held_out_is_bounded(train, data):
    seen = []

    class Watched(torch.utils.data.Dataset):
        def __len__(self):
            return len(data.train)

        def __getitem__(self, index):
            seen.append(index)
            return data.train[index]

    settings = replace(QUICK, num_steps=0, validation_share=0.9, validation_limit=10)
    train(settings, data=replace(data, train=Watched()))
    assert len(set(seen)) == 10


class Deaf(nn.Module):
    def forward(self, x):
        raise AssertionError("the teacher was called")


def test_a_teacher_whose_parts_count_nothing_is_not_called(train, teacher):
    deaf = Model(module=Deaf(), example_inputs=teacher.example_inputs)
    settings = replace(QUICK, weights=TASK_ONLY)
    _, result = train(settings, teacher=deaf, groups=(), student_groups=())
    assert {epoch.distillation_loss for epoch in result.epochs} == {0.0}


def test_without_groups_features_are_not_compared(train):
    _, result = train(groups=(), student_groups=())
    assert {epoch.feature_loss for epoch in result.epochs} == {0.0}


def test_nothing_but_batch_norm_is_in_training_mode(train, student):
    modes = []
    student.module.linear.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    student.module.bn1.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    train(replace(QUICK, num_steps=1, validation_share=0.0))
    assert modes[-2:] == [True, False]


@pytest.mark.parametrize("mode", ["train", "frozen"])
def test_batch_norm_statistics_move_or_stay(train, student, mode):
    trained, _ = train(replace(QUICK, batch_norm=mode, validation_share=0.0))
    stayed = torch.equal(trained.module.bn1.running_mean, student.module.bn1.running_mean)
    assert stayed == (mode == "frozen")
    assert not torch.equal(trained.module.bn1.weight, student.module.bn1.weight)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, a, b):
        return {"sum": self.left(a) + self.right(b)}


class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        a, b = torch.randn(3, generator=generator), torch.randn(4, generator=generator)
        return (a, b), {"aim": a[:2] - b[:2]}


def test_several_inputs_and_nested_outputs_train():
    model = Model(module=TwoInputs(), example_inputs=(torch.zeros(1, 3), torch.zeros(1, 4)))
    error = Metric(per_sample=lambda o, t: (o["sum"] - t["aim"]).square().mean(1), higher_is_better=False)
    task = Task(
        name="difference",
        loss=lambda o, t: (o["sum"] - t["aim"]).square().mean(),  # a mean over the batch will do, too
        metrics={"error": error},
        primary="error",
        distill=lambda o, r, _: (o["sum"] - r["sum"]).square().mean(1),
    )
    settings = Finetune(epochs=20, batch_size=8, learning_rate=0.1, weights=DistillationWeights(task=1.0, output=0.0))
    _, result = settings(model, model, task, Data(train=Pairs(), test=Pairs()))
    assert result.epochs[-1].metrics["error"] < 0.1 * result.epochs[0].metrics["error"]


def test_a_loss_that_is_not_finite_ends_the_training_with_its_parts(train, task):
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        value = task.loss(outputs, targets)
        return value * math.nan if len(calls) > 8 else value

    wanted = (
        r"fine-tuning, epoch 2, step 6: found a loss that is not finite \(total nan, task nan, output [\d.e-]+, "
        r"feature [\d.e-]+, parameter 0\); wanted finite losses, gradients and weights\. Lower learning_rate \(here "
    )
    with pytest.raises(TrainingError, match=wanted):
        train(replace(QUICK, validation_share=0.5), task=replace(task, loss=loss))


def test_gradients_that_are_not_finite_end_the_training(train, task):
    def loss(outputs, targets):  # finite, with an infinite slope
        return (outputs - outputs.detach()).abs().sqrt().sum(1)

    with pytest.raises(TrainingError, match=r"epoch 1, step 1: found gradients that are not finite"):
        train(task=replace(task, loss=loss))


def test_half_precision_trains_and_is_forgotten_afterwards(train):
    _, half = train(replace(QUICK, precision="bf16", device="cpu"))
    _, full = train(replace(QUICK, device="cpu"))
    assert half.epochs[-1].loss == pytest.approx(full.epochs[-1].loss, rel=0.2)
    assert half != full
    assert not is_initialized()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_all_options_together_train(train, teacher, task, precision):
    fisher = {name: torch.ones_like(p) for name, p in teacher.module.named_parameters()}
    settings = replace(
        QUICK, device="cpu", precision=precision, method="dist", averaging=Averaging(decay=0.9), epochs=4,
        targets=SoftTargets(label_smoothing=0.1, mixup=0.2),
        weights=DistillationWeights(task=1.0, output=1.0, feature=0.1, parameter=1e-3),
    )  # fmt: skip
    chances = replace(task, log_probabilities=lambda outputs, temperature: (outputs / temperature).log_softmax(1))
    traced = trace(teacher.module, teacher.example_inputs).groups
    _, result = train(settings, task=chances, groups=traced, fisher=fisher, other_teachers=(teacher,))
    assert result.best_epoch > 0
    assert result.epochs[-1].loss < result.epochs[1].loss
    assert all(math.isfinite(value) for epoch in result.epochs for value in (epoch.loss, epoch.parameter_loss))


def test_a_precision_that_the_device_lacks_is_refused(train):
    with pytest.raises(TrainingError, match=r"precision 'fp16': found device 'cpu'.*Choose precision 'no'"):
        train(replace(QUICK, precision="fp16", device="cpu"))


def test_another_precision_than_the_process_has_set_is_refused(train):
    Accelerator(cpu=True, mixed_precision="no")
    try:
        with pytest.raises(TrainingError, match=r"precision 'bf16' on device 'cpu'.*Choose precision 'no', or start a"):
            train(replace(QUICK, precision="bf16", device="cpu"))
        train(replace(QUICK, num_steps=1, device="cpu"))
        assert is_initialized()
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_it_trains_on_a_gpu(train, precision):
    trained, result = train(replace(QUICK, precision=precision))
    assert all(math.isfinite(epoch.loss) for epoch in result.epochs)
    assert next(trained.module.parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1), ("num_steps", -1), ("learning_rate", 0.0), ("learning_rate", math.nan), ("warmup", 1.0),
        ("batch_size", 0), ("temperature", 0.0), ("momentum", 1.0), ("weight_decay", -1.0), ("clip_norm", 0.0),
        ("validation_share", 1.0), ("validation_limit", -1), ("num_readers", 0), ("num_workers", -1),
        ("checkpoint_every_s", -1.0),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(RecipeError, match=rf"finetune\.{name}: found {value}; wanted .*Correct the value"):
        replace(QUICK, **{name: value})


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (-1.0, 1.0, 1.0), (math.inf, 1.0, 1.0)])
def test_weights_that_weigh_nothing_are_refused(weights):
    with pytest.raises(RecipeError, match=r"distillation weights.*finite weights >= 0, one of them above 0"):
        DistillationWeights(**dict(zip(("task", "output", "feature"), weights, strict=True)))


def test_tied_weights_stay_tied(train, task, data):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
            self.b.weight = self.a.weight
            self.head = nn.Linear(64, 3)

        def forward(self, x):
            return self.head(torch.relu(self.b(torch.relu(self.a(x.flatten(1))))))

    model = Model(module=Tied(), example_inputs=(torch.zeros(1, 1, 8, 8),))
    original = copy.deepcopy(model.module)
    trained, _ = train(student=model, teacher=model, groups=(), student_groups=(), importance=None)
    assert trained.module.a.weight is trained.module.b.weight
    assert not torch.equal(trained.module.a.weight, original.a.weight)
