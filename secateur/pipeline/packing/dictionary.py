"""Dictionary coding: values are told by those that came before them."""

import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from secateur.pipeline.packing.entropy import AT_A_TIME

LEAST_MEMORY, LARGEST_MEMORY = 2**12, 2**26


@dataclass(frozen=True, kw_only=True, eq=False)
class LzmaStream:
    """A sequence of values as LZMA codes their bytes: by what was seen before, and by the byte in front.

    Neighbours in a kernel, and channels that are rounded by scales of their own, tell something of one another, which
    goes below the entropy of single values. Bytes that nothing can be told of stay as they are, at a few bytes in all.
    """

    dtype: np.dtype
    num_values: int
    code: bytes

    @staticmethod
    def of(values: Shaped[np.ndarray, " values"]) -> "LzmaStream":
        """Code values."""
        code = lzma.compress(values.tobytes(), format=lzma.FORMAT_RAW, filters=_filters(values.dtype, len(values)))
        return LzmaStream(dtype=values.dtype, num_values=len(values), code=code)

    @property
    def facts(self) -> list[Any]:
        """What `from_code` needs to know beside the code."""
        return [self.dtype.str, self.num_values]

    @staticmethod
    def from_code(code: bytes, dtype: str, num_values: int) -> "LzmaStream":
        """Take the code as it is."""
        return LzmaStream(dtype=np.dtype(dtype), num_values=num_values, code=code)

    def read(self, at_a_time: int = AT_A_TIME) -> Iterator[Shaped[np.ndarray, " some"]]:
        """Decode the values in their order; the last portion may be smaller."""
        coder = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=_filters(self.dtype, self.num_values))
        given = self.code
        for start in range(0, self.num_values, at_a_time):
            wanted = min(at_a_time, self.num_values - start) * self.dtype.itemsize
            found = b""
            while len(found) < wanted and (part := coder.decompress(given, wanted - len(found))):
                found, given = found + part, b""
            yield np.frombuffer(found, dtype=self.dtype)


def _filters(dtype: np.dtype, num_values: int) -> list[dict[str, int]]:
    """Return LZMA's settings: values begin at multiples of their size, four bits of the byte in front count at most.

    No more is remembered than there is: to lay out the memory of the preset takes longer than to code a small tensor.
    """
    aligned = dtype.itemsize.bit_length() - 1
    return [
        {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4 - aligned, "lp": aligned, "pb": aligned,
         "dict_size": min(LARGEST_MEMORY, max(LEAST_MEMORY, num_values * dtype.itemsize))}
    ]  # fmt: skip
