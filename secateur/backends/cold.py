"""Cold starts: load an engine and call it once, each time in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from secateur.artifacts import Cold, EngineResult
from secateur.backends import BACKENDS
from secateur.errors import MeasurementError

MOST_S = 300.0
ENGINE, INPUTS = "engine.json", "inputs.npz"


def cold(
    result: EngineResult,
    folder: Path,
    inputs: tuple[np.ndarray, ...],
    *,
    num_threads: int = 1,
    num_starts: int = 5,
    flush: bool = True,
) -> Cold:
    """Start so many processes one after another, each of which loads the engine and calls it once.

    The runtime is imported before the clock starts. With ``flush`` the engine's file is first dropped from the page
    cache, so that it is read from the disk; other files that a runtime reads stay there.

    Raises:
        MeasurementError: a process fails, or takes longer than five minutes.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="secateur-cold-") as scratch:
        np.savez(Path(scratch) / INPUTS, *inputs)
        (Path(scratch) / ENGINE).write_text(result.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "secateur.backends.cold", scratch, str(folder), str(num_threads)]
        for _ in range(num_starts):
            if flush and result.path is not None:
                _drop(folder / result.path)
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_S, check=False)
            except subprocess.TimeoutExpired as error:
                raise _failure(result, f"no answer in {MOST_S:g} s") from error
            if done.returncode != 0:
                raise _failure(result, (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1][:300])
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return Cold(
        load_s=tuple(start["load_s"] for start in found),
        first_s=tuple(start["first_s"] for start in found),
        memory_bytes=tuple(start["memory_bytes"] for start in found),
        flushed=flush,
    )


def _failure(result: EngineResult, found: str) -> MeasurementError:
    return MeasurementError(
        f"cold start on {result.backend}", found, "a process that loads the engine and calls it",
        "Measure without cold starts.",
    )  # fmt: skip


def _drop(path: Path) -> None:
    """Have the system forget a file that it holds in memory; a system that does not is none the slower."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def _start(told: Path, folder: Path, num_threads: int) -> dict[str, float]:
    """Load and call once, in this process, which has done nothing yet."""
    result = EngineResult.model_validate_json((told / ENGINE).read_text(encoding="utf-8"))
    with np.load(told / INPUTS, allow_pickle=False) as saved:
        inputs = tuple(saved[name] for name in saved.files)
    backend = BACKENDS[result.backend]
    backend.unable_to_run()  # imports the runtime
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    with backend.load(result, folder, num_threads=num_threads) as engine:
        loaded = time.perf_counter()
        engine.run(inputs)
        called = time.perf_counter()
        after = psutil.Process().memory_info().rss
    return {"load_s": loaded - started, "first_s": called - loaded, "memory_bytes": after - before}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_start(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))) + "\n")
