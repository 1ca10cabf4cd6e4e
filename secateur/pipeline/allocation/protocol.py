"""What an allocator is."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from secateur.artifacts import Group
from secateur.pipeline.costs import Cost


@runtime_checkable
class Allocator(Protocol):
    """Decides which channels stay. Every entry of `secateur.pipeline.allocation.ALLOCATORS` is one."""

    def __call__(
        self,
        saliency: Mapping[str, Tensor],
        cost: Cost,
        budget: int,
        groups: Sequence[Group],
        floors: Mapping[str, int] | None = None,
    ) -> dict[str, Tensor]:
        """Return the channels of every group that stay, bool [num_channels] by group name, within a budget.

        The cost ends within one step of the budget and never above it, a step being ``group.multiple`` channels. A
        group keeps its most salient channels and no fewer than its floor.

        Args:
            saliency: one finite score >= 0 a channel.
            cost: the cost of widths of these groups.
            budget: absolute, in the unit of the cost.
            groups: what can be cut.
            floors: widths to keep at least; `Group.least` and the step apply as well.

        Raises:
            BudgetError: the floors cost more than the budget.
            DataError: scores that do not fit.
        """
