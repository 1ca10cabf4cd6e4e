"""Run a deployed engine: numpy in, numpy out, by the description beside it. Nothing here imports torch.

from secateur.deploy import load

with load("deployed") as network:
    network.predict(picture)          # uint8 or float, [rows, columns, 3] or [batch, rows, columns, 3]
    network.run(array)                # the network's own inputs
"""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field, ValidationError

from secateur.artifacts import EngineResult, Pictures, Record
from secateur.backend_options import configured
from secateur.backends.protocol import Engine
from secateur.errors import BackendError, StorageError
from secateur.storage import copy, read, write

DESCRIPTION = "deploy.json"
FORMAT = 1


class Tensor(Record):
    """An input or output of the network: its name, numpy type and shape; a size that is open is a name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Description(Record):
    """What a deployed folder holds and how it is used.

    ``settings`` are those of the backend that the recipe gave; ``lineage`` names the run, the hash of its manifest, and
    what the ONNX file says of where it comes from.
    """

    format: int = FORMAT
    name: str
    engine: EngineResult
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    pictures: Pictures | None = None
    answer: Literal["raw", "softmax", "exponential"] = "raw"
    classes: tuple[str, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)
    lineage: dict[str, str] = Field(default_factory=dict)


def _softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


ANSWERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "raw": lambda output: output,
    "softmax": _softmax,
    "exponential": np.exp,
}
"""What is made of the first output: itself, chances of classes, or a density of its logarithm."""


def load(folder: str | Path, *, num_threads: int = 1) -> "Deployed":
    """Load the engine of a folder that `secateur deploy` wrote.

    Raises:
        StorageError: there is no such folder, or a file in it is damaged.
        BackendError: the engine's runtime is absent, of another version, or cannot run here.
    """
    place = Path(folder)
    description = read_description(place)
    backend = configured(description.engine.backend, description.settings, str(place))
    return Deployed(description, backend.load(description.engine, place, num_threads=num_threads))


def read_description(folder: Path) -> Description:
    """Read what a deployed folder says of itself, or raise `StorageError`."""
    path = folder / DESCRIPTION
    content = read(path)
    try:
        found = Description.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise StorageError(
            str(path), f"{first['msg']} at {'.'.join(map(str, first['loc'])) or 'its beginning'}",
            "a description that `secateur deploy` wrote", "Deploy the run again.",
        ) from error  # fmt: skip
    if found.format != FORMAT:
        raise StorageError(str(path), f"format {found.format}", f"format {FORMAT}", "Deploy the run again.")
    for name in (found.engine.path, *found.engine.weights):
        if name is None or Path(name).name != name:
            raise StorageError(
                str(path), f"the engine {name!r}", "the name of a file beside it", "Deploy the run again."
            )
    return found


def write_folder(folder: Path, description: Description, engine: bytes, built: Path) -> None:
    """Write an engine, the weights beside it in the folder where it was built, and its description, which comes last.

    Raises:
        StorageError: a file cannot be read or written.
    """
    for name in description.engine.weights:
        copy(built / name, folder / name)
    write(folder / str(description.engine.path), engine)
    write(folder / DESCRIPTION, description.model_dump_json(indent=1).encode())


class Deployed:
    """A loaded engine with what comes before and after it; a context manager that closes it."""

    def __init__(self, description: Description, engine: Engine) -> None:
        self.description = description
        self._engine = engine

    def run(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Compute the network's outputs from its inputs, batch axis first.

        Raises:
            BackendError: number, types or shapes do not fit.
        """
        return self._engine.run(inputs)

    def predict(self, pictures: np.ndarray) -> np.ndarray:
        """Return what the network makes of pictures: one answer for one picture, else one for each.

        Args:
            pictures: [rows, columns, channels] or [batch, rows, columns, channels]; uint8, or floats of that range.

        Raises:
            BackendError: the network takes something else than pictures.
        """
        wanted, entry = self.description.pictures, self.description.inputs[0]
        if wanted is None or len(self.description.inputs) != 1:
            raise BackendError(
                self.description.name, "pictures", f"{[f'{t.name} {list(t.shape)}' for t in self.description.inputs]}",
                "Call run with such arrays.",
            )  # fmt: skip
        single = pictures.ndim == 3
        batch = pictures[None] if single else pictures
        if batch.ndim != 4 or batch.shape[-1] != entry.shape[1]:
            raise BackendError(
                self.description.name, f"an array of shape {list(pictures.shape)}",
                f"[batch, rows, columns, {entry.shape[1]}] or one picture", "Give pictures with their channels last.",
            )  # fmt: skip
        (first, *_) = self._engine.run((prepared(batch, wanted).astype(entry.dtype),))
        answer = ANSWERS[self.description.answer](first.astype(np.float32))
        return answer[0] if single else answer

    def close(self) -> None:
        """Give everything back."""
        self._engine.close()

    def __enter__(self) -> "Deployed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def prepared(pictures: np.ndarray, wanted: Pictures) -> Float[np.ndarray, "batch channels rows columns"]:
    """Resize, scale and shift pictures, [batch, rows, columns, channels], and put their channels first."""
    whole = wanted.shorter_side is None
    sized = pictures if whole and pictures.shape[1:3] == wanted.size else _resized(pictures, wanted)
    values = sized.astype(np.float32) * np.float32(wanted.scale)
    mean, std = np.array(wanted.mean, dtype=np.float32), np.array(wanted.std, dtype=np.float32)
    values = ((values - mean) / std).astype(np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def _resized(pictures: np.ndarray, wanted: Pictures) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise BackendError(
            "deploy", f"pictures of {list(pictures.shape[1:3])} and no pillow to resize them",
            f"pictures of {list(wanted.size)}", "Install pillow, or give pictures of this size.",
        ) from error  # fmt: skip
    rows, columns = wanted.size
    height, width = pictures.shape[1:3]
    part = (0.0, 0.0, float(width), float(height))
    if wanted.shorter_side is not None:
        pixel = min(height, width) / wanted.shorter_side
        left, top = (width - columns * pixel) / 2, (height - rows * pixel) / 2
        part = (max(left, 0), max(top, 0), min(left + columns * pixel, width), min(top + rows * pixel, height))
    planes = pictures.astype(np.float32).transpose(0, 3, 1, 2).reshape(-1, height, width)
    drawn = [
        np.asarray(Image.fromarray(plane).resize((columns, rows), Image.Resampling.BILINEAR, box=part))
        for plane in planes
    ]
    return np.stack(drawn).reshape(len(pictures), -1, rows, columns).transpose(0, 2, 3, 1)
