"""What the loss is made of: smoothed labels, mixed samples, relations, several teachers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from secateur.artifacts import Metric, Task
from secateur.errors import DataError, RecipeError
from secateur.pipeline.finetune import DistillationWeights, SoftTargets
from secateur.pipeline.finetune.features import FeatureDistance
from secateur.pipeline.finetune.loss import DistillationLoss
from secateur.pipeline.finetune.randomness import mixing_share
from secateur.pipeline.finetune.relations import relation_distance
from secateur.pipeline.finetune.soft_targets import unmixed
from secateur.workloads import kullback_leibler, log_probabilities, squared_error

LAWS = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 10**6)
TASK_ONLY = DistillationWeights(task=1.0, output=0.0, feature=0.0)
OUTPUT_ONLY = DistillationWeights(task=0.0, output=1.0, feature=0.0)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def a_task(**other) -> Task:
    given = {
        "name": "classes",
        "loss": cross_entropy,
        "metrics": {"loss": Metric(per_sample=cross_entropy)},
        "primary": "loss",
        "distill": kullback_leibler,
        "log_probabilities": log_probabilities,
    }
    return Task(**{**given, **other})


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear(seed: int, num_classes: int = 5) -> nn.Linear:
    net = nn.Linear(4, num_classes).double()
    with torch.no_grad():
        net.weight.copy_(random(seed, num_classes, 4))
    return net


def loss_of(task: Task, teachers: tuple[nn.Module, ...] = (), weights=TASK_ONLY, temperature=1.0, **other):
    return DistillationLoss(
        task=task, teachers=teachers, weights=weights, temperature=temperature, features=FeatureDistance(readers=()),
        **other,
    )  # fmt: skip


def gradient(loss, student: nn.Linear, batch) -> Tensor:
    return torch.autograd.grad(loss(student, batch).total, student.weight)[0]


@LAWS
@given(share=st.floats(0, 0.99), seed=SEEDS)
def test_smoothed_labels_give_pytorchs_smoothed_cross_entropy(share, seed):
    student, inputs, targets = linear(seed), random(seed + 1, 7, 4), torch.arange(7) % 5
    found = loss_of(a_task(), label_smoothing=share)(student, unmixed((inputs,), targets))
    wanted = functional.cross_entropy(student(inputs), targets, label_smoothing=share)
    torch.testing.assert_close(found.task, wanted, rtol=1e-12, atol=1e-12)


def test_smoothing_averages_over_the_places_of_dense_predictions():
    student, targets = nn.Conv2d(1, 3, 1).double(), torch.arange(8).view(2, 2, 2) % 3
    task = a_task(loss=lambda o, t: cross_entropy(o, t).mean((1, 2)))
    inputs = random(0, 2, 1, 2, 2)
    found = loss_of(task, label_smoothing=0.3)(student, unmixed((inputs,), targets))
    torch.testing.assert_close(found.task, functional.cross_entropy(student(inputs), targets, label_smoothing=0.3))


@LAWS
@given(num=st.integers(1, 9), alpha=st.floats(0.05, 5), seed=SEEDS, step=st.integers(0, 1000))
def test_a_mixed_batch_has_the_loss_of_its_mixed_labels(num, alpha, seed, step):
    student, inputs, targets = linear(seed), random(seed + 1, num, 4), torch.arange(num) % 5
    batch = SoftTargets(mixup=alpha).mix((inputs,), targets, seed, step)
    assert batch.share == mixing_share(alpha, seed, step)
    assert 0 <= batch.share <= 1
    ones = functional.one_hot(torch.stack([targets, batch.partners]), 5).double()
    soft = batch.share * ones[0] + (1 - batch.share) * ones[1]
    found = loss_of(a_task())(student, batch)
    torch.testing.assert_close(found.task, functional.cross_entropy(student(batch.inputs[0]), soft))
    torch.testing.assert_close(batch.inputs[0].sum(0), inputs.sum(0) if num % 2 == 0 else batch.inputs[0].sum(0))
    if num % 2:
        torch.testing.assert_close(batch.inputs[0][-1], inputs[-1])


@LAWS
@given(alpha=st.floats(0.05, 5), seed=SEEDS)
def test_of_a_squared_error_the_mixture_has_the_gradient_of_the_mixed_targets(alpha, seed):
    def error(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets["aim"]).square().sum(1)

    student, inputs, aims = linear(seed), random(seed + 1, 6, 4), random(seed + 2, 6, 5)
    batch = SoftTargets(mixup=alpha).mix((inputs,), {"aim": aims}, seed, 0)
    mixed = {"aim": batch.share * aims + (1 - batch.share) * batch.partners["aim"]}
    loss = loss_of(a_task(loss=error))
    found, wanted = gradient(loss, student, batch), gradient(loss, student, unmixed(batch.inputs, mixed))
    torch.testing.assert_close(found, wanted)


def test_every_sample_is_its_partners_partner():
    labels = torch.arange(10)
    partners = SoftTargets(mixup=1.0).mix((random(0, 10, 4),), labels, 0, 0).partners
    assert torch.equal(partners[partners], labels)
    assert not (partners == labels).any()


def test_the_share_is_drawn_anew_in_every_step_and_follows_beta():
    shares = np.array([mixing_share(0.4, 3, step) for step in range(3000)])
    assert len(np.unique(shares)) > 2990
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.05)


def test_the_teacher_sees_the_mixed_inputs():
    seen = []

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x @ torch.ones(4, 5, dtype=x.dtype)

    batch = SoftTargets(mixup=1.0).mix((random(0, 6, 4),), torch.arange(6) % 5, 0, 0)
    loss_of(a_task(), (Watching(),), OUTPUT_ONLY)(linear(0), batch)
    assert seen[0] is batch.inputs[0]


def test_nothing_is_mixed_unless_it_is_wanted():
    inputs, targets = (random(0, 4, 4),), ["any", "targets"]
    batch = SoftTargets().mix(inputs, targets, 0, 0)
    assert (batch.inputs is inputs, batch.targets is targets, batch.share) == (True, True, 1.0)


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (torch.ones(4, 2, dtype=torch.int64), torch.zeros(4), r"mixup, input 0: found int64 values; wanted floating"),
        (torch.ones(4, 2), ["a", "b", "c", "d"], r"mixup, targets: found str; wanted tensors of 4 samples"),
        (torch.ones(4, 2), {"boxes": torch.zeros(3, 4)}, r"found a tensor of shape \[3, 4\]; wanted tensors of 4"),
    ],
)
def test_what_cannot_be_mixed_is_refused(inputs, targets, message):
    with pytest.raises(DataError, match=message):
        SoftTargets(mixup=0.2).mix((inputs,), targets, 0, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 1.0}, r"finetune\.label_smoothing: found 1\.0; wanted a share in \[0, 1\)"),
        ({"mixup": -1.0}, r"finetune\.mixup: found -1\.0; wanted a number, 0 or more"),
        ({"mixup": float("nan")}, r"finetune\.mixup: found nan"),
    ],
)
def test_soft_targets_out_of_range_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        SoftTargets(**settings)


@pytest.mark.parametrize(
    ("option", "name"), [({"label_smoothing": 0.1}, "label_smoothing"), ({"method": "dist"}, r"distillation\.method")]
)
def test_a_task_without_distributions_is_told_what_it_lacks(option, name):
    with pytest.raises(RecipeError, match=rf"finetune\.{name}: found task classes.*wanted a task with log_prob"):
        loss_of(a_task(log_probabilities=None), **option)


@LAWS
@given(num=st.integers(2, 12), classes=st.integers(3, 9), temperature=st.floats(0.5, 5), seed=SEEDS)
def test_relations_are_numpys_correlations(num, classes, temperature, seed):
    mine, theirs = (random(seed + i, num, classes).softmax(1) for i in (0, 1))
    rows = [np.corrcoef(a, b)[0, 1] for a, b in zip(mine.numpy(), theirs.numpy(), strict=True)]
    columns = [np.corrcoef(a, b)[0, 1] for a, b in zip(mine.T.numpy(), theirs.T.numpy(), strict=True)]
    wanted = temperature**2 * (2 - np.mean(rows) - np.mean(columns))
    assert float(relation_distance(mine, theirs, temperature)) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@LAWS
@given(seed=SEEDS, scale=st.floats(0.1, 10), shift=st.floats(-1, 1))
def test_relations_of_equal_predictions_agree_and_scale_and_order_do_not_matter(seed, scale, shift):
    mine, theirs = (random(seed + i, 6, 5).softmax(1) for i in (0, 1))
    distance = relation_distance(mine, theirs, 1.0)
    assert float(relation_distance(mine, mine, 2.0)) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(relation_distance(mine, scale * theirs + shift, 1.0), distance, rtol=1e-6, atol=1e-9)
    samples, classes = torch.randperm(6), torch.randperm(5)
    shuffled = (p[samples][:, classes] for p in (mine, theirs))
    torch.testing.assert_close(relation_distance(*shuffled, 1.0), distance, rtol=1e-9, atol=1e-12)


def test_places_of_dense_predictions_count_as_samples():
    mine, theirs = (random(i, 3, 4, 2, 2).softmax(1) for i in (0, 1))
    flat = (p.permute(0, 2, 3, 1).reshape(12, 4) for p in (mine, theirs))
    torch.testing.assert_close(relation_distance(mine, theirs, 2.0), relation_distance(*flat, 2.0))


def test_a_step_along_the_relations_brings_them_nearer():
    student, teacher, inputs = linear(0), linear(1), random(2, 16, 4)
    loss = loss_of(a_task(), (teacher,), OUTPUT_ONLY, temperature=2.0, method="dist")
    optimizer = torch.optim.SGD(student.parameters(), lr=0.2)
    before = float(loss(student, unmixed((inputs,), None)).output.detach())
    for _ in range(50):
        optimizer.zero_grad()
        loss(student, unmixed((inputs,), None)).total.backward()
        optimizer.step()
    assert float(loss(student, unmixed((inputs,), None)).output.detach()) < 0.3 * before


@LAWS
@given(seed=SEEDS, temperature=st.floats(0.5, 5), num=st.integers(1, 4))
def test_several_teachers_pull_as_their_mean_prediction(seed, temperature, num):
    student, inputs = linear(seed), random(seed + 1, 6, 4)
    teachers = tuple(linear(seed + 2 + i) for i in range(num))
    found = gradient(loss_of(a_task(), teachers, OUTPUT_ONLY, temperature), student, unmixed((inputs,), None))
    mean = torch.stack([(t(inputs) / temperature).softmax(1) for t in teachers]).mean(0)
    mine = (student(inputs) / temperature).log_softmax(1)
    wanted = torch.autograd.grad(-(temperature**2) * (mean * mine).sum(1).mean(), student.weight)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@LAWS
@given(seed=SEEDS, num=st.integers(1, 4))
def test_of_a_squared_distance_several_teachers_pull_to_their_mean(seed, num):
    student, inputs = linear(seed), random(seed + 1, 6, 4)
    teachers = tuple(linear(seed + 2 + i) for i in range(num))
    task = a_task(distill=lambda outputs, reference, _: (outputs - reference).square().mean(1))
    found = gradient(loss_of(task, teachers, OUTPUT_ONLY), student, unmixed((inputs,), None))
    mean = torch.stack([teacher(inputs) for teacher in teachers]).mean(0)
    wanted = torch.autograd.grad((student(inputs) - mean).square().mean(), student.weight)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["kd", "dist"])
@pytest.mark.parametrize("distill", [kullback_leibler, squared_error])
def test_a_teacher_that_is_named_twice_counts_as_once(method, distill):
    student, teacher, batch = linear(0), linear(1), unmixed((random(2, 6, 4),), None)
    once, twice = (
        loss_of(a_task(distill=distill), (teacher,) * n, OUTPUT_ONLY, 3.0, method=method)(student, batch)
        for n in (1, 2)
    )
    torch.testing.assert_close(once.total, twice.total, rtol=1e-12, atol=1e-12)


def test_relations_are_those_to_the_mean_prediction_of_all_teachers():
    student, teachers, inputs = linear(0), (linear(1), linear(2)), random(3, 6, 4)
    loss = loss_of(a_task(), teachers, OUTPUT_ONLY, 2.0, method="dist")
    mean = torch.stack([(teacher(inputs) / 2).softmax(1) for teacher in teachers]).mean(0)
    wanted = relation_distance((student(inputs) / 2).softmax(1), mean, 2.0)
    torch.testing.assert_close(loss(student, unmixed((inputs,), None)).output, wanted)
