"""The archive: a file of coded tensors, whole or refused."""

import hashlib
import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateur.errors import DataError, StorageError
from secateur.pipeline.packing.entropy import Stream
from secateur.pipeline.packing.files import KINDS, Stored
from secateur.pipeline.packing.forms import FORMS, Code
from secateur.pipeline.packing.product import CodedMatrix
from secateur.storage import read, write

MAGIC = b"SECATEUR PACK 1\n"
SHA256_BYTES, LENGTH_BYTES = 32, 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Archive:
    """Coded tensors with their types, and the rest of the file that they were in.

    The file is `MAGIC`, the SHA-256 of all that follows, the length of the head, the head (JSON, compressed) and the
    code words and tables of all tensors in the head's order. ``sha256`` is that of the tensors' bits, so that tensors
    that are decoded otherwise than they were coded are found out.
    """

    kind: str
    rest: bytes
    codes: Mapping[str, Code]
    dtypes: Mapping[str, str]
    sha256: str

    def tensor(self, name: str) -> Stored:
        """Decode one tensor."""
        return Stored(dtype=self.dtypes[name], bits=self.codes[name].bits())

    def matrix(self, name: str) -> CodedMatrix:
        """Return a layer's weights for products, without decoding them; raise DataError where it cannot be."""
        if name not in self.codes:
            raise DataError(
                "archive", f"no tensor {name!r}", f"one of {sorted(self.codes)[:8]}", "Name one that is in it."
            )
        return CodedMatrix(code=self.codes[name], dtype=np.dtype(self.dtypes[name]))

    def file(self) -> bytes:
        """Decode all tensors and return the file they were in, its tensors equal bit by bit.

        Raises:
            StorageError: they are not what was coded, as where another version of the coder is installed.
        """
        tensors = {name: self.tensor(name) for name in self.codes}
        if digest(tensors) != self.sha256:
            raise StorageError(
                "archive", "tensors that differ from those that were packed", "the same bits",
                "Unpack with the version of constriction that packed it.",
            )  # fmt: skip
        return KINDS[self.kind].together(self.rest, tensors)

    def write(self, path: Path) -> int:
        """Write the archive, whole or not at all; return its size in bytes."""
        payload = b"".join(
            part.tobytes() for code in self.codes.values() for s in code.streams for part in (s.kinds, s.table, s.words)
        )
        described = {
            "kind": self.kind, "sha256": self.sha256, "rest": self.rest.hex(),
            "tensors": [
                [name, self.dtypes[name], code.form, code.shape,
                 [[s.kinds.dtype.str, len(s.kinds), s.table.dtype.str, len(s.words)] for s in code.streams]]
                for name, code in self.codes.items()
            ],
        }  # fmt: skip
        head = lzma.compress(json.dumps(described, separators=(",", ":")).encode(), preset=9)
        body = len(head).to_bytes(LENGTH_BYTES, "little") + head + payload
        content = MAGIC + hashlib.sha256(body).digest() + body
        write(path, content)
        return len(content)


def read_archive(path: Path) -> Archive:
    """Read an archive; its tensors stay coded.

    Raises:
        StorageError: the file cannot be read, is no archive, is cut short or damaged.
    """
    content = read(path)
    if not content.startswith(MAGIC):
        raise _damaged(path, "a file that does not begin as an archive does", "Give a file that `secateur pack` wrote.")
    body = content[len(MAGIC) + SHA256_BYTES :]
    if hashlib.sha256(body).digest() != content[len(MAGIC) :][:SHA256_BYTES]:
        raise _damaged(path, "content that is not what was written: cut short or damaged", "Fetch or pack it again.")
    length = int.from_bytes(body[:LENGTH_BYTES], "little")
    head = json.loads(lzma.decompress(body[LENGTH_BYTES : LENGTH_BYTES + length]))
    codes, dtypes, start = {}, {}, LENGTH_BYTES + length
    for name, dtype, form, shape, streams in head["tensors"]:
        if form not in FORMS:
            raise _damaged(path, f"tensors in the form {form!r}", "Unpack with the version that packed it.")
        parts = []
        for kinds_dtype, num_kinds, counts_dtype, num_words in streams:
            kinds, start = _taken(body, start, kinds_dtype, num_kinds)
            counts, start = _taken(body, start, counts_dtype, num_kinds)
            words, start = _taken(body, start, "<u4", num_words)
            parts.append(Stream(kinds=kinds, counts=counts.astype(np.int64), words=words.astype(np.uint32)))
        codes[name], dtypes[name] = Code(form=form, shape=tuple(shape), streams=tuple(parts)), dtype
    return Archive(
        kind=head["kind"], rest=bytes.fromhex(head["rest"]), codes=codes, dtypes=dtypes, sha256=head["sha256"]
    )


def digest(tensors: Mapping[str, Stored]) -> str:
    """Return the SHA-256 of tensors' names, types, shapes and bits."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tensor.bits.shape}".encode())
        total.update(np.ascontiguousarray(tensor.bits).tobytes())
    return total.hexdigest()


def _taken(body: bytes, start: int, dtype: str, size: int) -> tuple[Any, int]:
    end = start + size * np.dtype(dtype).itemsize
    return np.frombuffer(body[start:end], dtype=dtype), end


def _damaged(path: Path, found: str, remedy: str) -> StorageError:
    return StorageError(str(path), found, "an archive of `secateur pack`", remedy)
