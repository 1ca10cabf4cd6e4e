"""Files of tensors: which a file holds, and the file without them, into which they can be put back."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from jaxtyping import Shaped
from onnx import numpy_helper

from secateur.errors import StorageError
from secateur.storage import read

HEADER_BYTES = 8
"""Length of the number that safetensors files begin with."""
SAFETENSORS_TYPES = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2), "I64": ("int64", 8),
    "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1), "U64": ("uint64", 8), "U32": ("uint32", 4),
    "U16": ("uint16", 2), "U8": ("uint8", 1), "BOOL": ("bool", 1), "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """A tensor: the name of its type, and the bits of its values as unsigned integers of the same size."""

    dtype: str
    bits: Shaped[np.ndarray, "..."]

    @property
    def is_weight(self) -> bool:
        """Whether it is a matrix or kernel of numpy's floating-point numbers."""
        return self.bits.ndim >= 2 and self.dtype in ("float16", "float32", "float64")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file: how it is taken apart into the rest and the tensors, and put together."""

    apart: Callable[[bytes], tuple[bytes, dict[str, Stored]]]
    together: Callable[[bytes, Mapping[str, Stored]], bytes]


def read_file(path: Path) -> tuple[str, bytes, dict[str, Stored]]:
    """Return a file's kind, the file without its tensors, and these by name.

    Raises:
        StorageError: it cannot be read, or is neither ONNX nor safetensors.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in KINDS:
        raise StorageError(
            str(path), f"a file of kind {path.suffix!r}", f"one of {', '.join(f'.{name}' for name in KINDS)}",
            "Give an exported ONNX file, or the model.safetensors of a saved network.",
        )  # fmt: skip
    content = read(path)
    try:
        rest, tensors = KINDS[kind].apart(content)
    except (ValueError, KeyError, DecodeError, onnx.checker.ValidationError) as error:
        raise StorageError(
            str(path), f"{type(error).__name__}: {error}", f"a whole {kind} file", "Write it again, or fetch it again."
        ) from error
    return kind, rest, tensors


def _onnx_apart(content: bytes) -> tuple[bytes, dict[str, Stored]]:
    proto = onnx.load_from_string(content)
    if not proto.graph.node:
        raise ValueError("no graph in it")
    found = {}
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError("its weights are in another file; save it with them inside")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if dtype.name not in {name for name, _ in SAFETENSORS_TYPES.values()}:
            continue
        values = numpy_helper.to_array(tensor)
        found[tensor.name] = Stored(dtype=dtype.name, bits=values.view(f"u{dtype.itemsize}"))
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(field)
    return proto.SerializeToString(deterministic=True), found


def _onnx_together(rest: bytes, tensors: Mapping[str, Stored]) -> bytes:
    proto = onnx.load_from_string(rest)
    for tensor in proto.graph.initializer:
        if tensor.name in tensors:
            tensor.raw_data = tensors[tensor.name].bits.tobytes()
    return proto.SerializeToString(deterministic=True)


def _safetensors_apart(content: bytes) -> tuple[bytes, dict[str, Stored]]:
    length = int.from_bytes(content[:HEADER_BYTES], "little")
    if len(content) < HEADER_BYTES + length:
        raise ValueError("it ends within its header")
    rest, data = content[: HEADER_BYTES + length], content[HEADER_BYTES + length :]
    found = {}
    for name, entry in json.loads(rest[HEADER_BYTES:]).items():
        if name != "__metadata__":
            dtype, size = SAFETENSORS_TYPES[entry["dtype"]]
            start, end = entry["data_offsets"]
            found[name] = Stored(
                dtype=dtype, bits=np.frombuffer(data[start:end], dtype=f"<u{size}").reshape(entry["shape"])
            )
    return rest, found


def _safetensors_together(rest: bytes, tensors: Mapping[str, Stored]) -> bytes:
    entries = json.loads(rest[HEADER_BYTES:])
    ordered = sorted(tensors, key=lambda name: entries[name]["data_offsets"])
    return rest + b"".join(tensors[name].bits.tobytes() for name in ordered)


KINDS: dict[str, Kind] = {
    "onnx": Kind(apart=_onnx_apart, together=_onnx_together),
    "safetensors": Kind(apart=_safetensors_apart, together=_safetensors_together),
}
