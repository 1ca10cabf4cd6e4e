"""When enough calls were timed."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

from secateur.artifacts import Interval
from secateur.errors import MeasurementError


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Stop once the median is known: half its interval, relative to it, is at most ``half_width``.

    Never before ``least_calls`` and ``least_s``; where ``most_s`` are over it stops all the same and says so. The rule
    looks at the width and never at a difference, so that it cannot favour a result.
    """

    half_width: float = 0.005
    least_calls: int = 64
    least_s: float = 0.5
    most_s: float = 10.0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.least_calls < 2 or not 0 <= self.least_s <= self.most_s or not 0 < self.confidence < 1:
            raise MeasurementError(
                "stopping rule", f"{self}", "two calls at least, 0 <= least_s <= most_s, a confidence within (0, 1)",
                "Correct the rule.",
            )  # fmt: skip

    def reason(self, samples_s: Float[np.ndarray, " calls"], passed_s: float) -> Literal["width", "time"] | None:
        """Say what ends it, or None while it goes on."""
        enough = len(samples_s) >= self.least_calls and passed_s >= self.least_s
        if enough and half_width(median_of_calls(samples_s, self.confidence)) <= self.half_width:
            return "width"
        return "time" if passed_s >= self.most_s and len(samples_s) > 1 else None


def half_width(interval: Interval) -> float:
    """Return half an interval's length relative to its value."""
    return (interval.high - interval.low) / 2 / interval.value if interval.value else math.inf


def median_of_calls(samples_s: Float[np.ndarray, " calls"], confidence: float = 0.95) -> Interval:
    """Return the median of calls that follow one another with its bootstrap interval.

    The bootstrap distribution of a median is known without resampling: of n draws the median lies at or below the
    k-th smallest sample with the probability that a binomial variable of n trials and chance k / n reaches n / 2
    (Efron, 1979), whose quantiles are those of a beta distribution. Calls are not independent, so n is their effective
    number: with s the indicator of a call above the median, n times var(s) over the long-run variance of s, the latter
    by batch means (Flegal and Jones, 2010, arXiv 0811.1729).
    """
    ordered = np.sort(samples_s)
    count = len(ordered)
    effective = max(1.0, _effective(samples_s, float(np.median(ordered))))
    middle = (effective + 1) / 2
    tail = (1 - confidence) / 2
    shares = stats.beta.ppf([tail, 1 - tail], middle, effective - middle + 1)
    low, high = (ordered[min(count - 1, max(0, math.ceil(share * count) - 1))] for share in shares)
    value = float(ordered[math.ceil(count / 2) - 1])
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value), confidence=confidence)


def _effective(samples_s: Float[np.ndarray, " calls"], median: float) -> float:
    """Estimate how many independent calls would tell as much about the median."""
    above = (samples_s > median).astype(np.float64)
    size = max(1, math.isqrt(len(above)))
    num_batches = len(above) // size
    variance = float(above.var())
    if variance == 0 or num_batches < 4:
        return float(len(above))
    means = above[: num_batches * size].reshape(num_batches, size).mean(axis=1)
    return len(above) * min(1.0, variance / max(size * float(means.var(ddof=1)), 1e-12))
