"""What a signal is."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from secateur.artifacts import Group
from secateur.pipeline.signals.evidence import Evidence, Needs


@runtime_checkable
class Signal(Protocol):
    """Says what every channel of a group is worth; cutting begins with the least.

    ``needs`` says what must be collected from data first. The score is float64 [num_channels] and finite; scores of
    different groups are compared with each other after division by the cost saved.
    """

    @property
    def needs(self) -> Needs:
        """What the signal looks at besides the weights."""

    def __call__(self, evidence: Evidence, group: Group) -> Tensor:
        """Return one score a channel, float64 [num_channels]."""


def saliency(signal: Signal, evidence: Evidence, groups: Sequence[Group]) -> dict[str, Tensor]:
    """Return what every channel of every group is worth, at least 0, by the group's name.

    Scores below zero, of channels without which a signed signal expects a lower loss, are counted from the least of all
    groups: their order stays.
    """
    scores = {group.name: signal(evidence, group) for group in groups}
    least = min((float(score.min()) for score in scores.values()), default=0.0)
    return {name: score - min(least, 0.0) for name, score in scores.items()}
