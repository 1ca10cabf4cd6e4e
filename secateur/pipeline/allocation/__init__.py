"""How much to take from where."""

from secateur.pipeline.allocation.bound import kept_and_possible, saliency_bound
from secateur.pipeline.allocation.hierarchical import Hierarchical
from secateur.pipeline.allocation.knapsack import Knapsack
from secateur.pipeline.allocation.protocol import Allocator
from secateur.pipeline.allocation.ranked import Ranked
from secateur.pipeline.allocation.reach import floor_cost, require_reachable
from secateur.pipeline.allocation.theis import Theis
from secateur.pipeline.allocation.uniform import Uniform

ALLOCATORS: dict[str, Allocator] = {
    "uniform": Uniform(),
    "ranked": Ranked(),
    "theis": Theis(),
    # The price at which a step is just worth its saving: what is left of the hierarchy without classes.
    "automatic": Hierarchical(),
    "hierarchical": Hierarchical(),
    "knapsack": Knapsack(),
}
"""Every allocator by its name. A new one is one file and one line here."""

allocate = Hierarchical()
"""The allocator that is taken where none is named."""

__all__ = [
    "ALLOCATORS",
    "Allocator",
    "allocate",
    "floor_cost",
    "kept_and_possible",
    "require_reachable",
    "saliency_bound",
]
