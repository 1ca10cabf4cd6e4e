"""What values tensors take over a calibration set: ranges, their moving average, histograms; streamed in two passes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from secateur.errors import DataError

Tensors = Mapping[str, tuple[np.ndarray, ...]]
"""The values of one batch by the name they are seen under; several tensors may share a name, and so a range."""

NUM_BINS = 8192
"""Bins of a histogram, even, so that zero is an edge between two."""
MOMENTUM = 0.9
"""Share of the moving average that a batch leaves as it was."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The values that one name has taken.

    ``counts`` are those of the values that are not zero, in equal bins over [-bound, bound], ``bound`` being the
    largest magnitude; exact zeros, which every scale represents, are counted apart. ``mean_low`` and ``mean_high`` are
    the moving averages of the batches' extremes (Jacob et al. 2018, arXiv 1712.05877).
    """

    low: float
    high: float
    mean_low: float
    mean_high: float
    counts: Int[np.ndarray, " bins"]
    num_zeros: int

    @property
    def bound(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    @property
    def centres(self) -> np.ndarray:
        """The middles of the bins, float64 [bins]."""
        half = len(self.counts) // 2
        return self.bound * (np.arange(-half, half) + 0.5) / half

    @property
    def magnitudes(self) -> Int[np.ndarray, " half"]:
        """The counts of magnitudes, in equal bins over [0, bound]."""
        half = len(self.counts) // 2
        return self.counts[half:] + self.counts[:half][::-1]


def collect_ranges(passes: Callable[[], Iterable[Tensors]], *, num_bins: int = NUM_BINS) -> dict[str, Seen]:
    """Walk a calibration set twice, for the extremes and for the histograms between them.

    No values are kept from batch to batch. The order of the batches matters to the moving averages alone.

    Args:
        passes: starts a pass over the same batches at every call.
        num_bins: bins of each histogram, even.

    Raises:
        DataError: there are no batches, or a value is NaN or infinite.
    """
    extremes: dict[str, _Extremes] = {}
    for position, batch in enumerate(passes()):
        for name, arrays in batch.items():
            extremes.setdefault(name, _Extremes()).see(*_extremes(name, position, arrays))
    if not extremes:
        raise DataError(
            "calibration of ranges", "no batches", "at least one", "Give calibration samples, as a list or a data set."
        )
    histograms = {name: _Histogram(bound=seen.bound, num_bins=num_bins) for name, seen in extremes.items()}
    for batch in passes():
        for name, arrays in batch.items():
            for array in arrays:
                histograms[name].see(array)
    return {
        name: Seen(
            low=seen.low, high=seen.high, mean_low=seen.mean_low, mean_high=seen.mean_high,
            counts=histograms[name].counts, num_zeros=histograms[name].num_zeros,
        )
        for name, seen in extremes.items()
    }  # fmt: skip


def _extremes(name: str, position: int, arrays: tuple[np.ndarray, ...]) -> tuple[float, float]:
    low = min(float(array.min()) for array in arrays)
    high = max(float(array.max()) for array in arrays)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(
            f"calibration of ranges, tensor {name!r} in batch {position}", f"values from {low} to {high}",
            "finite values", "Look for broken samples, or for an overflow in the network before this tensor.",
        )  # fmt: skip
    return low, high


@dataclass(kw_only=True)
class _Extremes:
    """Least and greatest value so far, and the moving averages of the batches'."""

    low: float = np.inf
    high: float = -np.inf
    mean_low: float = 0.0
    mean_high: float = 0.0

    def see(self, low: float, high: float) -> None:
        first = self.low > self.high
        self.mean_low = low if first else MOMENTUM * self.mean_low + (1 - MOMENTUM) * low
        self.mean_high = high if first else MOMENTUM * self.mean_high + (1 - MOMENTUM) * high
        self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def bound(self) -> float:
        return max(abs(self.low), abs(self.high))


class _Histogram:
    """Counts of the values that are not zero."""

    def __init__(self, *, bound: float, num_bins: int) -> None:
        self._half = num_bins // 2
        self._scale = 0.0 if bound == 0 else self._half / bound
        self.counts = np.zeros(num_bins, dtype=np.int64)
        self.num_zeros = 0

    def see(self, array: np.ndarray) -> None:
        values = array[array != 0].astype(np.float64)
        self.num_zeros += array.size - values.size
        bins = np.floor(values * self._scale).astype(np.int64) + self._half
        # The greatest value lies on the last edge; an item that is drawn anew in every pass may lie beyond it.
        self.counts += np.bincount(bins.clip(0, 2 * self._half - 1), minlength=2 * self._half)
