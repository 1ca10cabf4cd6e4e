"""The chain of a run: estimate, prune, finetune, evaluate, export, (quantize,) build, measure, gate, report.

Every step is named by the hash of its settings and of what the steps it reads wrote (see `secateur.runs`): a rerun
takes finished steps from the run folder, a changed setting redoes what depends on it and nothing else.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.artifacts import (
    QUANTIZED,
    Comparison,
    Evaluation,
    ExportResult,
    Findings,
    FinetuneResult,
    Practice,
    PruneResult,
    Redundancy,
    Summary,
    Verdict,
)
from secateur.deployment import NETWORKS, PRACTICE, Deployment, Engines
from secateur.errors import RecipeError
from secateur.launched import Others, find_others, require_one_process
from secateur.listening import Listener, Silent
from secateur.loading import Workload, importable, load
from secateur.manifest import SPECTRA
from secateur.quantization import EVALUATION, Quantization, read_result
from secateur.recipe import Recipe
from secateur.recipe_objects import finetuning
from secateur.report.gates import COMPRESSED, check_gates
from secateur.report.plots.spectra import spectra_png
from secateur.runs import Run, Step, open_run
from secateur.sealing import seal
from secateur.steps import Steps, read
from secateur.storage import write as write_file
from secateur.trackers import trackers


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run ended with: its summary, the report's HTML file and the run folder."""

    summary: Summary
    report: Path
    folder: Path

    @property
    def exit_code(self) -> int:
        """0 where every gate passed, 1 where one failed, 3 where one is undecided."""
        return self.summary.verdict.exit_code


def run(recipe: Recipe, *, beside: Path = Path(), fresh: bool = False, listener: Listener | None = None) -> Outcome:
    """Run a recipe from the trained network to the judged engines.

    Among processes that ``torchrun`` started the first one calls this, the others `assist`.

    Args:
        recipe: what to do.
        beside: the folder whose modules the recipe may name, besides the working folder.
        fresh: redo every step, whatever the run folder holds.
        listener: who is told of the progress.

    Raises:
        SecateurError: the run cannot be made; what was finished stays in the run folder.
    """
    others = find_others()
    if others is not None and others.rank > 0:
        raise RecipeError("a run of a recipe", f"process {others.rank}", "the first process", "Call assist in others.")
    with (
        nullcontext() if others is None else others.apart(),
        importable(beside),
        open_run(recipe.folder / recipe.name, fresh=fresh) as folder,
    ):
        return _chain(recipe, folder, listener or Silent(), others).run()


def assist(recipe: Recipe, *, beside: Path = Path(), listener: Listener | None = None) -> None:
    """Help with the training of a run whose first process is another one, see `secateur.launched`; write nothing.

    Raises RecipeError where this process is alone, and as the training does.
    """
    others = find_others()
    if others is None:
        raise RecipeError("assist", "a single process", "one of several", "Call run instead.")
    listener = listener or Silent()
    with others.apart(), importable(beside):
        workload = load(recipe)
    lessons = others.await_call()
    if lessons is not None:
        with importable(beside), others.together():
            Steps(recipe=recipe, workload=workload, listener=listener).train(lessons)


def estimate(
    recipe: Recipe, *, beside: Path = Path(), fresh: bool = False, listener: Listener | None = None
) -> tuple[Redundancy, Path]:
    """Estimate the redundancy of a recipe's network; return it and a picture of the spectra in the run folder.

    The step is the one that `run` begins with, which therefore finds it finished.
    """
    require_one_process("an estimate")
    with importable(beside), open_run(recipe.folder / recipe.name, fresh=fresh) as folder:
        step = _chain(recipe, folder, listener or Silent()).estimate()
        redundancy = read(step.folder, "redundancy", Redundancy)
        picture = folder.folder / SPECTRA
        write_file(picture, spectra_png(redundancy))
        return redundancy, picture


