"""How much saliency any widths within a budget could keep."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack, vstack
from torch import Tensor

from secateur.artifacts import Group
from secateur.pipeline.allocation.programme import Programme
from secateur.pipeline.allocation.search import Search
from secateur.pipeline.costs import Cost, CostTerms


def saliency_bound(
    saliency: Mapping[str, Tensor],
    cost: Cost,
    budget: int,
    groups: Sequence[Group],
    floors: Mapping[str, int] | None = None,
) -> float:
    """Return a number that the saliency kept within the budget cannot exceed, whatever the allocator.

    It is what `Programme` proves in a few nodes of its search, within a ten-thousandth of the best where these suffice.
    Where the programme would be too large, it is for bilinear costs the optimum of a linear one: channels may stay in
    part, and each product of two widths is replaced by the larger of its two lower linear envelopes over the widths'
    ranges (McCormick 1976, Mathematical Programming 10, 147-175). For other costs every group alone is then as wide as
    the budget allows while all others are at their floors. Raises what the allocators raise.
    """
    search = Search.of(saliency, cost, budget, groups, floors)
    everything = sum(float(worth[-1]) for worth in search.worth)
    if search.account.total <= budget or not search.groups:
        return everything
    programme = Programme.of(search, budget)
    if programme is not None:
        return min(everything, programme.solve().bound)
    alone = _alone(search, budget)
    return min(alone, _relaxed(search, cost, budget)) if isinstance(cost, CostTerms) else alone


def _alone(search: Search, budget: int) -> float:
    found = 0.0
    for g, worth in enumerate(search.worth):
        low, high = int(search.smallest[g]), int(search.whole[g])
        while low < high:
            middle = (low + high + 1) // 2
            widths = search.smallest.copy()
            widths[g] = middle
            low, high = (middle, high) if search.cost.total(widths) <= budget else (low, middle - 1)
        found += float(worth[-1] - worth[search.whole[g] - low])
    return found


def _relaxed(search: Search, terms: CostTerms, budget: int) -> float:
    """Maximise the saliency over shares of channels above the floors and lower envelopes of the terms."""
    floor, whole = search.smallest, search.whole
    free = whole - floor
    owner = np.repeat(np.arange(len(free)), free)
    columns = len(owner)
    # The channels above the floor from the most important on; the floor keeps the most important of all.
    gains = np.concatenate([np.diff(w)[: int(n)][::-1] for w, n in zip(search.worth, free, strict=True)])
    widen = csr_array((np.ones(columns), (owner, np.arange(columns))), shape=(len(free), columns))
    low_a, low_b = terms.a0 + terms.A @ floor, terms.b0 + terms.B @ floor
    high_a, high_b = terms.a0 + terms.A @ whole, terms.b0 + terms.B @ whole
    size = np.maximum(high_a * high_b, 1).astype(np.float64)
    fixed = csr_array((-np.ones(len(size)), (np.arange(len(size)),) * 2), shape=(len(size),) * 2)
    rows, limits = [], []
    for a, b in ((low_a, low_b), (high_a, high_b)):
        # a' b' >= a b' + b a' - a b for a' and b' on one side of a and b; in units of the term's largest product.
        slope = (a[:, None] * terms.B + b[:, None] * terms.A) / size[:, None]
        at_floor = (a * low_b + b * low_a - a * b) / size
        rows.append(hstack([csr_array(slope) @ widen, fixed]))
        limits.append(-at_floor)
    weights = terms.coefficient * size / max(budget, 1)
    rows.append(csr_array(np.concatenate([np.zeros(columns), weights])[None, :]))
    limits.append(np.array([(budget - terms.constant) / max(budget, 1)]))
    scale = max(float(gains.max(initial=0)), np.finfo(float).tiny)
    found = linprog(
        -np.concatenate([gains / scale, np.zeros(len(size))]), A_ub=vstack(rows), b_ub=np.concatenate(limits),
        bounds=np.array([(0, 1)] * (columns + len(size))), method="highs",
    )  # fmt: skip
    everything = sum(float(worth[-1]) for worth in search.worth)
    if found.status != 0:
        return everything
    return min(everything, everything - float(gains.sum()) - scale * float(found.fun))


def kept_and_possible(
    saliency: Mapping[str, Tensor],
    keep: Mapping[str, Tensor],
    cost: Cost,
    budget: int,
    groups: Sequence[Group],
    floors: Mapping[str, int] | None = None,
) -> tuple[float, float]:
    """Return the share of all saliency that masks keep, and the `saliency_bound` on that share within the budget."""
    whole = sum(float(score.sum()) for score in saliency.values())
    kept = sum(float(saliency[name][mask].sum()) for name, mask in keep.items())
    possible = saliency_bound(saliency, cost, budget, groups, floors)
    return (kept / whole, possible / whole) if whole > 0 else (1.0, 1.0)
