"""Compare the latencies of any two ONNX files that take the same inputs."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from secateur.artifacts import Comparison
from secateur.backends import BACKENDS
from secateur.backends.compare import Compare
from secateur.backends.onnx_file import NO_SIZES, OnnxInput, random_inputs, read_inputs
from secateur.backends.protocol import Backend, BuildOptions, Engine, Progress, require, unheard
from secateur.errors import BackendError

DEFAULT_COMPARE = Compare()


def bench(
    baseline: Path,
    candidate: Path,
    *,
    backend: str = "onnxruntime",
    batch_size: int = 1,
    num_threads: int = 1,
    sizes: Mapping[str, int] = NO_SIZES,
    tolerance: float = 1e-4,
    compare: Compare = DEFAULT_COMPARE,
    progress: Progress = unheard,
) -> Comparison:
    """Build an engine of each file and compare them on random inputs of the shapes that both declare.

    Args:
        baseline: an ONNX file.
        candidate: an ONNX file with inputs of the same types and shapes.
        backend: a name in `BACKENDS`.
        batch_size: samples a call; the first axis of every input.
        num_threads: threads of the runtime.
        sizes: other sizes that the files leave open, by the names that they have there.
        tolerance: how far an engine's outputs may be from its file's, relative to their largest value; of a file in
            eight bits 0.1, since integers on the border between two are rounded either way.
        compare: how to measure.
        progress: hears of builds and instances.

    Raises:
        BackendError: a file is absent, truncated or not ONNX; the inputs differ or a size is open; or the backend
            cannot run here.
        EqualityError: an engine computes something else than its file.
        MeasurementError: the measurement takes longer than it may.
    """
    runtime = _backend(backend)
    inputs = read_inputs(baseline)
    _check_same(inputs, read_inputs(candidate), baseline, candidate, batch_size, sizes)
    arrays = random_inputs(inputs, batch_size, compare.seed, sizes)
    options = BuildOptions(
        batch_size=batch_size, max_batch_size=batch_size, sizes=sizes, num_threads=num_threads, tolerance=tolerance,
        progress=progress,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as scratch:
        folders = {"baseline": Path(scratch) / "baseline", "candidate": Path(scratch) / "candidate"}
        built = {
            side: runtime.build(path, folders[side], options)
            for side, path in (("baseline", baseline), ("candidate", candidate))
        }

        def load(side: str) -> Engine:
            return runtime.load(built[side], folders[side], num_threads=num_threads)

        return compare.compare(
            lambda: load("baseline"),
            lambda: load("candidate"),
            arrays,
            backend=f"{runtime.name} {runtime.version()}",
            num_threads=num_threads,
            progress=progress,
        )


def _backend(name: str) -> Backend:
    if name not in BACKENDS:
        raise BackendError("bench", f"the backend {name!r}", f"one of {sorted(BACKENDS)}", "Choose one of these.")
    runtime = BACKENDS[name]
    require(name, runtime.unable_to_run(), "a backend that can run here")
    return runtime


def _check_same(
    a: tuple[OnnxInput, ...],
    b: tuple[OnnxInput, ...],
    baseline: Path,
    candidate: Path,
    batch_size: int,
    sizes: Mapping[str, int],
) -> None:
    described = [[f"{entry.dtype} {list(entry.sized(batch_size, sizes))}" for entry in inputs] for inputs in (a, b)]
    if described[0] != described[1]:
        raise BackendError(
            "bench", f"the inputs {described[1]} of {candidate} and {described[0]} of {baseline}", "the same inputs",
            "Compare two files of one network's interface.",
        )  # fmt: skip
