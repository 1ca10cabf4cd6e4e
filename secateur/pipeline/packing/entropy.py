"""Entropy coding: values that come often take fewer bits."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped, UInt32

AT_A_TIME = 2**18
"""Symbols that are decoded at once where no other number is asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """A sequence of values as an asymmetric numeral system codes it (Duda 2009, arXiv 0902.0271).

    ``kinds`` are the distinct values in ascending order, ``counts`` how often each comes, ``words`` the code. A value
    that comes n_i times of N takes -log2(n_i / N) bits, to within the rounding of chances to 24 bits. The order of the
    values is kept, and they are decoded in it, as many at a time as is wanted.
    """

    kinds: Shaped[np.ndarray, " kinds"]
    counts: Int[np.ndarray, " kinds"]
    words: UInt32[np.ndarray, " words"]

    @staticmethod
    def of(values: Shaped[np.ndarray, " values"]) -> "Stream":
        """Code values."""
        kinds, symbols, counts = np.unique(values, return_inverse=True, return_counts=True)
        words = np.zeros(0, dtype=np.uint32)
        if len(kinds) > 1:
            coder = _stack().AnsCoder()
            coder.encode_reverse(symbols.astype(np.int32), _model(counts))
            words = coder.get_compressed()
        return Stream(kinds=kinds, counts=counts, words=words)

    @cached_property
    def num_values(self) -> int:
        """How many values there are."""
        return int(self.counts.sum())

    @property
    def table(self) -> Shaped[np.ndarray, " kinds"]:
        """The counts in the smallest type that holds them."""
        return self.counts.astype(np.min_scalar_type(int(self.counts.max(initial=0))))

    @property
    def num_bytes(self) -> int:
        """What code and tables take."""
        return self.words.nbytes + self.kinds.nbytes + self.table.nbytes

    @property
    def entropy_bits(self) -> float:
        """The bits that no code of single values with these counts can do without: N sum_i -p_i log2 p_i."""
        shares = self.counts / max(1, self.num_values)
        return float(-(self.counts * np.log2(shares)).sum()) if self.num_values else 0.0

    def read(self, at_a_time: int = AT_A_TIME) -> Iterator[Shaped[np.ndarray, " some"]]:
        """Decode the values in their order; the last portion may be smaller."""
        coder = _stack().AnsCoder(self.words) if len(self.kinds) > 1 else None
        model = _model(self.counts) if len(self.kinds) > 1 else None
        for start in range(0, self.num_values, at_a_time):
            size = min(at_a_time, self.num_values - start)
            yield np.repeat(self.kinds, size) if coder is None else self.kinds[coder.decode(model, size)]


def _stack() -> Any:
    import constriction

    return constriction.stream.stack


def _model(counts: Int[np.ndarray, " kinds"]) -> Any:
    import constriction

    return constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
