"""Weight sharing: a layer's weights take few values, which its code then names."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

NUM_ROUNDS = 100
RATE = 0.02
"""What a bit is worth in entropy-constrained sharing, in variances of the layer's weights."""
Share = Callable[[Float[np.ndarray, " values"], int], Float[np.ndarray, " values"]]


def shared(values: Float[np.ndarray, "..."], method: str, levels: int) -> Float[np.ndarray, "..."]:
    """Return weights of at most ``levels`` distinct values beside zero; zeros, which pruning made, stay zeros.

    Weights of no more distinct values than that are returned as they are.
    """
    filled = values != 0
    own = values[filled]
    if len(np.unique(own)) <= levels:
        return values
    result = np.zeros_like(values)
    result[filled] = SHARINGS[method](own.astype(np.float64), levels)
    return result


def uniform(values: Float[np.ndarray, " values"], levels: int) -> Float[np.ndarray, " values"]:
    """Divide the range between the extremes into cells of equal width, and round to their middles."""
    low, width = values.min(), np.ptp(values) / levels
    return low + width * (np.floor((values - low) / width).clip(0, levels - 1) + 0.5)


def k_means(values: Float[np.ndarray, " values"], levels: int) -> Float[np.ndarray, " values"]:
    """Round to the nearest of the means of clusters (Lloyd 1982; for weights Han et al. 2016, arXiv 1510.00149)."""
    return _lloyd(values, levels, 0.0)


def entropy_constrained(values: Float[np.ndarray, " values"], levels: int) -> Float[np.ndarray, " values"]:
    """Round to the level c of least (w - c)^2 - r log2 p(c), p(c) being its share (Chou et al. 1989, IEEE TASSP 37)."""
    return _lloyd(values, levels, RATE * float(values.var()))


SHARINGS: dict[str, Share] = {"k-means": k_means, "uniform": uniform, "entropy": entropy_constrained}


def _lloyd(values: Float[np.ndarray, " values"], levels: int, rate: float) -> Float[np.ndarray, " values"]:
    """Alternate between the best level of each value and the mean of each level's values until neither changes.

    Sorted values make each level's an interval, so that a round costs a search for its ends and no pass over the
    values. Levels start evenly spaced between the extremes (linear start, Han et al. 2016); those that no value takes
    are dropped.
    """
    ordered = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.linspace(ordered[0], ordered[-1], levels) if levels > 1 else np.array([ordered.mean()])
    bits = np.zeros(len(centres))
    for _ in range(NUM_ROUNDS):
        gap = np.diff(centres)
        borders = (centres[:-1] + centres[1:]) / 2 + rate * np.diff(bits) / (2 * gap)
        ends = np.concatenate([[0], np.searchsorted(ordered, np.maximum.accumulate(borders)), [len(ordered)]])
        counts = np.diff(ends)
        kept = counts > 0
        means = (np.diff(sums[ends])[kept]) / counts[kept]
        settled = kept.all() and np.array_equal(means, centres)
        centres, bits = means, -np.log2(counts[kept] / len(ordered)) if rate else np.zeros(len(means))
        if settled:
            break
    gap = np.diff(centres)
    borders = np.maximum.accumulate((centres[:-1] + centres[1:]) / 2 + rate * np.diff(bits) / (2 * gap))
    return centres[np.searchsorted(borders, values, side="right")]
