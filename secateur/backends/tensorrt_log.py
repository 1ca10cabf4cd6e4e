"""What TensorRT says: kept line by line, since its errors and the layers of an engine are told nowhere else."""

import functools
import importlib
from typing import Any, Protocol, runtime_checkable

from secateur.backends.tensorrt_layers import FusedLayer, parse_layers


@runtime_checkable
class Log(Protocol):
    """A TensorRT logger that remembers."""

    def clear(self) -> None:
        """Forget what was said."""

    def last_error(self) -> str:
        """Return the last message of an error, or say that there was none."""

    def layers(self) -> tuple[FusedLayer, ...] | None:
        """Return the layers of the engine that was built, after fusion; None where they were not told."""


@functools.cache
def log_of(package: str) -> Log:
    """Return the logger of a TensorRT package, always the same.

    The package keeps the first logger that it is given and uses it for all that follows, so there can be only one, and
    it must live as long as the process.
    """
    trt: Any = importlib.import_module(package)

    class KeptLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.told: str | None = None

        def log(self, severity: object, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)
            elif message.startswith("Layers:"):
                self.told = message

        def clear(self) -> None:
            self.errors.clear()
            self.told = None

        def last_error(self) -> str:
            return self.errors[-1].strip()[:300] if self.errors else "no message"

        def layers(self) -> tuple[FusedLayer, ...] | None:
            return None if self.told is None else parse_layers(self.told)

    return KeptLog()
