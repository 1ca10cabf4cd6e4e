"""What a backend is: it builds an engine's file from an ONNX file, and loads it as often as one likes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable

import numpy as np

from secateur.artifacts import EngineResult, Parity
from secateur.errors import BackendError, StorageError
from secateur.storage import copy, file_sha256, read, sha256, write

Progress = Callable[[str, int, int], None]
"""Hears what is being done, how many steps of it are finished, and how many there are: 0 where that is not known."""


def unheard(description: str, done: int, total: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Why something cannot be done on this machine, and what would make it possible."""

    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.found}. {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How an engine is built, whatever the backend; a backend's own settings are its fields.

    The engine is tuned for ``batch_size`` and takes up to ``max_batch_size`` where the ONNX file leaves the batch open
    and the backend fixes such limits; ``sizes`` gives other open sizes by name, and ``ranges`` the least and largest of
    those that are not to be fixed there. Its outputs may differ from ONNX Runtime's by ``tolerance``, relative to their
    largest value.
    """

    batch_size: int = 1
    max_batch_size: int = 8
    sizes: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    num_threads: int = 1
    tolerance: float = 1e-4
    seed: int = 0
    progress: Progress = unheard

    def least(self) -> Mapping[str, int]:
        """Return the open sizes at the lower end of their ranges."""
        return {**self.sizes, **{name: low for name, (low, _) in self.ranges.items()}}

    def most(self) -> Mapping[str, int]:
        """Return the open sizes at the upper end of their ranges."""
        return {**self.sizes, **{name: high for name, (_, high) in self.ranges.items()}}


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """What one layer of an engine, after fusion, took in a call, on the mean of the calls that were profiled.

    ``place`` is the device or execution provider that ran it and ``precision`` its arithmetic, where the runtime tells;
    ``num_calls`` counts how often it ran in one call of the engine, where layers of one kind are told together.
    """

    name: str
    operator: str
    time_s: float
    place: str = ""
    precision: str = ""
    num_calls: int = 1


@runtime_checkable
class Engine(Protocol):
    """A loaded engine that owns its memory and threads until it is closed; a context manager that closes it.

    Engines name this protocol as their base for the sake of the context manager.
    """

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Compute the outputs, in the order of the ONNX file; they are finished when this returns.

        Raises:
            BackendError: the runtime refuses the inputs.
        """

    def profile(self, inputs: tuple[np.ndarray, ...], *, num_calls: int = 10) -> tuple[LayerTime, ...]:
        """Time every layer over some calls, which profiling slows down: their sum is no latency.

        Raises:
            BackendError: the runtime refuses the inputs.
        """

    def close(self) -> None:
        """Give everything back; twice is as good as once."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@runtime_checkable
class Backend(Protocol):
    """A runtime. Every entry of `secateur.backends.BACKENDS` is one."""

    @property
    def name(self) -> str:
        """The backend's name in the table."""

    def unavailable(self) -> Missing | None:
        """Say why no engine can be built here, or None."""

    def unable_to_run(self) -> Missing | None:
        """Say why an engine that was built cannot be loaded here, or None."""

    def version(self) -> str:
        """Name the runtime's version, empty where it is not installed."""

    def devices(self) -> tuple[str, ...]:
        """Name the devices that engines can be loaded on."""

    def build(self, onnx_file: Path, folder: Path, options: BuildOptions) -> EngineResult:
        """Build an engine into the folder and, where it can run here, prove it equal to the ONNX file.

        Raises:
            BackendError: the runtime is unavailable, or refuses the network.
            EqualityError: the engine computes something else.
            StorageError: the engine cannot be written.
        """

    def load(self, result: EngineResult, folder: Path, *, num_threads: int = 1) -> Engine:
        """Load a fresh, independent instance of an engine that was built into the folder.

        Raises:
            BackendError: it cannot run here, or was built by another version.
            StorageError: the file is absent or damaged.
        """


def skipped(backend: Backend, missing: Missing) -> EngineResult:
    """Record an engine that was not built, and why."""
    return EngineResult(backend=backend.name, backend_version=backend.version(), status="skipped", reason=str(missing))


def failed(backend: Backend, error: BackendError) -> EngineResult:
    """Record an engine that its runtime refused to build, and why."""
    return EngineResult(backend=backend.name, backend_version=backend.version(), status="failed", reason=str(error))


def require(name: str, missing: Missing | None, wanted: str) -> None:
    """Raise `BackendError` where something is missing."""
    if missing is not None:
        raise BackendError(name, missing.found, wanted, missing.remedy)


def closed(engine: str) -> BackendError:
    """Make the error of an engine that was closed."""
    return BackendError(engine, "a closed engine", "an open one", "Load the engine again.")


def write_engine(
    backend: Backend, path: Path, content: bytes, *, options: dict[str, str], build_s: float, parity: Parity | None,
    reason: str = "", weights: tuple[Path, ...] = (),
) -> EngineResult:  # fmt: skip
    """Write a built engine's file, copy the weights that belong beside it, and describe it, as `engine_file` wants it.

    Raises:
        StorageError: a file cannot be written.
    """
    for beside in weights:
        copy(beside, path.parent / beside.name)
    write(path, content)
    return EngineResult(
        backend=backend.name, backend_version=backend.version(), status="built", reason=reason,
        device=", ".join(backend.devices()), options=options, path=path.name, sha256=sha256(content),
        size_bytes=len(content) + sum(beside.stat().st_size for beside in weights),
        weights={beside.name: file_sha256(beside) for beside in weights}, build_s=build_s, parity=parity,
    )  # fmt: skip


def engine_file(backend: Backend, result: EngineResult, folder: Path) -> bytes:
    """Read an engine's file after checking that it is this backend's, of this version, and undamaged.

    Raises:
        BackendError: the engine is another backend's or version's, or was never built.
        StorageError: the file is absent or damaged.
    """
    if result.status != "built" or result.path is None:
        raise BackendError(
            backend.name, f"an engine that was not built ({result.reason})", "a built engine", "Build it."
        )
    made_by = f"{result.backend} {result.backend_version}"
    if made_by != f"{backend.name} {backend.version()}":
        raise BackendError(
            str(folder / result.path), f"an engine of {made_by}", f"one of {backend.name} {backend.version()}",
            "Build the engine again with the installed runtime.",
        )  # fmt: skip
    content = read(folder / result.path)
    found = {result.path: sha256(content), **{name: file_sha256(folder / name) for name in result.weights}}
    for name, wanted in {result.path: result.sha256, **result.weights}.items():
        if found[name] != wanted:
            raise StorageError(
                str(folder / name), "a file that was changed after it was built", f"sha256 {wanted}",
                "Build the engine again.",
            )  # fmt: skip
    return content


def require_device(backend: Backend, result: EngineResult, folder: Path) -> None:
    """Refuse an engine that belongs to the processor that it was built on where the backend finds another."""
    here = ", ".join(backend.devices())
    if result.device != here:
        raise BackendError(
            str(folder / str(result.path)), f"an engine for {result.device}", f"one for {here}",
            "Build the engine again on this machine.",
        )  # fmt: skip
