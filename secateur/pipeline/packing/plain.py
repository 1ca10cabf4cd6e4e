"""No coding: values of which nothing can be told, as the last bits of weights, stay as they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from secateur.pipeline.packing.entropy import AT_A_TIME


@dataclass(frozen=True, kw_only=True, eq=False)
class PlainStream:
    """A sequence of values, byte for byte."""

    dtype: np.dtype
    num_values: int
    code: bytes

    @classmethod
    def of(cls, values: Shaped[np.ndarray, " values"]) -> "PlainStream":
        """Take values."""
        return cls(dtype=values.dtype, num_values=len(values), code=values.tobytes())

    @property
    def facts(self) -> list[Any]:
        """What `from_code` needs to know beside the code."""
        return [self.dtype.str, self.num_values]

    @classmethod
    def from_code(cls, code: bytes, dtype: str, num_values: int) -> "PlainStream":
        """Take the code as it is."""
        return cls(dtype=np.dtype(dtype), num_values=num_values, code=code)

    def read(self, at_a_time: int = AT_A_TIME) -> Iterator[Shaped[np.ndarray, " some"]]:
        """Give the values in their order; the last portion may be smaller."""
        values = np.frombuffer(self.code, dtype=self.dtype)
        for start in range(0, self.num_values, at_a_time):
            yield values[start : start + at_a_time]
