"""Confidence intervals by resampling what was measured."""

import math

import numpy as np
from jaxtyping import Float, Int

from secateur.artifacts import Interval

_CHUNK = 2_000_000  # draws held at once: 16 MB of indices whatever the number of samples


def bootstrap_means(
    values: Float[np.ndarray, "sample column"], num_resamples: int, seed: int
) -> Float[np.ndarray, "resample column"]:
    """Draw the means of resamples of the rows; all columns share each resample, so differences stay paired.

    Each resample takes as many rows as there are, with replacement (Efron, 1979, "Bootstrap methods: another look at
    the jackknife"). Memory does not grow with the number of resamples.
    """
    num_samples = len(values)
    generator = np.random.default_rng(seed)
    means = np.empty((num_resamples, values.shape[1]))
    rows = max(1, _CHUNK // num_samples)
    for start in range(0, num_resamples, rows):
        size = min(rows, num_resamples - start)
        drawn = generator.integers(0, num_samples, size=(size, num_samples), dtype=np.int32).astype(np.intp)
        means[start : start + size] = _counts(drawn, num_samples) @ values / num_samples
    return means


def percentile_interval(value: float, draws: Float[np.ndarray, " resample"], confidence: float = 0.95) -> Interval:
    """Return the value with the central share of its bootstrap draws, widened where it would not hold the value."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value), confidence=confidence)


def median_interval(
    value: float,
    instances: tuple[tuple[float, ...], ...],
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Return a latency's median with an interval over instances and the blocks within them.

    ``instances`` holds every block's latency, [instance][block]. Instances are resampled first and blocks within each
    instance drawn, because blocks of one instance share its memory layout and are not independent (hierarchical
    bootstrap; Davison and Hinkley, 1997, section 3.8). Medians are by nearest rank.
    """
    filled = [instance for instance in instances if instance]
    if not filled:
        return Interval(value=value, low=-math.inf, high=math.inf, confidence=confidence)
    pool = np.array([latency for instance in filled for latency in instance])
    lengths = np.array([len(instance) for instance in filled])
    starts = np.cumsum(lengths) - lengths
    generator = np.random.default_rng(seed)
    draws = np.empty(num_resamples)
    shape = len(filled), int(lengths.max())
    rank = math.ceil(shape[0] * shape[1] / 2) - 1
    rows = max(1, _CHUNK // (shape[0] * shape[1]))
    for start in range(0, num_resamples, rows):
        size = min(rows, num_resamples - start)
        chosen = generator.integers(0, len(filled), size=(size, len(filled), 1))
        block = (generator.random((size, *shape)) * lengths[chosen]).astype(np.intp)
        drawn = pool[starts[chosen] + block].reshape(size, -1)
        draws[start : start + size] = np.partition(drawn, rank, axis=1)[:, rank]
    return percentile_interval(value, draws, confidence)


def _counts(drawn: Int[np.ndarray, "resample draw"], num_samples: int) -> Float[np.ndarray, "resample sample"]:
    """Count how often each resample drew each sample; one count table serves every column."""
    flat = drawn + (np.arange(len(drawn)) * num_samples)[:, None]
    return np.bincount(flat.ravel(), minlength=len(drawn) * num_samples).reshape(-1, num_samples).astype(np.float64)
