"""Weights held near the teacher's: the distance, and that it knows which weight each once was."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from secateur.artifacts import Group, Model, Root, Slice
from secateur.errors import RecipeError, TrainingError
from secateur.pipeline.finetune import DistillationWeights, Finetune
from secateur.pipeline.finetune.anchor import anchor_to
from secateur.pipeline.structure import cut, trace

LAWS = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CPU = torch.device("cpu")


def fisher_of(model: Model, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(p.shape, generator=generator) for name, p in model.module.named_parameters()}


def traced_cut(teacher: Model, modulus: int = 3) -> tuple[Model, tuple[Group, ...]]:
    structure = trace(teacher.module, teacher.example_inputs)
    keep = {g.name: torch.arange(g.num_channels)[torch.arange(g.num_channels) % modulus > 0] for g in structure.groups}
    return replace(teacher, module=cut(teacher.module, structure, keep), kept=keep), structure.groups


@LAWS
@given(modulus=st.integers(2, 6))
def test_what_a_cut_leaves_is_at_no_distance(teacher, modulus):
    student, groups = traced_cut(teacher, modulus)
    assert float(anchor_to(teacher, student, groups, fisher_of(teacher), CPU)(student.module).detach()) == 0


@LAWS
@given(seed=st.integers(0, 10**6), modulus=st.integers(2, 6))
def test_a_weight_that_moves_costs_half_its_fisher_information_by_the_square(teacher, seed, modulus):
    """Fisher information is that of the place in the teacher which the weight came from, found by cutting numbers."""
    student, groups = traced_cut(teacher, modulus)
    fisher = fisher_of(teacher, seed)
    numbered = teacher.clone()
    with torch.no_grad():
        for name, parameter in numbered.module.named_parameters():
            parameter.copy_(fisher[name])
    expected, _ = traced_cut(numbered, modulus)
    anchor, wanted = anchor_to(teacher, student, groups, fisher, CPU), 0.0
    moved, worth = student.clone().module, dict(expected.module.named_parameters())
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            step = torch.randn_like(parameter)
            parameter += step
            wanted += float((worth[name] * step.double().square()).sum()) / 2
    assert float(anchor(moved).detach()) == pytest.approx(wanted, rel=1e-4)


def test_a_student_of_a_cut_teacher_is_matched_through_the_original_numbers(teacher):
    middle, _ = traced_cut(teacher)
    groups = trace(middle.module, middle.example_inputs).groups
    keep = {g.name: torch.arange(0, g.num_channels, 2) for g in groups}
    structure = trace(middle.module, middle.example_inputs)
    small = replace(
        middle,
        module=cut(middle.module, structure, keep),
        kept={name: middle.kept[name][i] for name, i in keep.items()},
    )
    assert float(anchor_to(middle, small, groups, fisher_of(middle), CPU)(small.module).detach()) == 0


def test_where_a_cut_scales_weights_their_fisher_information_falls_by_the_square():
    """A weight that was multiplied by f changes the function 1/f times as fast, and its gradient's square f^-2."""
    net = nn.Linear(2, 4, bias=False)
    index = np.arange(4)[:, None]
    group = Group(
        name="g", num_channels=4, block="", slices=(Slice(tensor="weight", axis=0, indices=index),), readers=(),
        roots=(Root(tensor="weight", axis=0, indices=index, power=0.5),),
    )  # fmt: skip
    small = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        small.weight.copy_(net.weight[2:3] / 2)  # the root of the share that stays, 1/4
    teacher = Model(module=net, example_inputs=(torch.zeros(1, 2),))
    student = Model(module=small, example_inputs=teacher.example_inputs, kept={"g": torch.tensor([2])})
    fisher = {"weight": torch.arange(8.0).view(4, 2)}
    anchor = anchor_to(teacher, student, (group,), fisher, CPU)
    assert float(anchor(small).detach()) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(anchor.fisher["weight"], fisher["weight"][2:3] * 4)


def test_tied_weights_count_once():
    net = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    net["b"].weight = net["a"].weight
    model = Model(module=net, example_inputs=())
    anchor = anchor_to(model, model, (), {"a.weight": torch.ones(3, 3)}, CPU)
    other = Model(module=net, example_inputs=()).clone().module
    with torch.no_grad():
        other["a"].weight.add_(2.0)
    assert float(anchor(other).detach()) == pytest.approx(9 * 4 / 2)


@pytest.mark.parametrize("what", ["channels", "order", "groups", "fisher", "none"])
def test_what_does_not_belong_together_is_refused(teacher, what):
    student, groups = traced_cut(teacher)
    fisher = fisher_of(teacher)
    first = groups[0].name
    if what == "channels":
        student = replace(student, kept={**student.kept, first: torch.tensor([1, 99])})
    if what == "order":
        student = replace(student, kept={**student.kept, first: student.kept[first].flip(0)})
    if what == "groups":
        groups = ()
    if what == "fisher":
        fisher["conv1.weight"] = fisher["conv1.weight"][:2]
    if what == "none":
        fisher = {}
    with pytest.raises(TrainingError, match="parameters held near the teacher's"):
        anchor_to(teacher, student, groups, fisher, CPU)


def test_the_term_holds_weights_back_and_is_reported(teacher, task, data):
    student, groups = traced_cut(teacher)
    start = dict(student.module.named_parameters())
    moved = {}
    for weight in (0.0, 100.0):
        settings = Finetune(
            epochs=2, batch_size=16, learning_rate=3e-3, validation_share=0.0, batch_norm="frozen",
            weights=DistillationWeights(task=1.0, output=0.0, feature=0.0, parameter=weight),
        )  # fmt: skip
        model, result = settings(student, teacher, task, data, groups=groups, fisher=fisher_of(teacher))
        assert (result.epochs[-1].parameter_loss > 0) == (weight > 0)
        moved[weight] = sum(
            float(functional.mse_loss(p, start[name], reduction="sum").detach())
            for name, p in model.module.named_parameters()
        )
    assert moved[100.0] < 0.3 * moved[0.0]


def test_the_term_without_fisher_information_is_refused(teacher, task, data):
    settings = Finetune(weights=DistillationWeights(parameter=1.0))
    with pytest.raises(RecipeError, match=r"distillation\.parameter: found 1\.0 without Fisher information"):
        settings(teacher, teacher, task, data)
