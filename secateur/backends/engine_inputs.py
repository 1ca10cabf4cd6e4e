"""What an engine is called with, held against what its ONNX file declares."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.backends.onnx_file import OnnxInput
from secateur.errors import BackendError


@dataclass(frozen=True, kw_only=True)
class ExpectedInputs:
    """The inputs that an engine takes. Some runtimes compute on others without a word, so all are asked here."""

    engine: str
    inputs: tuple[OnnxInput, ...]

    def check(self, arrays: tuple[np.ndarray, ...]) -> None:
        """Raise `BackendError` unless number, types and shapes fit, open sizes of one name being equal."""
        reason = self._misfit(arrays)
        if reason:
            raise self.refusal(arrays, reason)

    def refusal(self, arrays: tuple[Any, ...], reason: str) -> BackendError:
        """Make the error that shows what was given and what is wanted."""
        given = [_described(array) for array in arrays]
        wanted = [f"{entry.name}: {entry.dtype} {list(entry.shape)}" for entry in self.inputs]
        return BackendError(
            self.engine, f"a refusal of the inputs {given} ({reason})", f"{wanted}",
            "Give inputs of the types and shapes of the ONNX file.",
        )  # fmt: skip

    def _misfit(self, arrays: tuple[np.ndarray, ...]) -> str:
        if len(arrays) != len(self.inputs):
            return f"{len(arrays)} inputs in place of {len(self.inputs)}"
        sizes: dict[str, int] = {}
        for array, entry in zip(arrays, self.inputs, strict=True):
            if not isinstance(array, np.ndarray):
                return f"{entry.name!r} is no numpy array"
            if array.dtype != entry.dtype:
                return f"the type of {entry.name!r}"
            if array.ndim != len(entry.shape):
                return f"the rank of {entry.name!r}"
            for axis, (size, found) in enumerate(zip(entry.shape, array.shape, strict=True)):
                wanted = sizes.setdefault(size, found) if isinstance(size, str) else size
                if wanted != found:
                    return f"axis {axis} of {entry.name!r} is {found}, not {wanted}"
        return ""


def _described(array: Any) -> str:
    """Tell type, shape and, where that is another than the host, device of an array or tensor."""
    if not hasattr(array, "dtype"):
        return type(array).__name__
    device = str(getattr(array, "device", "cpu"))
    return f"{array.dtype} {list(array.shape)}" + ("" if device == "cpu" else f" on {device}")
