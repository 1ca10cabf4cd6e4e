"""The run folder: steps named by the hash of everything they depend on, written whole or not at all.

    <run>/steps/<name>-<hash>/     a finished step: its files and step.json
    <run>/partial/<name>-<hash>/   a step under way; what it can resume from (checkpoints) survives a kill
    <run>/manifest.json            what the latest finished run made of what, see `secateur.manifest`
    <run>/lock                     held while a run is writing

A step's folder is renamed into place only when it is complete and on disk, so a finished step is never half written;
one whose files are no longer those it wrote is done again.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from secateur import __version__
from secateur.artifacts import Record
from secateur.errors import StorageError
from secateur.provenance import commit, loaded_distributions
from secateur.storage import file_sha256, is_temporary, sync
from secateur.storage import write as write_file

RECORD = "step.json"
STEPS, PARTIAL, LOCK = "steps", "partial", "lock"


class StepRecord(Record):
    """What is known of a finished step.

    ``key`` is the hash of what the step depends on, ``content`` that of the files it wrote: steps that read them depend
    on the latter, so that a step that is done again brings its followers with it unless it wrote the very same.
    ``distributions`` are those of which modules were loaded when it was done, with their versions.
    """

    name: str
    key: str
    content: str
    settings: dict[str, Any]
    inputs: tuple[str, ...]
    duration_s: float
    version: str
    commit: str = ""
    distributions: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A finished step: its record, its folder and whether it was found there, or found damaged and done again."""

    record: StepRecord
    folder: Path
    reused: bool
    damaged: bool = False

    @property
    def content(self) -> str:
        """The hash that later steps name as their input."""
        return self.record.content


def content_hash(value: Any) -> str:
    """Return the SHA-256 of a JSON-like value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_jsonable)
    return hashlib.sha256(text.encode()).hexdigest()


def files_hash(folder: Path) -> str:
    """Return the SHA-256 of a folder's files, their relative paths and what is in them, except a step's own record."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / RECORD):
        total.update(f"{path.relative_to(folder).as_posix()}\0{file_sha256(path)}\n".encode())
    return total.hexdigest()


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder. Use `open_run`, which holds the lock."""

    folder: Path
    fresh: bool = False
    steps: list[Step] = field(default_factory=list)

    def step(
        self, name: str, settings: Mapping[str, Any], inputs: tuple[str, ...], compute: Callable[[Path], None]
    ) -> Step:
        """Return the finished step, computing it unless it is there already.

        Args:
            name: the step's name, the same in every run.
            settings: everything of the recipe that the result depends on.
            inputs: contents of the steps (or fingerprints of the data) that it reads.
            compute: writes the step's files into the folder it is given, which may hold what an interrupted
                attempt at the very same step left there.

        Raises:
            StorageError: the folder cannot be written; steps that are finished stay.
        """
        plain = json.loads(json.dumps(dict(settings), default=_jsonable))
        key = content_hash({"name": name, "settings": plain, "inputs": inputs, "version": __version__})
        done = self.folder / STEPS / f"{name}-{key[:12]}"
        found = None if self.fresh else read_record(done)
        if found is not None and found.key == key and found.content == files_hash(done):
            step = Step(record=found, folder=done, reused=True)
        else:
            damaged = not self.fresh and done.is_dir()
            step = self._compute(name, plain, inputs, compute, key, done, damaged)
        self.steps.append(step)
        return step

    def _compute(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: tuple[str, ...],
        compute: Callable[[Path], None],
        key: str,
        done: Path,
        damaged: bool,
    ) -> Step:
        partial = self.folder / PARTIAL / done.name
        started = time.monotonic()
        with storage_errors(partial):
            if self.fresh:
                shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True, exist_ok=True)
            _tidy(partial.rglob("*"))
            compute(partial)
            record = StepRecord(
                name=name, key=key, content=files_hash(partial), settings=settings, inputs=inputs,
                duration_s=time.monotonic() - started, version=__version__, commit=commit(),
                distributions=loaded_distributions(),
            )  # fmt: skip
            write_file(partial / RECORD, record.model_dump_json(indent=1).encode())
            shutil.rmtree(done, ignore_errors=True)
            done.parent.mkdir(parents=True, exist_ok=True)
            for path in (*partial.rglob("*"), partial):
                sync(path)
            partial.replace(done)
            sync(done.parent)
        return Step(record=record, folder=done, reused=False, damaged=damaged)


@contextlib.contextmanager
def open_run(folder: Path, *, fresh: bool = False) -> Iterator[Run]:
    """Open a run folder for writing, alone.

    Raises:
        StorageError: the folder cannot be created, or another run is writing there.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                str(folder), "another run writing there", "a run folder of one's own",
                "Wait for it, or give the recipe another name.",
            ) from error  # fmt: skip
        _tidy(folder.iterdir())
        yield Run(folder=folder, fresh=fresh)


def _tidy(paths: Iterable[Path]) -> None:
    """Remove the files that a run which was killed while it wrote them left without their names."""
    for path in [path for path in paths if path.is_file() and is_temporary(path)]:
        path.unlink()


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep a run folder from being written while it is read; nothing is created there.

    Raises:
        StorageError: a run is writing there.
    """
    if not (folder / LOCK).is_file():  # a copy need not have one
        yield
        return
    with (folder / LOCK).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                str(folder), "a run writing there", "a run folder that stands still", "Wait for the run to end."
            ) from error
        yield


_REMEDIES = {
    errno.ENOSPC: "Free some space and run the same command again; finished steps are kept.",
    errno.EFBIG: "Allow larger files (ulimit -f) and run the same command again; finished steps are kept.",
    errno.EDQUOT: "Free some of the quota and run the same command again; finished steps are kept.",
    errno.EACCES: "Choose a folder that may be written with --set folder=PATH.",
    errno.EROFS: "Choose a folder that may be written with --set folder=PATH.",
    errno.ENOTDIR: "A file stands where a folder is needed; choose another with --set folder=PATH.",
    errno.EEXIST: "A file stands where a folder is needed; choose another with --set folder=PATH.",
    errno.EIO: "See to the disk and run the same command again; finished steps are kept.",
}


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn a disk's refusals into a `StorageError` that says what to do; other errors pass."""
    try:
        yield
    except StorageError:  # it says already what to do
        raise
    except Exception as error:
        number = _storage_errno(error)
        if number is None:
            raise
        place = getattr(error, "filename", None) or folder
        raise StorageError(
            str(place), os.strerror(number), "a writable run folder with space left", _REMEDIES[number]
        ) from error


def _storage_errno(error: Exception) -> int | None:
    """Return the error number of a refusal by the disk; safetensors and torch hide theirs in the text."""
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return error.errno
    if "File too large" in str(error):
        return errno.EFBIG
    if "No space left on device" in str(error) or "PytorchStreamWriter failed" in str(error):
        return errno.ENOSPC
    return None


def read_record(folder: Path) -> StepRecord | None:
    """Return the record of a finished step; None where there is none or it cannot be read, so that it is redone."""
    path = folder / RECORD
    try:
        return StepRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