def _chain(recipe: Recipe, folder: Run, listener: Listener, others: Others | None = None) -> "_Chain":
    listener.step("load")
    workload = load(recipe)
    check_gates(recipe.gates, workload.task.metrics, quantized=recipe.quantize is not None)
    listener.message(workload.data.description or f"{len(workload.data.train)} training samples")  # type: ignore[arg-type]
    return _Chain(
        recipe=recipe, workload=workload, folder=folder, listener=listener,
        steps=Steps(recipe=recipe, workload=workload, listener=listener, others=others),
        deployment=Deployment(recipe=recipe, workload=workload, listener=listener),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """One run under way."""

    recipe: Recipe
    workload: Workload
    folder: Run
    listener: Listener
    steps: Steps
    deployment: Deployment

    def step(
        self, name: str, settings: dict[str, Any], after: tuple[Step, ...], compute: Callable[[Path], None]
    ) -> Step:
        """Take a step from the run folder or compute it."""
        self.listener.step(name)
        inputs = (self.workload.fingerprint, *(step.content for step in after))
        done = self.folder.step(name, {**settings, "seed": self.recipe.seed}, inputs, compute)
        if done.damaged:
            self.listener.message("the files that were there are not those that it once wrote: done again")
        self.listener.done(name, done.reused, done.record.duration_s)
        return done

    @property
    def timed_on(self) -> dict[str, Any]:
        """What engines and latencies depend on besides the networks."""
        settings = self.recipe.measure.model_dump(include={"backend", "batch_size", "num_threads"})
        options = self.recipe.build.options.given(self.recipe.measure.backend)
        told = {"options": str(options)} if options else {}
        return {**settings, **told, "runtimes": self.deployment.runtimes()}

    def estimate(self) -> Step:
        """Estimate the redundancy of the uncut network."""
        traced: dict[str, Any] = {"keep": self.recipe.prune.keep, "multiple": self.recipe.prune.multiple}
        if self.recipe.estimate.tau == "auto":
            # The cuts that are measured depend on them.
            traced |= {"signal": self.recipe.prune.signal, "compensation": self.recipe.prune.compensation}
        if self.recipe.finetune.distillation.parameter:
            traced["parameter_fisher"] = True
        if self.steps.timed:
            traced |= self.timed_on
        return self.step("estimate", {"estimate": self.recipe.estimate, **traced}, (), self.steps.estimate)

    def quantize(self, finetuned: Step, exported: Step) -> Step | None:
        """Quantise the compressed network where the recipe asks for it."""
        settings = self.recipe.quantize
        if settings is None:
            return None
        quantization = Quantization(
            recipe=self.recipe, settings=settings, workload=self.workload, listener=self.listener,
            finetune=finetuning(self.recipe),
        )  # fmt: skip
        return self.step(
            "quantize", {"quantize": settings, **quantization.facts()}, (finetuned, exported),
            lambda folder: quantization(exported.folder, self.steps.compressed(finetuned.folder), folder),
        )  # fmt: skip

    def run(self) -> Outcome:
        """Do every step."""
        recipe, steps, deployment = self.recipe, self.steps, self.deployment
        deployment.require_runtime()
        told = trackers(recipe)
        estimated = self.estimate()
        healing = recipe.finetune.model_dump(exclude={"epochs", "validation"})
        timing = {} if recipe.prune.latency is None else self.timed_on
        pruned = self.step(
            "prune", {"prune": recipe.prune, "recovery": healing, **timing}, (estimated,),
            lambda folder: steps.prune(estimated.folder, folder),
        )  # fmt: skip
        processes = {} if steps.others is None else {"processes": steps.others.number}
        sparse = {} if recipe.sparsity is None else {"sparsity": recipe.sparsity}
        finetuned = self.step(
            "finetune", {"finetune": recipe.finetune, **sparse, **processes}, (estimated, pruned),
            lambda folder: steps.finetune(estimated.folder, pruned.folder, folder),
        )  # fmt: skip
        if steps.others is not None and finetuned.reused:
            steps.others.call(None)
        evaluated = self.step("evaluate", {}, (finetuned,), lambda folder: steps.evaluate(finetuned.folder, folder))
        captured = {"program": True} if steps.with_program else {}
        exported = self.step(
            "export",
            {"export": recipe.export, **captured},
            (finetuned,),
            lambda folder: steps.export(finetuned.folder, folder),
        )
        quantized = self.quantize(finetuned, exported)
        files = (exported,) if quantized is None else (exported, quantized)
        built = self.step(
            "build", {"build": recipe.build, **self.timed_on}, files,
            lambda folder: deployment.build(exported.folder, folder, None if quantized is None else quantized.folder),
        )  # fmt: skip
        timed = self.step(
            "measure",
            {"measure": recipe.measure},
            (built,),
            lambda folder: deployment.measure(exported.folder, built.folder, folder),
        )
        networks = NETWORKS if quantized is None else (*NETWORKS, QUANTIZED)
        found = Findings(
            redundancy=read(estimated.folder, "redundancy", Redundancy),
            prune=read(pruned.folder, "prune", PruneResult),
            finetune=read(finetuned.folder, "finetune", FinetuneResult),
            evaluations={name: read(evaluated.folder, name, Evaluation) for name in NETWORKS},
            exports={name: read(exported.folder, name, ExportResult) for name in NETWORKS},
            engines={name: read(built.folder, name, Engines).engines for name in networks},
            comparison=read(timed.folder, "comparison", Comparison),
            practice=read(timed.folder, PRACTICE, Practice) if (timed.folder / f"{PRACTICE}.json").exists() else None,
        )
        if quantized is not None:
            rounded = {
                "evaluations": {**found.evaluations, QUANTIZED: read(quantized.folder, EVALUATION, Evaluation)},
                "exports": {**found.exports, QUANTIZED: read(quantized.folder, QUANTIZED, ExportResult)},
                "quantization": read_result(quantized.folder),
                "quantized_comparison": read(timed.folder, f"comparison_{QUANTIZED}", Comparison),
            }
            found = found.model_copy(update=rounded)
        before = (estimated, pruned, finetuned, evaluated, *files, built, timed)
        gated = self.step("gate", {"gates": recipe.gates}, before, lambda folder: deployment.gate(found, folder))
        verdict = read(gated.folder, "verdict", Verdict)
        self.listener.step("report")
        durations = {step.record.name: step.record.duration_s for step in before}
        summary = deployment.report(found, steps.both(finetuned.folder), verdict, durations, self.folder.folder)
        manifest = seal(self.folder, recipe, self.workload, summary)
        if manifest.no_sbom:
            self.listener.message(manifest.no_sbom)
        for tracker in told:
            tracker.track(summary, self.folder.folder, exported.folder / f"{COMPRESSED}.onnx")
        return Outcome(summary=summary, report=self.folder.folder / "report.html", folder=self.folder.folder)
