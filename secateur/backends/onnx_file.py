"""An ONNX file: whole, and what it takes: names, types and shapes of its inputs, and random ones."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from secateur.artifacts import LARGEST_ONNX_BYTES, FileFacts
from secateur.backends.protocol import first_line
from secateur.errors import BackendError
from secateur.storage import file_sha256, read

MOST_NUMBERS = 1 << 30
"""How many numbers an input may hold: a file that declares more would exhaust the memory."""
NO_SIZES: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class OnnxInput:
    """An input or output of a graph. A size that the file leaves open is a name, ``<input>.<axis>`` without one."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str, ...]

    def sized(self, batch_size: int, sizes: Mapping[str, int] = NO_SIZES) -> tuple[int, ...]:
        """Fill in the open sizes: the first axis is the batch, the others are looked up by name.

        Raises:
            BackendError: a size is open and not given, or the batch size is fixed to another.
        """
        batch = self.shape[0] if self.shape else batch_size
        if isinstance(batch, int) and batch != batch_size:
            raise BackendError(
                f"input {self.name!r}", f"a batch size fixed to {batch}", f"batch size {batch_size}",
                f"Ask for batch size {batch}, or export with an open batch size.",
            )  # fmt: skip
        known = {**sizes, str(batch): batch_size}
        open_sizes = [size for size in self.shape if isinstance(size, str) and size not in known]
        if open_sizes:
            raise BackendError(
                f"input {self.name!r}", f"the open sizes {open_sizes} in the shape {list(self.shape)}", "numbers",
                f"Give a size for each, for example {open_sizes[0]}=224.",
            )  # fmt: skip
        return tuple(known[size] if isinstance(size, str) else size for size in self.shape)


def read_inputs(path: Path) -> tuple[OnnxInput, ...]:
    """Read the inputs of an ONNX file, without the weights that it may keep in a file beside it.

    Raises:
        BackendError: the file is absent, truncated or not ONNX.
    """
    proto = _read(path, weights=False)
    weights = {initializer.name for initializer in proto.graph.initializer}
    return tuple(_input(value, path) for value in proto.graph.input if value.name not in weights)


def read_outputs(path: Path) -> tuple[OnnxInput, ...]:
    """Read the outputs of an ONNX file, as `read_inputs` does its inputs; raises `BackendError`."""
    return tuple(_input(value, path) for value in _read(path, weights=False).graph.output)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """An ONNX file with its weights: inside, or in files beside it where one file cannot hold them."""

    path: Path
    content: bytes
    weights: tuple[Path, ...] = ()

    @property
    def sha256(self) -> str:
        """Name the file's content, and where there are weights beside it, theirs with it."""
        digest = hashlib.sha256(self.content)
        for path in self.weights:
            digest.update(file_sha256(path).encode())
        return digest.hexdigest()


def read_whole(path: Path) -> Whole:
    """Read an ONNX file; weights that it keeps in files beside it are taken in, as far as one file can hold them.

    Raises:
        BackendError: the file is absent, truncated, not ONNX, lacks its weights or keeps them elsewhere than beside it.
    """
    proto = _read(path, weights=False)
    apart = [t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if not apart:
        return Whole(path=path, content=read(path))
    if proto.ByteSize() + sum(_num_bytes(tensor) for tensor in apart) <= LARGEST_ONNX_BYTES:
        return Whole(path=path, content=_read(path, weights=True).SerializeToString(deterministic=True))
    places = {entry.value for tensor in apart for entry in tensor.external_data if entry.key == "location"}
    return Whole(path=path, content=read(path), weights=tuple(_beside(path, place) for place in sorted(places)))


def _num_bytes(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims) * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize


def _beside(path: Path, place: str) -> Path:
    """Return the path of weights: a file in the same folder and no way out of it."""
    found = path.parent / place
    if Path(place).name != place or found.is_symlink() or not found.is_file():
        raise BackendError(
            str(path), f"weights in {place!r}", "the name of a file beside it", "Copy both files into one folder."
        )
    return found


def read_facts(path: Path) -> FileFacts:
    """Read what an ONNX file of ours says of itself; nothing for others.

    Raises:
        BackendError: the file cannot be read, or its entries are not as they were written.
    """
    try:
        return FileFacts.of({entry.key: entry.value for entry in _read(path, weights=False).metadata_props})
    except ValueError as error:
        raise BackendError(
            f"{path}, metadata", first_line(error), "the entries that an export writes", "Export it again."
        ) from error


def _read(path: Path, *, weights: bool) -> onnx.ModelProto:
    if path.is_char_device():  # such as /dev/zero, which has no end
        raise _not_onnx(path, "a device")
    try:
        proto = onnx.load(path, load_external_data=weights)
    except OSError as error:
        raise BackendError(
            str(path), error.strerror or str(error), "an ONNX file", "Check the path; `secateur run` writes such files."
        ) from error
    except DecodeError as error:
        raise _not_onnx(path, first_line(error)) from error
    except onnx.checker.ValidationError as error:
        raise BackendError(
            str(path), f"weights that cannot be read ({first_line(error)})", "the file of weights beside it",
            "Copy both files together, or export with the weights inside.",
        ) from error  # fmt: skip
    if not proto.graph.node:
        raise _not_onnx(path, "no graph in it")
    newest = onnx.defs.onnx_opset_version()
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset > newest:
        raise BackendError(
            str(path), f"operators of opset {opset}", f"at most {newest}, what onnx {onnx.__version__} knows",
            "Export in a lower opset, or install a newer onnx.",
        )  # fmt: skip
    return proto


def _not_onnx(path: Path, reason: str) -> BackendError:
    return BackendError(
        str(path), f"a file that is truncated or not ONNX ({reason})", "a whole ONNX file", "Copy or export it again."
    )


def _input(value: onnx.ValueInfoProto, path: Path) -> OnnxInput:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        raise BackendError(
            f"{path}, {value.name!r}", "no tensor of known rank", "a tensor with a shape",
            "Export the network again, with its shapes.",
        )  # fmt: skip
    sizes = (
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}.{axis}"
        for axis, dim in enumerate(tensor.shape.dim)
    )
    return OnnxInput(
        name=value.name, dtype=np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape=tuple(sizes)
    )


def random_inputs(
    inputs: tuple[OnnxInput, ...], batch_size: int, seed: int, sizes: Mapping[str, int] = NO_SIZES
) -> tuple[np.ndarray, ...]:
    """Draw inputs: standard normal floats; integers and booleans are 0 or 1, which every index range allows."""
    generator = np.random.default_rng(seed)
    for entry in inputs:
        if math.prod(entry.sized(batch_size, sizes)) > MOST_NUMBERS:
            raise BackendError(
                f"input {entry.name!r}", f"the shape {list(entry.sized(batch_size, sizes))}",
                f"at most {MOST_NUMBERS:,} numbers", "Take a smaller batch, or check the file.",
            )  # fmt: skip
    return tuple(_random(entry, entry.sized(batch_size, sizes), generator) for entry in inputs)


def _random(entry: OnnxInput, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    if np.issubdtype(entry.dtype, np.floating):
        return generator.standard_normal(shape).astype(entry.dtype)
    return generator.integers(2, size=shape).astype(entry.dtype)
