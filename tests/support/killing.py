"""Run a tiny project in forked processes that end as the caller wants: killed at a write, or out of space.

The operating system ends them: SIGKILL at the n-th event of the interpreter's audit hook that touches the run folder's
names, a limit on the size of files, a small file system. This process computes nothing itself, so that its children
start clean.
"""

import ctypes
import json
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
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
NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000
PRIVATE, REMOUNT = 1 << 14 | 1 << 18, 32
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True)
class Child:
    """A run under way; what it says goes through a pipe, which no limit on files cuts short."""

    process: int
    said: int

    def end(self) -> tuple[int, str]:
        """Wait for it; return its exit code, negative where a signal ended it, and what it said."""
        with os.fdopen(self.said, "rb") as pipe:
            told = pipe.read().decode(errors="replace")
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1]), told


def nothing() -> None:
    """Let a run be."""


def start(name: str, prepare: Callable[[], None] = nothing) -> Child:
    """Run the recipe in a forked process."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        os.dup2(writing, 2)
        os.dup2(writing, 1)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
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
    return Child(process=process, said=reading)


def run(name: str, prepare: Callable[[], None] = nothing) -> int:
    """Run the recipe in a forked process and return its exit code; what it said is kept beside the runs."""
    code, told = start(name, prepare).end()
    Path(f"{name}.log").write_text(told)
    return code


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


def signal_at(folder: Path, number: int, sent: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """Have the process sent a signal at its n-th event."""

    def end(count: int) -> None:
        if count == number:
            os.kill(os.getpid(), sent)

    return lambda: watch(folder, end)


def limit(num_bytes: int) -> Callable[[], None]:
    """Let the process write no file beyond a size."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def mount(place: Path, options: str, flags: int = 0) -> None:
    """Put a file system in memory at a folder, or change the one that is there."""
    if LIBC.mount(b"tmpfs", str(place).encode(), b"tmpfs", flags, options.encode()):
        raise OSError(ctypes.get_errno(), "no file system in memory can be mounted")


def mounts_of_its_own() -> None:
    """Let this process mount what no other one sees, as root or as root of a name space of its own."""
    user, group = os.getuid(), os.getgid()
    if LIBC.unshare(NEW_MOUNTS):
        if LIBC.unshare(NEW_USERS | NEW_MOUNTS):
            raise OSError(ctypes.get_errno(), "no name space for mounts is to be had")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if LIBC.mount(b"none", b"/", None, PRIVATE, None):
        raise OSError(ctypes.get_errno(), "mounts cannot be kept apart")


def on_full_disk(place: Path, sizes: tuple[str, ...]) -> dict[str, object]:
    """Run on a file system that is too small, larger, and large enough; return what was seen."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        seen: dict[str, object] = {"ends": []}
        try:
            mounts_of_its_own()
            place.mkdir(parents=True)
            mount(place, f"size={sizes[0]}")
            ends = []
            for size in sizes:
                mount(place, f"size={size}", REMOUNT)
                code, told = start(place.name).end()
                ends.append([code, told, sorted(set(contents(place / "tiny").values()))])
            seen = {"ends": ends, "contents": contents(place / "tiny"), "left_over": left_over(place / "tiny")}
        except OSError as error:
            seen["impossible"] = str(error)
        os.write(writing, json.dumps(seen).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found: dict[str, object] = json.loads(pipe.read())
    os.waitpid(process, 0)
    return found


def contents(folder: Path) -> dict[str, str]:
    """Return what finished steps wrote, by name; an entry that says so where files are not those of their record."""
    found = {}
    for step in sorted((folder / STEPS).glob("*")):
        record = read_record(step)
        found[step.name.split("-")[0]] = (
            "half written" if record is None or record.content != files_hash(step) else record.content
        )
    return found


def left_over(folder: Path) -> list[str]:
    """Return files that were written and never given their names."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and is_temporary(path)]


def killed(runs: Path, events: int, num_kills: int, chance: random.Random) -> dict[str, object]:
    """Kill runs of one folder at random events, each going on where the last one ended; return what was seen."""
    folder, ends, half_written = runs / "killed" / "tiny", [], 0
    while ends.count(-signal.SIGKILL) < num_kills:
        if (folder / MANIFEST).exists():  # finished in between: begin again
            shutil.rmtree(folder)
        ends.append(run("killed", signal_at(runs, chance.randint(1, max(2, events // 3)))))
        half_written += "half written" in contents(folder).values()
    return {"ends": ends, "half_written": half_written}


def beside_another(runs: Path, events: int) -> dict[str, object]:
    """Stop a run half way, start another one in its folder, and let the first go on; return how both ended."""
    first = start("shared", signal_at(runs, events // 4, signal.SIGSTOP))
    os.waitid(os.P_PID, first.process, os.WSTOPPED | os.WNOWAIT)
    second = start("shared").end()
    os.kill(first.process, signal.SIGCONT)
    code, _ = first.end()
    return {"first": code, "second": second, "contents": contents(runs / "shared" / "tiny")}


def damage(folder: Path) -> None:
    """Change a byte of the largest file, records apart, of three steps."""
    manifest = read_manifest(folder)
    for name in ("prune", "export", "build"):
        files = [file for file in manifest.artefacts if file.step == name and not file.path.endswith(".json")]
        path = folder / max(files, key=lambda one: one.size_bytes).path
        content = path.read_bytes()
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 255]) + content[-2:])


def main(num_kills: int, seed: int) -> dict[str, object]:
    """Run undisturbed, with kills, beside another run, interrupted, out of space and on damaged files."""
    runs, counted = (Path.cwd() / "runs").resolve(), Path("counted")
    write_tiny(Path.cwd(), "killednet")
    seen: dict[str, object] = {}
    seen["undisturbed"] = run("calm", lambda: watch(runs, lambda count: counted.write_text(str(count)) and None))
    seen["events"], seen["reference"] = events, _ = int(counted.read_text()), contents(runs / "calm" / "tiny")
    folder = runs / "killed" / "tiny"
    seen["killed"] = killed(runs, events, num_kills, random.Random(seed))
    seen["interrupted"] = [run("killed", signal_at(runs, 5, signal.SIGINT)), Path("killed.log").read_text()]
    seen["after_kills"], seen["contents"], seen["left_over"] = run("killed"), contents(folder), left_over(folder)
    seen["verified"] = verify(folder, parity=False).exit_code
    seen["shared"] = beside_another(runs, events)
    seen["limits"] = [
        [run("cramped", limit(num_bytes)), Path("cramped.log").read_text(),
         "half written" in contents(runs / "cramped" / "tiny").values()]
        for num_bytes in (7000, 9000)
    ]  # fmt: skip
    seen["full"] = on_full_disk(runs / "full", ("64k", "64m"))
    damage(folder)
    seen["damaged"] = [each.path for each in verify(folder, parity=False).differences]
    seen["mended"], seen["mended_contents"] = run("killed"), contents(folder)
    seen["mended_verified"] = verify(folder, parity=False).exit_code
    return seen


if __name__ == "__main__":
    Path("seen.json").write_text(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
