"""A file as a tracker of runs: one line of JSON for each."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from secateur.artifacts import Summary
from secateur.errors import StorageError
from secateur.report.tracking import figures, settings


@dataclass(frozen=True, kw_only=True)
class JsonLines:
    """Append a line for every run to ``path``: its folder, verdict, settings and figures.

    Runs may end at once on several machines that share a file system: lines do not mix.
    """

    path: str

    def require(self) -> None:
        """Raise `StorageError` where the file cannot be written."""
        with self._opened():
            pass

    def track(self, summary: Summary, folder: Path, onnx_file: Path) -> str:
        """Append the run and return the folder that the line names."""
        line = {
            "run": str(folder.resolve()), "name": summary.name, "version": summary.version,
            "verdict": summary.verdict.verdict, "settings": settings(summary), "figures": figures(summary),
        }  # fmt: skip
        with self._opened() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            os.write(handle, (json.dumps(line) + "\n").encode())
            os.fsync(handle)
        return str(line["run"])

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        path = Path(self.path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                yield handle
            finally:
                os.close(handle)
        except OSError as error:
            raise StorageError(
                str(path), error.strerror or str(error), "a file that can be appended to",
                "Check trackers in the recipe; the report itself is in the run folder.",
            ) from error  # fmt: skip
