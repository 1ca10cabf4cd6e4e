"""Which budgets can be reached at all."""

from collections.abc import Mapping, Sequence

from secateur.artifacts import Group
from secateur.errors import BudgetError
from secateur.pipeline.costs import Cost


def floor_cost(cost: Cost, groups: Sequence[Group], floors: Mapping[str, int] | None = None) -> int:
    """Return the smallest cost that these floors allow."""
    return cost.total(cost.vector({g.name: g.allowed_width((floors or {}).get(g.name, 0)) for g in groups}))


def require_reachable(
    cost: Cost,
    budget: int,
    groups: Sequence[Group],
    floors: Mapping[str, int] | None = None,
    remedy: str = "Keep more, or lower the floors or the multiple, or protect fewer modules.",
) -> None:
    """Raise BudgetError with this remedy where the smallest cost that the floors allow exceeds the budget."""
    smallest = floor_cost(cost, groups, floors)
    if smallest > budget:
        whole = cost.total(cost.vector({group.name: group.num_channels for group in groups}))
        raise BudgetError(
            "budget",
            f"{budget:,} of {whole:,} ({budget / whole:.1%})",
            f"at least {smallest:,} ({smallest / whole:.1%}), the smallest that these floors allow",
            remedy,
        )
