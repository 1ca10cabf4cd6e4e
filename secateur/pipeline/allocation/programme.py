"""Widths within a budget as an integer linear programme, whose dual bound says how far from the best any widths are."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from secateur.pipeline.allocation.search import Search
from secateur.pipeline.costs import CostTerms
from secateur.pipeline.costs_latency import LatencyCost

MOST_VARIABLES = 2000
"""Beyond so many a programme is not written down."""


@dataclass(frozen=True, kw_only=True)
class Solved:
    """The best widths that were found, None where there are none, and what no widths can exceed; both in saliency."""

    widths: Int64[np.ndarray, " group"] | None
    bound: float


@dataclass(kw_only=True, eq=False)
class Programme:
    """Maximise the saliency of the steps that stay, ``x`` of 0 or 1 a step, within a budget.

    Steps of a group stay in the order of their worth: x_j >= x_(j+1). A cost that is a sum of functions of one or two
    widths is linear in x and in products y = x_p x_q of steps of two groups, with y >= x_p + x_q - 1, and y at most
    x_p and x_q where the product saves something. A bilinear cost needs one product y = x_p u a step, with the other
    group's width above its floor u in [0, 1] (McCormick 1976, Mathematical Programming 10, 147-175).
    """

    search: Search
    steps: list[Int64[np.ndarray, "..."]]
    starts: Int64[np.ndarray, " group"]
    gains: Float64[np.ndarray, " step"]
    prices: list[float]
    rows: list[tuple[list[int], list[float], float]] = field(default_factory=list)

    @staticmethod
    def of(search: Search, budget: int) -> "Programme | None":
        """Write the programme down; None for costs of more than two groups at once, or where it becomes too large."""
        allowed = [search.allowed(g) for g in range(len(search.groups))]
        worth = [w[-1] - w[n - a] for w, n, a in zip(search.worth, search.whole, allowed, strict=True)]
        steps = [np.diff(a) for a in allowed]
        num = sum(map(len, steps))
        found = Programme(
            search=search, steps=steps, starts=np.cumsum([0, *map(len, steps)])[:-1],
            gains=np.concatenate([np.zeros(0), *(np.diff(w) for w in worth)]), prices=[0.0] * num,
        )  # fmt: skip
        cost = search.cost
        if isinstance(cost, CostTerms):
            written = found._add_terms(cost)
        else:
            written = isinstance(cost, LatencyCost) and found._add_layers(cost, allowed)
        if not written:
            return None
        for start, own in zip(found.starts.tolist(), steps, strict=True):
            found.rows += [([j + 1, j], [1.0, -1.0], 0.0) for j in range(start, start + len(own) - 1)]
        scale = max(budget, 1)
        spent = [price / scale for price in found.prices]
        found.rows.append((list(range(len(spent))), spent, (budget - cost.total(search.smallest)) / scale))
        return found

    def solve(self, *, num_nodes: int = 20, gap: float = 1e-4) -> Solved:
        """Search by branch and bound, at most so many nodes, until the bound is within a share of the best.

        The solver keeps the budget to a millionth.
        """
        num, steps = len(self.prices), len(self.gains)
        least = self.search.value_at(self.search.smallest)
        if not steps:
            return Solved(widths=self.search.smallest.copy(), bound=least)
        scale = max(float(self.gains.sum()), np.finfo(float).tiny)
        column = [index for indices, _, _ in self.rows for index in indices]
        row = [n for n, (indices, _, _) in enumerate(self.rows) for _ in indices]
        value = [value for _, values, _ in self.rows for value in values]
        matrix = coo_array((value, (row, column)), shape=(len(self.rows), num)).tocsr()
        limits = np.array([limit for _, _, limit in self.rows])
        found = milp(
            np.concatenate([-self.gains / scale, np.zeros(num - steps)]), bounds=Bounds(0, 1),
            integrality=np.arange(num) < steps, constraints=LinearConstraint(matrix, -np.inf, limits),
            options={"node_limit": num_nodes, "mip_rel_gap": gap},
        )  # fmt: skip
        dual = -found.mip_dual_bound if found.mip_dual_bound is not None else 1.0
        bound = least + scale * min(1.0, dual if np.isfinite(dual) else 1.0)
        return Solved(widths=None if found.x is None else self._widths(found.x), bound=bound)

    def _widths(self, x: np.ndarray) -> Int64[np.ndarray, " group"]:
        stay = np.split(x[: len(self.gains)] > 0.5, self.starts[1:])
        above = [int(own[kept].sum()) for own, kept in zip(self.steps, stay, strict=True)]
        return self.search.smallest + np.array(above, dtype=np.int64)

    def _add_terms(self, terms: CostTerms) -> bool:
        """Enter a bilinear cost, C(lo + u) = C(lo) + sum_g (c_g u_g + k_gg u_g^2 / 2) + sum_(g<h) k_gh u_g u_h.

        Tell whether it is small enough.
        """
        one_sided = (terms.coefficient[:, None] * terms.A).T @ terms.B
        curvature = one_sided + one_sided.T
        pairs = list(zip(*(each.tolist() for each in np.nonzero(np.triu(curvature, 1))), strict=True))
        if len(self.gains) + sum(min(len(self.steps[g]), len(self.steps[h])) for g, h in pairs) > MOST_VARIABLES:
            return False
        own, low = np.diagonal(curvature) // 2, self.search.smallest
        slope = terms.saving(low) + own
        for g, steps in enumerate(self.steps):
            end = np.cumsum(steps)
            self._charge(g, slope[g] * steps + own[g] * (end**2 - (end - steps) ** 2))
        room = np.array([int(own.sum()) for own in self.steps])
        for g, h in pairs:
            one, other = (g, h) if len(self.steps[g]) <= len(self.steps[h]) else (h, g)
            shares = (self.steps[other] / max(room[other], 1)).tolist()
            its = list(range(self.starts[other], self.starts[other] + len(shares)))
            for j, step in enumerate(self.steps[one].tolist()):
                y = self._variable(float(curvature[g, h] * step * room[other]))
                self.rows.append(([y, self.starts[one] + j, *its], [-1.0, 1.0, *shares], 1.0))
        return True

    def _add_layers(self, cost: LatencyCost, allowed: list[Int64[np.ndarray, "..."]]) -> bool:
        """Enter a table of layers, each a function of the widths of at most two groups; tell whether all could be."""
        touched = (cost.lengths.A + cost.lengths.B) > 0
        if (touched.sum(1) > 2).any() or len(self.gains) > MOST_VARIABLES:
            return False
        for layer in range(len(touched)):
            groups = np.flatnonzero(touched[layer]).tolist()
            if groups:
                shape = tuple(len(allowed[g]) for g in groups)
                grid = np.meshgrid(*(allowed[g] for g in groups), indexing="ij")
                widths = np.tile(self.search.smallest[:, None], (1, grid[0].size))
                widths[groups] = np.stack([axis.ravel() for axis in grid])
                self._add_table(groups, cost.layer(layer, widths).reshape(shape))
            if len(self.prices) > MOST_VARIABLES:
                return False
        return True

    def _add_table(self, groups: list[int], table: Int64[np.ndarray, "..."]) -> None:
        if len(groups) == 1:
            self._charge(groups[0], np.diff(table))
            return
        one, other = groups
        self._charge(one, np.diff(table[:, 0]))
        self._charge(other, np.diff(table[0]))
        mixed = np.diff(np.diff(table, axis=0), axis=1)
        for p, q in zip(*np.nonzero(mixed), strict=True):
            first, second = int(self.starts[one] + p), int(self.starts[other] + q)
            y = self._variable(float(mixed[p, q]))
            if mixed[p, q] > 0:
                self.rows.append(([y, first, second], [-1.0, 1.0, 1.0], 1.0))
            else:
                self.rows += [([y, first], [1.0, -1.0], 0.0), ([y, second], [1.0, -1.0], 0.0)]

    def _charge(self, g: int, prices: np.ndarray) -> None:
        for j, price in enumerate(prices.tolist()):
            self.prices[int(self.starts[g]) + j] += price

    def _variable(self, price: float) -> int:
        self.prices.append(price)
        return len(self.prices) - 1
