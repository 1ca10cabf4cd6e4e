"""What the spectrum of white noise looks like."""

import functools
import math

from scipy.integrate import quad
from scipy.optimize import brentq


def hard_threshold(beta: float) -> float:
    """Return Gavish and Donoho's omega(beta), the optimal threshold in medians of the singular values."""
    root = math.sqrt(beta * beta + 14 * beta + 1)
    return math.sqrt((2 * (beta + 1) + 8 * beta / (beta + 1 + root)) / noise_median(beta))


@functools.lru_cache(maxsize=1024)
def noise_median(beta: float) -> float:
    """Return the median of the Marchenko-Pastur law of unit variance and aspect ratio ``beta`` in (0, 1]."""
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2
    middle, half = (low + high) / 2, (high - low) / 2

    def density(angle: float) -> float:
        # x = middle - half cos(angle) takes the roots at both edges out of the integrand.
        x = middle - half * math.cos(angle)
        return (half * math.sin(angle)) ** 2 / (2 * math.pi * beta * x) if x > 0 else 0.0

    angle = brentq(lambda a: quad(density, 0, a)[0] - 0.5, 0, math.pi)
    return middle - half * math.cos(float(angle))
