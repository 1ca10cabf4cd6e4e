"""How narrow redundancy lets a network become."""

from secateur.artifacts import Redundancy
from secateur.errors import LoadError
from secateur.pipeline.allocation import require_reachable
from secateur.pipeline.costs import Cost
from secateur.pipeline.redundancy import tau_for_budget
from secateur.pipeline.structure import Structure


def floors_of(structure: Structure, redundancy: Redundancy | None) -> dict[str, int]:
    """Return the effective filters of every group; raise LoadError where they belong to another network."""
    if redundancy is None:
        return {}
    estimated = {group.name: group.num_channels for group in redundancy.groups}
    for name, width in structure.widths.items():
        if estimated.get(name) != width:
            raise LoadError(
                f"redundancy, group {name}", f"{estimated.get(name, 'no')} channels", f"{width}, as in the network",
                "Estimate the redundancy of this network, with the same modules protected.",
            )  # fmt: skip
    return {group.name: group.num_effective for group in redundancy.groups}


def require_floors_reachable(structure: Structure, cost: Cost, budget: int, redundancy: Redundancy | None) -> None:
    """Raise BudgetError where the floors cost more than the budget, in units of ``cost``, with what would help."""
    tau = redundancy and tau_for_budget(redundancy, cost, budget, structure.groups)
    if redundancy is not None and redundancy.tau is None:
        remedy = f"Keep more, choose another threshold or estimator than {redundancy.estimator}, or set floors: false."
    elif tau is not None and redundancy is not None:
        remedy = f"Keep more, raise tau from {redundancy.tau:g} to {tau:.2g}, or set floors: false."
    else:
        remedy = "No floor is low enough: keep more, lower the multiple, or protect fewer modules."
    require_reachable(cost, budget, structure.groups, floors_of(structure, redundancy), remedy)
