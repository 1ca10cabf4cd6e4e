"""Structural redundancy: how few of a group's filters are near to all the others, as directions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64
from scipy.sparse.csgraph import connected_components
from scipy.special import betainc, betaincinv
from torch import Tensor, nn

from secateur.artifacts import Covering, Group
from secateur.pipeline.signals.filters import weights_that_write

COMPONENTS, COVER = 0.35, 0.65
"""Weights of the two counts in the measure."""

ROUNDING = 1e-9
"""Of a cosine: proportional filters count as equal."""


@dataclass(frozen=True, kw_only=True)
class GraphCovering:
    """Measure redundancy by a graph whose edges join filters at a distance of at most ``distance`` on the unit sphere.

    R = C / (0.35 k + 0.65 N_c) for C filters, k connected components and N_c members of a greedy cover (Wang, Li and
    Wang 2021, arXiv 2104.03438, "structural redundancy reduction"); the distance is that of unit vectors, whatever the
    fan-in. Filters of few weights are near each other by chance: there the distance shrinks until a filter among
    random ones has no more than ``chance`` neighbours on average. Filters of zeros are copies of each other and near
    no others.
    """

    distance: float = 1.0
    chance: float = 0.02

    def __call__(self, rows: Float64[Tensor, "num_channels entries"]) -> Covering:
        """Return the counts for filters, one a row."""
        near = self.near(rows)
        num_components = int(connected_components(near, directed=False, return_labels=False))
        num_cover = greedy_cover(near)
        return Covering(
            num_components=num_components,
            num_cover=num_cover,
            redundancy=len(rows) / (COMPONENTS * num_components + COVER * num_cover),
        )

    def near(self, rows: Float64[Tensor, "num_channels entries"]) -> Bool[np.ndarray, "num_channels num_channels"]:
        """Return which filters are joined; each is near itself."""
        norm = torch.linalg.vector_norm(rows, dim=1)
        unit = rows / torch.where(norm > 0, norm, 1)[:, None]
        # An axis of their own keeps filters of zeros, which have no direction, apart from the others.
        unit = torch.cat((unit, (norm == 0).to(unit)[:, None]), 1)
        cosine = (unit @ unit.mT).numpy()
        found = cosine >= self.least_cosine(*rows.shape) - ROUNDING
        np.fill_diagonal(found, True)
        return found

    def least_cosine(self, num_channels: int, num_entries: int) -> float:
        """Return the cosine from which on filters are near.

        Two random directions in n dimensions have a cosine above c > 0 with probability I(1 - c^2; (n-1)/2, 1/2) / 2.
        """
        wanted = 1 - self.distance**2 / 2
        if num_channels < 2 or num_entries < 2:
            return max(wanted, 1.0) if num_entries < 2 else wanted
        half = (num_entries - 1) / 2
        allowed = self.chance / (num_channels - 1)
        if wanted > 0 and betainc(half, 0.5, 1 - wanted**2) / 2 <= allowed:
            return wanted
        return max(wanted, math.sqrt(1 - betaincinv(half, 0.5, min(1.0, 2 * allowed))))


def greedy_cover(near: Bool[np.ndarray, "num_channels num_channels"]) -> int:
    """Return how many filters cover all, each time taking the one with most uncovered neighbours."""
    counts = near.sum(1)
    uncovered = np.ones(len(near), dtype=bool)
    chosen = 0
    while uncovered.any():
        covered = near[counts.argmax()] & uncovered
        uncovered &= ~covered
        counts = counts - near[:, covered].sum(1)
        chosen += 1
    return chosen


def measure_covering(
    module: nn.Module, groups: Sequence[Group], measure: GraphCovering = GraphCovering()
) -> dict[str, Covering]:
    """Return the covering of every group's filters, those of all layers that write a channel side by side."""
    return {group.name: measure(weights_that_write(module, group)) for group in groups}
