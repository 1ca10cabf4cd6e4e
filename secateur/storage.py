"""Files that appear whole or not at all, and what their content is called."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from secateur.errors import StorageError


@contextlib.contextmanager
def written(path: Path, content: bytes) -> Iterator[Path]:
    """Write beside the path, yield that file, and give it its name once the body is through without an error.

    Raises:
        StorageError: the folder cannot be made or the file not be written.
    """
    temporary = None
    try:
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
        yield Path(temporary)
        with storing(path):
            Path(temporary).replace(path)
            sync(path.parent)
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Write a file whole, or raise `StorageError`."""
    with written(path, content):
        pass


def copy(source: Path, path: Path) -> None:
    """Copy a file of any size, whole, or raise `StorageError`."""
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
            unnamed = Path(shutil.copyfile(source, Path(scratch) / path.name))
            sync(unnamed)
            unnamed.replace(path)


def read(path: Path, most_bytes: int | None = None) -> bytes:
    """Read a file, or raise `StorageError`, as for one that is larger than it may be."""
    with storing(path), path.open("rb") as file:
        content = file.read() if most_bytes is None else file.read(most_bytes + 1)  # devices and pipes tell no size
        if most_bytes is not None and len(content) > most_bytes:
            found = max(len(content), os.fstat(file.fileno()).st_size)
            raise StorageError(str(path), f"{found:,} bytes", f"at most {most_bytes:,}", "Check the path.")
        return content


def sync(path: Path) -> None:
    """Have the disk keep a file's content or a folder's names, so that they survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """Name a file's content by its hash, in hexadecimal, or raise `StorageError`."""
    with storing(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_temporary(path: Path) -> bool:
    """Tell whether a file is one that was written and had not yet been given its name."""
    return path.name.startswith(".") or path.suffix == ".part"


def sha256(content: bytes) -> str:
    """Name content by its hash, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn the system's errors about a file into `StorageError`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            str(path), error.strerror or str(error), "a file that can be read and written",
            "Check that it exists, that there is space left and that you may write there.",
        ) from error  # fmt: skip
