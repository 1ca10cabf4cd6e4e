"""The statistics of latencies: percentiles, paired log ratios and their bootstrap, outcomes, warnings.

Times are float64 arrays [instance, block] of block medians in seconds; log ratios are ln(baseline / candidate), paired
by instance and block.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from secateur.artifacts import LatencySummary

Outcome = Literal["faster", "slower", "equivalent", "unresolved"]

CHUNK = 1_000
"""Bootstrap resamples that are held in memory at a time."""
LONG_MEMORY = 0.2
"""Lag-one autocorrelation beyond which neighbouring blocks are resampled together."""
DRIFT = 0.02
"""Change of speed, relative, between the first and the second half of a comparison that is worth a warning."""
SPREAD = 0.025
"""Coefficient of variation of block medians within an instance that is worth a warning."""


def nearest_rank(samples: Float[np.ndarray, " samples"], fraction: float) -> float:
    """Return the smallest sample that at least this fraction of the samples do not exceed: rank ceil(fraction n)."""
    rank = max(1, math.ceil(fraction * len(samples)))
    return float(np.partition(samples, rank - 1)[rank - 1])


def summarise(samples_s: Float[np.ndarray, " samples"], batch_size: int) -> LatencySummary:
    """Summarise the latencies of single calls that follow one another."""
    mean = float(samples_s.mean())
    return LatencySummary(
        num_samples=len(samples_s),
        mean_s=mean,
        p50_s=nearest_rank(samples_s, 0.50),
        p90_s=nearest_rank(samples_s, 0.90),
        p95_s=nearest_rank(samples_s, 0.95),
        p99_s=nearest_rank(samples_s, 0.99),
        coefficient_of_variation=float(samples_s.std()) / mean if mean else 0.0,
        throughput_per_s=batch_size / mean if mean else math.inf,
    )


@dataclass(frozen=True, kw_only=True)
class LogInterval:
    """An estimated log ratio with its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the interval's length."""
        return (self.high - self.low) / 2


def block_length(log_ratios: Float[np.ndarray, "instance block"]) -> int:
    """Choose how many neighbouring blocks are resampled together: ceil(m^(1/3)) with memory, else one.

    The m^(1/3) rate is that of Hall, Horowitz and Jing (1995) for variances.
    """
    centred = log_ratios - log_ratios.mean(axis=1, keepdims=True)
    variance = float((centred**2).mean())
    num_blocks = log_ratios.shape[1]
    if variance == 0 or num_blocks < 3:
        return 1
    autocorrelation = float((centred[:, 1:] * centred[:, :-1]).mean()) / variance
    return math.ceil(num_blocks ** (1 / 3)) if abs(autocorrelation) > LONG_MEMORY else 1


def instance_bootstrap(
    log_ratios: Float[np.ndarray, "instance block"], *, num_resamples: int, confidence: float, seed: int
) -> LogInterval:
    """Estimate the log ratio as the mean over instances of the median over blocks, with a bootstrap interval.

    Instances are resampled with replacement, each with all its blocks: an instance's median varies already by what its
    blocks vary by. Of the ways to resample a hierarchy this is the one whose variance is right (Davison and Hinkley,
    1997, section 3.8). Percentiles are taken further out, at Phi(-sqrt(K / (K - 1)) t_(K-1)) for K instances: plain
    ones cover too little where K is small (the expanded percentile interval of Hesterberg, 2015, arXiv 1411.5279).
    Student's interval bounds it from within: resamples of few instances, one of them far off, hardly reach the other
    side.
    """
    medians = np.median(log_ratios, axis=1)
    drawn = np.random.default_rng(seed).integers(len(medians), size=(num_resamples, len(medians)))
    return _interval(medians, medians[drawn].mean(axis=1), confidence)


def cautious_bootstrap(
    log_ratios: Float[np.ndarray, "instance block"], *, num_resamples: int, confidence: float, seed: int
) -> LogInterval:
    """Estimate as `instance_bootstrap` does, with an interval in which the noise of blocks counts twice.

    Instances are resampled with replacement, and within each drawn instance blocks, in circular runs of `block_length`.
    It is for deciding whether to go on: few instances may by chance look alike, and an interval that stops at its own
    first narrow moment holds the truth too rarely (Chow and Robbins, 1965).
    """
    generator = np.random.default_rng(seed)
    length = block_length(log_ratios)
    estimates = np.concatenate(
        [
            np.median(_resampled(log_ratios, min(CHUNK, num_resamples - start), length, generator), axis=2).mean(axis=1)
            for start in range(0, num_resamples, CHUNK)
        ]
    )
    return _interval(np.median(log_ratios, axis=1), estimates, confidence)


