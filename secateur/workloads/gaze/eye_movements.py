"""Fixations out of an eye tracker's samples, by the speed that the eye gains and loses in saccades."""

import numpy as np
from jaxtyping import Float64

RATE_HZ = 240
WINDOW = 4
"""Samples that speeds are averaged over."""
ACCELERATION = 34 * 6
"""Pixels a second that the eye gains or loses from a window to the next in a saccade: 6 degrees of 34 pixels."""
RUN = 3
"""Samples that gain so much one after another where a saccade begins."""
SEARCH = 25
"""Samples within which it has to brake."""
SHORTEST = 12
"""Samples of a fixation, 50 ms, below which it belongs to the saccades around it."""


def fixated_places(samples: Float64[np.ndarray, "samples 2"]) -> Float64[np.ndarray, "fixations 2"]:
    """Return the median place of every fixation in order, the one under way at the beginning among them.

    With s the mean distance between samples over a window, the speed gains 60 (s_{t+5} - s_t) pixels a second. A
    saccade begins where at least three gains in a row exceed 204, and ends where losses of as much come to an end; what
    never brakes is none, but for one that the recording ends in (the definition that MIT1003 was published with, Judd
    et al. 2009). Samples that are not finite, at which the eye was not seen, count for no place; a fixation without any
    others is nowhere, nan.
    """
    if not len(samples):
        return np.zeros((0, 2))
    moved = np.concatenate([[0.0], np.hypot(*np.diff(samples, axis=0).T)])
    speed = np.convolve(moved, np.full(WINDOW, 1 / WINDOW))[: len(samples)]
    gain = np.zeros(len(samples))
    inner = slice(1, max(1, len(samples) - WINDOW - 1))
    gain[inner] = (speed[1 + WINDOW + 1 :] - speed[inner]) * (RATE_HZ / WINDOW)
    starts, stops = [0], list[int]()
    for first, last in _saccades(gain):
        stops.append(first)
        starts.append(last + 1)
    stops.append(len(samples))
    lengths = np.subtract(stops, starts)
    # The first lasts from before the picture came.
    last = len(stops) - 1
    kept = [place for place, length in enumerate(lengths) if place == 0 or length >= SHORTEST + (place == last)]
    seen = (samples[starts[place] : stops[place]] for place in kept)
    finite = (part[np.isfinite(part).all(axis=1)] for part in seen)
    return np.array([np.median(part, axis=0) if len(part) else [np.nan, np.nan] for part in finite])


def _saccades(gain: Float64[np.ndarray, " samples"]) -> list[tuple[int, int]]:
    """Return the first and the last sample of every saccade."""
    fast, braking = gain > ACCELERATION, np.append(gain < -ACCELERATION, [False])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], fast, [False]]).astype(np.int8)))
    over = braking[:-1] & ~braking[1:]
    end = int(np.flatnonzero(gain).max(initial=0))
    found = list[tuple[int, int]]()
    for first, after in edges.reshape(-1, 2).tolist():
        braked = np.flatnonzero(over[after : after + SEARCH])
        if after - first >= RUN and (len(braked) or after - 1 == end):
            found.append((first, after + int(braked[0]) if len(braked) else len(gain) - 1))
    return found
