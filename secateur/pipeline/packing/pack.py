"""Pack the weights of a file into little room, and unpack them bit by bit."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secateur.artifacts import PackedTensor, PackResult
from secateur.errors import DataError
from secateur.pipeline.packing.archive import Archive, digest, read_archive
from secateur.pipeline.packing.files import Stored, read_file
from secateur.pipeline.packing.forms import FORMS, coded, entropy_bytes
from secateur.pipeline.packing.sharing import SHARINGS, shared
from secateur.storage import write

SUFFIX = ".pack"


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Packing of an ONNX or safetensors file.

    ``sharing`` names how the weights of each layer come to share ``levels`` values (`SHARINGS`); without it every
    tensor keeps its bits. ``form`` is how tensors are coded (`FORMS`), "auto" the smallest for each.
    """

    sharing: str | None = None
    levels: int = 32
    form: str = "auto"

    def __post_init__(self) -> None:
        for field, found, wanted in (
            ("sharing", self.sharing, [None, *SHARINGS]), ("form", self.form, ["auto", *FORMS])
        ):  # fmt: skip
            if found not in wanted:
                raise DataError(f"packing, {field}", repr(found), f"one of {wanted}", "Choose one of these.")
        if self.levels < 1:
            raise DataError("packing, levels", str(self.levels), "at least 1", "Give the number of values to share.")

    def __call__(self, source: Path, target: Path) -> PackResult:
        """Write the archive ``target``.

        Raises:
            DataError: a weight is NaN or infinite and values are to be shared.
            StorageError: the file cannot be read or written, or is neither ONNX nor safetensors.
        """
        kind, rest, tensors = read_file(source)
        kept = {name: self._shared(name, tensor) for name, tensor in tensors.items()}
        codes = {name: coded(tensor.bits, self.form) for name, tensor in kept.items()}
        archive = Archive(
            kind=kind, rest=rest, codes=codes, dtypes={name: tensor.dtype for name, tensor in kept.items()},
            sha256=digest(kept),
        )  # fmt: skip
        size = archive.write(target)
        return PackResult(
            source=source.name, sharing=self.sharing, levels=self.levels, source_bytes=source.stat().st_size,
            archive_bytes=size,
            tensors={
                name: PackedTensor(
                    dtype=tensor.dtype, shape=tensor.bits.shape, form=codes[name].form, dense_bytes=tensor.bits.nbytes,
                    coded_bytes=codes[name].num_bytes,
                    entropy_bytes=entropy_bytes(tensor.bits, codes[name].form),
                    zeros=float(np.mean(tensor.bits == 0)) if tensor.bits.size else 0.0,
                    distinct=len(np.unique(tensor.bits)), sharing_error=_error(tensors[name], tensor),
                )
                for name, tensor in kept.items()
            },
        )  # fmt: skip

    def _shared(self, name: str, tensor: Stored) -> Stored:
        if self.sharing is None or not tensor.is_weight:
            return tensor
        values = tensor.bits.view(tensor.dtype)
        if not np.isfinite(values).all():
            raise DataError(
                f"packing, tensor {name}", "NaN or infinite weights", "finite ones", "Pack it without sharing."
            )
        return Stored(dtype=tensor.dtype, bits=shared(values, self.sharing, self.levels).view(tensor.bits.dtype))


def pack(source: Path, target: Path | None = None, settings: Pack | None = None) -> PackResult:
    """Write an archive beside a file, ``<file>.pack``; see `Pack` for settings and errors."""
    return (settings or Pack())(source, target or source.with_name(f"{source.name}{SUFFIX}"))


def unpack(source: Path, target: Path | None = None) -> Path:
    """Write the file that an archive was made from, its tensors equal bit by bit to those that were packed.

    Raises:
        StorageError: the archive is cut short, damaged, or of another version of the coder; the file cannot be written.
    """
    archive = read_archive(source)
    path = target or source.with_name(source.name.removesuffix(SUFFIX) if source.name.endswith(SUFFIX) else
                                      f"{source.stem}.{archive.kind}")  # fmt: skip
    write(path, archive.file())
    return path


def _error(before: Stored, after: Stored) -> float:
    """Return the root mean square of what sharing changed over that of the weights."""
    if before is after:
        return 0.0
    w, changed = before.bits.view(before.dtype).astype(np.float64), after.bits.view(after.dtype).astype(np.float64)
    size = float(np.linalg.norm(w))
    return float(np.linalg.norm(w - changed)) / size if size else 0.0
