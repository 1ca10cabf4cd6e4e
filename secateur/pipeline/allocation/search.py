"""Widths on their way to a budget: whole groups first, then step by step down, then back up into what is left."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from secateur.artifacts import Group
from secateur.errors import DataError
from secateur.pipeline.allocation.account import Account, open_account
from secateur.pipeline.allocation.reach import require_reachable
from secateur.pipeline.allocation.topology import classes_of
from secateur.pipeline.costs import Cost

Order = Callable[
    [Float64[np.ndarray, " group"], Int64[np.ndarray, " group"], Int64[np.ndarray, " group"]],
    Float64[np.ndarray, " group"],
]
"""Rates the groups' next steps by the saliency lost, the cost saved and the channels; the smallest goes first."""


@dataclass(kw_only=True, eq=False)
class Search:
    """Widths under way, within their floors and on their steps.

    ``order[g]`` sorts group g's channels, the least important first; ``worth[g][k]`` is the saliency of its k least
    important channels together. A step is ``group.multiple`` channels; ``smallest`` are the floors.
    """

    groups: list[Group]
    cost: Cost
    order: list[np.ndarray]
    worth: list[np.ndarray]
    smallest: Int64[np.ndarray, " group"]
    steps: Int64[np.ndarray, " group"]
    whole: Int64[np.ndarray, " group"]
    widths: Int64[np.ndarray, " group"]
    account: Account

    @staticmethod
    def of(
        saliency: Mapping[str, Tensor], cost: Cost, budget: int, groups: Sequence[Group],
        floors: Mapping[str, int] | None,
    ) -> "Search":  # fmt: skip
        """Begin with whole groups; raises BudgetError for a budget below the floors, DataError for unfit scores."""
        require_reachable(cost, budget, groups, floors)
        named = {group.name: group for group in groups}
        ordered, floors = [named[name] for name in cost.groups], floors or {}
        scores = [_scores(saliency, group) for group in ordered]
        order = [np.argsort(score, kind="stable") for score in scores]
        whole = np.array([group.num_channels for group in ordered], dtype=np.int64)
        return Search(
            groups=ordered,
            cost=cost,
            order=order,
            worth=[np.concatenate(([0.0], np.cumsum(s[o]))) for s, o in zip(scores, order, strict=True)],
            smallest=np.array([g.allowed_width(floors.get(g.name, 0)) for g in ordered], dtype=np.int64),
            steps=np.array([group.multiple for group in ordered], dtype=np.int64),
            whole=whole,
            widths=whole.copy(),
            account=open_account(cost, whole),
        )

    @property
    def value(self) -> float:
        """The saliency of all channels that stay."""
        return self.value_at(self.widths)

    def value_at(self, widths: Int64[np.ndarray, " group"]) -> float:
        """Return the saliency of all channels that stay at these widths."""
        return sum(float(w[-1] - w[n - k]) for w, n, k in zip(self.worth, self.whole, widths, strict=True))

    def allowed(self, g: int) -> Int64[np.ndarray, " width"]:
        """Return the widths that a group may have, ascending: its steps from the floor up, the floor and the whole."""
        step, smallest, whole = int(self.steps[g]), int(self.smallest[g]), int(self.whole[g])
        stepped = np.arange(-(-smallest // step) * step, whole + 1, step, dtype=np.int64)
        return np.union1d(stepped, [smallest, whole])

    def move_to(self, widths: Int64[np.ndarray, " group"]) -> None:
        """Go on from these widths, which are allowed ones."""
        self.widths = widths.copy()
        self.account = open_account(self.cost, self.widths)

    def fit(self, budget: int, order: Order, *, by_class: bool = False) -> None:
        """Remove steps in this order until the cost is within the budget, and give back what still fits.

        With ``by_class`` classes of equal topology lose channels in equal shares, and the order holds inside each.
        """
        self.shrink(budget, order, classes_of(self.groups) if by_class else None)
        self.refill(budget)

    def shrink(self, budget: int, order: Order, classes: Int64[np.ndarray, " group"] | None = None) -> None:
        """Remove the step that ``order`` puts first, again and again, until the cost is within the budget.

        Where ``classes`` are given, as numbers from 0 on, the class that keeps the largest share of its channels goes
        first, and ``order`` decides inside it.
        """
        step = self._steps_down()
        lost = np.array([self._worth_between(g, step[g]) for g in range(len(self.groups))])
        while self.account.total > budget:
            saving = self._past_plateaus(step, lost)
            open_ = self.widths - step >= self.smallest
            # Where no group alone saves anything, the joint step of several does: the least worth goes first.
            saves = open_ & (saving > 0)
            usable = saves if saves.any() else open_
            if classes is not None:
                usable = usable & self._fullest(classes, usable)
            rate = np.where(usable, order(lost, saving, step), np.inf)
            # Among equals the step that saves most: a network of dead channels is not emptied group by group.
            best = np.flatnonzero(rate == rate.min())
            g = int(best[np.argmax(saving[best])])
            self._change(g, -int(step[g]))
            step[g] = self._steps_down()[g]
            lost[g] = self._worth_between(g, step[g])

    def refill(self, budget: int, most: Int64[np.ndarray, " group"] | None = None) -> None:
        """Give steps back, up to ``most``, while one with any worth fits into what is left, the most valuable first."""
        limit = self.whole if most is None else most
        while True:
            step = np.minimum(self.steps, self.whole - self.widths)
            price = -self.account.saving(-step)
            self.widths += step
            gain = np.array([self._worth_between(g, step[g]) for g in range(len(self.groups))])
            fits = (step > 0) & (self.widths <= limit) & (price <= budget - self.account.total) & (gain > 0)
            self.widths -= step
            if not fits.any():
                return
            g = int(np.argmax(np.where(fits, gain, -1)))
            self._change(g, int(step[g]))

    def masks(self) -> dict[str, Tensor]:
        """Return which channels stay."""
        found = {}
        for group, order, width in zip(self.groups, self.order, self.widths, strict=True):
            mask = torch.ones(group.num_channels, dtype=torch.bool)
            mask[torch.from_numpy(order[: group.num_channels - int(width)])] = False
            found[group.name] = mask
        return found

    def _past_plateaus(
        self, step: Int64[np.ndarray, " group"], lost: Float64[np.ndarray, " group"]
    ) -> Int64[np.ndarray, " group"]:
        """Return what the steps save, after lengthening in place those that save nothing until they do, or end."""
        while True:
            saving = self.account.saving(step)
            flat = (saving <= 0) & (self.widths - step - self.steps >= self.smallest)
            if not flat.any():
                return saving
            step[flat] += self.steps[flat]
            for g in np.flatnonzero(flat):
                lost[g] = self._worth_between(g, step[g])

    def _fullest(self, classes: Int64[np.ndarray, " group"], usable: np.ndarray) -> np.ndarray:
        """Tell which usable groups belong to the classes that keep the largest share of their channels."""
        share = (np.bincount(classes, self.widths) / np.bincount(classes, self.whole))[classes]
        return share == share[usable].max()

    def _steps_down(self) -> Int64[np.ndarray, " group"]:
        """Return how far the next lower allowed width is; an uncut width may be off the step."""
        rest = self.widths % self.steps
        return np.where(rest > 0, rest, self.steps)

    def _worth_between(self, g: int | np.integer, step: int | np.integer) -> float:
        """Return the saliency of the channels that this step down from the group's width removes."""
        removed, worth = int(self.whole[g] - self.widths[g]), self.worth[g]
        return float(worth[min(removed + int(step), len(worth) - 1)] - worth[removed])

    def _change(self, g: int, channels: int) -> None:
        self.widths[g] += channels
        self.account.change(g, channels)


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
