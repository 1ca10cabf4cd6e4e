"""What the steps behind the export compute: engines, their latencies, the verdict, the report."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map

from secateur import __version__
from secateur.artifacts import (
    QUANTIZED,
    Comparison,
    EngineResult,
    ExportResult,
    Findings,
    Model,
    Practice,
    QuantizeResult,
    Record,
    Summary,
    Verdict,
    as_tuple,
)
from secateur.backends.compare import Compare
from secateur.backends.practice.practice import Examine, Examined
from secateur.backends.practice.probe import Probe
from secateur.backends.protocol import Backend, BuildOptions, Engine, Missing, failed, skipped
from secateur.calibration.batches import batches
from secateur.errors import BackendError
from secateur.listening import Listener
from secateur.loading import Workload
from secateur.quantization import kind_of, read_result, unreadable
from secateur.recipe import Recipe
from secateur.report.gates import COMPRESSED, ORIGINAL, judge, quantities_of, with_defaults
from secateur.report.write import write_report
from secateur.steps import LATENCIES, read, write

NETWORKS = (ORIGINAL, COMPRESSED)
PRACTICE = "practice"
"""The name of the file in which theory and practice stand side by side, where that was asked for and possible."""


class Engines(Record):
    """The engines of one network, one entry a backend, built or skipped."""

    engines: tuple[EngineResult, ...]

    def of(self, backend: str) -> EngineResult:
        """Return the engine of a backend."""
        return next(engine for engine in self.engines if engine.backend == backend)


def usual_sizes(exported: ExportResult) -> dict[str, int]:
    """Return the open sizes of a file as the example inputs have them, which engines are tuned for."""
    return {name: exported.input_shapes[size.inputs[0]][size.axis] for name, size in exported.open_sizes.items()}


def build_options(recipe: Recipe, exported: ExportResult) -> BuildOptions:
    """Return how engines of a file are built."""
    settings = recipe.measure
    return BuildOptions(
        batch_size=settings.batch_size, max_batch_size=max(8, settings.batch_size), num_threads=settings.num_threads,
        sizes=usual_sizes(exported), tolerance=recipe.build.tolerance, seed=recipe.seed,
        ranges={name: (size.least, size.most) for name, size in exported.open_sizes.items()},
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """The steps from the ONNX files to the report."""

    recipe: Recipe
    workload: Workload
    listener: Listener

    def require_runtime(self) -> None:
        """Refuse, before anything is computed, a run whose engines could not be timed here."""
        name = self.recipe.measure.backend
        missing = self._backend(name).unable_to_run()
        wanted, settings = "a runtime that runs here", self.recipe.quantize
        if missing is None and settings is not None:
            missing = unreadable(self._backend(name), kind_of(settings))
            wanted = "a runtime that reads the quantised network"
        if missing is not None:
            raise BackendError(
                f"measure.backend: {name}", missing.found, wanted,
                f"{missing.remedy} `secateur doctor` lists the runtimes.",
            )  # fmt: skip

    def build(self, exported: Path, folder: Path, quantized: Path | None = None) -> None:
        """Build every engine of every network; a runtime that is absent is recorded with its reason."""
        for network in NETWORKS:
            options = replace(
                build_options(self.recipe, read(exported, network, ExportResult)), progress=self.listener.progress
            )
            self._build_all(network, exported / f"{network}.onnx", folder, options, {})
        if quantized is not None and self.recipe.quantize is not None:
            found = read_result(quantized)
            kind = found.target if isinstance(found, QuantizeResult) else found.dtype
            refused = {backend.name: unreadable(backend, kind) for backend in self._backends()}
            looser = replace(options, tolerance=self.recipe.quantize.tolerance)
            self._build_all(QUANTIZED, quantized / f"{QUANTIZED}.onnx", folder, looser, refused)

    def _build_all(
        self, network: str, file: Path, folder: Path, options: BuildOptions, refused: Mapping[str, Missing | None]
    ) -> None:
        results = []
        for backend in self._backends():
            missing = refused.get(backend.name)
            place = folder / network / backend.name
            results.append(skipped(backend, missing) if missing else self._build(backend, file, place, options))
            self.listener.message(f"{network}, {backend.name}: {_told(results[-1])}")
        write(folder, network, Engines(engines=tuple(results)))

    def runtimes(self) -> dict[str, str]:
        """Name the version of every runtime that engines are asked of, or why it is absent.

        Engines belong to the version that built them: another one builds its own.
        """
        return {backend.name: str(backend.unavailable() or backend.version()) for backend in self._backends()}

    def _backends(self) -> list[Backend]:
        names = dict.fromkeys([*self.recipe.build.backends, self.recipe.measure.backend])
        return [self._backend(name) for name in names]

    def _backend(self, name: str) -> Backend:
        return self.recipe.build.backend(name)

    def _build(self, backend: Backend, file: Path, folder: Path, options: BuildOptions) -> EngineResult:
        """Build one engine; only the refusal of the runtime that is to be timed stops the run."""
        missing = backend.unavailable()
        if missing is not None:
            return skipped(backend, missing)
        try:
            return backend.build(file, folder, options)
        except BackendError as error:
            if backend.name == self.recipe.measure.backend:
                raise
            return failed(backend, error)

    def measure(self, exported: Path, built: Path, folder: Path) -> None:
        """Time the original's engine against the compressed one's, and the quantised one's, on real inputs."""
        comparison = self._timed(built, COMPRESSED)
        write(folder, "comparison", comparison)
        if self.recipe.measure.layers:
            try:
                write(folder, PRACTICE, self._practice(exported, built, comparison))
            except BackendError as error:  # an explanation is missing then, not a result
                self.listener.message(f"no theory beside practice: {error}")
        if self.recipe.quantize is not None:
            write(folder, f"comparison_{QUANTIZED}", self._timed(built, QUANTIZED))

    def _practice(self, exported: Path, built: Path, comparison: Comparison) -> Practice:
        """Hold theory against practice, layer by layer."""
        settings = self.recipe.measure
        backend = self._backend(settings.backend)
        probe = Probe(backend=backend, num_threads=settings.num_threads, folder=self.recipe.folder / LATENCIES)
        examine = Examine(
            backend=backend, probe=probe, batch_size=settings.batch_size, num_threads=settings.num_threads,
            sizes=usual_sizes(read(exported, COMPRESSED, ExportResult)), seed=self.recipe.seed,
        )  # fmt: skip
        examined = [
            Examined(
                file=exported / f"{network}.onnx", engine=read(built, network, Engines).of(settings.backend),
                folder=built / network / settings.backend,
            )
            for network in NETWORKS
        ]  # fmt: skip
        return examine(*examined, comparison=comparison, progress=self.listener.progress)

    def _timed(self, built: Path, candidate: str) -> Comparison:
        settings = self.recipe.measure
        backend = self._backend(settings.backend)
        engines = {network: read(built, network, Engines).of(settings.backend) for network in (ORIGINAL, candidate)}

        def load(network: str) -> Engine:
            return backend.load(engines[network], built / network / settings.backend, num_threads=settings.num_threads)

        compare = Compare(
            num_instances=settings.instances, max_s=settings.max_s, null=settings.resolution, seed=self.recipe.seed
        )
        return compare.compare(
            lambda: load(ORIGINAL), lambda: load(candidate), self._inputs(), backend=settings.backend,
            num_threads=settings.num_threads, progress=self.listener.progress,
        )  # fmt: skip

    def gate(self, found: Findings, folder: Path) -> None:
        """Hold the gates against what was measured; no engine may have failed to build unless a gate allows it.

        Gates are on the compressed network, those whose quantity begins with ``quantized_`` on the quantised.
        """
        write(folder, "verdict", judge(quantities_of(found, seed=self.recipe.seed), with_defaults(self.recipe.gates)))

    def report(
        self, found: Findings, networks: dict[str, Model], verdict: Verdict, durations_s: dict[str, float], folder: Path
    ) -> Summary:
        """Write the report and return what it says."""
        summary = Summary(
            **{name: getattr(found, name) for name in Findings.model_fields},
            name=self.recipe.name, task=self.workload.task.name, primary=self.workload.task.primary,
            data=self.workload.data.description, facts=dict(self.workload.data.facts), verdict=verdict,
            durations_s=durations_s, recipe=self.recipe.model_dump(mode="json"), version=__version__,
        )  # fmt: skip
        write_report(summary, folder, self.pictures(networks), seed=self.recipe.seed)
        return summary

    def pictures(self, networks: dict[str, Model]) -> list[tuple[str, np.ndarray]]:
        """Draw test samples, and the data's further pictures, with what both networks make of them."""
        draw, number = self.workload.task.illustrate, self.recipe.pictures
        if draw is None or number == 0:
            return []
        inputs, targets = next(batches(self.workload.data.test, number, limit=number))
        samples = [
            (f"test sample {index + 1}", _one(inputs, index), _one(targets, index))
            for index in range(len(as_tuple(inputs)[0]))
        ]
        samples += [(caption, picture, None) for caption, picture in self.workload.data.pictures.items()]
        drawn = []
        for caption, picture, target in samples:
            batch = tuple(part[None] for part in as_tuple(picture))
            with torch.inference_mode():
                outputs = [_one(networks[name].module.eval()(*batch), 0) for name in NETWORKS]
            drawn.append((caption, draw(picture, target, *outputs)))
        return drawn

    def _inputs(self) -> tuple[np.ndarray, ...]:
        size = self.recipe.measure.batch_size
        inputs, _ = next(batches(self.workload.data.test, size, limit=size))
        repeats = [-(-size // len(x)) for x in as_tuple(inputs)]  # a test set smaller than the batch is repeated
        return tuple(np.concatenate([x.numpy()] * n)[:size] for x, n in zip(as_tuple(inputs), repeats, strict=True))


def _one(batch: Any, index: int) -> Any:
    """Return one sample of a nest of tensors."""
    return tree_map(lambda leaf: leaf[index], batch)


def _told(engine: EngineResult) -> str:
    if engine.status != "built":
        return f"{engine.status}: {engine.reason}"
    return f"built in {engine.build_s or 0:.1f} s, {engine.size_bytes or 0:,} bytes"
