"""Decide how much to take from where: the network's budget, the groups' floors, then channels by worth per cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from secateur.artifacts import Group
from secateur.errors import BudgetError, DataError
from secateur.pipeline.costs import CostTerms


def allocate(
    saliency: Mapping[str, Tensor],
    terms: CostTerms,
    budget: int,
    groups: Sequence[Group],
    floors: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Return the channels of every group that stay, bool [num_channels] by group name, within a budget.

    First level: the groups' floors say how many channels must stay, so that no group is cut beyond what it needs.
    Second level: above them the step with the least saliency per cost goes first, beta_i = Delta_i / Delta C_i with the
    saving Delta C_i evaluated again after every step (Theis et al. 2018, arXiv 1801.05787, eq. 14-16). A step is
    ``group.multiple`` channels, a group's least important ones first. What the last steps saved too much is given back
    to the most valuable steps that still fit, so that the cost ends within one step of ``budget`` and never above it.

    ``saliency`` holds one finite score >= 0 a channel; ``terms`` are costs over these groups; ``budget`` is absolute,
    in the unit of ``terms``; ``floors`` are the widths to keep at least (`Group.least` and the step apply as well).
    Raises BudgetError where the floors cost more than the budget, DataError for scores that do not fit.
    """
    require_reachable(terms, budget, groups, floors)
    ordered = {group.name: group for group in groups}
    state = _State.of(saliency, terms, [ordered[name] for name in terms.groups], floors or {})
    state.shrink(budget)
    state.refill(budget)
    return state.masks()


def floor_cost(terms: CostTerms, groups: Sequence[Group], floors: Mapping[str, int] | None = None) -> int:
    """Return the smallest cost that these floors allow."""
    return terms.total(terms.vector({g.name: g.allowed_width((floors or {}).get(g.name, 0)) for g in groups}))


