"""Engines that are there already, built here or elsewhere: files that a runtime loads as they are."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from secateur.artifacts import EngineResult
from secateur.backends.onnx_file import OnnxInput
from secateur.backends.protocol import Backend, Engine
from secateur.errors import BackendError, StorageError
from secateur.storage import file_sha256, read

TORCH = ("torch", "torch_compile", "torch_cuda", "torch_cuda_compile", "torch_cuda_graph")
RUN_BY: dict[str, tuple[str, ...]] = {
    ".engine": ("tensorrt", "tensorrt_rtx"),
    ".plan": ("tensorrt", "tensorrt_rtx"),
    ".trt": ("tensorrt", "tensorrt_rtx"),
    ".blob": ("openvino",),
    ".xml": ("openvino",),
    ".pt2": TORCH,
}
"""The backends that load a file, by how its name ends; `secateur.deploy` describes others in their folders."""


@dataclass(frozen=True, kw_only=True)
class ReadyMade:
    """An engine's file with the backend that loads it."""

    backend: Backend
    result: EngineResult
    folder: Path

    def load(self, num_threads: int) -> Engine:
        """Load a fresh instance; see `Backend.load` for errors."""
        return self.backend.load(self.result, self.folder, num_threads=num_threads)

    def inputs(self, num_threads: int) -> tuple[OnnxInput, ...]:
        """Ask the engine what it takes."""
        with self.load(num_threads) as engine:
            expected = getattr(engine, "expected", None)
        if expected is None:
            raise BackendError(
                str(self.folder / str(self.result.path)), "an engine that does not say what it takes",
                "one with declared inputs", "Bench the ONNX file that it was built from.",
            )  # fmt: skip
        found: tuple[OnnxInput, ...] = expected.inputs
        return found


def is_ready_made(path: Path) -> bool:
    """Say whether a file is an engine by its name."""
    return path.suffix in RUN_BY


def ready_made(path: Path, backend: Backend) -> ReadyMade:
    """Describe an engine's file for the backend that is to load it; as a description beside it does, if there is one.

    TensorRT's engines are built with such a description, by which those of another release or GPU are refused before
    the runtime sees them.

    Raises:
        BackendError: another backend loads such files.
        StorageError: the file or its description cannot be read.
    """
    loaders = RUN_BY[path.suffix]
    if backend.name not in loaders:
        raise BackendError(
            str(path), f"an engine for {' or '.join(loaders)}", f"one that {backend.name} loads",
            f"Choose --backend {loaders[0]}.",
        )  # fmt: skip
    beside = path.with_name(f"{path.name}.json")
    if beside.is_file():
        result = _read(beside).model_copy(update={"path": path.name})
    else:
        result = EngineResult(
            backend=backend.name, backend_version=backend.version(), status="built",
            device=", ".join(backend.devices()), path=path.name, sha256=file_sha256(path),
            size_bytes=path.stat().st_size,
        )  # fmt: skip
    return ReadyMade(backend=backend, result=result, folder=path.parent)


def _read(beside: Path) -> EngineResult:
    try:
        return EngineResult.model_validate_json(read(beside))
    except ValidationError as error:
        raise StorageError(
            str(beside), f"{error.errors()[0]['msg']}", "the description that was written with the engine",
            "Build the engine again, or delete its description.",
        ) from error  # fmt: skip
