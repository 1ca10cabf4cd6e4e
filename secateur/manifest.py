"""The manifest of a finished run: what was made of what, by which code, and the hash of every file."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from secateur.artifacts import Parity, Record
from secateur.errors import StorageError
from secateur.runs import LOCK, PARTIAL, RECORD, STEPS, Step, StepRecord, files_hash, read_record
from secateur.storage import file_sha256, read, sha256, write

MANIFEST, SBOM, SPECTRA = "manifest.json", "sbom.cdx.json", "redundancy.png"
FORMAT = 1
MOST_BYTES = 1 << 26
"""No manifest is larger: it has a few hundred bytes a file."""
UNSEALED = frozenset({MANIFEST, LOCK, SPECTRA})
"""Files of a run folder that a manifest does not list: itself, the lock, and what `secateur estimate` draws anew."""
_DIGEST = re.compile(rb'"digest": "[0-9a-f]*"')


class Stage(StepRecord):
    """A step of the run: its record, where it is, whether it was found there, and what it came to."""

    folder: str
    reused: bool
    numbers: dict[str, float]


class Artefact(Record):
    """A file of the run; ``step`` is empty where it belongs to none of the run's steps. Paths are relative, with /."""

    path: str
    sha256: str
    size_bytes: int
    step: str


class Link(Record):
    """One arrow of the lineage: what was made, of what, and the proof that both compute the same, where there is one.

    ``what`` is a file's path, but for the original weights, whose hash is over names and tensors; ``parents`` are what
    other links are of. Links are told apart by path, since some runtimes' engines are the ONNX file byte for byte.
    """

    what: str
    sha256: str
    parents: tuple[str, ...] = ()
    parity: Parity | None = None


class Origin(Record):
    """What a run began with: hashes of the original network's weights and of the data, and of all of it together."""

    model: str
    weights_sha256: str
    data: str
    data_digest: str
    fingerprint: str


class Difference(Record):
    """A file that is not as the manifest says."""

    path: str
    kind: str
    told: str


class Manifest(Record):
    """Everything needed to say where a deployed file comes from, and whether it is still that file.

    ``digest`` is the SHA-256 of the manifest's own file with this digest left empty. ``no_sbom`` says why there is no
    bill of materials, where there is none.
    """

    digest: str = ""
    format: int = FORMAT
    name: str
    version: str
    commit: str
    verdict: str
    recipe: dict[str, Any]
    origin: Origin
    steps: tuple[Stage, ...]
    lineage: tuple[Link, ...]
    sbom: str | None
    no_sbom: str = ""
    artefacts: tuple[Artefact, ...]

    def stage(self, name: str) -> Stage:
        """Return a step of the run."""
        return next(stage for stage in self.steps if stage.name == name)

    def require(self, path: str, found_sha256: str, where: Path) -> None:
        """Raise `StorageError` where a file that was read is not the one that the manifest lists."""
        wanted = next((artefact.sha256 for artefact in self.artefacts if artefact.path == path), None)
        if wanted != found_sha256:
            raise StorageError(
                str(where.parent / path), f"sha256 {found_sha256}", f"{wanted or 'no such file'}, as {where.name} says",
                "Run the recipe again: steps whose files are intact are reused.",
            )  # fmt: skip

    def differences(self, folder: Path) -> tuple[Difference, ...]:
        """Hash every file of the run folder again and name those that are changed, missing or additional.

        Finished steps of other settings are no part of the run; their own records vouch for them.
        """
        listed = {artefact.path: artefact for artefact in self.artefacts}
        present = {path.relative_to(folder).as_posix(): path for path in files_of(folder)}
        found = []
        for name, artefact in listed.items():
            path = present.pop(name, None)
            if path is None:
                found.append(Difference(path=name, kind="missing", told=f"{artefact.size_bytes:,} bytes"))
            elif (now := file_sha256(path)) != artefact.sha256:
                told = f"sha256 {now} instead of {artefact.sha256}"
                found.append(Difference(path=name, kind="changed", told=told))
        for name, path in present.items():
            if not _vouched_for(folder, path):
                found.append(Difference(path=name, kind="additional", told=f"{path.stat().st_size:,} bytes"))
        return tuple(found)


def files_of(folder: Path) -> list[Path]:
    """Return the files of a run folder that a manifest lists, in order; unfinished steps are left out."""
    partial = folder / PARTIAL
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and partial not in path.parents and path.relative_to(folder).as_posix() not in UNSEALED
    )


def stages(steps: Sequence[Step], folder: Path, numbers: dict[str, dict[str, float]]) -> tuple[Stage, ...]:
    """Return the steps of a run with what they came to."""
    return tuple(
        Stage(
            **step.record.model_dump(), folder=step.folder.relative_to(folder).as_posix(), reused=step.reused,
            numbers=numbers[step.record.name],
        )
        for step in steps
    )  # fmt: skip


def artefacts(folder: Path, steps: Sequence[Stage]) -> tuple[Artefact, ...]:
    """Hash the files of a run folder."""
    found = []
    for path in files_of(folder):
        name = path.relative_to(folder).as_posix()
        step = next((stage.name for stage in steps if name.startswith(f"{stage.folder}/")), "")
        found.append(Artefact(path=name, sha256=file_sha256(path), size_bytes=path.stat().st_size, step=step))
    return tuple(found)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest with its own digest; raises `StorageError`."""
    blank = manifest.model_copy(update={"digest": ""}).model_dump_json(indent=1).encode() + b"\n"
    write(folder / MANIFEST, _DIGEST.sub(f'"digest": "{sha256(blank)}"'.encode(), blank, count=1))


def read_manifest(folder: Path) -> Manifest:
    """Read a run folder's manifest.

    Raises:
        StorageError: there is none, or it is not as it was written.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise StorageError(
            str(folder), f"no {MANIFEST}", "the folder of a finished run",
            "Give a run's own folder, as in runs/NAME; a run that was interrupted is finished by the same command.",
        )  # fmt: skip
    content = read(path, MOST_BYTES)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise _not_as_written(path, f"{error.error_count()} entries that cannot be read") from error
    if manifest.digest != sha256(_DIGEST.sub(b'"digest": ""', content, count=1)):
        raise _not_as_written(path, "other content than its digest says")
    return manifest


def _not_as_written(path: Path, found: str) -> StorageError:
    return StorageError(
        str(path), found, "a manifest as it was written",
        "Restore the file, or run the recipe again: steps whose files are intact are reused.",
    )  # fmt: skip


def _vouched_for(folder: Path, path: Path) -> bool:
    """Tell whether a file belongs to a finished step whose record fits its files."""
    parts = path.relative_to(folder).parts
    if len(parts) < 3 or parts[0] != STEPS:
        return False
    step = folder / STEPS / parts[1]
    record = read_record(step)
    return record is not None and (path == step / RECORD or record.content == files_hash(step))
