"""Estimate a network's redundancy: collect, count, look for dead channels, and measure where asked."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch.utils.data import Dataset

from secateur.artifacts import Batch, Data, Model, Redundancy, Task, TauCalibration
from secateur.calibration.activations import collect_activations
from secateur.calibration.batches import Loss, batch_size_of, batches, mean_loss
from secateur.calibration.gram import GateGram, collect_gate_gram
from secateur.calibration.labels import LabelKind, choose_labels, label_loss, labelled_batches
from secateur.errors import DataError, LoadError
from secateur.pipeline.redundancy.calibrate import calibrate_tau
from secateur.pipeline.redundancy.covering import measure_covering
from secateur.pipeline.redundancy.dead import FindDead
from secateur.pipeline.redundancy.effective import estimate
from secateur.pipeline.redundancy.estimators import EFFECTIVE, Effective, Tail
from secateur.pipeline.redundancy.matrices import MATRICES
from secateur.pipeline.redundancy.probe import CutProbe
from secateur.pipeline.redundancy.removal import measure_removal
from secateur.pipeline.settling import Settle
from secateur.pipeline.signals import Combination, collect_evidence, saliency, signal_of
from secateur.pipeline.structure import Structure

Progress = Callable[[str, int, int], None]
"""Hears how many samples of how many a pass has seen."""


def unheard(description: str, done: int, total: int) -> None:
    """Say nothing."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Settings of an estimate.

    ``matrix`` and ``estimator`` name entries of `MATRICES` and `EFFECTIVE`; ``tau`` is the threshold of the tail in
    nats, or "auto" for the largest at which cutting to the floors adds at most ``loss_increase`` to the loss on as many
    further samples as were estimated on; ``threshold`` that of other estimators, None for their own. Inside a group,
    these cuts keep the channels that ``signal`` values most, and ``compensation`` makes up for the others. ``samples``
    random samples of the calibration set (the training set where there is none) are looked at, with the labels of
    `choose_labels`.
    """

    samples: int = 256
    batch_size: int = 16
    labels: LabelKind | Literal["auto"] = "auto"
    temperature: float = 4.0
    matrix: str = "gate"
    estimator: str = "tail"
    tau: float | Literal["auto"] = 0.001
    threshold: float | None = None
    loss_increase: float = 0.05
    signal: str | Combination = "fisher"
    compensation: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        for key, found, known in (("matrix", self.matrix, MATRICES), ("estimator", self.estimator, EFFECTIVE)):
            if found not in known:
                raise LoadError(f"estimate, {key}", repr(found), f"one of {sorted(known)}", "Name one of them.")

    def __call__(
        self, model: Model, structure: Structure, task: Task, data: Data, *, teachers: Sequence[Model] = (),
        progress: Progress = unheard,
    ) -> tuple[GateGram, Redundancy]:  # fmt: skip
        """Return the gate gradients' Gram matrices and what follows; the network is left as it was.

        ``structure`` is that of the network, ``teachers`` are what the labels ``teacher`` come from. Raises DataError
        where these are wanted and missing, and where tau is to be measured and no samples are left for it, BudgetError
        where no tau keeps within the increase, and as the parts do.
        """
        module = model.module
        labels, loss = self.labelled(task)

        def samples(description: str) -> Iterable[Batch]:
            return labelled_batches(labels, self.heard(data, description, progress), teachers)

        gram = collect_gate_gram(module, structure.groups, samples("calibration samples"), loss, labels=labels)
        # Labels that are drawn are drawn again from the start.
        again = self.labelled(task)[1]
        matrix = MATRICES[self.matrix](module, structure, samples(f"{self.matrix} matrix"), again, gram)
        activations = collect_activations(module, structure.groups, samples("activations"))
        dead = FindDead()(module, structure, activations)
        coverings = measure_covering(module, structure.groups)
        found = estimate(structure, matrix, self._rule(), coverings=coverings, dead=dead)
        if self.tau == "auto" and self.estimator == "tail":
            tau, calibration = self._calibrated(model, structure, task, data, teachers, gram, found)
            found = estimate(structure, matrix, tau, coverings=coverings, dead=dead)
            found = found.model_copy(update={"calibration": calibration})
        first = next(iter(batches(self._source(data), self.batch_size, limit=self.batch_size, seed=self.seed)))
        removal = measure_removal(module, structure, dead, activations, first[0])
        return gram, found.model_copy(update={"removal": removal})

    def labelled(self, task: Task) -> tuple[LabelKind, Loss]:
        """Return which labels the loss has that is differentiated, and this loss."""
        labels = choose_labels(task, self.labels)
        return labels, label_loss(task, labels, temperature=self.temperature, seed=self.seed)

    def heard(self, data: Data, description: str, progress: Progress) -> Iterator[Batch]:
        """Yield the samples that are looked at, in batches, and tell how many have been."""
        total = min(self.samples, len(self._source(data)))  # type: ignore[arg-type]
        for number, batch in enumerate(self._samples(data)):
            yield batch
            progress(description, min((number + 1) * self.batch_size, total), total)

    def _rule(self) -> Effective:
        """Return what counts; where tau is to be found, the spectra are what matters."""
        known = EFFECTIVE[self.estimator]
        if isinstance(known, Tail):
            return known if self.tau == "auto" else replace(known, threshold=float(self.tau))
        return known if self.threshold is None else replace(known, threshold=self.threshold)

    def _calibrated(
        self, model: Model, structure: Structure, task: Task, data: Data, teachers: Sequence[Model], gram: GateGram,
        found: Redundancy,
    ) -> tuple[float, TauCalibration]:  # fmt: skip
        held_out, seen = self._held_out(data), list(self._samples(data))
        labels, loss = self.labelled(task)
        worth, samples = signal_of(self.signal), labelled_batches(labels, seen, teachers)
        evidence = collect_evidence(worth.needs, model.module, structure, samples, loss, labels=labels, seed=self.seed)
        probe = CutProbe(
            module=model.module, structure=structure, gate_gram=gram, settle=Settle(compensation=self.compensation),
            settling=seen, held_out=held_out, loss=task.loss,
            saliency=saliency(worth, evidence, structure.groups),
        )  # fmt: skip
        return calibrate_tau(
            found, structure.groups, probe, loss_before=mean_loss(model.module, task.loss, held_out),
            loss_increase=self.loss_increase, num_samples=sum(batch_size_of(inputs) for inputs, _ in held_out),
        )  # fmt: skip

    def _source(self, data: Data) -> Dataset[Any]:
        return data.calibration if data.calibration is not None else data.train

    def _samples(self, data: Data) -> Iterator[Batch]:
        return batches(self._source(data), self.batch_size, limit=self.samples, seed=self.seed)

    def _held_out(self, data: Data) -> list[Batch]:
        """Return as many samples as were estimated on, or what is left, after them in the random order."""
        num_seen = math.ceil(self.samples / self.batch_size)
        drawn = batches(
            self._source(data), self.batch_size, limit=num_seen * self.batch_size + self.samples, seed=self.seed
        )
        held_out = list(itertools.islice(drawn, num_seen, None))
        if not held_out:
            raise DataError(
                "calibration of tau", f"{len(self._source(data))} samples, all of them estimated on",  # type: ignore[arg-type]
                "some that were held out", "Lower estimate.samples, or give tau as a number.",
            )  # fmt: skip
        return held_out
