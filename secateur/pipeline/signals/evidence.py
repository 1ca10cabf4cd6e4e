"""What signals may look at, and collecting no more of it than a signal needs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from secateur.artifacts import Batch, Group
from secateur.calibration.batches import Loss
from secateur.calibration.gates import pass_gates
from secateur.calibration.gram import GateGram, GramTally
from secateur.calibration.input_gram import collect_input_grams
from secateur.calibration.statistics import Statistic, StatisticTally
from secateur.errors import DataError
from secateur.pipeline.signals.filters import writers
from secateur.pipeline.structure.structure import Structure


@dataclass(frozen=True, kw_only=True, eq=False)
class Needs:
    """What a signal wants collected from data: nothing, unless it says so.

    ``gram`` are the gate gradients' Gram matrices, ``statistics`` means over samples by name, ``weight_gradients`` the
    mean loss's gradient at the weights that write channels, ``input_grams`` second moments of what layers read.
    """

    gram: bool = False
    statistics: Mapping[str, Statistic] = field(default_factory=dict)
    weight_gradients: bool = False
    input_grams: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            gram=self.gram or other.gram,
            statistics={**self.statistics, **other.statistics},
            weight_gradients=self.weight_gradients or other.weight_gradients,
            input_grams=self.input_grams or other.input_grams,
        )

    def __bool__(self) -> bool:
        return self.gates or self.input_grams

    @property
    def gates(self) -> bool:
        """Whether a pass over gates is needed."""
        return self.gram or bool(self.statistics) or self.weight_gradients


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """A network with what was collected of it, see `Needs`; ``statistics`` maps their names, then groups, to values."""

    module: nn.Module
    structure: Structure | None = None
    gate_gram: GateGram | None = None
    statistics: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    weight_gradients: Mapping[str, Tensor] = field(default_factory=dict)
    input_grams: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0

    def gram(self, group: Group, signal: str) -> GateGram:
        """Return the Gram matrices, that of the group among them."""
        if self.gate_gram is None or group.name not in self.gate_gram.gram:
            raise _absent(group, signal, "gate gradients")
        return self.gate_gram

    def statistic(self, name: str, group: Group, signal: str) -> Tensor:
        """Return a statistic of a group, float64 [num_channels]."""
        if group.name not in self.statistics.get(name, {}):
            raise _absent(group, signal, "statistics")
        return self.statistics[name][group.name]

    def weight_gradient(self, name: str, group: Group, signal: str) -> Tensor:
        """Return the mean loss's gradient at a weight."""
        if name not in self.weight_gradients:
            raise _absent(group, signal, "weight gradients")
        return self.weight_gradients[name]

    def input_gram(self, name: str, group: Group, signal: str) -> Tensor:
        """Return the second moments of what the layer of this weight reads."""
        if name not in self.input_grams:
            raise _absent(group, signal, "second moments of inputs")
        return self.input_grams[name]

    def saved(self, kind: Literal["macs", "parameters"], group: Group, signal: str) -> int:
        """Return what removing one channel of a group saves in all layers."""
        if self.structure is None:
            raise _absent(group, signal, "costs")
        terms = self.structure.cost_terms(kind)
        saving = terms.saving(terms.vector(self.structure.widths))
        return int(saving[terms.groups.index(group.name)])


def _absent(group: Group, signal: str, what: str) -> DataError:
    return DataError(
        f"signal {signal}, group {group.name}", f"no {what}", "those of every group",
        "Collect the signal's needs with collect_evidence on the network's own structure first.",
    )  # fmt: skip


def collect_evidence(
    needs: Needs,
    module: nn.Module,
    structure: Structure,
    batches: Iterable[Batch],
    loss: Loss,
    *,
    labels: str = "true",
    seed: int = 0,
) -> Evidence:
    """Return the evidence that is needed and no other: one pass over the data, another for second moments of inputs.

    ``loss(outputs, targets)`` gives one value a sample or the batch's mean, with ``labels`` of that kind. Raises as
    `pass_gates` and `collect_input_grams` do.
    """
    groups = structure.groups
    batches = list(batches) if needs.gates and needs.input_grams else batches
    gram, statistics = GramTally(groups=groups), StatisticTally(groups=groups, statistics=needs.statistics)
    gate_gram, means, gradients = None, dict[str, dict[str, Tensor]](), dict[str, Tensor]()
    if needs.gates:
        weights = [part.tensor for group in groups for part in writers(module, group)] if needs.weight_gradients else []
        passed = pass_gates(
            module, groups, batches, loss, [statistics, *([gram] if needs.gram else [])], weights=weights
        )
        gate_gram = gram.gram(passed.num_samples, labels) if needs.gram else None
        means, gradients = statistics.means(passed.num_samples), dict(passed.weight_gradients)
    return Evidence(
        module=module,
        structure=structure,
        gate_gram=gate_gram,
        statistics=means,
        weight_gradients=gradients,
        input_grams=collect_input_grams(module, groups, batches) if needs.input_grams else {},
        seed=seed,
    )
