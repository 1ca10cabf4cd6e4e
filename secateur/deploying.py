"""Put an engine of a finished run into a folder of its own, with all that is needed to use it."""

from pathlib import Path
from typing import Any, Literal

from secateur.artifacts import QUANTIZED, EngineResult, Pictures, Summary
from secateur.backends.onnx_file import OnnxInput, read_facts, read_inputs, read_outputs
from secateur.deploy import Description, Tensor, write_folder
from secateur.errors import BackendError
from secateur.judging import read_run
from secateur.manifest import MANIFEST, Manifest, read_manifest
from secateur.report.gates import COMPRESSED
from secateur.storage import file_sha256, read, sha256

Answer = Literal["raw", "softmax", "exponential"]
ANSWER_OF: dict[str, Answer] = {"classification": "softmax", "gaze": "exponential"}
"""What the outputs of our tasks are: scores of classes, and the logarithm of a density."""


def deploy_run(
    run: Path,
    folder: Path,
    *,
    network: str = COMPRESSED,
    backend: str | None = None,
    classes: tuple[str, ...] = (),
    pictures: Pictures | None = None,
) -> Description:
    """Copy an engine out of a finished run and describe it.

    Args:
        run: the folder of a finished run.
        folder: where the engine and ``deploy.json`` go; made where absent.
        network: ``compressed``, ``quantized`` or ``original``.
        backend: whose engine; the one that the run measured where absent.
        classes: the names of classes, in the order of the network's scores; those in the ONNX file where absent.
        pictures: how pictures become the input; what the ONNX file says where absent. Where that says nothing, and the
            network takes one input of one or three channels, they are resized to its size and brought into 0 to 1.

    Raises:
        StorageError: the run is not finished, or a file is not the one that its manifest lists.
        BackendError: the run has no such engine.
    """
    summary, manifest = read_run(run), read_manifest(run)
    engine = _engine(run, summary, network, backend or summary.comparison.backend)
    built = f"{manifest.stage('build').folder}/{network}/{engine.backend}"
    content = read(run / built / str(engine.path))
    manifest.require(f"{built}/{engine.path}", sha256(content), run / MANIFEST)
    for name in engine.weights:
        manifest.require(f"{built}/{name}", file_sha256(run / built / name), run / MANIFEST)
    exported = _exported(run, manifest, summary, network)
    facts = read_facts(exported)
    inputs = tuple(map(_tensor, read_inputs(exported)))
    description = Description(
        name=summary.name,
        engine=engine,
        inputs=inputs,
        outputs=tuple(map(_tensor, read_outputs(exported))),
        pictures=pictures or facts.pictures or _pictures(inputs, summary.exports[COMPRESSED].input_shapes[0]),
        answer=ANSWER_OF.get(summary.task, "raw"),
        classes=classes or facts.classes,
        settings=_settings(summary, engine.backend),
        lineage={
            **facts.lineage, "run": summary.name, "manifest": manifest.digest, "onnx": summary.exports[network].sha256,
        },
    )  # fmt: skip
    write_folder(folder, description, content, run / built)
    return description


def _engine(run: Path, summary: Summary, network: str, backend: str) -> EngineResult:
    engines = {engine.backend: engine for engine in summary.engines.get(network, ())}
    built = {name: engine for name, engine in engines.items() if engine.status == "built"}
    if backend not in built:
        found = engines[backend].reason if backend in engines else f"no engine of {backend!r}"
        raise BackendError(
            f"{run}, network {network!r}", found,
            f"one of {sorted(built)}" if built else f"one of the networks {sorted(summary.engines)}",
            "Choose one of these, or build it: build.backends in the recipe.",
        )  # fmt: skip
    return built[backend]


def _settings(summary: Summary, backend: str) -> dict[str, Any]:
    """Return what the recipe set of a backend."""
    return summary.recipe["build"]["options"].get(backend) or {}


def _exported(run: Path, manifest: Manifest, summary: Summary, network: str) -> Path:
    step = "quantize" if network == QUANTIZED else "export"
    return run / manifest.stage(step).folder / summary.exports[network].path


def _tensor(entry: OnnxInput) -> Tensor:
    return Tensor(name=entry.name, dtype=entry.dtype.name, shape=entry.shape)


def _pictures(inputs: tuple[Tensor, ...], example: tuple[int, ...]) -> Pictures | None:
    """Take one input of one or three channels for pictures; where its size is open, of the example's."""
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (1, 3):
        return None
    rows, columns = (
        usual if isinstance(size, str) else size for size, usual in zip(shape[2:], example[2:], strict=True)
    )
    return Pictures(size=(rows, columns))
