"""How long a network's layers take as a function of its groups' widths: a table that was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from secateur.artifacts import LatencyGrid
from secateur.pipeline.costs import CostTerms

NANO = 1e9


@dataclass(frozen=True, kw_only=True, eq=False)
class LatencyCost:
    """The nanoseconds that all measured layers take, one after the other.

    ``cost(w) = sum_n T_n(ceil a_n(w), ceil b_n(w))``: the lengths a and b of a layer's weight are linear in the widths
    (the sides of the terms of ``lengths``, one term a layer), and are rounded up to the grid's. T is made monotone: no
    layer counts as slower than a wider one, since with zeros in it the wider one computes the same.
    """

    lengths: CostTerms
    table: Int64[np.ndarray, " entry"]
    starts: Int64[np.ndarray, " term"]
    rows: "_Steps"
    columns: "_Steps"

    @staticmethod
    def of(lengths: CostTerms, grids: Sequence[LatencyGrid]) -> "LatencyCost":
        """Make the cost from the lengths of the layers' weights and their grids, one a term."""
        flat = [_monotone(grid.latency_s * NANO).round().astype(np.int64).reshape(-1) for grid in grids]
        return LatencyCost(
            lengths=lengths,
            table=np.concatenate([np.zeros(0, dtype=np.int64), *flat]),
            starts=_starts([len(part) for part in flat]),
            rows=_Steps.of([grid.rows for grid in grids]),
            columns=_Steps.of([grid.columns for grid in grids]),
        )

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups."""
        return self.lengths.groups

    def vector(self, widths: Mapping[str, int]) -> Int64[np.ndarray, " group"]:
        """Order widths by group; groups that are missing from the mapping raise KeyError."""
        return self.lengths.vector(widths)

    def total(self, widths: Int64[np.ndarray, " group"]) -> int:
        """Return the nanoseconds at these widths."""
        a, b = self._sides(widths)
        return int(self._latency(np.arange(len(a)), a, b).sum())

    def saving(
        self, widths: Int64[np.ndarray, " group"], step: Int64[np.ndarray, " group"]
    ) -> Int64[np.ndarray, " group"]:
        """Return what each group alone would save if it lost ``step[g]`` channels; a negative step is its price."""
        a, b = self._sides(widths)
        layer, group = np.nonzero(self.lengths.A + self.lengths.B)
        fewer = (
            a[layer] - step[group] * self.lengths.A[layer, group],
            b[layer] - step[group] * self.lengths.B[layer, group],
        )
        saved = self._latency(layer, a[layer], b[layer]) - self._latency(layer, *fewer)
        total = np.zeros(len(widths), dtype=np.int64)
        np.add.at(total, group, saved)
        return total

    def layer(self, layer: int, widths: Int64[np.ndarray, "group case"]) -> Int64[np.ndarray, " case"]:
        """Return the nanoseconds that one layer takes at each of these widths."""
        sides = self.lengths
        a, b = sides.a0[layer] + sides.A[layer] @ widths, sides.b0[layer] + sides.B[layer] @ widths
        return self._latency(np.full(len(a), layer), a, b)

    def _sides(
        self, widths: Int64[np.ndarray, " group"]
    ) -> tuple[Int64[np.ndarray, " term"], Int64[np.ndarray, " term"]]:
        return self.lengths.a0 + self.lengths.A @ widths, self.lengths.b0 + self.lengths.B @ widths

    def _latency(
        self, layer: Int64[np.ndarray, " case"], a: Int64[np.ndarray, " case"], b: Int64[np.ndarray, " case"]
    ) -> Int64[np.ndarray, " case"]:
        """Return what layers take at these lengths."""
        row, column = self.rows.at(layer, a), self.columns.at(layer, b)
        return self.table[self.starts[layer] + row * self.columns.count[layer] + column]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Steps:
    """For every layer and length which of the grid's lengths is the next: ``index[starts[layer] + length]``."""

    index: Int64[np.ndarray, " lengths"]
    starts: Int64[np.ndarray, " term"]
    count: Int64[np.ndarray, " term"]

    @staticmethod
    def of(grids: Sequence[Int64[np.ndarray, "..."]]) -> "_Steps":
        index = [np.searchsorted(grid, np.arange(grid[-1] + 1)).astype(np.int64) for grid in grids]
        return _Steps(
            index=np.concatenate([np.zeros(0, dtype=np.int64), *index]),
            starts=_starts([len(part) for part in index]),
            count=np.array([len(grid) for grid in grids], dtype=np.int64),
        )

    def at(self, layer: Int64[np.ndarray, " case"], length: Int64[np.ndarray, " case"]) -> Int64[np.ndarray, " case"]:
        return self.index[self.starts[layer] + length]


def _starts(sizes: Sequence[int]) -> Int64[np.ndarray, " term"]:
    """Return where each part begins in a concatenation."""
    return np.cumsum([0, *sizes], dtype=np.int64)[:-1]


def _monotone(latency: np.ndarray) -> np.ndarray:
    """Return for each width the least of its own latency and those of all wider layers."""
    for axis in (0, 1):
        latency = np.flip(np.minimum.accumulate(np.flip(latency, axis), axis), axis)
    return latency
