"""A signal put together from the four tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from secateur.artifacts import Group
from secateur.calibration.quantities import PLACES, Quantity, Reading
from secateur.calibration.statistics import Statistic
from secateur.errors import LoadError
from secateur.pipeline.signals.components import INPUTS, POINTWISE, REDUCTIONS, SCALINGS, Facts, Input
from secateur.pipeline.signals.evidence import Evidence, Needs
from secateur.pipeline.signals.filters import filters, writers

TABLES: dict[str, Mapping[str, Any]] = {
    "input": INPUTS,
    "pointwise": POINTWISE,
    "reduction": REDUCTIONS,
    "scaling": SCALINGS,
}
"""What each field of a combination may be."""


@dataclass(frozen=True, kw_only=True)
class Combination:
    """Score a channel by scaling(mean over samples of reduction(pointwise(input))), each by its name in `TABLES`.

    The components are those of Persand et al. 2019, "A taxonomy of channel pruning signals in CNNs", arXiv 1906.04675.
    Raises DataError where what the input needs was not collected.
    """

    input: str
    pointwise: str = "identity"
    reduction: str = "sum"
    scaling: str = "none"

    def __post_init__(self) -> None:
        for field, table in TABLES.items():
            if getattr(self, field) not in table:
                raise LoadError(
                    f"signal, {field}", repr(getattr(self, field)), f"one of {', '.join(table)}", "Name one of them."
                )

    @property
    def name(self) -> str:
        """The four names."""
        return f"{self.input}/{self.pointwise}/{self.reduction}/{self.scaling}"

    @property
    def signed(self) -> bool:
        """Whether scores may be negative."""
        return POINTWISE[self.pointwise].signed and REDUCTIONS[self.reduction].signed

    @property
    def needs(self) -> Needs:
        """Two statistics of the activations, or the gradient at the weights, or nothing."""
        source = INPUTS[self.input]
        if source.place == "weights":
            return Needs(weight_gradients=source.needs_gradient)
        return Needs(statistics={self._statistic: self._mean(source), "places": _MEAN_PLACES})

    def __call__(self, evidence: Evidence, group: Group) -> Float64[Tensor, " num_channels"]:
        """Return the scores of the group's channels."""
        if INPUTS[self.input].place == "weights":
            reduced, places = self._of_weights(evidence, group)
        else:
            reduced = evidence.statistic(self._statistic, group, self.name)
            places = evidence.statistic("places", group, self.name)
        facts = Facts(places=places, saved=partial(evidence.saved, group=group, signal=self.name))
        return SCALINGS[self.scaling](reduced, facts)

    @property
    def _statistic(self) -> str:
        return f"{self.input}/{self.pointwise}/{self.reduction}"

    def _mean(self, source: Input) -> Statistic:
        reduction = REDUCTIONS[self.reduction]
        name = f"{self.input}/{self.pointwise}/{reduction.each}"
        quantity = Quantity(
            of=lambda reading: reading.sum(self._entries(source, reading)),
            needs_gradient=source.needs_gradient, needs_mean=source.centred,
        )  # fmt: skip
        return Statistic(
            quantities={name: quantity, "places": PLACES},
            value=lambda values: reduction.total(values[name], values["places"]),
        )

    def _entries(self, source: Input, reading: Reading) -> Tensor:
        return self._each(source.entries(reading.centred if source.centred else reading.entries, reading.gradient))

    def _each(self, entries: Tensor) -> Tensor:
        return POINTWISE[REDUCTIONS[self.reduction].each].of(POINTWISE[self.pointwise].of(entries))

    def _of_weights(self, evidence: Evidence, group: Group) -> tuple[Tensor, Tensor]:
        source, parts = INPUTS[self.input], writers(evidence.module, group)
        weights = dict(evidence.module.named_parameters(remove_duplicate=False))
        gradients = (
            {part.tensor: evidence.weight_gradient(part.tensor, group, self.name) for part in parts}
            if source.needs_gradient else weights
        )  # fmt: skip
        values, slopes = (filters(tensors, parts, group.num_channels) for tensors in (weights, gradients))
        entries = self._each(source.entries(values, slopes))
        places = entries.new_full((group.num_channels,), entries.shape[1])
        return REDUCTIONS[self.reduction].total(entries.sum(1), places), places


_MEAN_PLACES = Statistic(quantities={"places": PLACES}, value=lambda values: values["places"])