def _interval(
    medians: Float[np.ndarray, " instance"], estimates: Float[np.ndarray, " resample"], confidence: float
) -> LogInterval:
    """Return the mean of the instances' medians, with the wider of expanded percentiles and Student's interval."""
    tail, num_instances, value, half = (1 - confidence) / 2, len(medians), float(medians.mean()), 0.0
    if num_instances > 1:
        quantile = float(stats.t.ppf(1 - tail, num_instances - 1))
        half = quantile * float(medians.std(ddof=1)) / math.sqrt(num_instances)
        tail = float(stats.norm.sf(quantile * math.sqrt(num_instances / (num_instances - 1))))
    low, high = np.quantile(estimates, [tail, 1 - tail])
    return LogInterval(value=value, low=min(float(low), value - half), high=max(float(high), value + half))


def _resampled(
    log_ratios: Float[np.ndarray, "instance block"], count: int, length: int, generator: np.random.Generator
) -> Float[np.ndarray, "resample instance block"]:
    num_instances, num_blocks = log_ratios.shape
    instances: Int[np.ndarray, "resample instance"] = generator.integers(num_instances, size=(count, num_instances))
    num_runs = -(-num_blocks // length)
    starts = generator.integers(num_blocks, size=(count, num_instances, num_runs, 1))
    blocks = ((starts + np.arange(length)) % num_blocks).reshape(count, num_instances, -1)[:, :, :num_blocks]
    return log_ratios[instances[:, :, None], blocks]


def outcome(ratio: LogInterval, margin: float, limit: float) -> Outcome:
    """Judge a log speed-up against the margin that matters and the limit of resolution, both relative.

    With b = ln(1 + max(margin, limit)), faster: low > b; slower: high < -b. Equivalent: the interval lies within
    ln(1 + margin) of zero; a poor resolution does not widen what counts as equal.
    """
    bound, equal = math.log1p(max(margin, limit)), math.log1p(margin)
    if ratio.low > bound:
        return "faster"
    if ratio.high < -bound:
        return "slower"
    if ratio.low >= -equal and ratio.high <= equal:
        return "equivalent"
    return "unresolved"


def resolution(null: LogInterval) -> float:
    """Return the relative difference that a comparison of the baseline with itself cannot rule out.

    Smaller differences between baseline and candidate mean nothing.
    """
    return math.expm1(max(abs(null.low), abs(null.high)))


def warnings_about(side: str, times_s: Float[np.ndarray, "instance block"]) -> tuple[str, ...]:
    """Describe what makes a stream of block medians untrustworthy: drift within or over instances, and spread.

    Drift is the ratio of the medians of the second and the first half; it is reported beyond `DRIFT` where it also
    exceeds three standard errors. Pairs are interleaved, so drift slows both sides alike; it does not bias their ratio.
    """
    logs = np.log(times_s)
    half = logs.shape[1] // 2
    within = np.median(logs[:, half:], axis=1) - np.median(logs[:, :half], axis=1) if half else np.zeros(len(logs))
    found = []
    change = float(within.mean())
    if abs(change) > math.log1p(DRIFT) and abs(change) > 3 * _standard_error(within):
        found.append(f"the {side} drifts by {math.expm1(change):+.1%} within instances: a longer warm-up would help")
    over = np.median(logs, axis=1)
    first, second = over[: len(over) // 2], over[len(over) // 2 :]
    if len(first) > 1:
        change = float(second.mean() - first.mean())
        error = math.hypot(_standard_error(first), _standard_error(second))
        if abs(change) > math.log1p(DRIFT) and abs(change) > 3 * error:
            found.append(
                f"the {side} drifts by {math.expm1(change):+.1%} over the comparison: the machine's speed changes"
            )
    spread = float(np.mean(times_s.std(axis=1) / times_s.mean(axis=1)))
    if spread > SPREAD:
        found.append(f"the {side}'s block medians vary by {spread:.1%}: the machine is noisy")
    return tuple(found)


def _standard_error(values: Float[np.ndarray, " values"]) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
