"""Prune a network in rounds, down to a budget or to what a loss allows."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from secateur.artifacts import Data, LatencyGrid, Model, PruneResult, PruneRound, Redundancy, Task
from secateur.calibration.batches import batches
from secateur.calibration.finite import require_finite
from secateur.calibration.labels import LabelKind
from secateur.errors import BudgetError, LoadError
from secateur.pipeline.allocation import ALLOCATORS, Allocator, floor_cost
from secateur.pipeline.budget import Kind, Limited
from secateur.pipeline.compensation import COMPENSATIONS
from secateur.pipeline.dead_removal import remove_dead
from secateur.pipeline.floors import floors_of, require_floors_reachable
from secateur.pipeline.prune_round import Progress, Recover, Round, silent
from secateur.pipeline.signals import SIGNALS, Combination
from secateur.pipeline.structure import Structure, trace


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Settings of structured pruning.

    ``keep`` is the fraction of the network's ``kind`` of cost that may stay, in (0, 1]; it is approached in
    ``rounds`` along B_t = B_0^(1 - t/T) B_T^(t/T), so that every round removes the same share. With the schedule
    ``one-at-a-time`` a round removes one step of one group instead, until the budget is met (Theis et al. 2018,
    arXiv 1801.05787, who train 10 steps in between). ``allocator`` decides how much goes from where, see
    `ALLOCATORS`. With ``allowed_loss``, in units of the task's loss, pruning stops where the loss on the samples
    after a cut, before recovery, would exceed the uncut network's by more: that round goes to the smallest cost,
    found by bisection to a hundredth of the round's, at which it does not. Where ``keep`` is None only this and the
    floors limit what goes.
    ``signal`` says what a channel is worth, a name of `SIGNALS` or a `Combination`; gradients are those of the loss
    against ``labels`` (see `choose_labels`, `label_loss`), softened by ``temperature`` unless they are true, on
    ``samples`` random samples of the calibration set (the training set where there is none), which are held in memory.
    Widths change in steps of ``multiple``; the channels of the modules in ``protect`` (dotted paths or class names) are
    never cut. With ``dead`` channels that do nothing go first, and their constants into biases, see `remove_dead`.
    With ``branches`` residual branches may go whole, see `Branching`. ``compensation`` names how what stays
    makes up for what goes, see `COMPENSATIONS`; with ``batch_norm`` running statistics are measured again after each
    cut; each is kept where it lowers the loss on the samples.
    ``tolerance`` bounds the relative distance between the cut and the masked network. ``seed`` chooses the samples.
    """

    keep: float | None
    kind: Kind = "macs"
    allowed_loss: float | None = None
    rounds: int = 3
    schedule: Literal["exponential", "one-at-a-time"] = "exponential"
    allocator: Allocator = ALLOCATORS["hierarchical"]
    signal: str | Combination = "fisher"
    labels: LabelKind | Literal["auto"] = "auto"
    temperature: float = 4.0
    samples: int = 256
    batch_size: int = 16
    multiple: int = 1
    protect: tuple[str, ...] = ()
    dead: bool = False
    branches: bool = False
    compensation: str = "least-squares"
    batch_norm: bool = True
    tolerance: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.keep is None and self.allowed_loss is None:
            raise BudgetError("prune", "neither keep nor allowed_loss", "one of them", "Use 0.5 to keep half the cost.")
        if self.allowed_loss is not None and not 0 <= self.allowed_loss < math.inf:
            raise BudgetError(
                "prune, allowed_loss", f"{self.allowed_loss}", "a finite number of at least 0", "Use 0.1 for 0.1 nats."
            )
        if self.keep is not None and not 0 < self.keep <= 1:
            raise BudgetError(
                "prune, keep", f"{self.keep}", "a fraction in (0, 1]", "Use 0.5 to keep half of the cost."
            )
        if self.rounds < 1:
            raise BudgetError("prune, rounds", f"{self.rounds}", "at least 1", "Use 1 to cut at once.")
        for what, found, table in (
            ("signal", self.signal, SIGNALS),
            ("compensation", self.compensation, COMPENSATIONS),
        ):
            if isinstance(found, str) and found not in table:
                raise LoadError(f"prune, {what}", f"{found!r}", f"one of {sorted(table)}", f"Name one {what} of these.")

    def __call__(
        self,
        model: Model,
        task: Task,
        data: Data,
        *,
        redundancy: Redundancy | None = None,
        latencies: Sequence[tuple[str, LatencyGrid]] = (),
        teachers: Sequence[Model] = (),
        recover: Recover | None = None,
        progress: Progress = silent,
    ) -> tuple[Model, PruneResult]:
        """Return the pruned network and what was done; the one given is left as it was.

        ``redundancy`` gives the floors: no group is cut below its effective filters. It belongs to the same network,
        traced with the same ``protect`` and ``multiple``; without it only `Group.least` holds. ``latencies`` are the
        names of the weights of the network's layers and what these take, which the kind ``latency`` needs. ``teachers``
        are what the labels ``teacher`` come from. ``recover`` trains each cut network. A network that is within the
        budget already comes back as a copy, without rounds.

        Raises LoadError for weights that are not finite and for the redundancy of another network, TraceError for
        another network's latencies, BudgetError before anything is cut where the floors cost more than the budget even
        with all branches gone that may go, EqualityError where a cut is not exact, TrainingError where a loss is not
        finite, DataError where there are no teachers whose labels are wanted.
        """
        require_finite(model.module)
        start = self.trace(model)
        floors = floors_of(start, redundancy)
        limited = Limited(kind=self.kind, latencies=latencies)
        limited.require_layers_of(start)
        whole, cost = limited.whole(start), limited.cost(start.bare)
        final = floor_cost(cost, start.bare.groups, floors) if self.keep is None else math.floor(whole * self.keep)
        require_floors_reachable(start.bare, cost, final, redundancy)
        source = data.calibration if data.calibration is not None else data.train
        cut = Round(
            task=task, samples=list(batches(source, self.batch_size, limit=self.samples, seed=self.seed)),
            floors=floors, limited=limited, signal=self.signal, labels=self.labels, temperature=self.temperature,
            teachers=teachers, allocator=self.allocator, compensation=self.compensation, batch_norm=self.batch_norm,
            tolerance=self.tolerance, seed=self.seed, recover=recover, progress=progress,
        )  # fmt: skip
        current, structure, rounds = model.clone(), start, list[PruneRound]()
        emptied = remove_dead(current, start, cut.samples, self.tolerance) if self.dead else None
        if emptied is not None:
            current, removal = emptied
            structure = self.trace(current)
            cut = replace(cut, floors={name: min(n, structure.widths[name]) for name, n in floors.items()})
            progress(f"{removal.num_channels:,} dead channels go; outputs move by {removal.residual:.2g}")
        highest = None if self.allowed_loss is None else cut.loss(model.module, "before pruning") + self.allowed_loss
        for number, target in enumerate(self._targets(whole, final), start=1):
            now = limited.whole(structure)
            if now <= final:
                break
            if now > target:
                narrower = target if self.schedule == "exponential" else max(final, now - 1)
                where = f"round {number}" + (f" of {self.rounds}" if self.schedule == "exponential" else "")
                current, done = cut(current, structure, narrower, where, highest)
                if done is not None:
                    rounds.append(done)
                    structure = self.trace(current)
                if done is None or done.stopped:
                    break
        return current, PruneResult(
            macs_before=start.macs(), macs_after=structure.macs(),
            parameters_before=start.parameters(), parameters_after=structure.parameters(),
            widths_before=start.widths,
            widths_after={name: len(current.kept.get(name, range(width))) for name, width in start.widths.items()},
            floors={group.name: group.allowed_width(cut.floors.get(group.name, 0)) for group in start.groups},
            blocks={group.name: group.block for group in start.groups},
            rounds=tuple(rounds),
            dead=None if emptied is None else emptied[1],
            pinned=start.pinned,
        )  # fmt: skip

    def _targets(self, whole: int, final: int) -> Iterable[int]:
        """Return the budgets of the rounds; one at a time it is the last one again and again."""
        if self.schedule == "one-at-a-time":
            return itertools.repeat(final, whole - final)
        share = final / whole if self.keep is None else self.keep
        targets = [math.floor(whole * share ** (number / self.rounds)) for number in range(1, self.rounds)]
        return [*targets, final]

    def trace(self, model: Model) -> Structure:
        """Return what can be cut from a network under these settings."""
        return trace(
            model.module, model.example_inputs, keep=self.protect, multiple=self.multiple, branches=self.branches
        )
