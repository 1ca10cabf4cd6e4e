import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secateur.artifacts import Group, Model, Reader
from secateur.errors import TrainingError
from secateur.pipeline.finetune.features import FeatureDistance, Recording, match_readers

LAWS = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def distance(student, teacher, student_groups, groups, importance, inputs):
    readers = match_readers(student, teacher, student_groups, groups, importance)
    measure = FeatureDistance(readers=readers)
    mine, theirs = Recording(), Recording()
    with mine.of(student.module, measure.weights):
        student.module(inputs)
    with torch.no_grad(), theirs.of(teacher.module, measure.weights):
        teacher.module(inputs)
    return measure(mine, theirs)


def random_worth(seed):
    generator = torch.Generator().manual_seed(seed)
    return {"conv1": torch.rand(8, generator=generator), "conv2": torch.rand(6, generator=generator)}


@LAWS
@given(seed=st.integers(0, 10**6))
def test_between_equal_networks_the_distance_and_its_gradient_vanish(teacher, groups, seed):
    student = teacher.clone()
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    found = distance(student, teacher, groups(student), groups(teacher), random_worth(seed), inputs)
    found.backward()
    assert float(found.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in student.module.parameters())
    assert any(p.grad is not None for p in student.module.parameters())


@LAWS
@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_kept_channels_does_not_matter(teacher, groups, cut, seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.tensor([0, 2, 3, 5, 7]), torch.tensor([1, 2, 4, 5])
    inputs, worth = torch.randn(4, 1, 8, 8, generator=generator), random_worth(seed)
    ordered = cut(teacher, first, second)
    shuffled = cut(
        teacher, first[torch.randperm(5, generator=generator)], second[torch.randperm(4, generator=generator)]
    )
    a, b = (distance(s, teacher, groups(s), groups(teacher), worth, inputs) for s in (ordered, shuffled))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_indices_that_name_the_wrong_channels_are_far(teacher, student, groups):
    inputs = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    right = distance(student, teacher, groups(student), groups(teacher), {}, inputs)
    mistaken = Model(
        module=student.module, example_inputs=student.example_inputs,
        kept={"conv1": torch.tensor([1, 4, 6, 0, 2]), "conv2": torch.tensor([0, 3, 1, 2])},
    )  # fmt: skip
    wrong = distance(mistaken, teacher, groups(student), groups(teacher), {}, inputs)
    assert float(wrong.detach()) > 2 * float(right.detach())


def test_a_cut_of_channels_that_do_nothing_leaves_every_feature_where_it_was(teacher, groups, cut):
    first, second = torch.tensor([0, 2, 3, 5, 7]), torch.tensor([1, 2, 4, 5])
    with torch.no_grad():
        teacher.module.conv2.weight[:, [1, 4, 6]] = 0
    student = cut(teacher, first, second)
    inputs = torch.randn(4, 1, 8, 8)
    assert float(distance(student, teacher, groups(student), groups(teacher), {}, inputs).detach()) < 1e-10


@LAWS
@given(scale=st.floats(0.5, 10), error=st.floats(-0.5, 0.5), channel=st.integers(0, 4), seed=st.integers(0, 10**6))
def test_a_relative_error_counts_its_channels_share_squared(scale, error, channel, seed):
    generator = torch.Generator().manual_seed(seed)
    worth = torch.rand(5, generator=generator) + 0.1
    reading = (Reader(weight="weight", positions=np.arange(5)[:, None]),)
    group = Group(name="g", num_channels=5, block="", slices=(), readers=reading)
    model = Model(module=torch.nn.Linear(5, 2), example_inputs=(torch.zeros(1, 5),))
    (reader,) = match_readers(model, model, (group,), (group,), {"g": worth})
    theirs = torch.randn(50, 5, generator=generator)
    theirs[:, channel] *= scale
    mine = theirs.clone()
    mine[:, channel] *= 1 + error
    measured = FeatureDistance(readers=(reader,))(
        Recording(inputs={"weight": [mine]}), Recording(inputs={"weight": [theirs]})
    )
    assert float(measured) == pytest.approx(float(worth[channel] / worth.sum()) * error**2, rel=1e-3, abs=1e-6)


def test_silent_channels_divide_by_a_floor_and_not_by_nothing():
    reading = (Reader(weight="weight", positions=np.arange(3)[:, None]),)
    group = Group(name="g", num_channels=3, block="", slices=(), readers=reading)
    model = Model(module=torch.nn.Linear(3, 2), example_inputs=(torch.zeros(1, 3),))
    measure = FeatureDistance(readers=match_readers(model, model, (group,), (group,), {}))
    theirs = torch.tensor([[0.0, 3.0, 0.0]])
    found = measure(
        Recording(inputs={"weight": [theirs + torch.tensor([[0.1, 0.0, 0.0]])]}), Recording(inputs={"weight": [theirs]})
    )
    assert float(found) == pytest.approx(0.1**2 / (0.01 * 3) / 3, rel=1e-5)
    silent = Recording(inputs={"weight": [torch.zeros(2, 3)]})
    assert float(measure(silent, silent)) == 0
    # A group that is silent as a whole: what begins to speak counts as it is, and no loss becomes infinite.
    spoken = Recording(inputs={"weight": [torch.full((2, 3), 0.1)]})
    assert float(measure(spoken, silent)) == pytest.approx(0.1**2)


def test_several_entries_a_channel_are_averaged(teacher, student, groups):
    readers = match_readers(student, teacher, groups(student), groups(teacher), {})
    by_group = {reader.group: reader for reader in readers}
    assert by_group["conv2"].student_entries.tolist()[1] == [4, 5, 6, 7]
    assert by_group["conv2"].teacher_entries.tolist()[1] == [8, 9, 10, 11]
    assert by_group["conv1"].teacher_entries[:, 0].tolist() == [0, 2, 3, 5, 7]


def test_a_student_of_a_cut_teacher_is_matched_through_the_original_numbers(teacher, groups, cut):
    middle = cut(teacher, torch.tensor([0, 2, 3, 5, 7]), torch.tensor([1, 2, 4, 5]))
    small = cut(teacher, torch.tensor([2, 7]), torch.tensor([5, 1]))
    readers = match_readers(small, middle, groups(small), groups(middle), {})
    assert readers[0].teacher_entries[:, 0].tolist() == [1, 4]
    assert (readers[1].teacher_entries[:, 0] // 4).tolist() == [3, 0]


def test_groups_of_one_network_only_are_left_out(teacher, student, groups):
    first, _ = groups(student)
    _, second = groups(teacher)
    assert match_readers(student, teacher, (first,), (second,), {}) == ()
    assert FeatureDistance(readers=())(Recording(), Recording()) is None


def test_importance_is_shared_among_the_channels_that_stayed(teacher, student, groups):
    worth = {"conv1": torch.arange(8.0), "conv2": torch.zeros(6)}
    first, second = match_readers(student, teacher, groups(student), groups(teacher), worth)
    torch.testing.assert_close(first.importance, torch.tensor([0.0, 2, 3, 5, 7]) / 17)
    torch.testing.assert_close(second.importance, torch.full((4,), 0.25))


@pytest.mark.parametrize(
    ("number", "chosen"), [(1, [4]), (2, [4, 0]), (3, [4, 2, 0]), (5, [4, 3, 2, 1, 0]), (9, [4, 3, 2, 1, 0])]
)
def test_the_last_reader_is_compared_first_and_others_are_spread(number, chosen):
    net = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(5)))
    model = Model(module=net, example_inputs=(torch.zeros(1, 3),))
    readings = tuple(Reader(weight=f"{i}.weight", positions=np.arange(3)[:, None]) for i in range(5))
    group = Group(name="g", num_channels=3, block="", slices=(), readers=readings)
    readers = match_readers(model, model, (group,), (group,), {}, number)
    assert [reader.weight for reader in readers] == [f"{i}.weight" for i in chosen]


def test_kept_channels_that_do_not_fit_are_refused(teacher, student, groups):
    uncut = Model(module=student.module, example_inputs=student.example_inputs)
    with pytest.raises(TrainingError, match=r"group conv1: found 5 channels in the student, 8 in the teacher, no kept"):
        match_readers(uncut, teacher, groups(student), groups(teacher), {})
    strange = Model(module=student.module, example_inputs=(), kept={"conv1": torch.tensor([0, 2, 3, 5, 8])})
    with pytest.raises(TrainingError, match=r"5 kept channels; wanted kept channels that name one of the teacher's"):
        match_readers(strange, teacher, groups(student), groups(teacher), {})


@pytest.mark.parametrize("worth", [torch.ones(5), -torch.ones(8), torch.full((8,), torch.nan), torch.ones(8, 1)])
def test_importance_that_does_not_fit_is_refused(teacher, student, groups, worth):
    with pytest.raises(TrainingError, match=r"importance of group conv1.*one finite value >= 0 for each of the 8 chan"):
        match_readers(student, teacher, groups(student), groups(teacher), {"conv1": worth})
