"""How a range is chosen from the values that were seen: how much is clipped for the sake of finer steps."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from secateur.calibration.ranges import Seen
from secateur.pipeline.quantize.grid import Grid, Range


@runtime_checkable
class Calibrator(Protocol):
    """Chooses the range of a tensor. Every entry of `CALIBRATORS` is one."""

    def __call__(self, seen: Seen, grid: Grid) -> Range:
        """Return a range within what was seen."""


def clipped(seen: Seen, clip: float) -> Range:
    """Return what was seen, as far as its magnitude does not exceed the clip."""
    return Range(low=min(max(seen.low, -clip), clip), high=max(min(seen.high, clip), -clip))


@dataclass(frozen=True, kw_only=True)
class MinMax:
    """Take all that was seen: nothing is clipped."""

    def __call__(self, seen: Seen, grid: Grid) -> Range:
        """Return the extremes."""
        return Range(low=seen.low, high=seen.high)


@dataclass(frozen=True, kw_only=True)
class MovingAverage:
    """Take the moving average of the batches' extremes (Jacob et al. 2018, arXiv 1712.05877)."""

    def __call__(self, seen: Seen, grid: Grid) -> Range:
        """Return the averages."""
        return Range(low=seen.mean_low, high=seen.mean_high)


@dataclass(frozen=True, kw_only=True)
class Percentile:
    """Clip the largest magnitudes: all but ``share`` of the values stay (Wu et al. 2020, arXiv 2004.09602)."""

    share: float = 0.9999

    def __call__(self, seen: Seen, grid: Grid) -> Range:
        """Return the range up to the edge of the bin in which the share is reached."""
        counts = seen.magnitudes
        reached = seen.num_zeros + np.cumsum(counts)
        first = int(np.searchsorted(reached, self.share * reached[-1]))
        return clipped(seen, seen.bound * min(first + 1, len(counts)) / len(counts))


@dataclass(frozen=True, kw_only=True)
class MeanSquare:
    """Minimise the mean square of x - Q(x), of what is clipped and what is rounded alike.

    Candidates are the ``num_candidates`` clips from bound / ``least`` to the bound, evenly spaced by ratio; the error
    is summed over the histogram's bins, each value taken as its bin's middle (Nagel et al. 2021, arXiv 2106.08295,
    section 3.1).
    """

    num_candidates: int = 100
    least: float = 64.0

    def __call__(self, seen: Seen, grid: Grid) -> Range:
        """Return the candidate with the least error."""
        filled = np.flatnonzero(seen.counts)
        if not len(filled):
            return Range(low=seen.low, high=seen.high)
        centres, counts = seen.centres[filled], seen.counts[filled].astype(np.float64)
        clips = np.geomspace(seen.bound / self.least, seen.bound, self.num_candidates)
        ranges = [clipped(seen, float(clip)) for clip in clips]
        errors = [counts @ np.square(centres - grid.rounded(centres, grid.steps(wanted))) for wanted in ranges]
        return ranges[int(np.argmin(errors))]


@dataclass(frozen=True, kw_only=True)
class Entropy:
    """Minimise the Kullback-Leibler divergence of the quantised magnitudes from the clipped ones (Migacz 2017, GTC).

    With the first i bins of the histogram kept, P holds their counts and in its last bin all that is clipped; Q shares
    the counts that fall to each level out evenly over the level's bins that hold anything. The i, every ``stride``
    bins, with the least sum of p ln(p / q) is taken. Zeros are left out: every scale represents them.
    """

    stride: int = 16

    def __call__(self, seen: Seen, grid: Grid) -> Range:
        """Return the range up to the edge of the bin that is kept last."""
        counts = seen.magnitudes.astype(np.float64)
        if not counts.any():
            return Range(low=seen.low, high=seen.high)
        # Of a symmetric grid half of the integers are for magnitudes; so it is for values of both signs.
        one_sided = not grid.symmetric and (seen.low >= 0 or seen.high <= 0)
        num_levels = grid.high - grid.low + 1 if one_sided else (grid.high - grid.low + 1) // 2
        kept = np.arange(num_levels, len(counts) + 1, self.stride)
        kept = kept if kept[-1] == len(counts) else np.append(kept, len(counts))
        divergences = [_divergence(counts, int(first), num_levels) for first in kept]
        return clipped(seen, seen.bound * float(kept[int(np.argmin(divergences))]) / len(counts))


def _divergence(counts: np.ndarray, num_kept: int, num_levels: int) -> float:
    """Return the divergence, in nats, with the first bins kept; infinite where something is left without a chance."""
    inside = counts[:num_kept]
    reference = inside.copy()
    reference[-1] += counts[num_kept:].sum()
    level = np.arange(num_kept) * num_levels // num_kept
    filled = reference > 0
    mass = np.bincount(level, weights=inside, minlength=num_levels)
    shared = np.bincount(level, weights=filled, minlength=num_levels)
    candidate = np.where(filled, mass[level] / np.maximum(shared[level], 1), 0.0)
    if candidate.sum() == 0:
        return np.inf
    p, q = reference / reference.sum(), candidate / candidate.sum()
    held = p > 0
    if not q[held].all():
        return np.inf
    return float(np.sum(p[held] * np.log(p[held] / q[held])))


CALIBRATORS: dict[str, Calibrator] = {
    "min-max": MinMax(),
    "moving-average": MovingAverage(),
    "percentile": Percentile(),
    "mse": MeanSquare(),
    "entropy": Entropy(),
}
