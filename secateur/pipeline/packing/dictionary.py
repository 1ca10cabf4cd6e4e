"""Dictionary coding: values are told by those that came before them."""

import lzma
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from secateur.pipeline.packing.entropy import AT_A_TIME
from secateur.pipeline.packing.plain import PlainStream

LEAST_MEMORY, LARGEST_MEMORY = 2**12, 2**26


@dataclass(frozen=True, kw_only=True, eq=False)
class LzmaStream(PlainStream):
    """A sequence of values as LZMA codes their bytes: by what was seen before, and by the byte in front.

    Neighbours in a kernel, and channels that are rounded by scales of their own, tell something of one another, which
    goes below the entropy of single values.
    """

    @classmethod
    def of(cls, values: Shaped[np.ndarray, " values"]) -> "PlainStream":
        """Code values."""
        filters = _filters(values.dtype, len(values))
        code = lzma.compress(values.tobytes(), format=lzma.FORMAT_RAW, filters=filters)
        return cls(dtype=values.dtype, num_values=len(values), code=code)

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
