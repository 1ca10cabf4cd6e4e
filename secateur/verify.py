"""Verify a finished run: every file is hashed again, and every arrow that the folder allows is proved again."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from secateur.artifacts import QUANTIZED, EngineResult, ExportResult, Parity, Record, as_tuple
from secateur.backends.engine_parity import engine_parity
from secateur.calibration.batches import batches
from secateur.deployment import NETWORKS, Engines, build_options
from secateur.errors import EqualityError, LoadError, SecateurError
from secateur.listening import Listener, Silent
from secateur.loading import Workload, hash_weights, importable, load
from secateur.manifest import MANIFEST, Difference, Manifest, read_manifest
from secateur.pipeline.export_proof import ExportProof
from secateur.pipeline.export_shapes import OpenShape
from secateur.recipe import Recipe
from secateur.recipe_file import validate_recipe
from secateur.report.gates import COMPRESSED
from secateur.runs import reading
from secateur.steps import NUM_PARITY_BATCHES, Steps, read

State = Literal["holds", "broken", "unchecked", "never proved"]


class Arrow(Record):
    """Two artefacts that must compute the same, and whether they still do.

    Unchecked is what the run proved and this machine cannot; never proved what the run could not prove either, as an
    engine for another machine.
    """

    what: str
    state: State
    told: str


class Verification(Record):
    """What became of a run folder."""

    folder: str
    digest: str
    num_files: int
    differences: tuple[Difference, ...]
    arrows: tuple[Arrow, ...]

    @property
    def exit_code(self) -> int:
        """0 where all is as it was, 1 where a file differs or an arrow is broken, 3 where an arrow is unchecked."""
        states = {arrow.state for arrow in self.arrows}
        if self.differences or "broken" in states:
            return 1
        return 3 if "unchecked" in states else 0


def verify(
    folder: Path, *, beside: Path = Path(), parity: bool = True, listener: Listener | None = None
) -> Verification:
    """Hash a run's files again and, unless they differ, compute both sides of its arrows again; nothing is written.

    Engines are held to their ONNX files with what the folder holds. ONNX files are held to the networks, for which the
    functions that the recipe names are called again.

    Args:
        folder: the run folder.
        beside: the folder whose modules the recipe may name, besides the working folder.
        parity: compute arrows too, and not only hashes.
        listener: who is told of the progress.

    Raises:
        StorageError: the folder holds no finished run, its manifest was changed, or a run is writing there.
    """
    told = listener or Silent()
    with reading(folder):
        told.step("files")
        manifest = read_manifest(folder)
        differences = manifest.differences(folder)
        arrows: list[Arrow] = []
        if parity and not differences:
            told.step("parity")
            recipe = validate_recipe(manifest.recipe, str(folder / MANIFEST))
            arrows = _Arrows(folder=folder, manifest=manifest, recipe=recipe, listener=told).all(beside)
    return Verification(
        folder=str(folder), digest=manifest.digest, num_files=len(manifest.artefacts), differences=differences,
        arrows=tuple(arrows),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Arrows:
    """The arrows of one run folder whose files are as they were."""

    folder: Path
    manifest: Manifest
    recipe: Recipe
    listener: Listener

    def place(self, step: str) -> Path:
        """Return a step's folder."""
        return self.folder / self.manifest.stage(step).folder

    def all(self, beside: Path) -> list[Arrow]:
        """Prove every arrow."""
        found = [
            self.engine(network, engine)
            for network in (NETWORKS if self.recipe.quantize is None else (*NETWORKS, QUANTIZED))
            for engine in read(self.place("build"), network, Engines).engines
            if engine.status == "built"
        ]
        with importable(beside):
            return found + self.exports()

    def engine(self, network: str, result: EngineResult) -> Arrow:
        """Hold an engine to the ONNX file that it was built from."""
        backend, measured = self.recipe.build.backend(result.backend), self.recipe.measure
        what = f"{network}: {result.backend} = ONNX"
        missing = backend.unable_to_run()
        if missing is not None:
            state: State = "unchecked" if result.parity else "never proved"
            return Arrow(what=what, state=state, told=str(missing))

        def prove() -> Parity:
            exported = read(self.place("export"), COMPRESSED if network == QUANTIZED else network, ExportResult)
            options = build_options(self.recipe, exported)
            file = self.place("export") / f"{network}.onnx"
            if network == QUANTIZED and self.recipe.quantize is not None:
                options = replace(options, tolerance=self.recipe.quantize.tolerance)
                file = self.place("quantize") / f"{network}.onnx"
            folder = self.place("build") / network / result.backend
            with backend.load(result, folder, num_threads=measured.num_threads) as engine:
                return engine_parity(result.backend, engine, file, options)

        return self._proved(what, prove)

    def exports(self) -> list[Arrow]:
        """Hold both ONNX files to the networks."""
        names = {network: f"{network}: ONNX = network" for network in NETWORKS}
        try:
            workload = load(self.recipe)
            found = hash_weights(workload.model.module)
            if found != self.manifest.origin.weights_sha256:
                raise LoadError(
                    self.recipe.model.function, f"weights {found}",
                    f"those of the run, {self.manifest.origin.weights_sha256}",
                    "Give the recipe's functions the files that the run began with.",
                )  # fmt: skip
        except SecateurError as error:
            return [Arrow(what=what, state="unchecked", told=str(error)) for what in names.values()]
        return [self._proved(what, partial(self._export, workload, network)) for network, what in names.items()]

    def _export(self, workload: Workload, network: str) -> Parity:
        settings, folder = self.recipe.export, self.place("export")
        networks = Steps(recipe=self.recipe, workload=workload, listener=self.listener).both(self.place("finetune"))
        real = [as_tuple(inputs) for inputs, _ in batches(workload.data.test, 2, limit=2 * NUM_PARITY_BATCHES)]
        result = read(folder, network, ExportResult)
        shape = OpenShape(
            name=network, example=networks[network].example_inputs, sizes=result.open_sizes,
            batch=settings.batch_name if result.dynamic_batch else None,
        )  # fmt: skip
        proof = ExportProof(
            name=network, shape=shape, batches=real, tolerance=settings.tolerance, seed=self.recipe.seed
        )
        return proof.check(networks[network].module.eval(), folder / result.path, result.output_names)

    def _proved(self, what: str, prove: Callable[[], Parity]) -> Arrow:
        """Try to prove an arrow; a machine that lacks something leaves it unchecked."""
        self.listener.message(what)
        try:
            parity = prove()
        except EqualityError as error:
            return Arrow(what=what, state="broken", told=str(error))
        except SecateurError as error:
            return Arrow(what=what, state="unchecked", told=str(error))
        return Arrow(
            what=what, state="holds", told=f"differs by at most {parity.worst_relative:.2g} of {parity.tolerance:g}"
        )
