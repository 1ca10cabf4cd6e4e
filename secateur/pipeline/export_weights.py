"""Weights that are too large for a protobuf file, in a file beside it that is named by its content."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx.external_data_helper import convert_model_to_external_data, write_external_data_tensors

from secateur.storage import file_sha256, storing, sync

LEAST_BYTES = 1024
"""Smaller tensors stay in the graph, where shape inference reads them."""
NUM_DIGITS = 16


def weight_bytes(proto: onnx.ModelProto) -> int:
    """Return what the initialisers of a graph take."""
    return sum(len(tensor.raw_data) for tensor in proto.graph.initializer)


@contextlib.contextmanager
def set_apart(proto: onnx.ModelProto, folder: Path, name: str) -> Iterator[dict[str, str]]:
    """Move a graph's weights into a file in the folder and yield its name with its SHA-256.

    The file's name holds its hash: another export of the same name leaves it alone until its own file is whole, and the
    graph's hash vouches for both. Where the body raises, the file goes unless it was there before.

    Raises:
        StorageError: it cannot be written.
    """
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as scratch:
        unnamed = Path(scratch) / "weights"
        with storing(unnamed):
            convert_model_to_external_data(proto, location=unnamed.name, size_threshold=LEAST_BYTES)
            write_external_data_tensors(proto, scratch)
            sync(unnamed)
        digest = file_sha256(unnamed)
        path = folder / f"{name}.{digest[:NUM_DIGITS]}.weights"
        was_there = path.exists()
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = path.name
        with storing(path):
            unnamed.replace(path)
    try:
        yield {path.name: digest}
    except BaseException:
        if not was_there:
            path.unlink(missing_ok=True)
        raise


def forget_others(folder: Path, name: str, weights: dict[str, str]) -> None:
    """Remove the weights of earlier exports of this name, which no graph refers to any more."""
    earlier = re.compile(rf"{re.escape(name)}\.[0-9a-f]{{{NUM_DIGITS}}}\.weights")
    for path in folder.iterdir():
        if earlier.fullmatch(path.name) and path.name not in weights:
            path.unlink()
