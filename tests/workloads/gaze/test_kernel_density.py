"""The gold standard: densities that sum to one, kernels by hand, and a fit that finds what the data were drawn with."""

import math

import numpy as np
import pytest
import torch

from secateur.errors import DataError
from secateur.workloads.gaze.centre_bias import gaussian_centre_bias
from secateur.workloads.gaze.fixations import Fixations
from secateur.workloads.gaze.kernel_density import KernelDensity, LeftOut, fit_kernel_density, leave_viewers_out

PRIOR = gaussian_centre_bias(grid=(24, 32))
SIZES = np.tile(np.array([[480.0, 640.0]]), (30, 1))


def drawn(spread: float, uniform: float, num_viewers: int = 8, seed: int = 0) -> Fixations:
    """Draw fixations of viewers around two places a picture, a share of them anywhere."""
    generator = np.random.default_rng(seed)
    picture, viewer = (each.ravel() for each in np.meshgrid(np.arange(30), np.repeat(np.arange(num_viewers), 6)))
    places = generator.uniform(0.3, 0.7, (30, 2, 2))[picture, generator.integers(2, size=len(picture))]
    points = places + spread * generator.normal(size=places.shape) * (1, 4 / 3)
    anywhere = generator.uniform(size=len(picture)) < uniform
    points[anywhere] = generator.uniform(size=(anywhere.sum(), 2))
    return Fixations(picture=picture, viewer=viewer, across=points[:, 0].copy(), down=points[:, 1].copy()).inside()


@pytest.mark.parametrize("centre_bias", [0.0, 0.3])
@pytest.mark.parametrize("num", [0, 1, 7])
def test_every_map_is_a_density(centre_bias, num):
    across, down = np.random.default_rng(num).uniform(size=(2, num))
    density = KernelDensity(bandwidth=0.05, centre_bias=centre_bias, uniform=0.1)
    found = density(across, down, size=(480, 640), prior=PRIOR)
    assert found.shape == (24, 32)
    assert found.exp().sum().item() == pytest.approx(1)
    assert found.exp().min().item() >= 0.1 / (24 * 32) - 1e-9


def test_a_kernel_is_round_in_pixels():
    """One fixation in the middle of a picture twice as wide as high: the standard deviations are equal in pixels."""
    point = np.array([0.5])
    prior = torch.full((200, 400), -math.log(80_000.0))
    found = KernelDensity(bandwidth=0.05)(point, point, size=(200, 400), prior=prior).exp()
    places = [torch.arange(num, dtype=torch.float64) + 0.5 for num in (200, 400)]
    for axis, (place, half) in enumerate(zip(places, (100, 200), strict=True)):
        deviation = ((place - half).square() * found.sum(1 - axis)).sum().sqrt().item()
        assert deviation == pytest.approx(0.05 * 400, rel=1e-3)


def test_a_viewer_does_not_predict_himself():
    """Two viewers at one place, a third of his own: by hand, kernels relative to the uniform density."""
    fixations = Fixations(
        picture=np.zeros(3, dtype=np.int64), viewer=np.arange(3), across=np.array([0.5, 0.5, 0.1]),
        down=np.array([0.5, 0.5, 0.5]),
    )  # fmt: skip
    left_out = leave_viewers_out(fixations, np.array([[100.0, 100.0]]), 0.1, PRIOR)
    peak, far = 1 / (2 * math.pi * 0.01), math.exp(-8) / (2 * math.pi * 0.01)
    np.testing.assert_allclose(left_out.kernels, [(peak + far) / 2, (peak + far) / 2, far])
    density = KernelDensity(bandwidth=0.1, uniform=0.5)
    np.testing.assert_allclose(left_out.gain(density)[2], math.log2(0.5 + 0.5 * far))


def test_the_fit_is_better_than_its_neighbours_and_finds_the_share_that_looks_anywhere():
    fixations = drawn(spread=0.03, uniform=0.2)
    best = fit_kernel_density(fixations, SIZES, PRIOR)
    assert 0.01 < best.bandwidth < 0.05
    assert best.uniform + best.centre_bias == pytest.approx(0.2, abs=0.06)

    def score(density: KernelDensity) -> float:
        return leave_viewers_out(fixations, SIZES, density.bandwidth, PRIOR).gain(density).mean()

    for factor in (0.7, 1.4):
        assert score(best) > score(KernelDensity(bandwidth=factor * best.bandwidth, uniform=best.uniform,
                                                 centre_bias=best.centre_bias))  # fmt: skip
        assert score(best) > score(KernelDensity(bandwidth=best.bandwidth, uniform=factor * best.uniform,
                                                 centre_bias=best.centre_bias))  # fmt: skip
    wider = fit_kernel_density(drawn(spread=0.09, uniform=0.2), SIZES, PRIOR)
    assert wider.bandwidth > 1.5 * best.bandwidth


def test_the_mixture_is_the_best_of_a_fine_grid():
    generator = np.random.default_rng(3)
    kernels, prior = generator.exponential(size=(2, 400))
    left_out = LeftOut(kernels=kernels, prior=prior, scored=np.ones(400, dtype=bool))

    def score(centre_bias: float, uniform: float) -> float:
        return left_out.gain(KernelDensity(bandwidth=0.1, centre_bias=centre_bias, uniform=uniform)).mean()

    shares = [(a / 50, b / 50) for a in range(50) for b in range(50 - a)]
    assert score(*left_out.mixture()) >= max(score(*pair) for pair in shares) - 1e-5


def test_one_viewer_alone_has_no_gold_standard():
    fixations = drawn(spread=0.05, uniform=0.1, num_viewers=1)
    with pytest.raises(
        DataError, match="gold standard: found no picture with two viewers; wanted fixations of several"
    ):
        leave_viewers_out(fixations, SIZES, 0.05, PRIOR)
