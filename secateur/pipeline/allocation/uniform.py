"""The same share of every group."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from secateur.artifacts import Group
from secateur.pipeline.allocation.search import Search
from secateur.pipeline.costs import Cost


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Keep one share of all groups, the largest that the budget allows, rounded up to allowed widths and floors.

    What rounding leaves of the budget is given to the most valuable steps, at first no more than one a group.
    """

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
        # Widths change only where the share passes a whole number of some group's channels.
        shares = np.unique(np.concatenate([np.arange(n + 1) / n for n in search.whole]))
        first_over = bisect.bisect_left(shares, True, key=lambda share: cost.total(_widths(search, share)) > budget)
        search.move_to(_widths(search, shares[first_over - 1]))
        if first_over < len(shares):
            search.refill(budget, most=_widths(search, shares[first_over]))
        search.refill(budget)
        return search.masks()


def _widths(search: Search, share: float) -> Int64[np.ndarray, " group"]:
    """Return the allowed widths that keep at least this share of every group."""
    # A share is a quotient of integers, which the product may miss by a rounding error.
    wanted = np.ceil(share * search.whole - 1e-6).astype(np.int64)
    stepped = -(-wanted // search.steps) * search.steps
    return np.minimum(search.whole, np.maximum(stepped, search.smallest))
