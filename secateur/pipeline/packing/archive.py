"""The archive: a file of coded tensors, whole or refused."""

import hashlib
import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secateur.errors import DataError, StorageError
from secateur.pipeline.packing.files import KINDS, Stored
from secateur.pipeline.packing.forms import CODERS, FORMS, Code
from secateur.pipeline.packing.product import CodedMatrix
from secateur.storage import read, write

MAGIC = b"SECATEUR PACK 2\n"
SHA256_BYTES, LENGTH_BYTES = 32, 8
NAMES = {coder: name for name, coder in CODERS.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Archive:
    """Coded tensors with their types, and the rest of the file that they were in.

    The file is `MAGIC`, the SHA-256 of all that follows, the length of the head, the head (the rest and, in JSON, what
    is known of the tensors, compressed) and the codes of all tensors in the head's order. ``sha256`` is that of the
    tensors' bits, so that tensors that are decoded otherwise than they were coded are found out.
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
        payload = b"".join(stream.code for code in self.codes.values() for stream in code.streams)
        described = {
            "kind": self.kind, "sha256": self.sha256,
            "tensors": [
                [name, self.dtypes[name], code.form, code.shape,
                 [[NAMES[type(stream)], len(stream.code), *stream.facts] for stream in code.streams]]
                for name, code in self.codes.items()
            ],
        }  # fmt: skip
        text = json.dumps(described, separators=(",", ":")).encode()
        head = lzma.compress(self.rest + text + len(text).to_bytes(LENGTH_BYTES, "little"), preset=9)
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
    told = lzma.decompress(body[LENGTH_BYTES : LENGTH_BYTES + length])
    size = int.from_bytes(told[-LENGTH_BYTES:], "little")
    rest, head = told[: -LENGTH_BYTES - size], json.loads(told[-LENGTH_BYTES - size : -LENGTH_BYTES])
    codes, dtypes, start = {}, {}, LENGTH_BYTES + length
    for name, dtype, form, shape, streams in head["tensors"]:
        unknown = [form] * (form not in FORMS) + [coder for coder, *_ in streams if coder not in CODERS]
        if unknown:
            raise _damaged(path, f"tensors in the form {unknown[0]!r}", "Unpack with the version that packed it.")
        parts = []
        for coder, num_bytes, *facts in streams:
            parts.append(CODERS[coder].from_code(body[start : start + num_bytes], *facts))
            start += num_bytes
        codes[name], dtypes[name] = Code(form=form, shape=tuple(shape), streams=tuple(parts)), dtype
    return Archive(kind=head["kind"], rest=rest, codes=codes, dtypes=dtypes, sha256=head["sha256"])


def digest(tensors: Mapping[str, Stored]) -> str:
    """Return the SHA-256 of tensors' names, types, shapes and bits."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tensor.bits.shape}".encode())
        total.update(np.ascontiguousarray(tensor.bits).tobytes())
    return total.hexdigest()


def _damaged(path: Path, found: str, remedy: str) -> StorageError:
    return StorageError(str(path), found, "an archive of `secateur pack`", remedy)
