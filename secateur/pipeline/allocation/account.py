"""What a network costs while its widths change step by step."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from secateur.pipeline.costs import Cost, CostTerms


@runtime_checkable
class Account(Protocol):
    """The cost at widths under way."""

    @property
    def total(self) -> int:
        """The cost now."""

    def saving(self, step: Int64[np.ndarray, " group"]) -> Int64[np.ndarray, " group"]:
        """Return what each group alone would save if it lost ``step[g]`` channels; a negative step is its price."""

    def change(self, group: int, channels: int) -> None:
        """Widen a group by so many channels, or narrow it where they are negative."""


def open_account(cost: Cost, widths: Int64[np.ndarray, " group"]) -> Account:
    """Return the running cost at these widths, kept up to date in the quickest way that the cost allows."""
    return _Bilinear.of(cost, widths) if isinstance(cost, CostTerms) else _Recounted(cost=cost, widths=widths.copy())


@dataclass(kw_only=True, eq=False)
class _Bilinear:
    """A cost that is quadratic in the widths, so that what a channel saves is linear.

    ``gradient`` is kept up to date with one row of ``curvature`` a step.
    """

    total: int
    gradient: Int64[np.ndarray, " group"]
    curvature: Int64[np.ndarray, "group group"]
    own: Int64[np.ndarray, " group"]

    @staticmethod
    def of(terms: CostTerms, widths: Int64[np.ndarray, " group"]) -> "_Bilinear":
        one_sided = (terms.coefficient[:, None] * terms.A).T @ terms.B
        curvature = one_sided + one_sided.T
        own = np.diagonal(curvature) // 2
        # At steps of one channel the saving is the gradient less half the curvature of the group with itself.
        gradient = terms.saving(widths) + own
        return _Bilinear(total=terms.total(widths), gradient=gradient, curvature=curvature, own=own)

    def saving(self, step: Int64[np.ndarray, " group"]) -> Int64[np.ndarray, " group"]:
        return step * self.gradient - step * step * self.own

    def change(self, group: int, channels: int) -> None:
        self.total += channels * int(self.gradient[group]) + channels * channels * int(self.own[group])
        self.gradient += channels * self.curvature[:, group]


@dataclass(kw_only=True, eq=False)
class _Recounted:
    """Any other cost, asked anew at every step."""

    cost: Cost
    widths: Int64[np.ndarray, " group"]

    @property
    def total(self) -> int:
        return self.cost.total(self.widths)

    def saving(self, step: Int64[np.ndarray, " group"]) -> Int64[np.ndarray, " group"]:
        return self.cost.saving(self.widths, step)

    def change(self, group: int, channels: int) -> None:
        self.widths[group] += channels
