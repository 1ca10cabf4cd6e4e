"""One round of pruning: measure, allocate, cut, prove, recover."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from secateur.artifacts import Batch, Model, PruneRound, Task
from secateur.calibration.batches import mean_loss
from secateur.calibration.labels import LabelKind, choose_labels, label_loss, labelled_batches
from secateur.errors import TrainingError
from secateur.pipeline.allocation import Allocator, kept_and_possible
from secateur.pipeline.branching import Branching, branch_losses
from secateur.pipeline.budget import Limited, cheapest_allowed
from secateur.pipeline.compensation import COMPENSATIONS, Removal
from secateur.pipeline.kept import compose
from secateur.pipeline.proof import assert_cut_equals_masked
from secateur.pipeline.settling import Settle, Settled
from secateur.pipeline.signals import Combination, Evidence, Needs, collect_evidence, saliency, signal_of
from secateur.pipeline.structure import Structure

Recover = Callable[[Model], Model]
"""Fine-tunes a cut network for a while; it may train the module that it is given, and must not change its shapes."""

Progress = Callable[[str], None]


def silent(message: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """What all rounds of one pruning have in common; see `secateur.pipeline.prune.Prune` for the settings.

    ``samples`` are what saliencies and losses are measured on, ``floors`` the least widths by group.
    """

    task: Task
    samples: Sequence[Batch]
    floors: Mapping[str, int]
    limited: Limited
    signal: str | Combination
    labels: LabelKind | Literal["auto"]
    temperature: float
    teachers: Sequence[Model]
    allocator: Allocator
    compensation: str
    batch_norm: bool
    tolerance: float
    seed: int
    recover: Recover | None
    progress: Progress

    def __call__(
        self, model: Model, structure: Structure, target: int, where: str, highest: float | None
    ) -> tuple[Model, PruneRound | None]:
        """Cut a network to a cost of at most ``target``, or to what a loss of ``highest`` allows; None if nothing.

        Raises EqualityError where the cut is not exact, TrainingError where a loss is not finite.
        """
        self.progress(f"{where}: from {self.limited.whole(structure):,} to {target:,} {self.limited.unit}")
        evidence = self._evidence(model.module, structure)
        scores = saliency(signal_of(self.signal), evidence, structure.groups)

        def settled(keep: Mapping[str, Tensor]) -> Settled:
            removal = Removal(
                module=model.module, structure=structure, keep=keep, samples=self.samples, gate_gram=evidence.gate_gram
            )
            return Settle(compensation=self.compensation, batch_norm=self.batch_norm)(removal, self.task.loss)

        losses = branch_losses(structure, scores, self.signal, evidence.gate_gram)
        asked, (target, keep) = target, self._allocated(structure, scores, losses, target, highest, settled)
        if all(mask.all() for mask in keep.values()):
            self.progress(f"{where}: nothing can go within the loss that is allowed")
            return model, None
        removed = structure.removed_at({name: int(mask.sum()) for name, mask in keep.items()})
        left = structure.without(removed)
        stays, most = kept_and_possible(scores, keep, self.limited.cost(left), target, left.groups, self.floors)
        self.progress(f"{where}: {stays:.2%} of the saliency stays; at most {most:.2%} could")
        for name in removed:
            self.progress(f"{where}: branch {name} goes whole")
        found = settled(keep)
        error = assert_cut_equals_masked(
            model.module, structure.groups, keep, found.bare, self.samples[0][0], self.tolerance
        )
        loss_before = self.loss(model.module, f"{where}, before the cut")
        loss_after_cut = _finite(found.loss, f"{where}, after the cut")
        result = replace(model, module=found.module, kept=compose(model.kept, structure.groups, keep))
        loss_after_recovery = loss_after_cut
        if self.recover is not None:
            self.progress(f"{where}: loss {loss_before:.4g}, {loss_after_cut:.4g} after the cut; recovering")
            result = replace(result, module=self.recover(result).module)
            loss_after_recovery = self.loss(result.module, f"{where}, after recovery")
        widths = {name: int(mask.sum()) for name, mask in keep.items()}
        self.progress(f"{where}: {sum(widths.values()):,} channels left, loss {loss_after_recovery:.4g}")
        return result, PruneRound(
            **self.limited.target(target),
            target_latency_s=self.limited.target_s(target),
            stopped=target > asked,
            saliency_kept=stays,
            saliency_bound=most,
            macs=structure.macs(widths),
            parameters=structure.parameters(widths),
            widths=widths,
            removed=removed,
            cut_error=error,
            compensation=found.compensation,
            loss_before=loss_before,
            loss_after_cut=loss_after_cut,
            loss_after_recovery=loss_after_recovery,
        )

    def _allocated(
        self, structure: Structure, scores: Mapping[str, Tensor], losses: Mapping[str, float], target: int,
        highest: float | None, settled: Callable[[Mapping[str, Tensor]], Settled],
    ) -> tuple[int, dict[str, Tensor]]:  # fmt: skip
        """Return the least budget from the target up at which the loss is allowed, and the channels that stay at it."""
        branching = Branching(allocator=self.allocator, cost=self.limited.cost, losses=losses)

        def kept(budget: int) -> dict[str, Tensor]:
            return branching(scores, budget, structure, self.floors)

        def allowed(keep: Mapping[str, Tensor]) -> bool:
            return highest is None or settled(keep).loss <= highest

        return cheapest_allowed(kept, allowed, target, self.limited.whole(structure))

    def _evidence(self, module: nn.Module, structure: Structure) -> Evidence:
        needs = signal_of(self.signal).needs | Needs(gram=COMPENSATIONS[self.compensation].needs_gram)
        if not needs:
            return Evidence(module=module, structure=structure, seed=self.seed)
        labels = choose_labels(self.task, self.labels)
        loss = label_loss(self.task, labels, temperature=self.temperature, seed=self.seed)
        samples = labelled_batches(labels, self.samples, self.teachers)
        return collect_evidence(needs, module, structure, samples, loss, labels=labels, seed=self.seed)

    def loss(self, module: nn.Module, where: str) -> float:
        """Return the mean loss on the samples; raise TrainingError where it is not finite."""
        return _finite(mean_loss(module, self.task.loss, self.samples), where)


def _finite(loss: float, where: str) -> float:
    if not math.isfinite(loss):
        raise TrainingError(
            f"prune, {where}", f"a loss of {loss}", "a finite loss",
            "Lower the learning rate of the recovery, or cut in more rounds.",
        )  # fmt: skip
    return loss
