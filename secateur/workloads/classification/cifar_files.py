"""The three ways in which CIFAR-10 lies on disk: sheets of tiles, the published binary files, the published pickles."""

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, UnidentifiedImageError

from secateur.errors import DataError

__all__ = ["CLASSES", "BinaryFiles", "PickleFiles", "Sheets", "find"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
RECORD_BYTES = 1 + 3 * SIDE * SIDE
Part = Literal["train", "test"]
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
FETCH = "Fetch CIFAR-10 again (https://www.cs.toronto.edu/~kriz/cifar.html) and name the folder it is unpacked into."


@runtime_checkable
class CifarFiles(Protocol):
    """One way of storing the two parts of the set. Pictures and labels of a part are in the same order."""

    def labels(self, part: Part) -> Int64[np.ndarray, " num"]:
        """Read the classes of a part."""

    def pixels(self, part: Part) -> UInt8[np.ndarray, "num 32 32 3"]:
        """Decode all pictures of a part."""


@dataclass(frozen=True, kw_only=True)
class Sheets:
    """Sheets of 20 x 20 pictures in ``train/`` and ``test/``, row by row, files in order of name.

    The classes are in ``train_labels.npy`` and ``test_labels.npy``; the last sheet may have tiles to spare.
    """

    folder: Path

    def labels(self, part: Part) -> Int64[np.ndarray, " num"]:
        """Read the classes of a part."""
        path = self.folder / f"{part}_labels.npy"
        try:
            labels = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(str(path), f"labels that cannot be read ({error})", "a NumPy file", FETCH) from error
        return _checked_labels(path, labels)

    def pixels(self, part: Part) -> UInt8[np.ndarray, "num 32 32 3"]:
        """Decode all sheets of a part and take them apart."""
        num = len(self.labels(part))
        paths = sorted((self.folder / part).glob("*"))
        tiles = [_tiles(path) for path in paths]
        found = sum(len(sheet) for sheet in tiles)
        if found < num:
            raise DataError(
                str(self.folder / part), f"{found} pictures in {len(paths)} sheets", f"{num}, one for each label", FETCH
            )
        return np.concatenate(tiles)[:num]


@dataclass(frozen=True, kw_only=True)
class BinaryFiles:
    """The published binary version: records of one label byte and 3072 bytes of red, green and blue planes."""

    folder: Path

    def labels(self, part: Part) -> Int64[np.ndarray, " num"]:
        """Read the classes of a part."""
        return np.concatenate(
            [_checked_labels(self.folder, records[:, 0]) for records in map(self._records, BATCHES[part])]
        )

    def pixels(self, part: Part) -> UInt8[np.ndarray, "num 32 32 3"]:
        """Read all pictures of a part."""
        return np.concatenate([_planes_last(self._records(name)[:, 1:]) for name in BATCHES[part]])

    def _records(self, name: str) -> UInt8[np.ndarray, "num bytes"]:
        path = self.folder / f"{name}.bin"
        content = np.frombuffer(_bytes(path), dtype=np.uint8)
        if len(content) == 0 or len(content) % RECORD_BYTES:
            raise DataError(str(path), f"{len(content)} bytes", f"records of {RECORD_BYTES} bytes", FETCH)
        return content.reshape(-1, RECORD_BYTES)


@dataclass(frozen=True, kw_only=True)
class PickleFiles:
    """The published Python version, as torchvision unpacks it: pickled dictionaries of ``data`` and ``labels``."""

    folder: Path

    def labels(self, part: Part) -> Int64[np.ndarray, " num"]:
        """Read the classes of a part."""
        return np.concatenate(
            [_checked_labels(self.folder / name, np.asarray(self._batch(name)[b"labels"])) for name in BATCHES[part]]
        )

    def pixels(self, part: Part) -> UInt8[np.ndarray, "num 32 32 3"]:
        """Read all pictures of a part."""
        return np.concatenate([_planes_last(self._batch(name)[b"data"]) for name in BATCHES[part]])

    def _batch(self, name: str) -> dict[bytes, Any]:
        path = self.folder / name
        try:
            batch = _ArraysOnly(io.BytesIO(_bytes(path)), encoding="bytes").load()
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
            raise DataError(str(path), f"a damaged file ({error})", "a pickled batch of CIFAR-10", FETCH) from error
        data = batch.get(b"data") if isinstance(batch, dict) else None
        if (
            not isinstance(data, np.ndarray)
            or (data.dtype, data.shape[1:]) != (np.uint8, (RECORD_BYTES - 1,))
            or len(batch.get(b"labels", ())) != len(data)
        ):
            raise DataError(str(path), "another content", "uint8 data [num, 3072] with a label each", FETCH)
        return batch


class _ArraysOnly(pickle.Unpickler):
    """Unpickle NumPy arrays and plain containers; a pickle could otherwise run any code."""

    ALLOWED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy.core.numeric", "_frombuffer"),
            ("numpy._core.numeric", "_frombuffer"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed name, refuse any other."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def find(folder: Path) -> CifarFiles:
    """Return the files in a folder, or in the subfolders that the published archives unpack into.

    DataError where none of the three is there.
    """
    for place in (folder, folder / "cifar10", folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"):
        if (place / "train_labels.npy").is_file():
            return Sheets(folder=place)
        if (place / "data_batch_1.bin").is_file():
            return BinaryFiles(folder=place)
        if (place / "data_batch_1").is_file():
            return PickleFiles(folder=place)
    found = "no such folder" if not folder.is_dir() else "none of its files"
    raise DataError(
        f"CIFAR-10 in {folder}",
        found,
        "data_batch_1.bin (binary version), data_batch_1 (Python version) or train_labels.npy (sheets)",
        FETCH,
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(str(path), f"no readable file ({error.strerror})", "a file of CIFAR-10", FETCH) from error


def _checked_labels(path: Path, labels: np.ndarray) -> Int64[np.ndarray, " num"]:
    if labels.ndim != 1 or len(labels) == 0 or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"labels in {path}", f"{labels.dtype} {labels.shape}", "classes from 0 to 9 in one row", FETCH)
    return labels.astype(np.int64)


def _planes_last(rows: UInt8[np.ndarray, "num bytes"]) -> UInt8[np.ndarray, "num 32 32 3"]:
    return rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


def _tiles(path: Path) -> UInt8[np.ndarray, "num 32 32 3"]:
    try:
        with Image.open(path) as image:
            sheet = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DataError(str(path), f"a picture that cannot be read ({error})", "a sheet of tiles", FETCH) from error
    rows, columns = sheet.shape[0] // SIDE, sheet.shape[1] // SIDE
    if rows * columns == 0 or sheet.shape[:2] != (rows * SIDE, columns * SIDE):
        raise DataError(
            str(path), f"{sheet.shape[1]} x {sheet.shape[0]} pixels", f"whole tiles of {SIDE} x {SIDE}", FETCH
        )
    return sheet.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
