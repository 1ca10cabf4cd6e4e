"""Each kind of label gives the loss that it promises."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.artifacts import Metric, Model, Task
from secateur.calibration.labels import choose_labels, label_loss, labelled_batches
from secateur.errors import DataError


def sampled_loss(outputs: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    soft = outputs / temperature
    labels = torch.multinomial(soft.softmax(1).detach(), 1, generator=generator)[:, 0]
    return functional.cross_entropy(soft, labels, reduction="none")


def task(sampled: bool) -> Task:
    return Task(
        name="classes",
        loss=lambda o, t: functional.cross_entropy(o, t, reduction="none"),
        metrics={"m": Metric(per_sample=lambda o, _: o[:, 0])},
        primary="m",
        distill=lambda o, t, temperature: (o - t).square().sum(1) * temperature,
        sampled_loss=sampled_loss if sampled else None,
    )


def test_true_and_teacher_labels() -> None:
    outputs, targets = torch.randn(5, 3), torch.randint(0, 3, (5,))
    expected = functional.cross_entropy(outputs, targets, reduction="none")
    assert torch.equal(label_loss(task(False), "true")(outputs, targets), expected)
    inputs = torch.randn(5, 4)
    teachers = [
        Model(module=nn.Sequential(nn.Dropout(), nn.Linear(4, 3)).train(), example_inputs=(inputs,)) for _ in range(2)
    ]
    [(same, theirs)] = labelled_batches("teacher", [(inputs, targets)], teachers)
    assert same is inputs
    for teacher, one in zip(teachers, theirs, strict=True):
        assert torch.equal(one, teacher.module[1](inputs))
        assert teacher.module.training
    distilled = label_loss(task(False), "teacher", temperature=2.0)(outputs, theirs)
    each = [(outputs - one).square().sum(1) * 2 for one in theirs]
    torch.testing.assert_close(distilled, (each[0] + each[1]) / 2)
    own = [(inputs, targets)]
    assert labelled_batches("true", own, teachers) is own
    with pytest.raises(DataError, match="labels: teacher: found no teacher; wanted another network"):
        labelled_batches("teacher", own, [])


def test_sampled_labels_follow_the_seed_and_the_softened_predictions() -> None:
    outputs = torch.tensor([[0.0, 4.0]]).expand(4000, 2)
    first, again, other = (
        label_loss(task(True), "sampled", temperature=2.0, seed=seed)(outputs, None) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    likely = torch.tensor([0.0, 2.0]).softmax(0)[1]
    assert (first < 1).double().mean().item() == pytest.approx(likely.item(), abs=0.02)


def test_a_task_without_a_distribution_is_refused() -> None:
    with pytest.raises(DataError, match="task classes: found no sampled_loss; wanted one, for sampled labels"):
        label_loss(task(False), "sampled")


def test_labels_are_sampled_where_they_can_be_unless_asked_for() -> None:
    assert choose_labels(task(True), "auto") == "sampled"
    assert choose_labels(task(False), "auto") == "true"
    assert choose_labels(task(True), "teacher") == "teacher"
