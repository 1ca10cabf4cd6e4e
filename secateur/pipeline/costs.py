"""What a network costs as a function of its groups' widths: most costs are bilinear forms, exact for any widths."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64


@runtime_checkable
class Cost(Protocol):
    """A cost of a network as a function of its groups' widths, a whole number of some unit.

    It never falls where a width grows. Widths are int64 [group], in the order of ``groups``.
    """

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups."""

    def vector(self, widths: Mapping[str, int]) -> Int64[np.ndarray, " group"]:
        """Order widths by group."""

    def total(self, widths: Int64[np.ndarray, " group"]) -> int:
        """Return the cost at these widths."""

    def saving(
        self, widths: Int64[np.ndarray, " group"], step: Int64[np.ndarray, " group"]
    ) -> Int64[np.ndarray, " group"]:
        """Return what each group alone would save if it lost ``step[g]`` channels; a negative step is its price."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CostTerms:
    """A cost that is bilinear in the widths of the groups.

    ``cost(w) = constant + sum_n coefficient[n] * (a0 + A w)[n] * (b0 + B w)[n]``, where w holds one width a group in
    the order of ``groups``. A term is one layer: a and b are its numbers of output and input channels, and the
    coefficient counts what is spent on each pair of them.
    """

    groups: tuple[str, ...]
    coefficient: Int64[np.ndarray, " term"]
    a0: Int64[np.ndarray, " term"]
    A: Int64[np.ndarray, "term group"]
    b0: Int64[np.ndarray, " term"]
    B: Int64[np.ndarray, "term group"]
    constant: int = 0

    def vector(self, widths: Mapping[str, int]) -> Int64[np.ndarray, " group"]:
        """Order widths by group; groups that are missing from the mapping raise KeyError."""
        return np.array([widths[name] for name in self.groups], dtype=np.int64)

    def total(self, widths: Int64[np.ndarray, " group"]) -> int:
        """Return the cost at these widths."""
        return self.constant + int(self.coefficient @ (self._a(widths) * self._b(widths)))

    def saving(
        self, widths: Int64[np.ndarray, " group"], step: Int64[np.ndarray, " group"] | None = None
    ) -> Int64[np.ndarray, " group"]:
        """Return what each group alone would save if it lost ``step[g]`` channels (one by default), exactly.

        ``cost(w) - cost(w - s e_g) = s sum_n c_n (a_n B_ng + b_n A_ng) - s^2 sum_n c_n A_ng B_ng``.
        """
        s = np.ones(len(self.groups), dtype=np.int64) if step is None else step
        linear = (self.coefficient * self._a(widths)) @ self.B + (self.coefficient * self._b(widths)) @ self.A
        quadratic = self.coefficient @ (self.A * self.B)
        return s * linear - s * s * quadratic

    def _a(self, widths: Int64[np.ndarray, " group"]) -> Int64[np.ndarray, " term"]:
        return self.a0 + self.A @ widths

    def _b(self, widths: Int64[np.ndarray, " group"]) -> Int64[np.ndarray, " term"]:
        return self.b0 + self.B @ widths
