"""One ranking of all channels of a network, whatever they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from secateur.artifacts import Group
from secateur.pipeline.allocation.search import Search
from secateur.pipeline.costs import Cost


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Remove the step with the least saliency a channel first, wherever in the network it is.

    With ``by_class`` classes of equal topology lose channels in equal shares, and the ranking holds inside each.
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
        search.fit(budget, _saliency, by_class=self.by_class)
        return search.masks()


def _saliency(
    lost: Float64[np.ndarray, " group"], saving: Int64[np.ndarray, " group"], step: Int64[np.ndarray, " group"]
) -> Float64[np.ndarray, " group"]:
    return lost / step
