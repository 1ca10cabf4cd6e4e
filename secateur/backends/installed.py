"""Backends of other packages, which name them as entry points of the group ``secateur.backends``."""

from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import NoReturn

from secateur.artifacts import EngineResult
from secateur.backends.protocol import Backend, BuildOptions, Engine, Missing
from secateur.backends.setting import settings_of
from secateur.errors import BackendError, first_line

GROUP = "secateur.backends"


def installed_backends(taken: Collection[str]) -> dict[str, Backend]:
    """Load the backends that installed packages offer, by name.

    One that does not load stays in the table and says why, so that one package's fault does not end all others' work.
    Names in ``taken`` are refused.
    """
    return {entry.name: _loaded(entry) for entry in entry_points(group=GROUP) if entry.name not in taken}


def _loaded(entry: EntryPoint) -> Backend:
    try:
        backend = entry.load()
        settings_of(backend)
    except Exception as error:
        return Unloadable(name=entry.name, reason=f"{entry.value} does not load ({first_line(error)})")
    if not isinstance(backend, Backend):
        return Unloadable(name=entry.name, reason=f"{entry.value} is {type(backend).__name__}, not a backend")
    if backend.name != entry.name:
        return Unloadable(name=entry.name, reason=f"{entry.value} calls itself {backend.name!r}")
    return backend


@dataclass(frozen=True, kw_only=True)
class Unloadable:
    """A backend that is named but cannot be had."""

    name: str
    reason: str

    def unavailable(self) -> Missing:
        """Say what is wrong with the package."""
        return Missing(found=self.reason, remedy="Install a release of the package that fits, or uninstall it.")

    def unable_to_run(self) -> Missing:
        """Say the same."""
        return self.unavailable()

    def version(self) -> str:
        """Name no version."""
        return ""

    def devices(self) -> tuple[str, ...]:
        """Name no device."""
        return ()

    def build(self, onnx_file: Path, folder: Path, options: BuildOptions) -> EngineResult:
        """Refuse."""
        self._refuse()

    def load(self, result: EngineResult, folder: Path, *, num_threads: int = 1) -> Engine:
        """Refuse."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        missing = self.unavailable()
        raise BackendError(self.name, missing.found, "a backend that loads", missing.remedy)
