"""What pruning may leave: which cost is limited, how it is counted and told, and how far a loss lets it fall."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from secateur.artifacts import LatencyGrid
from secateur.errors import BudgetError
from secateur.pipeline.costs import Cost
from secateur.pipeline.costs_latency import NANO
from secateur.pipeline.structure import Structure
from secateur.pipeline.structure.layer_calls import latency_cost

Kind = Literal["macs", "parameters", "bytes", "latency"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Limited:
    """The kind of cost that is limited, of any network that pruning passes through.

    ``latencies`` are the names of the weights of the network's layers and what these take; the kind latency needs them.
    """

    kind: Kind
    latencies: Sequence[tuple[str, LatencyGrid]] = ()

    def __post_init__(self) -> None:
        if self.kind == "latency" and not self.latencies:
            raise BudgetError(
                "prune, kind: latency", "no latencies of the network's layers", "a table that a backend measured",
                "Give latencies=, or limit macs.",
            )  # fmt: skip

    def cost(self, structure: Structure) -> Cost:
        """Return the cost as a function of a network's widths; layers of branches that are gone take no time."""
        if self.kind != "latency":
            return structure.cost_terms(self.kind)
        return latency_cost(
            structure, [(weight, grid) for weight, grid in self.latencies if weight in structure.shapes]
        )

    def require_layers_of(self, structure: Structure) -> None:
        """Raise TraceError where latencies are those of another network than this uncut one."""
        latency_cost(structure, self.latencies)

    def whole(self, structure: Structure) -> int:
        """Return the cost of a network as it is."""
        cost = self.cost(structure)
        return cost.total(cost.vector(structure.widths))

    @property
    def unit(self) -> str:
        """What the cost counts."""
        return "ns of layer latency" if self.kind == "latency" else self.kind

    def target(self, target: int) -> dict[str, int]:
        """Name a target as `PruneRound` does, unless it is a latency, which `target_s` gives."""
        return {} if self.kind == "latency" else {f"target_{self.kind}": target}

    def target_s(self, target: int) -> float | None:
        """Return a target that is a latency in seconds."""
        return target / NANO if self.kind == "latency" else None


def cheapest_allowed(found_at: Callable[[int], T], allowed: Callable[[T], bool], low: int, high: int) -> tuple[int, T]:
    """Return the smallest budget whose result is allowed, and that result; ``high`` is allowed without asking.

    ``low`` is tried first; else bisection ends within a hundredth of the way between them, at a budget that was tried.
    """
    found = found_at(low)
    if allowed(found):
        return low, found
    closest, best, found = max(1, (high - low) // 100), high, found_at(high)
    while best - low > closest:
        middle = (low + best) // 2
        trial = found_at(middle)
        if allowed(trial):
            best, found = middle, trial
        else:
            low = middle
    return best, found
