"""Rendered scenes: the same everywhere, their facts attainable, their pictures honest about where the things are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import DataError
from secateur.workloads.gaze.centre_bias import fitted_centre_bias, gaussian_centre_bias
from secateur.workloads.gaze.layout import NUM_FIXATIONS, Layout, Thing, draw_fixations, lay_out, true_density
from secateur.workloads.gaze.metrics import information_gain, nss
from secateur.workloads.gaze.painting import PAINTERS, paint
from secateur.workloads.gaze.photographs import photographs
from secateur.workloads.gaze.roc import auc
from secateur.workloads.gaze.scenes import rendered


@pytest.fixture(scope="module")
def data():
    return rendered(num_train=12, num_test=30)


def test_items_have_the_networks_shapes_and_ranges(data):
    for item in (data.train[0], data.test[-1]):
        picture, counts = item
        assert picture.shape == (3, 192, 256)
        assert picture.dtype == torch.float32
        assert 0 <= picture.min() < picture.max() <= 1
        assert counts.shape == (48, 64)
        assert counts.sum() == NUM_FIXATIONS


def test_scenes_are_the_same_whenever_they_are_rendered(data):
    again = rendered(num_train=3, num_test=2)
    for part, other in ((data.train, again.train), (data.test, again.test)):
        for index in (1, 0):
            assert all(torch.equal(a, b) for a, b in zip(part[index], other[index], strict=True))
    assert not torch.equal(data.train[0][0], data.test[0][0])
    assert not torch.equal(data.train[0][0], rendered(num_train=1, num_test=1, seed=1).train[0][0])


def test_mirror_images_come_after_the_plain_ones():
    data = rendered(num_train=3, num_test=1, mirror=True)
    assert (len(data.train), len(data.calibration), len(data.test)) == (6, 3, 1)
    for index in range(3):
        plain, mirrored = data.train[index], data.train[3 + index]
        assert torch.equal(plain[0], mirrored[0].flip(-1))
        assert torch.equal(plain[1], mirrored[1].flip(-1))
    with pytest.raises(IndexError, match="item 6 of a data set of 6"):
        data.train[6]


def test_changing_an_item_does_not_change_the_set(data):
    picture, counts = data.train[2]
    picture.zero_()
    counts.zero_()
    assert data.train[2][0].max() > 0
    assert data.train[2][1].sum() == NUM_FIXATIONS


def test_facts_are_the_scores_of_the_true_density_and_leave_room_above_the_centre_bias(data):
    truth = torch.stack([true_density(layout) for layout in data.test.picture.layouts])
    counts = torch.from_numpy(data.test.counts)
    assert data.facts["attainable_auc"] == pytest.approx(auc(truth, counts).mean().item())
    assert data.facts["attainable_nss"] == pytest.approx(nss(truth, counts).mean().item())
    assert data.facts["attainable_auc"] > data.facts["centre_bias_auc"] + 0.1
    assert data.facts["attainable_nss"] > data.facts["centre_bias_nss"] + 1


def test_the_true_density_predicts_better_than_other_scenes_densities(data):
    truth = torch.stack([true_density(layout) for layout in data.test.picture.layouts])
    counts = torch.from_numpy(data.test.counts)
    gain = torch.stack([information_gain(truth.roll(1, 0)[i : i + 1], counts[i : i + 1], truth[i]) for i in range(30)])
    assert (gain < 0).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 1), st.integers(0, 10**6))
def test_layouts_keep_things_inside_and_apart(seed, part, index):
    layout = lay_out(seed, part, index)
    assert layout.things[0].kind != "dim"
    for place, thing in enumerate(layout.things):
        assert thing.half_width <= thing.x <= 1 - thing.half_width
        assert thing.half_height <= thing.y <= 1 - thing.half_height
        for other in layout.things[:place]:
            apart = abs(thing.x - other.x) - thing.half_width - other.half_width
            above = abs(thing.y - other.y) - thing.half_height - other.half_height
            assert max(apart, above) > 0
    assert true_density(layout).double().exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_a_face_draws_more_than_a_ball_of_the_same_size():
    def thing(kind, x):
        return Thing(kind=kind, x=x, y=0.5, half_width=0.08, half_height=0.1, seed=3)

    density = true_density(Layout(seed=1, things=(thing("face", 0.25), thing("ball", 0.75)))).exp()
    face, ball = density[:, :32].sum().item(), density[:, 32:].sum().item()
    assert face == pytest.approx(0.125 + 0.75 * 1 / 1.35, abs=0.01)
    assert ball == pytest.approx(0.125 + 0.75 * 0.35 / 1.35, abs=0.01)


@pytest.mark.parametrize("kind", sorted(PAINTERS))
def test_every_kind_of_thing_changes_the_picture_only_where_it_stands(kind):
    def thing(kind):
        return Thing(kind=kind, x=0.3, y=0.4, half_width=0.1, half_height=0.12, seed=5)

    empty = paint(Layout(seed=9, things=())).int()
    painted = paint(Layout(seed=9, things=(thing(kind),))).int()
    difference = (empty - painted).abs().sum(0)
    inside = torch.zeros(192, 256, dtype=torch.bool)
    inside[int(0.28 * 192) - 1 : int(0.52 * 192) + 2, int(0.2 * 256) - 1 : int(0.4 * 256) + 2] = True
    assert (difference[inside] > 0).float().mean() > 0.3
    assert difference[~inside].max() == 0


def test_fixations_follow_the_density():
    density = true_density(lay_out(0, 0, 0))
    counts = torch.from_numpy(draw_fixations(density, (1, 2), 200_000))
    assert (counts / 200_000 - density.exp()).abs().sum() < 0.1


def test_the_analytic_centre_bias_is_a_gaussian_of_the_stated_width():
    density = gaussian_centre_bias((0.1, 0.15), (40, 80)).double().exp()
    down = ((torch.arange(40) + 0.5) / 40 - 0.5).double()
    across = ((torch.arange(80) + 0.5) / 80 - 0.5).double()
    assert density.sum().item() == pytest.approx(1, abs=1e-5)
    assert (density.sum(1) * down**2).sum().sqrt().item() == pytest.approx(0.1, rel=1e-2)
    assert (density.sum(0) * across**2).sum().sqrt().item() == pytest.approx(0.15, rel=1e-2)


def test_the_fitted_centre_bias_beats_the_analytic_one_on_what_it_was_fitted_to():
    counts = np.zeros((2, 48, 64), dtype=np.float32)
    counts[:, 5:12, 40:50] = 3
    fitted = fitted_centre_bias(counts)
    fixations = torch.from_numpy(counts)
    assert fitted.double().exp().sum().item() == pytest.approx(1, abs=1e-4)
    assert torch.isfinite(fitted).all()
    gain = information_gain(fitted.expand_as(fixations), fixations, gaussian_centre_bias())
    assert (gain > 1).all()


def test_no_scenes_are_no_data():
    with pytest.raises(DataError, match=r"data\.train: found an empty data set"):
        rendered(num_train=0, num_test=1)
    with pytest.raises(DataError, match=r"data\.test: found an empty data set"):
        rendered(num_train=1, num_test=0)


def test_photographs_are_pictures_of_the_networks_size():
    pictures = photographs()
    assert len(pictures) == 5
    for picture in pictures.values():
        assert picture.shape == (3, 192, 256)
        assert picture.std() > 0.05
        assert 0 <= picture.min() <= picture.max() <= 1
