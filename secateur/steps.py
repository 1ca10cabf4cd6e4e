"""What each step of a run computes, and how its result is read back.

Every step reads the folders of the steps before it and writes its files into the folder it is given; `secateur.chain`
decides which are run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from torch.utils.data import Dataset

from secateur.artifacts import (
    FinetuneResult,
    Model,
    Record,
    Redundancy,
)
from secateur.calibration.batches import batches, evaluate
from secateur.calibration.gram import GateGram, collect_gate_gram, load_gate_gram
from secateur.calibration.labels import choose_labels, label_loss
from secateur.listening import Listener
from secateur.loading import Workload
from secateur.pipeline.export import export
from secateur.pipeline.finetune import DistillationWeights, Finetune
from secateur.pipeline.prune import Prune
from secateur.pipeline.redundancy import estimate
from secateur.pipeline.signals import Combination
from secateur.pipeline.structure import Structure, load_model, save_model, trace
from secateur.recipe import Recipe
from secateur.storage import write as write_file

R = TypeVar("R", bound=Record)

NUM_PARITY_BATCHES = 2
EVALUATION_BATCH_SIZE = 32


def read(folder: Path, name: str, record: type[R]) -> R:
    """Read a result that a step wrote."""
    return record.model_validate_json((folder / f"{name}.json").read_text(encoding="utf-8"))


def write(folder: Path, name: str, result: Record) -> None:
    """Write a step's result."""
    write_file(folder / f"{name}.json", result.model_dump_json(indent=1).encode())


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of one recipe on one workload."""

    recipe: Recipe
    workload: Workload
    listener: Listener

    def structure(self, model: Model) -> Structure:
        """Trace a network as the recipe wants it pruned."""
        wanted = self.recipe.prune
        return trace(model.module, model.example_inputs, keep=wanted.keep, multiple=wanted.multiple)

    @cached_property
    def original(self) -> Structure:
        """The uncut network's structure."""
        return self.structure(self.workload.model)

    def estimate(self, folder: Path) -> None:
        """Collect gate Grams of the uncut network and estimate its redundancy."""
        settings, workload = self.recipe.estimate, self.workload
        structure = self.original
        labels = choose_labels(workload.task, settings.labels)
        loss = label_loss(workload.task, labels, temperature=settings.temperature, seed=self.recipe.seed)
        samples = batches(self._calibration(), settings.batch_size, limit=settings.samples, seed=self.recipe.seed)
        counted = self._counted(samples, "calibration samples", settings.samples, settings.batch_size)
        gram = collect_gate_gram(workload.model.module, structure.groups, counted, loss, labels=labels)
        widest = max((group.num_channels for group in structure.groups), default=0)
        if gram.num_samples < widest:
            self.listener.message(
                f"{gram.num_samples} samples cannot show more than so many effective filters, and the widest group has "
                f"{widest}: floors of wide groups are too low; raise estimate.samples"
            )
        gram.save(folder / "gram.safetensors")
        redundancy = estimate(structure, gram, settings.tau)
        most = redundancy.maximum_compression
        told = f"{most['macs']:.0%} of the MACs and {most['filters']:.0%} of the filters"
        self.listener.message(f"maximum compression at tau {settings.tau:g}: {told} could go")
        write(folder, "redundancy", redundancy)

    def prune(self, estimated: Path, folder: Path) -> None:
        """Cut the network to the budget in rounds, healing it a little after each."""
        settings = self.recipe.prune
        kind, keep = settings.budget
        prune = Prune(
            kind=kind, keep=keep, rounds=settings.rounds, signal=self._signal(), samples=settings.samples,
            batch_size=settings.batch_size, multiple=settings.multiple, protect=tuple(settings.keep),
            seed=self.recipe.seed,
        )  # fmt: skip
        recovery = self._finetune(num_steps=settings.recovery_steps, validation_share=0.0)
        gram = load_gate_gram(estimated / "gram.safetensors")

        def recover(model: Model) -> Model:
            return self._heal(recovery, model, gram, None)[0]

        model, result = prune(
            self.workload.model, self.workload.task, self.workload.data,
            redundancy=read(estimated, "redundancy", Redundancy) if settings.floors else None,
            recover=recover if settings.recovery_steps else None, progress=self.listener.message,
        )  # fmt: skip
        save_model(model, folder / "model")
        write(folder, "prune", result)

    def finetune(self, estimated: Path, pruned: Path, folder: Path) -> None:
        """Distil the cut network from the uncut one."""
        gram = load_gate_gram(estimated / "gram.safetensors")
        model, result = self._heal(self._finetune(), self.compressed(pruned), gram, folder / "checkpoint")
        save_model(model, folder / "model")
        write(folder, "finetune", result)

    def evaluate(self, finetuned: Path, folder: Path) -> None:
        """Measure both networks' metrics on the test set."""
        for name, model in self.both(finetuned).items():
            self.listener.message(f"evaluating the {name} network")
            result = evaluate(model.module, self.workload.task, self.workload.data.test, EVALUATION_BATCH_SIZE)
            self.listener.message(", ".join(f"{metric} {value:.4f}" for metric, value in result.metrics.items()))
            write(folder, name, result)

    def export(self, finetuned: Path, folder: Path) -> None:
        """Write both networks as ONNX and prove them equal to the networks."""
        settings = self.recipe.export
        real = [inputs for inputs, _ in batches(self.workload.data.test, 2, limit=2 * NUM_PARITY_BATCHES)]
        for name, model in self.both(finetuned).items():
            exported = export(
                model, folder, name=name, opset=settings.opset, dynamic_batch=settings.dynamic_batch,
                tolerance=settings.tolerance, batches=real, seed=self.recipe.seed,
                metadata={"recipe": self.recipe.name, "network": name},
            )  # fmt: skip
            parity = exported.result.parity
            self.listener.message(f"{name}.onnx differs from the network by at most {parity.worst_absolute:.2g}")
            write(folder, name, exported.result)

    def both(self, finetuned: Path) -> dict[str, Model]:
        """Return the original and the compressed network."""
        return {"original": self.workload.model, "compressed": self.compressed(finetuned)}

    def compressed(self, folder: Path) -> Model:
        """Load the cut network that a step saved."""
        original = self.workload.model
        return load_model(folder / "model", original.clone().module, original.example_inputs)

    def _signal(self) -> str | Combination:
        wanted = self.recipe.prune.signal
        return wanted if isinstance(wanted, str) else Combination(**wanted.model_dump())

    def _calibration(self) -> Dataset:
        return self.workload.data.calibration or self.workload.data.train

    def _finetune(self, num_steps: int | None = None, validation_share: float | None = None) -> Finetune:
        settings = self.recipe.finetune
        weights = settings.distillation
        return Finetune(
            epochs=settings.epochs, num_steps=num_steps, learning_rate=settings.learning_rate,
            batch_size=settings.batch_size, optimizer=settings.optimizer, weight_decay=settings.weight_decay,
            weights=DistillationWeights(task=weights.task, output=weights.output, feature=weights.feature),
            temperature=weights.temperature, seed=self.recipe.seed,
            validation_share=settings.validation if validation_share is None else validation_share,
        )  # fmt: skip

    def _heal(
        self, finetune: Finetune, model: Model, gram: GateGram, checkpoints: Path | None
    ) -> tuple[Model, FinetuneResult]:
        original = self.workload.model
        return finetune(
            model, original, self.workload.task, self.workload.data,
            groups=self.original.groups, student_groups=self.structure(model).groups,
            importance={name: gram.saliency(name) for name in gram.gram},
            checkpoint_folder=checkpoints, progress=self.listener.progress,
        )  # fmt: skip

    def _counted(self, source: Iterator, description: str, samples: int, batch_size: int) -> Iterator:
        total = min(samples, len(self._calibration()))  # type: ignore[arg-type]
        for number, batch in enumerate(source):
            yield batch
            self.listener.progress(description, min((number + 1) * batch_size, total), total)
