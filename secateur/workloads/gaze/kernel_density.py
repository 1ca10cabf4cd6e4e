"""The gold standard: how well other people's fixations on a picture predict a person's.

Everybody's fixations are predicted by a Gaussian kernel on each fixation of the others, mixed with the centre bias and
the uniform density. Bandwidth and mixture are those under which fixations of people left out are likeliest (Wilming et
al. 2011; Kuemmerer et al. 2015, arXiv 1409.7686). Lengths are shares of the picture's longer side, so that kernels are
round.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from torch import Tensor

from secateur.errors import DataError
from secateur.workloads.gaze.fixations import Fixations
from secateur.workloads.gaze.recording import Recording

BANDWIDTHS = (0.003, 0.3)
"""Between these the bandwidth is sought."""


@dataclass(frozen=True, kw_only=True)
class KernelDensity:
    """Turn fixations into a density: kernels of one bandwidth, the centre bias and the uniform density.

    ``centre_bias`` and ``uniform`` are shares; the kernels get what they leave.
    """

    bandwidth: float
    centre_bias: float = 0.0
    uniform: float = 1e-20

    def __call__(
        self,
        across: Float64[np.ndarray, " fixations"],
        down: Float64[np.ndarray, " fixations"],
        *,
        size: tuple[int, int],
        prior: Float[Tensor, "rows columns"],
    ) -> Float64[Tensor, "rows columns"]:
        """Return the log-density over the grid of ``prior``, the centre bias' log-density, in nats.

        ``size`` is the picture's height and width. Kernels are looked at in the middle of each cell, their sum over the
        cells is 1; without fixations the uniform density takes their place.
        """
        rows, columns = prior.shape
        parts = [(self.uniform, np.full((rows, columns), -np.log(rows * columns)))]
        if self.centre_bias:
            parts.append((self.centre_bias, prior.double().numpy()))
        if len(across):
            axes = zip((down, across), (rows, columns), size, strict=True)
            height, width = (
                -0.5 * (((np.arange(num) + 0.5) / num - place[:, None]) * side / max(size) / self.bandwidth) ** 2
                for place, num, side in axes
            )
            # A kernel is a product, so that their sum is a product of matrices; the largest factor keeps it from 0.
            sums = np.exp(height - height.max()).T @ np.exp(width - width.max())
            with np.errstate(divide="ignore"):
                kernels = np.log(sums)
            parts.append((1 - self.uniform - self.centre_bias, kernels - logsumexp(kernels)))
        weights = np.array([weight for weight, _ in parts])[:, None, None]
        mixed = logsumexp(np.stack([density for _, density in parts]), b=weights, axis=0)
        return torch.from_numpy(mixed - logsumexp(mixed))


@dataclass(frozen=True, kw_only=True, eq=False)
class LeftOut:
    """How likely every fixation is without its viewer, as densities relative to the uniform one: one entry a fixation.

    Fixations of a picture's only viewer are not ``scored``: nobody is left to predict them.
    """

    kernels: Float64[np.ndarray, " fixations"]
    prior: Float64[np.ndarray, " fixations"]
    scored: Bool[np.ndarray, " fixations"]

    def gain(self, density: KernelDensity) -> Float64[np.ndarray, " fixations"]:
        """Return the log-likelihood of the scored fixations over the uniform density, in bit."""
        kernels = 1 - density.uniform - density.centre_bias
        mixed = density.uniform + density.centre_bias * self.prior + kernels * self.kernels
        return np.log2(mixed[self.scored])

    def mixture(self) -> tuple[float, float]:
        """Return the shares (centre bias, uniform) under which the scored fixations are likeliest.

        Expectation maximisation: w_k <- mean_i w_k p_k(i) / sum_j w_j p_j(i), which never lowers the likelihood; the
        likelihood is concave in w, so that there is one best mixture (Dempster et al. 1977).
        """
        parts = np.stack([self.kernels, self.prior, np.ones_like(self.prior)])[:, self.scored]
        weights = np.array([0.8, 0.1, 0.1])
        for _ in range(500):
            joint = weights[:, None] * parts
            updated = (joint / joint.sum(0)).mean(1)
            if np.abs(updated - weights).max() < 1e-6:
                break
            weights = updated
        return float(weights[1]), float(weights[2])


def leave_viewers_out(
    fixations: Fixations,
    sizes: Float64[np.ndarray, "pictures 2"],
    bandwidth: float,
    prior: Float[Tensor, "rows columns"],
) -> LeftOut:
    """Predict every fixation from those of the other viewers of its picture.

    ``fixations`` are inside their pictures, ``sizes`` heights and widths, ``prior`` the centre bias' log-density.
    """
    rows, columns = prior.shape
    relative = prior.double().exp().numpy() * (rows * columns)
    row, column = (fixations.down * rows).astype(np.int64), (fixations.across * columns).astype(np.int64)
    kernels, scored = np.zeros(len(fixations)), np.zeros(len(fixations), dtype=bool)
    for here in _by_picture(fixations):
        side = sizes[fixations.picture[here[0]]] / sizes[fixations.picture[here[0]]].max()
        places = np.stack([fixations.down[here], fixations.across[here]]) * side[:, None]
        distances = np.square(places[:, :, None] - places[:, None, :]).sum(0)
        others = fixations.viewer[here][:, None] != fixations.viewer[here][None, :]
        sums = (np.exp(distances * (-0.5 / bandwidth**2)) * others).sum(1)
        num_others = others.sum(1)
        # Relative to the uniform density, which is 1 / (height * width) in these lengths.
        kernels[here] = sums * side.prod() / (2 * np.pi * bandwidth**2 * np.maximum(num_others, 1))
        scored[here] = num_others > 0
    if not scored.any():
        raise DataError(
            "gold standard", "no picture with two viewers", "fixations of several viewers on the same pictures",
            "Read a set whose fixations are told apart by viewer.",
        )  # fmt: skip
    return LeftOut(kernels=kernels, prior=relative[row, column], scored=scored)


def fit_kernel_density(
    fixations: Fixations, sizes: Float64[np.ndarray, "pictures 2"], prior: Float[Tensor, "rows columns"]
) -> KernelDensity:
    """Return the bandwidth and mixture under which the fixations of viewers left out are likeliest."""

    def at(bandwidth: float) -> tuple[float, KernelDensity]:
        left_out = leave_viewers_out(fixations, sizes, bandwidth, prior)
        centre_bias, uniform = left_out.mixture()
        density = KernelDensity(bandwidth=bandwidth, centre_bias=centre_bias, uniform=uniform)
        return float(left_out.gain(density).mean()), density

    best = minimize_scalar(
        lambda exponent: -at(float(np.exp(exponent)))[0], bounds=np.log(BANDWIDTHS), method="bounded",
        options={"xatol": 0.01},
    )  # fmt: skip
    return at(float(np.exp(best.x)))[1]


def gold_standard(
    training: Recording,
    train: Int64[np.ndarray, " train"],
    testing: Recording,
    test: Int64[np.ndarray, " test"],
    prior: Float[Tensor, "rows columns"],
) -> dict[str, float]:
    """Return how well other viewers predict each viewer of the test pictures, means over the scored fixations.

    Bandwidth and mixture are fitted to the training pictures. ``gold_standard_log_likelihood`` is over the uniform
    density, ``gold_standard_information_gain`` over the centre bias ``prior``, both in bit a fixation.
    """
    density = fit_kernel_density(_of(training, train), training.sizes, prior)
    left_out = leave_viewers_out(_of(testing, test), testing.sizes, density.bandwidth, prior)
    gain = left_out.gain(density)
    return {
        "gold_standard_log_likelihood": float(gain.mean()),
        "gold_standard_information_gain": float((gain - np.log2(left_out.prior[left_out.scored])).mean()),
    }


def _of(recording: Recording, pictures: Int64[np.ndarray, " chosen"]) -> Fixations:
    return recording.fixations.where(np.isin(recording.fixations.picture, pictures))


def _by_picture(fixations: Fixations) -> Iterator[np.ndarray]:
    """Yield the indices of each picture's fixations."""
    order = np.argsort(fixations.picture, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(fixations.picture[order])) + 1) if len(order) else ()
