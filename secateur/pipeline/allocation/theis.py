"""Fisher pruning's trade of loss for cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from secateur.artifacts import Group
from secateur.errors import BudgetError
from secateur.pipeline.allocation.search import Search
from secateur.pipeline.costs import Cost

GIGA = 1e9


@dataclass(frozen=True, kw_only=True)
class Theis:
    """Remove the step with the smallest Delta_i - beta Delta C_i first (Theis et al. 2018, arXiv 1801.05787, eq. 13).

    ``beta`` is in units of the saliency for 1e9 units of the cost: nats a giga-multiply-add for Fisher saliencies and
    macs, where the paper's 3e-4 to 3e-1 nats a GFLOP, which count multiplication and addition apart, are 6e-4 to 6e-1.
    The saving Delta C_i is evaluated again after every step. With ``by_class`` classes of equal topology lose channels
    in equal shares.
    """

    beta: float = 0.02
    by_class: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.beta < float("inf"):
            raise BudgetError(
                "allocator theis, beta", f"{self.beta}", "a finite number of at least 0", "Try 6e-4 to 6e-1 for macs."
            )

    def __call__(
        self,
        saliency: Mapping[str, Tensor],
        cost: Cost,
        budget: int,
        groups: Sequence[Group],
        floors: Mapping[str, int] | None = None,
    ) -> dict[str, Tensor]:
        """Return the channels that stay, see `Allocator`."""
        search = Search.of(saliency, cost, budget, groups, floors)
        search.fit(budget, self._order, by_class=self.by_class)
        return search.masks()

    def _order(
        self, lost: Float64[np.ndarray, " group"], saving: Int64[np.ndarray, " group"],
        step: Int64[np.ndarray, " group"],
    ) -> Float64[np.ndarray, " group"]:  # fmt: skip
        return lost - self.beta * saving / GIGA


def worth_for_cost(
    lost: Float64[np.ndarray, " group"], saving: Int64[np.ndarray, " group"], step: Int64[np.ndarray, " group"]
) -> Float64[np.ndarray, " group"]:
    """Rate steps by the saliency that they lose for what they save, beta_i = Delta_i / Delta C_i."""
    return lost / np.maximum(saving, 1)
