"""The gaze task: what its losses are, that distillation and drawn fixations follow the densities, its pictures."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import DataError, LoadError
from secateur.workloads import TASKS
from secateur.workloads.gaze.centre_bias import gaussian_centre_bias
from secateur.workloads.gaze.roc import shuffled_auc
from secateur.workloads.gaze.task import task

GAZE = task()
seeds = st.integers(0, 2**31 - 1)


def densities(seed: int, batch: int = 2, rows: int = 6, columns: int = 8) -> torch.Tensor:
    logits = torch.randn(batch, rows * columns, generator=torch.Generator().manual_seed(seed))
    return logits.log_softmax(1).view(batch, rows, columns)


def fixations(seed: int, batch: int = 2, rows: int = 6, columns: int = 8) -> torch.Tensor:
    counts = torch.randint(0, 3, (batch, rows, columns), generator=torch.Generator().manual_seed(seed)).float()
    counts[:, 0, 0] += 1
    return counts


def test_a_recipe_finds_the_task_by_its_name():
    assert TASKS["gaze"]().name == GAZE.name == "gaze"
    assert GAZE.primary == "auc"


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_loss_is_least_at_the_fixations_own_shares(seed):
    counts = fixations(seed)
    shares = counts / counts.sum((1, 2), keepdim=True)
    best = GAZE.loss(shares.clamp_min(1e-12).log(), counts)
    entropy = -torch.xlogy(shares, shares).sum((1, 2))
    torch.testing.assert_close(best, entropy, rtol=1e-4, atol=1e-4)
    assert (GAZE.loss(densities(seed), counts) > best).all()


def test_the_loss_of_the_uniform_density_is_the_logarithm_of_the_number_of_cells():
    uniform = torch.full((2, 6, 8), -math.log(48))
    torch.testing.assert_close(GAZE.loss(uniform, fixations(0)), torch.full((2,), math.log(48)))


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0.5, 8))
def test_distillation_vanishes_only_at_the_teacher(seed, temperature):
    teacher, student = densities(seed), densities(seed + 1)
    torch.testing.assert_close(GAZE.distill(teacher, teacher, temperature), torch.zeros(2), atol=1e-4, rtol=0)
    assert (GAZE.distill(student, teacher, temperature) > 1e-3).all()


def test_distillation_at_temperature_one_is_the_divergence_of_the_densities():
    student, teacher = densities(1).double(), densities(2).double()
    expected = torch.nn.functional.kl_div(student, teacher, reduction="none", log_target=True).sum((1, 2))
    torch.testing.assert_close(GAZE.distill(student, teacher, 1.0).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_drawn_fixations_have_the_softened_densitys_entropy_as_their_mean_loss(temperature):
    log_density = densities(4, batch=1)
    softened = (log_density.flatten() / temperature).log_softmax(0)
    entropy = -(softened.exp() * softened).sum().item()
    losses = GAZE.sampled_loss(log_density.expand(20_000, -1, -1), temperature, torch.Generator().manual_seed(0))
    assert losses.shape == (20_000,)
    assert losses.mean().item() == pytest.approx(entropy, abs=4 * losses.std().item() / math.sqrt(20_000))
    again = GAZE.sampled_loss(log_density.expand(20_000, -1, -1), temperature, torch.Generator().manual_seed(0))
    assert torch.equal(losses, again)


def test_drawn_fixations_give_gradients_of_mean_zero_in_the_logits():
    logits = torch.zeros(4000, 12, requires_grad=True)
    log_density = (logits + torch.arange(12.0)).log_softmax(1).view(-1, 3, 4)
    GAZE.sampled_loss(log_density, 2.0, torch.Generator().manual_seed(1)).sum().backward()
    assert logits.grad.mean(0).abs().max() < 0.03
    assert logits.grad.abs().mean() > 0.01


def test_every_loss_and_metric_gives_one_value_a_picture():
    log_density, counts = densities(5, batch=3), fixations(6, batch=3)
    for metric in GAZE.metrics.values():
        assert metric.per_sample(log_density, counts).shape == (3,)
    assert GAZE.loss(log_density, counts).shape == (3,)
    assert GAZE.metrics["information_gain"].unit == "bit/fixation"


def test_the_gain_is_over_the_given_centre_bias_or_a_gaussian_on_the_same_grid():
    counts = fixations(0)
    gaussian = gaussian_centre_bias(grid=(6, 8)).expand(2, 6, 8)
    gain = GAZE.metrics["information_gain"].per_sample
    torch.testing.assert_close(gain(gaussian, counts), torch.zeros(2), atol=1e-5, rtol=0)
    own = task(centre_bias=densities(3)[0]).metrics["information_gain"].per_sample
    torch.testing.assert_close(own(densities(3)[:1], counts[:1]), torch.zeros(1), atol=1e-5, rtol=0)


def test_the_names_are_clear_and_only_the_divergence_falls():
    assert list(GAZE.metrics) == [
        "auc", "nss", "information_gain", "log_likelihood", "correlation", "similarity", "divergence",
    ]  # fmt: skip
    assert [name for name, metric in GAZE.metrics.items() if not metric.higher_is_better] == ["divergence"]


def test_map_measures_see_fixations_blurred_by_a_degree():
    counts = torch.zeros(1, 48, 64)
    counts[0, 20, 30] = 4
    rows, columns = torch.arange(48.0)[:, None] - 20, torch.arange(64.0) - 30
    deviation = 0.03 * 64
    blurred = (-0.5 * (rows**2 + columns**2) / deviation**2).flatten().log_softmax(0).view(1, 48, 64)
    values = {name: metric.per_sample(blurred, counts).item() for name, metric in GAZE.metrics.items()}
    assert values["correlation"] == pytest.approx(1, abs=1e-4)
    assert values["similarity"] == pytest.approx(1, abs=1e-4)
    assert values["divergence"] == pytest.approx(0, abs=1e-4)
    corner = torch.zeros(1, 48, 64)
    corner[0, 0, 0] = 1  # what would leave the picture stays in it
    uniform = torch.full((1, 48, 64), -math.log(48 * 64))
    assert 0 < GAZE.metrics["similarity"].per_sample(uniform, corner).item() < 0.1


def test_fixations_elsewhere_add_the_shuffled_area():
    log_density, counts = densities(0), fixations(1)
    elsewhere = fixations(2, batch=1)[0]
    shuffled = task(elsewhere=elsewhere).metrics["shuffled_auc"].per_sample(log_density, counts)
    torch.testing.assert_close(shuffled, shuffled_auc(log_density, counts, elsewhere))
    of_elsewhere = (elsewhere + 1e-3).log().expand(2, 6, 8)  # a map that knows only where people look elsewhere
    own = task(elsewhere=elsewhere).metrics["shuffled_auc"].per_sample
    same = own(of_elsewhere.flatten(1).log_softmax(1).view(2, 6, 8), elsewhere.expand(2, 6, 8))
    torch.testing.assert_close(same, torch.full((2,), 0.5), atol=1e-6, rtol=0)


def test_wrong_outputs_and_targets_are_named():
    log_density, counts = densities(0), fixations(0)
    with pytest.raises(LoadError, match=r"network outputs: found shape \(2, 1, 6, 8\); wanted log-densities \[batch"):
        GAZE.loss(log_density[:, None], counts)
    with pytest.raises(LoadError, match=r"found a map whose exponential sums to .*; wanted log-densities: exp"):
        GAZE.metrics["nss"].per_sample(log_density + 1, counts)
    with pytest.raises(LoadError, match="sums to nan"):
        GAZE.metrics["nss"].per_sample(log_density * torch.nan, counts)
    with pytest.raises(DataError, match=r"targets: found float32 \(2, 5, 8\); wanted floating-point fixation counts"):
        GAZE.loss(log_density, counts[:, :5])
    with pytest.raises(DataError, match=r"targets: found int64 \(2, 6, 8\)"):
        GAZE.loss(log_density, counts.long())
    with pytest.raises(DataError, match="targets: found a picture without fixations"):
        GAZE.metrics["auc"].per_sample(log_density, counts * torch.tensor([1.0, 0.0])[:, None, None])


def test_the_illustration_is_brightest_where_the_densities_peak():
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(3, 192, 256, generator=generator)
    counts = torch.zeros(48, 64)
    counts[12, 16] = 5
    peaked = torch.full((48, 64), -20.0)
    peaked[36, 48] = 10
    peaked = peaked.flatten().log_softmax(0).view(48, 64)
    assert GAZE.illustrate(picture, None, peaked, peaked).shape == (16 + 192, 3 * 256 + 2 * 4, 3)
    drawn = GAZE.illustrate(picture, counts, peaked, peaked)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (16 + 192, 4 * 256 + 3 * 4, 3)
    panels = [drawn[16:, 260 * i : 260 * i + 256].astype(int) for i in range(4)]
    assert np.abs(panels[0] - picture.permute(1, 2, 0).numpy() * 255).max() <= 1
    places = [np.unravel_index(panel.sum(axis=-1).argmax(), (192, 256)) for panel in panels[1:]]
    assert np.abs(np.array(places) - np.array([[50, 66], [146, 194], [146, 194]])).max() <= 6
    assert (panels[2] == panels[3]).all()
