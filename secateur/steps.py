"""What each step of a run computes, and how its result is read back.

Every step reads the folders of the steps before it and writes its files into the folder it is given; `secateur.chain`
decides which are run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from torch import Tensor
from torch.utils.data import Subset

from secateur import __version__
from secateur.artifacts import (
    Exported,
    FileFacts,
    FinetuneResult,
    LatencyGrid,
    Model,
    Pictures,
    Record,
    Redundancy,
)
from secateur.backends import BACKENDS
from secateur.backends.latency_table import LatencyTable
from secateur.backends.torch import Torch
from secateur.calibration.batches import batches, evaluate
from secateur.calibration.gram import load_gate_gram
from secateur.calibration.labels import labelled_batches
from secateur.calibration.parameter_fisher import collect_parameter_fisher, load_parameter_fisher
from secateur.launched import Lessons, Others
from secateur.listening import Listener
from secateur.loading import Workload, hash_weights
from secateur.pipeline.export import export
from secateur.pipeline.finetune import Finetune, Memory
from secateur.pipeline.prune import Prune
from secateur.pipeline.quantize.module import FileModule
from secateur.pipeline.redundancy import Estimate, with_latency
from secateur.pipeline.sparsity import Discovery, Sparsify
from secateur.pipeline.structure import Structure, load_model, save_model, trace
from secateur.pipeline.structure.layer_calls import layers_of
from secateur.recipe import Recipe
from secateur.recipe_objects import allocator, finetuning, signal
from secateur.report.redundancy import found_told, rule_told
from secateur.storage import write as write_file

R = TypeVar("R", bound=Record)

NUM_PARITY_BATCHES = 2
NUM_METRIC_SAMPLES = 32
EVALUATION_BATCH_SIZE = 32
PARAMETER_FISHER = "parameter_fisher.safetensors"
LATENCIES = ".latencies"
"""Where runs keep the latencies of layers, beside the run folders."""


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
    others: Others | None = None

    def structure(self, model: Model) -> Structure:
        """Trace a network as the recipe wants it pruned."""
        wanted = self.recipe.prune
        return trace(model.module, model.example_inputs, keep=wanted.keep, multiple=wanted.multiple)

    @cached_property
    def original(self) -> Structure:
        """The uncut network's structure."""
        return self.structure(self.workload.model)

    @property
    def timed(self) -> bool:
        """Whether the latencies of layers are wanted."""
        return self.recipe.estimate.latency or self.recipe.prune.latency is not None

    def estimate(self, folder: Path) -> None:
        """Collect gate Grams of the uncut network and estimate its redundancy."""
        workload, structure = self.workload, self.original
        settings = Estimate(
            **self.recipe.estimate.model_dump(exclude={"latency"}), signal=signal(self.recipe.prune.signal),
            compensation=self.recipe.prune.compensation, seed=self.recipe.seed,
        )  # fmt: skip
        latencies = self._latencies() if self.timed else ()
        gram, redundancy = settings(
            workload.model, structure, workload.task, workload.data, teachers=workload.teachers,
            progress=self.listener.progress,
        )  # fmt: skip
        widest = max((group.num_channels for group in structure.groups), default=0)
        if gram.num_samples < widest:
            self.listener.message(
                f"{gram.num_samples} samples cannot show more than so many effective filters, and the widest group has "
                f"{widest}: floors of wide groups are too low; raise estimate.samples"
            )
        gram.save(folder / "gram.safetensors")
        if self.recipe.finetune.distillation.parameter:
            labels, loss = settings.labelled(workload.task)
            heard = settings.heard(workload.data, "parameters' Fisher information", self.listener.progress)
            samples = labelled_batches(labels, heard, workload.teachers)
            fisher = collect_parameter_fisher(workload.model.module, samples, loss, labels=labels)
            fisher.save(folder / PARAMETER_FISHER)
        if latencies:
            redundancy = with_latency(redundancy, structure, latencies, self.recipe.measure.backend)
        most = redundancy.maximum_compression
        told = f"{most['macs']:.0%} of the MACs and {most['filters']:.0%} of the filters"
        if "latency" in most:
            told = f"{most['latency']:.0%} of the layers' latency, {told}"
        self.listener.message(f"maximum compression by {rule_told(redundancy)}: {told} could go")
        for line in found_told(redundancy):
            self.listener.message(line)
        write(folder, "redundancy", redundancy)

    def prune(self, estimated: Path, folder: Path) -> None:
        """Cut the network to the budget in rounds, healing it a little after each."""
        settings = self.recipe.prune
        kind, keep = settings.budget
        prune = Prune(
            kind=kind, keep=keep, allowed_loss=settings.allowed_loss, rounds=settings.rounds,
            schedule=settings.schedule, allocator=allocator(settings.allocator), signal=signal(settings.signal),
            labels=settings.labels, temperature=settings.temperature,
            compensation=settings.compensation, samples=settings.samples, batch_size=settings.batch_size,
            multiple=settings.multiple, protect=tuple(settings.keep), dead=settings.dead, branches=settings.branches,
            seed=self.recipe.seed,
        )  # fmt: skip
        recovery = finetuning(self.recipe, num_steps=settings.recovery_steps, validation_share=0.0)
        memory, last = Memory(), list[tuple[Model, Structure]]()

        def recover(model: Model) -> Model:
            if last:
                memory.follow(*last.pop(), model)
            healed = self._heal(recovery, model, estimated, None, memory=memory)[0]
            if settings.carry_optimizer:
                last.append((healed, prune.trace(healed)))
            else:
                memory.forget()
            return healed

        model, result = prune(
            self.workload.model, self.workload.task, self.workload.data,
            redundancy=read(estimated, "redundancy", Redundancy) if settings.floors else None,
            latencies=self._latencies() if kind == "latency" else (), teachers=self.workload.teachers,
            recover=recover if settings.recovery_steps else None, progress=self.listener.message,
        )  # fmt: skip
        save_model(model, folder / "model")
        write(folder, "prune", result)

    def finetune(self, estimated: Path, pruned: Path, folder: Path) -> None:
        """Distil the cut network from the uncut one."""
        lessons = Lessons(estimated=estimated, pruned=pruned, checkpoints=folder / "checkpoint")
        if self.others is None:
            model, result = self.train(lessons)
        else:
            self.others.call(lessons)
            with self.others.together():
                model, result = self.train(lessons)
        save_model(model, folder / "model")
        write(folder, "finetune", result)

    def train(self, lessons: Lessons) -> tuple[Model, FinetuneResult]:
        """Train the cut network, in all processes that do so."""
        model, masks, settings = self.compressed(lessons.pruned), None, self.recipe.sparsity
        if settings is not None:
            sparsify = Sparsify(
                method=settings.method, keep=tuple(settings.keep), discovery=Discovery(seed=self.recipe.seed)
            )
            model, masks = sparsify(model, self.workload.task, self.workload.data)
            self.listener.message(f"2:4 sparsity: {len(masks)} layers keep two of every four weights")
        return self._heal(finetuning(self.recipe), model, lessons.estimated, lessons.checkpoints, masks)

    def evaluate(self, finetuned: Path, folder: Path) -> None:
        """Measure both networks' metrics on the test set."""
        for name, model in self.both(finetuned).items():
            self.listener.message(f"evaluating the {name} network")
            result = evaluate(model.module, self.workload.task, self.workload.data.test, EVALUATION_BATCH_SIZE)
            self.listener.message(", ".join(f"{metric} {value:.4f}" for metric, value in result.metrics.items()))
            write(folder, name, result)

    @property
    def with_program(self) -> bool:
        """Whether a runtime of the recipe wants the network as torch captures it, beside the ONNX file."""
        named = (*self.recipe.build.backends, self.recipe.measure.backend)
        return any(isinstance(BACKENDS[name], Torch) for name in named)

    def export(self, finetuned: Path, folder: Path) -> None:
        """Write both networks as ONNX and prove them equal to the networks."""
        settings = self.recipe.export
        real = [inputs for inputs, _ in batches(self.workload.data.test, 2, limit=2 * NUM_PARITY_BATCHES)]
        for name, model in self.both(finetuned).items():
            exported = export(
                model, folder, name=name, opset=settings.opset, dynamic_batch=settings.dynamic_batch,
                open_sizes=settings.open_sizes, batch_name=settings.batch_name, tolerance=settings.tolerance,
                slim=settings.slim, batches=real, input_names=settings.input_names, output_names=settings.output_names,
                metadata=self._facts(name, model).entries(), program=self.with_program, seed=self.recipe.seed,
            )  # fmt: skip
            apart = self._metric_differences(exported, model)
            told = [f"by at most {exported.result.parity.worst_absolute:.2g}"]
            told += [f"in {metric} of a sample by {value:.2g}" for metric, value in apart.items()]
            self.listener.message(f"{name}.onnx differs from the network {', '.join(told)}")
            write(folder, name, exported.result.model_copy(update={"metric_differences": apart}))

    def _metric_differences(self, exported: Exported, model: Model) -> dict[str, float]:
        """Return how far each metric of a test sample is at most from the network's; not for files beyond 2 GiB."""
        if exported.result.weights:
            return {}
        test, task = self.workload.data.test, self.workload.task
        some = Subset(test, range(min(NUM_METRIC_SAMPLES, len(test))))  # type: ignore[arg-type]
        ours, theirs = (
            evaluate(module, task, some, EVALUATION_BATCH_SIZE).per_sample
            for module in (model.module, FileModule(exported.path, model))
        )
        return {metric: max(abs(a - b) for a, b in zip(ours[metric], theirs[metric], strict=True)) for metric in ours}

    def _facts(self, name: str, model: Model) -> FileFacts:
        """Return what a file says of itself: where its weights come from, and how it is used."""
        settings, data = self.recipe.export, self.workload.data
        pictures = settings.pictures and Pictures.model_validate(settings.pictures.model_dump())
        return FileFacts(
            lineage={
                "run": self.recipe.name, "network": name, "weights": hash_weights(model.module),
                "origin": hash_weights(self.workload.model.module), "data": self.workload.fingerprint,
                "secateur": __version__,
            },
            classes=tuple(settings.classes) or data.classes, pictures=pictures or data.preparation,
        )  # fmt: skip

    def both(self, finetuned: Path) -> dict[str, Model]:
        """Return the original and the compressed network."""
        return {"original": self.workload.model, "compressed": self.compressed(finetuned)}

    def compressed(self, folder: Path) -> Model:
        """Load the cut network that a step saved."""
        original = self.workload.model
        return load_model(folder / "model", original.clone().module, original.example_inputs)

    def _latencies(self) -> list[tuple[str, LatencyGrid]]:
        """Time the layers of the uncut network, or read what an earlier run timed."""
        model, measured = self.workload.model, self.recipe.measure
        table = LatencyTable(
            backend=self.recipe.build.backend(measured.backend), folder=self.recipe.folder / LATENCIES,
            step=self.recipe.prune.multiple, batch_size=measured.batch_size, num_threads=measured.num_threads,
        )  # fmt: skip
        self.listener.message(f"latencies of layers: {table.path}")
        return table.grids(layers_of(model.module, model.example_inputs), self.listener.progress)

    def _heal(
        self,
        finetune: Finetune,
        model: Model,
        estimated: Path,
        checkpoints: Path | None,
        masks: Mapping[str, Tensor] | None = None,
        memory: Memory | None = None,
    ) -> tuple[Model, FinetuneResult]:
        original, gram = self.workload.model, load_gate_gram(estimated / "gram.safetensors")
        fisher = load_parameter_fisher(estimated / PARAMETER_FISHER).fisher if finetune.weights.parameter else None
        return finetune(
            model, original, self.workload.task, self.workload.data,
            groups=self.original.groups, student_groups=self.structure(model).groups,
            importance={name: gram.saliency(name) for name in gram.gram}, fisher=fisher,
            other_teachers=self.workload.teachers, masks=masks, memory=memory, checkpoint_folder=checkpoints,
            progress=self.listener.progress,
        )  # fmt: skip
