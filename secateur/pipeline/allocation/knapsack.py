"""The widths that keep the most saliency within a budget, as a multiple-choice knapsack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from secateur.artifacts import Group
from secateur.pipeline.allocation.programme import Programme
from secateur.pipeline.allocation.search import Search
from secateur.pipeline.allocation.theis import worth_for_cost
from secateur.pipeline.costs import Cost


@dataclass(frozen=True, kw_only=True)
class Knapsack:
    """Choose one width a group so that the saliency kept is as large as possible within the budget.

    Which channels a group keeps at a width is settled: its most salient ones, so that a block of them goes only after
    all that are worth less, as in the latency knapsack of Shen et al. (2022, arXiv 2110.10811). What a width costs
    depends on its neighbours'. Costs are therefore taken as if all others stayed as they are, which is exact for a
    change of one group; the multiple-choice knapsack of these is solved exactly, its solution is shrunk and refilled
    until it is within a step of the true budget, and the next problem starts there. Where that is no better, the range
    in which widths may move is halved, until nothing moves any more. The first widths are those of the greedy
    allocation, so that the result is never worth less. Where the whole problem fits into a `Programme`, the widths that
    it finds are taken if they are worth more. `saliency_bound` says how far from the best the result can be at most.

    ``choices`` is the largest number of widths of a group in one problem; costs are counted in units of the budget's
    share 1 / ``resolution``, rounded up, or of 1 where that is more.
    """

    choices: int = 48
    resolution: int = 50_000

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
        search.fit(budget, worth_for_cost)
        best, value, reach = search.widths.copy(), search.value, search.whole.copy()
        while (reach >= search.steps).any():
            search.move_to(self._solved(search, best, reach, budget))
            search.fit(budget, worth_for_cost)
            if search.value > value:
                best, value = search.widths.copy(), search.value
            else:
                reach //= 2
        programme = Programme.of(search, budget)
        proposed = None if programme is None else programme.solve().widths
        if proposed is not None:
            search.move_to(proposed)
            search.fit(budget, worth_for_cost)
        if search.value <= value:
            search.move_to(best)
        return search.masks()

    def _solved(
        self, search: Search, around: Int64[np.ndarray, " group"], reach: Int64[np.ndarray, " group"], budget: int
    ) -> Int64[np.ndarray, " group"]:
        """Return the widths of most saliency at the costs that each has while all others are ``around``."""
        options = [self._options(search, g, int(around[g]), int(reach[g])) for g in range(len(around))]
        changes = np.zeros((len(options), max(map(len, options))), dtype=np.int64)
        for k in range(changes.shape[1]):
            widths = np.array([own[min(k, len(own) - 1)] for own in options])
            changes[:, k] = -search.cost.saving(around, around - widths)
        prices = [row[: len(own)] for row, own in zip(changes, options, strict=True)]
        worths = [w[-1] - w[n - own] for w, n, own in zip(search.worth, search.whole, options, strict=True)]
        chosen = solve_knapsack(prices, worths, budget - search.cost.total(around), self.resolution)
        return np.array([own[k] for own, k in zip(options, chosen, strict=True)], dtype=np.int64)

    def _options(self, search: Search, g: int, around: int, reach: int) -> Int64[np.ndarray, " option"]:
        """Return a group's allowed widths within reach, thinned evenly; the present one is among them."""
        allowed = search.allowed(g)
        near = allowed[abs(allowed - around) <= reach]
        thinned = near[np.unique(np.linspace(0, len(near) - 1, self.choices).round().astype(np.int64))]
        return np.union1d(thinned, [around])


def solve_knapsack(
    prices: Sequence[Int64[np.ndarray, "..."]],
    worths: Sequence[Float64[np.ndarray, "..."]],
    capacity: int,
    resolution: int,
) -> list[int]:
    """Return one option an item, of the largest worth together among those whose prices are within the capacity.

    Solved by dynamic programming over what is spent (Sinha and Zoltners 1979, Operations Research 27, 503-515). Its
    unit is 1 or, where that is more, the capacity above the cheapest options / ``resolution``, and prices are rounded
    up to it. The cheapest options are the answer where they alone exceed the capacity.
    """
    cheapest = [int(price.min()) for price in prices]
    room = max(0, capacity - sum(cheapest))
    unit = max(1, -(-room // resolution))
    size = room // unit + 1
    best = np.zeros(size)
    taken = np.zeros((len(prices), size), dtype=np.int32)
    for item, (price, worth) in enumerate(zip(prices, worths, strict=True)):
        before, best = best, np.full(size, -np.inf)
        for option, (units, gain) in enumerate(zip(-(-(price - cheapest[item]) // unit), worth, strict=True)):
            if units < size:
                found = before[: size - units] + gain
                better = found > best[units:]
                best[units:][better] = found[better]
                taken[item, units:][better] = option
    spent = size - 1
    chosen = []
    for item in reversed(range(len(prices))):
        option = int(taken[item, spent])
        chosen.append(option)
        spent -= int(-(-(prices[item][option] - cheapest[item]) // unit))
    return chosen[::-1]
