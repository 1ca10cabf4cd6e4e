"""Let whole residual branches go where that is the cheaper way to a budget."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.calibration.gram import GateGram
from secateur.pipeline.allocation import Allocator, floor_cost
from secateur.pipeline.costs import Cost
from secateur.pipeline.structure import Structure

NATS = frozenset({"fisher", "joint", "obs"})
"""The signals that estimate a loss from gate gradients, so that the joint loss of channels is in their unit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Branching:
    """Allocate a budget to channels, and to residual branches as wholes.

    Branches are tried in the order of what their removal loses for the cost that it saves. One goes where less is lost
    at the budget with it gone, in all: it saves everything that its layers cost, also that of the channels that a group
    keeps otherwise, so that others may stay. Where the floors cost more than the budget, branches go until they do not.
    ``losses`` are those of the branches, in the unit of the saliency, see `branch_losses`. Floors hold for groups that
    are used; a branch that goes needs none.
    """

    allocator: Allocator
    cost: Callable[[Structure], Cost]
    losses: Mapping[str, float]

    def __call__(
        self, saliency: Mapping[str, Tensor], budget: int, structure: Structure, floors: Mapping[str, int]
    ) -> dict[str, Tensor]:
        """Return the channels that stay, see `Allocator`: none of those inside of a branch that goes."""

        def saving(name: str) -> int:
            return _whole(self.cost, structure) - _whole(self.cost, structure.without([name]))

        def lost(keep: Mapping[str, Tensor], removed: tuple[str, ...]) -> float:
            return sum(float(saliency[n][~mask].sum()) for n, mask in keep.items()) + sum(
                self.losses[name] for name in removed
            )

        def within_reach(removed: tuple[str, ...]) -> bool:
            left = structure.without(removed)
            return floor_cost(self.cost(left), left.groups, floors) <= budget

        def kept(removed: tuple[str, ...]) -> dict[str, Tensor]:
            left = structure.without(removed)
            return self.allocator(saliency, self.cost(left), budget, left.groups, floors)

        waiting = sorted(self.losses, key=lambda name: self.losses[name] / max(1, saving(name)))
        gone: tuple[str, ...] = ()
        while waiting and not within_reach(gone):
            gone = (*gone, waiting.pop(0))
        best = kept(gone)
        least = lost(best, gone)
        for name in waiting:
            trial = kept((*gone, name))
            loss = lost(trial, (*gone, name))
            if loss < least:
                gone, best, least = (*gone, name), trial, loss
        none = {n: torch.zeros(structure.widths[n], dtype=torch.bool) for n in structure.widths if n not in best}
        return {**best, **none}


def branch_losses(
    structure: Structure, saliency: Mapping[str, Tensor], signal: object, gate_gram: GateGram | None
) -> dict[str, float]:
    """Estimate what the removal of each branch loses: that of all channels which its last layers read, at once.

    With gate gradients and a signal in their unit it is 1/2 1^T M 1 = 1/(2N) sum_n (sum_i g_ni)^2, the second-order
    loss of closing all gates of a group together (Theis et al. 2018, arXiv 1801.05787, eq. 9, for one gate on the whole
    branch); else the sum of the channels' saliencies.
    """
    found = {}
    for branch in structure.branches:
        if gate_gram is not None and signal in NATS:
            found[branch.name] = sum(float(gate_gram.gram[name].sum()) / 2 for name in branch.gates)
        else:
            found[branch.name] = sum(float(saliency[name].sum()) for name in branch.gates)
    return found


def _whole(cost: Callable[[Structure], Cost], structure: Structure) -> int:
    found = cost(structure)
    return found.total(found.vector(structure.widths))
