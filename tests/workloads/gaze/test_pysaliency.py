"""Every measure equals pysaliency's on the same maps and fixations, to 1e-6."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from secateur.workloads.gaze.centre_bias import gaussian_centre_bias
from secateur.workloads.gaze.fixations import Fixations
from secateur.workloads.gaze.kernel_density import KernelDensity, fit_kernel_density, leave_viewers_out
from secateur.workloads.gaze.metrics import (
    information_gain,
    log_likelihood,
    map_correlation,
    map_divergence,
    map_nss,
    map_similarity,
)
from secateur.workloads.gaze.roc import auc, auc_borji, auc_judd, random_cells, shuffled_auc

vars(np).setdefault("trapz", np.trapezoid)  # pysaliency 0.2.22 calls it by the name that NumPy 2.4 no longer has
pysaliency = pytest.importorskip("pysaliency")

SIZE, NUM_PICTURES, NUM_VIEWERS = (45, 60), 4, 3


class Given(pysaliency.SaliencyMapModel):
    """A model that knows its maps."""

    def __init__(self, maps: dict[bytes, np.ndarray]) -> None:
        super().__init__(caching=False)
        self.maps = maps

    def _saliency_map(self, stimulus: np.ndarray) -> np.ndarray:
        return self.maps[stimulus.tobytes()]


class GivenDensity(pysaliency.Model):
    """A model that knows its log-densities."""

    def __init__(self, maps: dict[bytes, np.ndarray]) -> None:
        super().__init__(caching=False)
        self.maps = maps

    def _log_density(self, stimulus: np.ndarray) -> np.ndarray:
        return self.maps[stimulus.tobytes()]


@pytest.fixture(scope="module")
def scene():
    """Stimuli, fixations, maps with and without ties and negative values, and a reference."""
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 255, (*SIZE, 3), dtype=np.uint8) for _ in range(NUM_PICTURES)]
    num = 40 * NUM_PICTURES
    where = np.sort(generator.integers(NUM_PICTURES, size=num))
    things = generator.integers(2, size=num)  # every picture has two places that everybody looks at
    x, y = (
        np.clip(generator.normal(generator.uniform(0.3, 0.7, (NUM_PICTURES, 2))[where, things], 0.08, num), 0, 0.999)
        * side
        for side in SIZE[::-1]
    )
    viewer = generator.integers(NUM_VIEWERS, size=num)
    fixations = pysaliency.FixationTrains.from_fixation_trains(
        [[each] for each in x], [[each] for each in y], [[0.0]] * num, where, viewer
    )
    counts = np.zeros((NUM_PICTURES, *SIZE))
    np.add.at(counts, (where, y.astype(int), x.astype(int)), 1)
    maps = gaussian_filter(generator.normal(size=counts.shape) + counts, (0, 3, 3))
    maps[1] = np.round(maps[1], 2)
    reference = gaussian_filter(counts, (0, 2, 2), mode="constant")
    return {
        "stimuli": pysaliency.Stimuli(pictures), "fixations": fixations, "counts": torch.from_numpy(counts),
        "maps": maps, "reference": reference, "keys": [picture.tobytes() for picture in pictures],
        "x": x, "y": y, "where": where, "viewer": viewer,
    }  # fmt: skip


@pytest.fixture(scope="module")
def model(scene):
    return Given(dict(zip(scene["keys"], scene["maps"], strict=True)))


def per_picture(scene, values):
    return [np.mean(values[scene["where"] == picture]) for picture in range(NUM_PICTURES)]


def test_areas(scene, model):
    maps, counts, (stimuli, fixations) = torch.from_numpy(scene["maps"]), scene["counts"], (
        scene["stimuli"], scene["fixations"],
    )  # fmt: skip
    np.testing.assert_allclose(auc(maps, counts), model.AUC_per_image(stimuli, fixations), atol=1e-6)
    strict = model.AUC_per_image(stimuli, fixations, nonfixations="unfixated", thresholds="fixations")
    np.testing.assert_allclose(auc_judd(maps, counts), strict, atol=1e-6)
    shuffled = model.AUC_per_image(stimuli, fixations, nonfixations="shuffled")
    np.testing.assert_allclose(shuffled_auc(maps, counts, counts.sum(0) - counts), shuffled, atol=1e-6)


def test_borji_against_the_same_random_cells(scene, model):
    counts = scene["counts"]
    drawn = random_cells(counts, num_splits=5, seed=2).long()
    picture, row, column = (each.repeat_interleave(drawn[drawn > 0]).numpy() for each in drawn.nonzero(as_tuple=True))
    others = pysaliency.FixationTrains.from_fixation_trains(
        [[float(each)] for each in column], [[float(each)] for each in row], [[0.0]] * len(row), picture, picture * 0
    )
    expected = model.AUC_per_image(scene["stimuli"], scene["fixations"], nonfixations=others)
    found = auc_borji(torch.from_numpy(scene["maps"]), counts, num_splits=5, seed=2)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_maps_against_fixations_and_maps(scene, model):
    stimuli, fixations, maps = scene["stimuli"], scene["fixations"], torch.from_numpy(scene["maps"])
    reference, other = torch.from_numpy(scene["reference"]), Given(
        dict(zip(scene["keys"], scene["reference"], strict=True))
    )  # fmt: skip
    expected = per_picture(scene, model.NSSs(stimuli, fixations))
    np.testing.assert_allclose(map_nss(maps, scene["counts"]), expected, atol=1e-6)
    np.testing.assert_allclose(map_correlation(maps, reference), model.CCs(stimuli, other), atol=1e-6)
    np.testing.assert_allclose(map_similarity(maps, reference), model.SIMs(stimuli, other), atol=1e-6)
    np.testing.assert_allclose(map_divergence(maps, reference), model.KLDivs(stimuli, other), atol=1e-6)
    benchmark = {"log_regularization": 2.2204e-16, "quotient_regularization": 2.2204e-16}
    np.testing.assert_allclose(
        map_divergence(maps, reference, floor=0.0, epsilon=2.2204e-16),
        model.KLDivs(stimuli, other, minimum_value=0, **benchmark),
        atol=1e-6,
    )


def test_likelihoods(scene):
    log_density = torch.from_numpy(scene["maps"]).flatten(1).log_softmax(1).view(NUM_PICTURES, *SIZE)
    density = GivenDensity(dict(zip(scene["keys"], log_density.numpy(), strict=True)))
    prior = gaussian_centre_bias(grid=SIZE).double()
    baseline = GivenDensity(dict.fromkeys(scene["keys"], prior.numpy()))
    stimuli, fixations = scene["stimuli"], scene["fixations"]
    over_uniform = per_picture(scene, density.information_gains(stimuli, fixations))
    np.testing.assert_allclose(log_likelihood(log_density, scene["counts"]), over_uniform, atol=1e-6)
    gain = per_picture(scene, density.information_gains(stimuli, fixations, baseline))
    np.testing.assert_allclose(information_gain(log_density, scene["counts"], prior), gain, atol=1e-6)


@pytest.fixture(scope="module")
def own_fixations(scene):
    return Fixations(
        picture=scene["where"].astype(np.int64), viewer=scene["viewer"].astype(np.int64),
        across=scene["x"] / SIZE[1], down=scene["y"] / SIZE[0],
    )  # fmt: skip


@pytest.mark.parametrize("bandwidth", [0.02, 0.07])
def test_the_gold_standard_leaves_viewers_out_as_theirs_does(scene, own_fixations, bandwidth):
    baselines = pytest.importorskip("pysaliency.baseline_utils")
    prior = gaussian_centre_bias(grid=SIZE).double()
    theirs = baselines.CrossvalMultipleRegularizations(
        scene["stimuli"], scene["fixations"],
        {"uniform": pysaliency.UniformModel(), "centre": GivenDensity(dict.fromkeys(scene["keys"], prior.numpy()))},
        baselines.ScikitLearnImageSubjectCrossValidationGenerator(scene["stimuli"], scene["fixations"]),
    )  # fmt: skip
    expected = theirs.score(math.log10(bandwidth), math.log10(0.05), math.log10(0.2))
    sizes = np.tile(np.array([SIZE], dtype=np.float64), (NUM_PICTURES, 1))
    left_out = leave_viewers_out(own_fixations, sizes, bandwidth, prior)
    density = KernelDensity(bandwidth=bandwidth, centre_bias=0.2, uniform=0.05)
    assert left_out.gain(density).mean() == pytest.approx(expected, abs=1e-6)
    best = fit_kernel_density(own_fixations, sizes, prior)
    at_best = leave_viewers_out(own_fixations, sizes, best.bandwidth, prior).gain(best).mean()
    again = theirs.score(*(math.log10(max(v, 1e-12)) for v in (best.bandwidth, best.uniform, best.centre_bias)))
    assert at_best == pytest.approx(again, abs=1e-5)
    assert at_best >= expected


def test_the_map_of_a_kernel_density(scene, own_fixations):
    baselines = pytest.importorskip("pysaliency.baseline_utils")
    theirs = baselines.KDEGoldModel(scene["stimuli"], scene["fixations"], 0.05, eps=0.1, keep_aspect=True)
    chosen = own_fixations.picture == 2
    found = KernelDensity(bandwidth=0.05, uniform=0.1)(
        own_fixations.across[chosen], own_fixations.down[chosen], size=SIZE, prior=gaussian_centre_bias(grid=SIZE)
    )
    np.testing.assert_allclose(found, theirs.log_density(scene["stimuli"][2]), atol=1e-6)
