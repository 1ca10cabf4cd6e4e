"""Seal a finished run: write its bill of materials and its manifest."""

from pathlib import Path

from secateur import __version__
from secateur.artifacts import QUANTIZED, Summary
from secateur.errors import BackendError
from secateur.loading import Workload, hash_data, hash_weights
from secateur.manifest import SBOM, Link, Manifest, Origin, Stage, artefacts, stages, write_manifest
from secateur.pipeline.structure.storage import TENSORS
from secateur.provenance import commit
from secateur.recipe import Recipe
from secateur.report.gates import COMPRESSED, ORIGINAL
from secateur.report.numbers import stage_numbers
from secateur.runs import Run
from secateur.sbom import sbom_json
from secateur.storage import file_sha256, write


def seal(run: Run, recipe: Recipe, workload: Workload, summary: Summary) -> Manifest:
    """Write ``sbom.cdx.json`` and ``manifest.json`` of a finished run, the latter last.

    Raises:
        StorageError: the run folder cannot be read or written.
    """
    steps = stages(run.steps, run.folder, stage_numbers(summary))
    origin = Origin(
        model=recipe.model.function, weights_sha256=hash_weights(workload.model.module),
        data=workload.data.description, data_digest=hash_data(workload.data), fingerprint=workload.fingerprint,
    )  # fmt: skip
    no_sbom = _write_sbom(run.folder / SBOM, summary, steps)
    manifest = Manifest(
        name=recipe.name, version=__version__, commit=commit(), verdict=summary.verdict.verdict,
        recipe=recipe.model_dump(mode="json"), origin=origin, steps=steps,
        lineage=_lineage(run.folder, origin, steps, summary), sbom=None if no_sbom else SBOM, no_sbom=no_sbom,
        artefacts=artefacts(run.folder, steps),
    )  # fmt: skip
    write_manifest(run.folder, manifest)
    return manifest


def _write_sbom(path: Path, summary: Summary, steps: tuple[Stage, ...]) -> str:
    """Write the bill of materials and return nothing, or why there is none."""
    used = {part for step in steps for part in step.distributions.items()}
    try:
        text = sbom_json(summary.name, summary.exports[COMPRESSED].sha256, used)
    except BackendError as error:
        path.unlink(missing_ok=True)
        return str(error)
    write(path, text.encode())
    return ""


def _lineage(folder: Path, origin: Origin, steps: tuple[Stage, ...], summary: Summary) -> tuple[Link, ...]:
    """Follow the weights from the original network to every engine."""
    place = {step.name: step.folder for step in steps}
    weights = {name: f"{place[name]}/model/{TENSORS}" for name in ("prune", "finetune")}
    pruned, finetuned = (file_sha256(folder / weights[name]) for name in ("prune", "finetune"))
    began = f"weights of {origin.model}"
    links = [
        Link(what=began, sha256=origin.weights_sha256),
        Link(what=weights["prune"], sha256=pruned, parents=(began,)),
        Link(what=weights["finetune"], sha256=finetuned, parents=(weights["prune"], began)),
    ]
    parents = {ORIGINAL: began, COMPRESSED: weights["finetune"]}
    if summary.quantization is not None:
        parents[QUANTIZED] = f"{place['export']}/{summary.exports[COMPRESSED].path}"
    for network, parent in parents.items():
        export = summary.exports[network]
        exported = f"{place['quantize' if network == QUANTIZED else 'export']}/{export.path}"
        links.append(Link(what=exported, sha256=export.sha256, parents=(parent,), parity=export.parity))
        for engine in summary.engines[network]:
            if engine.path is not None and engine.sha256 is not None:
                what = f"{place['build']}/{network}/{engine.backend}/{engine.path}"
                links.append(Link(what=what, sha256=engine.sha256, parents=(exported,), parity=engine.parity))
    return tuple(links)
