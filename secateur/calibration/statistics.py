"""Means over samples of what quantities say of each channel, in memory of the order of the channels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.artifacts import Group
from secateur.calibration.processes import total
from secateur.calibration.quantities import Quantity, exact


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistic:
    """The mean over samples of a function of quantities.

    ``value`` takes the quantities by name, each float64 [batch, channels], and returns the same shape.
    """

    quantities: Mapping[str, Quantity]
    value: Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class StatisticTally:
    """Adds up statistics of all groups over a pass, see `pass_gates`."""

    groups: Sequence[Group]
    statistics: Mapping[str, Statistic]
    totals: dict[str, Tensor] = field(default_factory=dict)

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The quantities of all statistics."""
        return {name: q for statistic in self.statistics.values() for name, q in statistic.quantities.items()}

    def take(self, values: Mapping[str, Tensor]) -> None:
        """Add a batch."""
        doubles = {name: exact(value) for name, value in values.items()}
        for name, statistic in self.statistics.items():
            found = statistic.value(doubles).sum(0)
            self.totals[name] = self.totals[name] + found if name in self.totals else found

    def means(self, num_samples: int) -> dict[str, dict[str, Tensor]]:
        """Return each statistic of each group over so many samples, those of all processes, float64 [num_channels]."""
        widths, names = [group.num_channels for group in self.groups], [group.name for group in self.groups]
        return {
            statistic: dict(zip(names, torch.split((total(found) / num_samples).cpu(), widths), strict=True))
            for statistic, found in self.totals.items()
        }