def require_reachable(
    terms: CostTerms,
    budget: int,
    groups: Sequence[Group],
    floors: Mapping[str, int] | None = None,
    remedy: str = "Keep more, or lower the floors or the multiple, or protect fewer modules.",
) -> None:
    """Raise BudgetError with this remedy where the smallest cost that the floors allow exceeds the budget."""
    smallest = floor_cost(terms, groups, floors)
    if smallest > budget:
        whole = terms.total(terms.vector({group.name: group.num_channels for group in groups}))
        raise BudgetError(
            "budget",
            f"{budget:,} of {whole:,} ({budget / whole:.1%})",
            f"at least {smallest:,} ({smallest / whole:.1%}), the smallest that these floors allow",
            remedy,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _State:
    """Widths under way.

    The cost is quadratic in them, so what a channel saves is linear: ``gradient`` is kept up to date with one row of
    ``curvature`` a step. ``worth[g][k]`` is the saliency of group g's k least important channels together.
    """

    groups: list[Group]
    order: list[np.ndarray]
    worth: list[np.ndarray]
    smallest: Int64[np.ndarray, " group"]
    steps: Int64[np.ndarray, " group"]
    whole: Int64[np.ndarray, " group"]
    widths: Int64[np.ndarray, " group"]
    gradient: Int64[np.ndarray, " group"]
    curvature: Int64[np.ndarray, "group group"]
    cost: Int64[np.ndarray, " 1"]

    @staticmethod
    def of(
        saliency: Mapping[str, Tensor], terms: CostTerms, groups: list[Group], floors: Mapping[str, int]
    ) -> "_State":
        scores = [_scores(saliency, group) for group in groups]
        order = [np.argsort(score, kind="stable") for score in scores]
        widths = np.array([group.num_channels for group in groups], dtype=np.int64)
        one_sided = (terms.coefficient[:, None] * terms.A).T @ terms.B
        curvature = one_sided + one_sided.T
        return _State(
            groups=groups,
            order=order,
            worth=[np.concatenate(([0.0], np.cumsum(s[o]))) for s, o in zip(scores, order, strict=True)],
            smallest=np.array([g.allowed_width(floors.get(g.name, 0)) for g in groups], dtype=np.int64),
            steps=np.array([group.multiple for group in groups], dtype=np.int64),
            whole=widths.copy(),
            widths=widths,
            # At steps of one channel the saving is the gradient less half the curvature of the group with itself.
            gradient=terms.saving(widths) + np.diagonal(curvature) // 2,
            curvature=curvature,
            cost=np.array([terms.total(widths)], dtype=np.int64),
        )

    def shrink(self, budget: int) -> None:
        """Remove the cheapest step after the other until the cost is within the budget."""
        own = np.diagonal(self.curvature) // 2
        lost = np.array([self._worth_between(g, self.widths[g]) for g in range(len(self.groups))])
        step = self._steps_down(self.widths)
        while self.cost[0] > budget:
            saving = step * self.gradient - step * step * own
            usable = (self.widths - step >= self.smallest) & (saving > 0)
            rate = np.where(usable, lost, np.inf) / np.maximum(saving, 1)
            # Among equals the step that saves most: a network of dead channels is not emptied group by group.
            best = np.flatnonzero(rate == rate.min())
            g = int(best[np.argmax(saving[best])])
            self._change(g, -int(step[g]), int(saving[g]))
            step[g] = self._steps_down(self.widths[g : g + 1], slice(g, g + 1))[0]
            lost[g] = self._worth_between(g, self.widths[g])

    def refill(self, budget: int) -> None:
        """Give steps back while one with any worth fits into what is left, the most valuable first."""
        own = np.diagonal(self.curvature) // 2
        while True:
            step = self._steps_up(self.widths)
            price = step * self.gradient + step * step * own
            gain = np.array([self._worth_between(g, w) for g, w in enumerate(self.widths + step)])
            fits = (step > 0) & (price <= budget - self.cost[0]) & (gain > 0)
            if not fits.any():
                return
            g = int(np.argmax(np.where(fits, gain, -1)))
            self._change(g, int(step[g]), -int(price[g]))

    def masks(self) -> dict[str, Tensor]:
        """Return which channels stay."""
        found = {}
        for group, order, width in zip(self.groups, self.order, self.widths, strict=True):
            mask = torch.ones(group.num_channels, dtype=torch.bool)
            mask[torch.from_numpy(order[: group.num_channels - int(width)])] = False
            found[group.name] = mask
        return found

    def _steps_down(self, widths: Int64[np.ndarray, " some"], which: slice = slice(None)) -> Int64[np.ndarray, " some"]:
        """Return how far the next lower allowed width is; an uncut width may be off the step."""
        rest = widths % self.steps[which]
        return np.where(rest > 0, rest, self.steps[which])

    def _steps_up(self, widths: Int64[np.ndarray, " group"]) -> Int64[np.ndarray, " group"]:
        """Return how far the next higher allowed width is, 0 where the group is whole."""
        return np.minimum(self.steps, self.whole - widths)

    def _worth_between(self, g: int, width: int | np.integer) -> float:
        """Return the saliency of the channels that the step down from this width removes."""
        removed = int(self.whole[g] - width)
        step = int(width % self.steps[g] or self.steps[g])
        worth = self.worth[g]
        return float(worth[min(removed + step, len(worth) - 1)] - worth[removed])

    def _change(self, g: int, channels: int, saved: int) -> None:
        self.widths[g] += channels
        self.gradient[:] += channels * self.curvature[:, g]
        self.cost[0] -= saved


def _scores(saliency: Mapping[str, Tensor], group: Group) -> Float64[np.ndarray, " num_channels"]:
    """Return a group's scores, checked."""
    if group.name not in saliency:
        raise DataError("saliency", f"no scores for group {group.name}", "scores for every group", "Add them.")
    scores = saliency[group.name].detach().cpu().double().numpy()
    if scores.shape != (group.num_channels,) or not np.isfinite(scores).all() or (scores < 0).any():
        raise DataError(
            f"saliency of {group.name}", f"shape {list(scores.shape)} with values down to {scores.min(initial=0)}",
            f"{group.num_channels} finite values of at least 0", "Check the signal and the network's weights.",
        )  # fmt: skip
    return scores
