"""Decide how much to take from where: the network's budget, the groups' floors, then channels by worth per cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from secateur.artifacts import Group
from secateur.pipeline.allocation.search import Search
from secateur.pipeline.allocation.theis import worth_for_cost
from secateur.pipeline.costs import Cost


@dataclass(frozen=True, kw_only=True)
class Hierarchical:
    """Decide level by level: network, classes of groups, groups, channels.

    First level: the groups' floors say how many channels must stay, so that no group is cut beyond what it needs.
    Second level, with ``by_class``: the class of equal topology that keeps the largest share of its channels goes
    first, so that none is emptied for another. Third level: the step with the least saliency per cost goes first,
    beta_i = Delta_i / Delta C_i with the saving Delta C_i evaluated again after every step (Theis et al. 2018,
    arXiv 1801.05787, eq. 14-16). A step is ``group.multiple`` channels, a group's least important ones first. What the
    last steps saved too much is given back to the most valuable steps that still fit.
    """

    by_class: bool = False

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
        search.fit(budget, worth_for_cost, by_class=self.by_class)
        return search.masks()
