"""Entropy coding: values that come often take fewer bits."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8, UInt32

AT_A_TIME = 2**18
"""Symbols that are decoded at once where no other number is asked for."""
SHARES = np.ldexp(4.0 + np.arange(256) % 4, np.arange(256) // 4 - 2)
"""The shares that levels stand for, four an octave from 1: exact in floating point, so equal on every machine."""
BETWEEN = np.sqrt(SHARES[1:] * SHARES[:-1])
LEVEL_FALL, KIND_FALL = 3, 12
"""By how many levels a step away from what is expected is rarer: of the next value's level, and of the next value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AnsStream:
    """A sequence of values as an asymmetric numeral system codes it (Duda 2009, arXiv 0902.0271).

    ``kinds`` are the distinct values in ascending order, ``levels`` how often each comes, to the nearest of `SHARES`,
    ``words`` the code. A value that has the share p takes -log2(p) bits: the coarse shares cost about 0.002 bits a
    value, and their table, coded in front of the values, a third of a byte a kind. The order of the values is kept, and
    they are decoded in it, as many at a time as is wanted.
    """

    kinds: Shaped[np.ndarray, " kinds"]
    levels: UInt8[np.ndarray, " kinds"]
    num_values: int
    words: UInt32[np.ndarray, " words"]

    @staticmethod
    def of(values: Shaped[np.ndarray, " values"]) -> "AnsStream":
        """Code values."""
        kinds, symbols, counts = np.unique(values, return_inverse=True, return_counts=True)
        levels, words = np.zeros(len(kinds), dtype=np.uint8), np.zeros(0, dtype=np.uint32)
        if len(kinds) > 1:
            levels = np.searchsorted(BETWEEN, counts).astype(np.uint8)
            coder = _coder()
            coder.encode_reverse(symbols.astype(np.int32), _model(levels))
            words = coder.get_compressed()
        return AnsStream(kinds=kinds, levels=levels, num_values=len(values), words=words)

    @property
    def dtype(self) -> np.dtype:
        """The type of the values."""
        return self.kinds.dtype

    @cached_property
    def code(self) -> bytes:
        """The table and the words; kinds of more than a byte lie in front as they are."""
        coder = _coder(self.words)
        if len(self.kinds) > 1:
            steps = np.diff(self.levels.astype(int), prepend=0) + len(SHARES) - 1
            coder.encode_reverse(steps.astype(np.int32), _steps())
            if self.dtype.itemsize == 1:
                gaps = np.diff(self.kinds.astype(int), prepend=-1) - 1
                coder.encode_reverse(gaps.astype(np.int32), _gaps())
                return bytes(coder.get_compressed())
        return bytes(self.kinds) + bytes(coder.get_compressed())

    @property
    def facts(self) -> list[Any]:
        """What `from_code` needs to know beside the code."""
        return [self.dtype.str, self.num_values, len(self.kinds)]

    @staticmethod
    def from_code(code: bytes, dtype: str, num_values: int, num_kinds: int) -> "AnsStream":
        """Read the table; the values stay coded."""
        narrow = np.dtype(dtype).itemsize == 1 and num_kinds > 1
        start = 0 if narrow else num_kinds * np.dtype(dtype).itemsize
        kinds = np.frombuffer(code[:start], dtype=dtype)
        coder, levels = (
            _coder(np.frombuffer(code[start:], dtype="<u4").astype(np.uint32)),
            np.zeros(num_kinds, np.uint8),
        )
        if num_kinds > 1:
            if narrow:
                kinds = (np.cumsum(coder.decode(_gaps(), num_kinds) + 1) - 1).astype(dtype)
            steps = coder.decode(_steps(), num_kinds) - (len(SHARES) - 1)
            levels = np.cumsum(steps).astype(np.uint8)
        return AnsStream(kinds=kinds, levels=levels, num_values=num_values, words=coder.get_compressed())

    def read(self, at_a_time: int = AT_A_TIME) -> Iterator[Shaped[np.ndarray, " some"]]:
        """Decode the values in their order; the last portion may be smaller."""
        coder, model = (_coder(self.words), _model(self.levels)) if len(self.kinds) > 1 else (None, None)
        for start in range(0, self.num_values, at_a_time):
            size = min(at_a_time, self.num_values - start)
            yield np.repeat(self.kinds, size) if coder is None else self.kinds[coder.decode(model, size)]


def entropy_bits(values: Shaped[np.ndarray, " values"]) -> float:
    """Return what no code of single values can do without: N sum_i -p_i log2 p_i for shares p of N values."""
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / len(values))).sum()) if len(values) else 0.0


def _coder(words: UInt32[np.ndarray, " words"] | None = None) -> Any:
    import constriction

    return constriction.stream.stack.AnsCoder() if words is None else constriction.stream.stack.AnsCoder(words)


def _model(levels: UInt8[np.ndarray, " kinds"]) -> Any:
    import constriction

    shares = SHARES[levels]
    return constriction.stream.model.Categorical(shares / shares.sum(), perfect=False)


@cache
def _steps() -> Any:
    """Return the model of steps in both directions, small ones likelier."""
    far = np.abs(np.arange(1 - len(SHARES), len(SHARES)))
    return _model(np.maximum(0, len(SHARES) - 1 - LEVEL_FALL * far).astype(np.uint8))


@cache
def _gaps() -> Any:
    """Return the model of steps ahead, small ones likelier."""
    return _model(np.maximum(0, len(SHARES) - 1 - KIND_FALL * np.arange(len(SHARES))).astype(np.uint8))
