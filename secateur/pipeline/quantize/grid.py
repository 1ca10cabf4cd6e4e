"""Grids of eight bits: which integers, or floats of eight bits, stand for a range of real numbers."""

from dataclasses import dataclass
from functools import cached_property

import ml_dtypes
import numpy as np

LEAST_SCALE = 1e-12
"""A range narrower than its grid at this scale holds nothing but zero for all that float32 arithmetic can tell."""
ZERO_SCALE = 1.0 / 127
"""The scale of what was never anything but zero: any is right for it, this one leaves it the range of -1 to 1."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """An interval of real numbers that holds zero or not; a grid takes zero in."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The affine map of a grid: real = scale * (number - zero_point)."""

    scale: float
    zero_point: int


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The numbers of a type from ``low`` to ``high``; a symmetric grid has zero in its middle, zero point 0.

    The symmetric scale is max(|low|, |high|) / 127; the other is (high - low) / 255 with the zero point rounded to an
    integer, so that zero is represented exactly (Jacob et al. 2018, arXiv 1712.05877, equation 1). Floats of
    four exponent and three mantissa bits (E4M3) reach to 448 and saturate there (Micikevicius et al. 2022, arXiv
    2209.05433).
    """

    dtype: np.dtype
    symmetric: bool

    @cached_property
    def integral(self) -> bool:
        """Whether its numbers are integers."""
        return bool(np.issubdtype(self.dtype, np.integer))

    @cached_property
    def low(self) -> int:
        """The least number."""
        return int((np.iinfo if self.integral else ml_dtypes.finfo)(self.dtype).min)

    @cached_property
    def high(self) -> int:
        """The greatest number."""
        return int((np.iinfo if self.integral else ml_dtypes.finfo)(self.dtype).max)

    def steps(self, wanted: Range) -> Steps:
        """Return scale and zero point for a range; the scale is positive, finite and a float32."""
        low, high = min(wanted.low, 0.0), max(wanted.high, 0.0)
        width = max(-low, high) / self.high if self.symmetric else (high - low) / (self.high - self.low)
        scale = float(np.float32(width)) if width > LEAST_SCALE else ZERO_SCALE
        if self.symmetric:
            return Steps(scale=scale, zero_point=0)
        return Steps(scale=scale, zero_point=int(np.clip(round(self.low - low / scale), self.low, self.high)))

    def rounded(self, values: np.ndarray, steps: Steps) -> np.ndarray:
        """Return what the grid makes of real numbers, in float64; ties go to the even number, as in ONNX."""
        if not self.integral:
            return self.floats(values / steps.scale).astype(np.float64) * steps.scale
        integers = np.rint(values / steps.scale) + steps.zero_point
        return (integers.clip(self.low, self.high) - steps.zero_point) * steps.scale

    def floats(self, scaled: np.ndarray) -> np.ndarray:
        """Return the nearest of a type's floats, those beyond it its last."""
        return scaled.clip(self.low, self.high).astype(self.dtype)


INT8 = Grid(dtype=np.dtype(np.int8), symmetric=True)
UINT8 = Grid(dtype=np.dtype(np.uint8), symmetric=False)
FLOAT8 = Grid(dtype=np.dtype(ml_dtypes.float8_e4m3fn), symmetric=True)
