"""Prune a network in rounds: measure, allocate, cut, prove, recover."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.artifacts import Batch, Data, Group, Model, PruneResult, PruneRound, Redundancy, Task
from secateur.calibration.batch_norm import reestimate_batch_norm, running_norms
from secateur.calibration.batches import batch_size_of, batches, mean_loss
from secateur.calibration.finite import require_finite
from secateur.calibration.labels import LabelKind, choose_labels, label_loss, teacher_batches
from secateur.errors import BudgetError, LoadError, TraceError, TrainingError
from secateur.pipeline.allocation import allocate, require_reachable
from secateur.pipeline.proof import assert_cut_equals_masked
from secateur.pipeline.redundancy import tau_for_budget
from secateur.pipeline.signals import SIGNALS, Combination, Evidence, Signal, collect_evidence, saliency
from secateur.pipeline.structure import Structure, cut, trace

Recover = Callable[[Model], Model]
"""Fine-tunes a cut network for a while; it may train the module that it is given, and must not change its shapes."""

Progress = Callable[[str], None]


def silent(message: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Settings of structured pruning.

    ``keep`` is the fraction of the network's ``kind`` of cost that may stay, in (0, 1]; it is approached in ``rounds``
    along B_t = B_0^(1 - t/T) B_T^(t/T), so that every round removes the same share. ``signal`` says what a channel is
    worth, a name of `SIGNALS` or a `Combination`; gradients are those of the loss against ``labels`` (see
    `choose_labels`, `label_loss`), softened by ``temperature`` unless they are true, on ``samples`` random samples of
    the calibration set (the training set where there is none), which are held in memory.
    Widths change in steps of ``multiple``; the channels of the modules in ``protect`` (dotted paths or class names) are
    never cut. With ``batch_norm`` running statistics are measured again after each cut, where that lowers the loss.
    ``tolerance`` bounds the relative distance between the cut and the masked network. ``seed`` chooses the samples.
    """

    keep: float
    kind: Literal["macs", "parameters"] = "macs"
    rounds: int = 3
    signal: str | Combination = "fisher"
    labels: LabelKind | Literal["auto"] = "auto"
    temperature: float = 4.0
    samples: int = 256
    batch_size: int = 16
    multiple: int = 1
    protect: tuple[str, ...] = ()
    batch_norm: bool = True
    tolerance: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise BudgetError(
                "prune, keep", f"{self.keep}", "a fraction in (0, 1]", "Use 0.5 to keep half of the cost."
            )
        if self.rounds < 1:
            raise BudgetError("prune, rounds", f"{self.rounds}", "at least 1", "Use 1 to cut at once.")
        if isinstance(self.signal, str) and self.signal not in SIGNALS:
            raise LoadError(
                "prune, signal", f"{self.signal!r}", f"one of {sorted(SIGNALS)}", "Name one of the signals."
            )

    def __call__(
        self,
        model: Model,
        task: Task,
        data: Data,
        *,
        redundancy: Redundancy | None = None,
        recover: Recover | None = None,
        progress: Progress = silent,
    ) -> tuple[Model, PruneResult]:
        """Return the pruned network and what was done; the one given is left as it was.

        ``redundancy`` gives the floors: no group is cut below its effective filters. It belongs to the same network,
        traced with the same ``protect`` and ``multiple``; without it only `Group.least` holds. ``recover`` trains each
        cut network. A network that is within the budget already comes back as a copy, without rounds.

        Raises LoadError for weights that are not finite and for the redundancy of another network, BudgetError before
        anything is cut where the floors cost more than the budget, EqualityError where a cut is not exact,
        TrainingError where a loss is not finite.
        """
        require_finite(model.module)
        start = self.trace(model)
        floors = _floors(start, redundancy)
        whole = _cost(start, self.kind)
        self._require_reachable(start, redundancy)
        source = data.calibration if data.calibration is not None else data.train
        work = _Work(
            settings=self, task=task, floors=floors, recover=recover, progress=progress, original=model.module,
            samples=list(batches(source, self.batch_size, limit=self.samples, seed=self.seed)),
        )  # fmt: skip
        current, structure, rounds = model.clone(), start, list[PruneRound]()
        for number in range(1, self.rounds + 1):
            target = math.floor(whole * self.keep ** (number / self.rounds))
            if _cost(structure, self.kind) > target:
                current, done = work.round(current, structure, target, number)
                rounds.append(done)
                structure = self.trace(current)
        return current, PruneResult(
            macs_before=start.macs(),
            macs_after=structure.macs(),
            parameters_before=start.parameters(),
            parameters_after=structure.parameters(),
            widths_before=start.widths,
            widths_after={**start.widths, **structure.widths},
            floors={group.name: group.allowed_width(floors.get(group.name, 0)) for group in start.groups},
            blocks={group.name: group.block for group in start.groups},
            rounds=tuple(rounds),
            pinned=start.pinned,
        )

    @property
    def worth(self) -> Signal:
        """The signal itself."""
        return SIGNALS[self.signal] if isinstance(self.signal, str) else self.signal

    def _require_reachable(self, structure: Structure, redundancy: Redundancy | None) -> None:
        terms, budget = structure.cost_terms(self.kind), math.floor(_cost(structure, self.kind) * self.keep)
        tau = redundancy and tau_for_budget(redundancy, terms, budget, structure.groups)
        if tau is not None and redundancy is not None:
            remedy = f"Keep more, raise tau from {redundancy.tau:g} to {tau:.2g}, or set floors: false."
        else:
            remedy = "No floor is low enough: keep more, lower the multiple, or protect fewer modules."
        require_reachable(terms, budget, structure.groups, _floors(structure, redundancy), remedy)

    def trace(self, model: Model) -> Structure:
        """Return what can be cut from a network under these settings."""
        return trace(model.module, model.example_inputs, keep=self.protect, multiple=self.multiple)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """What all rounds of one pruning share."""

    settings: Prune
    task: Task
    original: nn.Module
    samples: list[Batch]
    floors: Mapping[str, int]
    recover: Recover | None
    progress: Progress

    def round(self, model: Model, structure: Structure, target: int, number: int) -> tuple[Model, PruneRound]:
        """Cut a network to a cost of at most ``target``."""
        settings, kind = self.settings, self.settings.kind
        where = f"round {number} of {settings.rounds}"
        self.progress(f"{where}: from {_cost(structure, kind):,} to {target:,} {kind}")
        evidence = self._evidence(settings.worth, model.module, structure)
        scores = saliency(settings.worth, evidence, structure.groups)
        keep = allocate(scores, structure.cost_terms(kind), target, structure.groups, self.floors)
        small = cut(model.module, structure, keep)
        error = assert_cut_equals_masked(
            model.module, structure.groups, keep, small, self.samples[0][0], settings.tolerance
        )
        loss_before = self._loss(model.module, f"{where}, before the cut")
        small, loss_after_cut = self._settled(small, where)
        result = replace(model, module=small, kept=_compose(model.kept, structure.groups, keep))
        loss_after_recovery = loss_after_cut
        if self.recover is not None:
            self.progress(f"{where}: loss {loss_before:.4g}, {loss_after_cut:.4g} after the cut; recovering")
            result = replace(result, module=self.recover(result).module)
            loss_after_recovery = self._loss(result.module, f"{where}, after recovery")
        widths = {name: int(mask.sum()) for name, mask in keep.items()}
        self.progress(f"{where}: {sum(widths.values()):,} channels left, loss {loss_after_recovery:.4g}")
        return result, PruneRound(
            target_macs=target if kind == "macs" else None,
            target_parameters=target if kind == "parameters" else None,
            macs=structure.macs(widths),
            parameters=structure.parameters(widths),
            widths=widths,
            cut_error=error,
            loss_before=loss_before,
            loss_after_cut=loss_after_cut,
            loss_after_recovery=loss_after_recovery,
        )

    def _evidence(self, signal: Signal, module: nn.Module, structure: Structure) -> Evidence:
        settings = self.settings
        if not signal.needs:
            return Evidence(module=module, structure=structure, seed=settings.seed)
        labels = choose_labels(self.task, settings.labels)
        loss = label_loss(self.task, labels, temperature=settings.temperature, seed=settings.seed)
        samples = teacher_batches(self.original, self.samples) if labels == "teacher" else self.samples
        return collect_evidence(signal.needs, module, structure, samples, loss, labels=labels, seed=settings.seed)

    def _settled(self, module: nn.Module, where: str) -> tuple[nn.Module, float]:
        """Return the cut network with the better of its old and its re-estimated batch statistics, and its loss."""
        loss = self._loss(module, f"{where}, after the cut")
        if not self.settings.batch_norm or not running_norms(module):
            return module, loss
        trial = copy.deepcopy(module)
        # Batches count equally in the averages: a smaller last one is left out.
        full = [batch for batch in self.samples if batch_size_of(batch[0]) == self.settings.batch_size]
        reestimate_batch_norm(trial, full or self.samples)
        settled = mean_loss(trial, self.task.loss, self.samples)
        return (trial, settled) if settled < loss else (module, loss)

    def _loss(self, module: nn.Module, where: str) -> float:
        loss = mean_loss(module, self.task.loss, self.samples)
        if not math.isfinite(loss):
            raise TrainingError(
                f"prune, {where}", f"a loss of {loss}", "a finite loss",
                "Lower the learning rate of the recovery, or cut in more rounds.",
            )  # fmt: skip
        return loss


def _cost(structure: Structure, kind: Literal["macs", "parameters"]) -> int:
    return structure.macs() if kind == "macs" else structure.parameters()


def _floors(structure: Structure, redundancy: Redundancy | None) -> dict[str, int]:
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


def _compose(kept: Mapping[str, Tensor], groups: tuple[Group, ...], keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the original indices of the surviving channels of every group that was ever cut."""
    composed = dict(kept)
    for group in groups:
        before = kept.get(group.name, torch.arange(group.num_channels))
        if len(before) != group.num_channels:
            raise TraceError(
                f"prune, group {group.name}", f"{group.num_channels} channels", f"{len(before)}, as after the last cut",
                "Leave the network's shapes alone between cuts.",
            )  # fmt: skip
        if not keep[group.name].all():
            composed[group.name] = before[keep[group.name].to(before.device)]
    return composed
