"""Run a tiny project in forked processes that end as the caller wants: killed at a write, or out of space.

The operating system ends them: SIGKILL at the n-th event of the interpreter's audit hook that touches the run folder's
names, or a limit on the size of files. This process computes nothing itself, so that its children start clean.
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import onnxscript  # noqa: F401 (children start sooner)
import torch.onnx  # noqa: F401
from tiny import write_tiny

from secateur import chain, cli  # noqa: F401
from secateur.manifest import MANIFEST, read_manifest
from secateur.runs import STEPS, files_hash, read_record
from secateur.storage import is_temporary
from secateur.verify import verify

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def child(name: str, told: Path, prepare: Callable[[], None]) -> int:
    """Run the recipe in a forked process and return its exit code, negative where a signal ended it.

    What it says goes through a pipe, which no limit on files cuts short, into the file ``told``.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.dup2(writing, 2)
        os.dup2(writing, 1)
        sys.argv = ["secateur", "run", "recipe.yaml", "--quiet", "--set", f"folder={Path.cwd() / 'runs' / name}"]
        code = 99
        try:
            prepare()
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        told.write_bytes(said.read())
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def watch(folder: Path, reached: Callable[[int], None]) -> None:
    """Call back with the number of each event that opens for writing, renames or removes below a folder."""
    count, below = 0, str(folder)

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event not in EVENTS or not str(arguments[0]).startswith(below):
            return
        if event == "open" and not int(str(arguments[2])) & (os.O_WRONLY | os.O_RDWR):
            return
        count += 1
        reached(count)

    sys.addaudithook(hear)


def kill_at(folder: Path, number: int) -> Callable[[], None]:
    """Have the process killed at its n-th event."""

    def end(count: int) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: watch(folder, end)


def limit(num_bytes: int) -> Callable[[], None]:
    """Let the process write no file beyond a size."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def contents(folder: Path) -> dict[str, str]:
    """Return what finished steps wrote, by name; an entry that says so where files are not those of their record."""
    found = {}
    for step in sorted((folder / STEPS).glob("*")):
        record = read_record(step)
        found[step.name.split("-")[0]] = (
            "half written" if record is None or record.content != files_hash(step) else record.content
        )
    return found


def main(num_kills: int, seed: int) -> dict[str, object]:
    """Run once undisturbed, once with kills, once out of space and once on damaged files; return what was seen."""
    chance, runs, counted = random.Random(seed), (Path.cwd() / "runs").resolve(), Path("counted")
    write_tiny(Path.cwd(), "killednet")
    seen: dict[str, object] = {}
    seen["undisturbed"] = child(
        "calm", Path("calm.log"), lambda: watch(runs, lambda count: counted.write_text(str(count)) and None)
    )
    events, seen["reference"] = int(counted.read_text()), contents(runs / "calm" / "tiny")
    seen["events"], ends, states = events, [], []
    while ends.count(-signal.SIGKILL) < num_kills:
        if (runs / "killed" / "tiny" / MANIFEST).exists():  # finished in between: begin again
            shutil.rmtree(runs / "killed" / "tiny")
        number = chance.randint(1, max(2, events // 3))
        ends.append(child("killed", Path("killed.log"), kill_at(runs, number)))
        states.append(sorted(set(contents(runs / "killed" / "tiny").values())))
    seen["ends"], seen["half_written"] = ends, sum("half written" in state for state in states)
    seen["after_kills"] = child("killed", Path("killed.log"), lambda: None)
    seen["contents"] = contents(runs / "killed" / "tiny")
    seen["left_over"] = [str(p) for p in (runs / "killed" / "tiny").rglob("*") if p.is_file() and is_temporary(p)]
    seen["verified"] = verify(runs / "killed" / "tiny", parity=False).exit_code
    limits = []
    for num_bytes in (100, 7000, 9000):
        code = child("cramped", Path("cramped.log"), limit(num_bytes))
        limits.append(
            [code, Path("cramped.log").read_text(), "half written" in contents(runs / "cramped" / "tiny").values()]
        )
    seen["limits"] = limits
    manifest = read_manifest(runs / "killed" / "tiny")
    for name in ("prune", "export", "build"):
        largest = max(
            (
                artefact
                for artefact in manifest.artefacts
                if artefact.step == name and not artefact.path.endswith(".json")
            ),
            key=lambda one: one.size_bytes,
        )
        path = runs / "killed" / "tiny" / largest.path
        content = path.read_bytes()
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 255]) + content[-2:])
    seen["damaged"] = [each.path for each in verify(runs / "killed" / "tiny", parity=False).differences]
    seen["mended"] = child("killed", Path("killed.log"), lambda: None)
    seen["mended_contents"] = contents(runs / "killed" / "tiny")
    seen["mended_verified"] = verify(runs / "killed" / "tiny", parity=False).exit_code
    return seen


if __name__ == "__main__":
    Path("seen.json").write_text(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
