import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import DataError, LoadError, RecipeError
from secateur.workloads.classification import task

LAWS = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 10**6)


def logits(seed, batch=6, classes=5, scale=3.0):
    return scale * torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed))


@LAWS
@given(seed=SEEDS, smoothing=st.floats(0, 0.9))
def test_the_loss_is_the_smoothed_labels_surprise(seed, smoothing):
    outputs, targets = logits(seed), torch.arange(6) % 5
    surprise = -outputs.double().log_softmax(1)
    label = torch.nn.functional.one_hot(targets, 5).double() * (1 - smoothing) + smoothing / 5
    torch.testing.assert_close(
        task(5, smoothing).loss(outputs, targets).double(), (label * surprise).sum(1), rtol=1e-4, atol=1e-4
    )


@LAWS
@given(seed=SEEDS, temperature=st.floats(0.5, 8))
def test_distillation_is_least_where_the_networks_agree(seed, temperature):
    reference = logits(seed)
    outputs = reference.clone().requires_grad_()
    loss = task().distill(outputs, reference, temperature)
    loss.sum().backward()
    assert loss.shape == (6,)
    assert loss.abs().max() < 1e-5
    assert outputs.grad.abs().max() < 1e-5
    assert (task().distill(logits(seed + 1), reference, temperature) > 0).all()


@LAWS
@given(seed=SEEDS)
def test_hot_distillation_is_the_squared_distance_of_centred_logits(seed):
    a, b = logits(seed), logits(seed + 1)
    centred = (a - a.mean(1, keepdim=True)) - (b - b.mean(1, keepdim=True))
    hot = task().distill(a.double(), b.double(), 300.0)
    torch.testing.assert_close(hot.double(), centred.square().sum(1).double() / 10, rtol=0.1, atol=0.02)


def test_sampled_gradients_have_the_fisher_information_as_second_moment():
    row = torch.tensor([[1.0, -0.5, 0.3, 2.0]])
    outputs = row.expand(40_000, 4).clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    loss = task().sampled_loss(outputs, 2.0, generator)
    loss.sum().backward()
    chances = (row[0] / 2).softmax(0)
    fisher = (chances.diag() - chances[:, None] * chances) / 4  # d log p / d logit has a factor 1 / T
    assert loss.shape == (40_000,)
    torch.testing.assert_close(outputs.grad.T @ outputs.grad / 40_000, fisher, atol=2e-3, rtol=0)
    assert outputs.grad.mean(0).abs().max() < 5e-3
    again = task().sampled_loss(outputs, 2.0, torch.Generator().manual_seed(0))
    assert torch.equal(loss, again)


def test_top1_and_top5_count_where_the_label_is_among_the_likeliest():
    outputs = torch.arange(60.0).expand(4, 60)
    targets = torch.tensor([59, 58, 55, 54])
    metrics = task(60).metrics
    assert set(metrics) == {"top1", "top5"}
    assert metrics["top1"].per_sample(outputs, targets).tolist() == [1, 0, 0, 0]
    assert metrics["top5"].per_sample(outputs, targets).tolist() == [1, 1, 1, 0]
    assert set(task(10).metrics) == set(task().metrics) == {"top1"}
    assert task(60).primary == "top1"


def test_wrong_outputs_and_labels_are_named():
    fine, labels = torch.zeros(3, 5), torch.tensor([0, 1, 4])
    with pytest.raises(LoadError, match=r"found shape \(3, 5\); wanted logits \[batch, 4\]"):
        task(4).loss(fine, labels)
    with pytest.raises(LoadError, match=r"found shape \(3, 5, 1\); wanted logits \[batch, num_classes\]"):
        task().loss(fine[..., None], labels)
    with pytest.raises(LoadError, match="found dict; wanted logits"):
        task().metrics["top1"].per_sample({"out": fine}, labels)
    with pytest.raises(DataError, match=r"class indices 0 to 5; wanted 0 to 4\. Number the classes from 0"):
        task().loss(fine, torch.tensor([0, 1, 5]))
    with pytest.raises(DataError, match=r"class indices -1 to 1"):
        task().loss(fine, torch.tensor([0, 1, -1]))
    with pytest.raises(DataError, match=r"found float32 \(3, 5\); wanted int64 \[3\]"):
        task().loss(fine, fine)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_classes": 1}, "task.num_classes: found 1"),
        ({"label_smoothing": 1.0}, "task.label_smoothing: found 1.0"),
        ({"num_classes": 3, "classes": ("a", "b")}, "task.classes: found 2 names; wanted 3"),
    ],
)
def test_wrong_settings_are_named(arguments, said):
    with pytest.raises(RecipeError, match=said):
        task(**arguments)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_shows_the_input_and_both_networks_bars(channels):
    draw = task(5, classes=("ant", "bee", "cow", "dog", "eel")).illustrate
    picture = torch.randn(channels, 20, 30)
    sure = torch.tensor([9.0, 0, 0, 0, 0])
    one = draw(picture, torch.tensor(0), sure, torch.zeros(5))
    other = draw(picture, torch.tensor(0), sure, sure)
    assert one.dtype == np.uint8
    assert one.shape == other.shape
    orange = [(drawn == (222, 132, 38)).all(axis=2).sum() for drawn in (one, other)]
    blue = [(drawn == (47, 107, 168)).all(axis=2).sum() for drawn in (one, other)]
    assert blue[0] == blue[1] > 1000
    assert orange[0] == pytest.approx(5 * 10 * 31, rel=0.1)  # five bars of a fifth of the width
    assert orange[1] == pytest.approx(blue[1], rel=0.1)
