"""How slow the slowest calls are: a high percentile of single calls, with an interval that admits what was not seen."""

import math

import numpy as np
from jaxtyping import Float
from scipy import stats

from secateur.artifacts import Interval
from secateur.backends.statistics import nearest_rank

TAIL = 0.99
NUM_RESAMPLES = 2000
_CHUNK = 4_000_000  # counts held at once, whatever the number of calls


def tail_interval(
    calls_s: Float[np.ndarray, "instance block call"],
    *,
    share: float = TAIL,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the percentile of all calls in seconds, by nearest rank, with its interval.

    Instances are resampled, and blocks within each drawn one; the calls of a block stay together, since a disturbance
    lasts for several of them (hierarchical bootstrap; Davison and Hinkley, 1997, section 3.8). Percentiles are expanded
    for few instances as in `instance_bootstrap`. The upper end is infinite where fewer calls were timed than it
    takes for the slowest of them to bound the percentile: n calls that are all below it have the chance share^n.
    """
    num_instances, num_blocks, num_calls = calls_s.shape
    order = np.argsort(calls_s, axis=None)
    ordered, block_of = calls_s.ravel()[order], order // num_calls
    rank = math.ceil(share * calls_s.size)
    generator = np.random.default_rng(seed)
    draws = np.empty(num_resamples)
    rows = max(1, _CHUNK // calls_s.size)
    for start in range(0, num_resamples, rows):
        size = min(rows, num_resamples - start)
        instances = generator.integers(num_instances, size=(size, num_instances, 1))
        drawn = instances * num_blocks + generator.integers(num_blocks, size=(size, num_instances, num_blocks))
        flat = drawn.reshape(size, -1) + (np.arange(size) * num_instances * num_blocks)[:, None]
        times = np.bincount(flat.ravel(), minlength=size * num_instances * num_blocks).reshape(size, -1)
        reached = np.cumsum(times[:, block_of], axis=1) >= rank
        draws[start : start + size] = ordered[reached.argmax(axis=1)]
    value, tail = nearest_rank(calls_s.ravel(), share), (1 - confidence) / 2
    unseen = share**calls_s.size > tail
    if num_instances > 1:
        quantile = stats.t.ppf(1 - tail, num_instances - 1) * math.sqrt(num_instances / (num_instances - 1))
        tail = float(stats.norm.sf(quantile))
    low, high = (float(end) for end in np.quantile(draws, [tail, 1 - tail]))
    return Interval(
        value=value, low=min(low, value), high=math.inf if unseen else max(high, value), confidence=confidence
    )
