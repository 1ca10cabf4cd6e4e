"""Time any ONNX file or engine on a runtime, and compare it with another of the same inputs."""

import functools
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from secateur.artifacts import BenchCell, Cold, Comparison, Measurement
from secateur.backends import BACKENDS
from secateur.backends.clients import Crowd
from secateur.backends.cold import cold
from secateur.backends.compare import BASELINE, CANDIDATE, Compare
from secateur.backends.measure import STOPWATCH, Stopwatch, measure
from secateur.backends.onnx_file import NO_SIZES, OnnxInput, random_inputs, read_inputs
from secateur.backends.practice.practice import Examine, Examined
from secateur.backends.practice.probe import Probe, cache_folder
from secateur.backends.protocol import Backend, BuildOptions, Engine, Progress, require, unheard
from secateur.backends.ready_made import ReadyMade, is_ready_made, ready_made
from secateur.errors import BackendError
from secateur.onnx_reading import read_onnx

DEFAULT_COMPARE = Compare()
TOLERANCE, ROUNDED_TOLERANCE = 1e-4, 0.1
"""How far an engine may be from its file by default; integers on the border between two are rounded either way."""


def bench(
    baseline: Path,
    candidate: Path,
    *,
    backend: str = "onnxruntime",
    batch_size: int = 1,
    num_threads: int = 1,
    sizes: Mapping[str, int] = NO_SIZES,
    tolerance: float | None = None,
    compare: Compare = DEFAULT_COMPARE,
    progress: Progress = unheard,
) -> Comparison:
    """Build an engine of each file and compare them on random inputs of the shapes that both declare.

    Args:
        baseline: an ONNX file, or an engine that is there already, see `secateur.backends.ready_made`.
        candidate: another with inputs of the same types and shapes.
        backend: a name in `BACKENDS`.
        batch_size: samples a call; the first axis of every input.
        num_threads: threads of the runtime.
        sizes: other sizes that the files leave open, by the names that they have there.
        tolerance: how far an engine's outputs may be from its file's, relative to their largest value; see
            `usual_tolerance` for None.
        compare: how to measure.
        progress: hears of builds and instances.

    Raises:
        BackendError: a file is absent, truncated or not ONNX; the inputs differ or a size is open; or the backend
            cannot run here.
        EqualityError: an engine computes something else than its file.
        MeasurementError: the measurement takes longer than it may.
    """
    settings = Bench(backend=backend, sizes=sizes, tolerance=tolerance, compare=compare)
    return settings.cell(baseline, candidate, batch_size, num_threads, progress).comparison


def usual_tolerance(path: Path) -> float:
    """Return 0.1 for a file that computes in integers, 1e-4 for any other; see `read_onnx` for errors."""
    nodes = read_onnx(path, weights=False).graph.node
    rounded = any(node.op_type.startswith(("QLinear", "QuantizeLinear", "DequantizeLinear")) for node in nodes)
    return ROUNDED_TOLERANCE if rounded or any("Integer" in node.op_type for node in nodes) else TOLERANCE


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How files are timed: on what, how closely engines must agree with their files, and what else is looked at.

    ``layers`` holds theory against practice, layer by layer, with the machine's roofline kept in ``folder``;
    ``num_starts`` are cold starts of either engine; ``clients`` are numbers of clients that call at once.
    """

    backend: str = "onnxruntime"
    sizes: Mapping[str, int] = field(default_factory=dict)
    tolerance: float | None = None
    layers: bool = False
    num_starts: int = 0
    clients: tuple[int, ...] = ()
    folder: Path = field(default_factory=cache_folder)
    compare: Compare = DEFAULT_COMPARE
    stopwatch: Stopwatch = STOPWATCH

    def cells(
        self,
        baseline: Path,
        candidate: Path,
        *,
        batch_sizes: Sequence[int] = (1,),
        num_threads: Sequence[int] = (1,),
        progress: Progress = unheard,
    ) -> Iterator[BenchCell]:
        """Compare two files at every batch size and number of threads; see `bench` for errors."""
        for size, threads in itertools.product(batch_sizes, num_threads):
            yield self.cell(baseline, candidate, size, threads, progress)

    def cell(
        self, baseline: Path, candidate: Path, batch_size: int, num_threads: int, progress: Progress = unheard
    ) -> BenchCell:
        """Compare two files at one batch size and number of threads."""
        runtime = self._runtime()
        inputs = self._inputs(baseline, num_threads)
        _check_same(inputs, self._inputs(candidate, num_threads), baseline, candidate, batch_size, self.sizes)
        arrays = random_inputs(inputs, batch_size, self.compare.seed, self.sizes)
        files = {BASELINE: baseline, CANDIDATE: candidate}
        with self._built(files, batch_size, num_threads, progress) as built:

            def load(side: str) -> Engine:
                return built[side].load(num_threads)

            comparison = self.compare.compare(
                lambda: load(BASELINE),
                lambda: load(CANDIDATE),
                arrays,
                backend=f"{runtime.name} {runtime.version()}",
                num_threads=num_threads,
                progress=progress,
            )
            crowds = {
                side: tuple(Crowd(num_clients=n).measure(functools.partial(load, side), arrays) for n in self.clients)
                for side in files
            }
            practice = None
            if self.layers and not any(is_ready_made(file) for file in files.values()):
                examine = Examine(
                    backend=runtime, probe=Probe(backend=runtime, num_threads=num_threads, folder=self.folder),
                    batch_size=batch_size, num_threads=num_threads, sizes=self.sizes, seed=self.compare.seed,
                )  # fmt: skip
                examined = [Examined(file=files[s], engine=built[s].result, folder=built[s].folder) for s in files]
                practice = examine(*examined, comparison=comparison, progress=progress)
            starts = {side: self._starts(built[side], arrays, num_threads) for side in files}
            parities = {side: one.result.parity for side, one in built.items() if one.result.parity is not None}
        return BenchCell(
            comparison=comparison,
            parity=parities,
            practice=practice,
            cold={side: start for side, start in starts.items() if start is not None},
            clients=crowds if self.clients else {},
        )

    def alone(self, file: Path, batch_size: int, num_threads: int, progress: Progress = unheard) -> Measurement:
        """Time one file by itself, for no longer than a comparison may take; to tell two apart, compare them."""
        stopping = self.stopwatch.stopping
        most_s = min(stopping.most_s, self.compare.max_s)
        brief = replace(stopping, most_s=most_s, least_s=min(stopping.least_s, most_s))
        arrays = random_inputs(self._inputs(file, num_threads), batch_size, self.compare.seed, self.sizes)
        with (
            self._built({BASELINE: file}, batch_size, num_threads, progress) as built,
            built[BASELINE].load(num_threads) as engine,
        ):
            return measure(engine, arrays, num_threads=num_threads, stopwatch=replace(self.stopwatch, stopping=brief))

    def _inputs(self, file: Path, num_threads: int) -> tuple[OnnxInput, ...]:
        if is_ready_made(file):
            return ready_made(file, self._runtime()).inputs(num_threads)
        return read_inputs(file)

    def _runtime(self) -> Backend:
        if self.backend not in BACKENDS:
            raise BackendError(
                "bench", f"the backend {self.backend!r}", f"one of {sorted(BACKENDS)}", "Choose one of these."
            )
        require(self.backend, BACKENDS[self.backend].unable_to_run(), "a backend that can run here")
        return BACKENDS[self.backend]

    def _starts(self, built: ReadyMade, arrays: tuple[np.ndarray, ...], threads: int) -> Cold | None:
        if not self.num_starts:
            return None
        return cold(built.result, built.folder, arrays, num_threads=threads, num_starts=self.num_starts)

    @contextmanager
    def _built(
        self, files: Mapping[str, Path], batch_size: int, num_threads: int, progress: Progress
    ) -> Iterator[dict[str, ReadyMade]]:
        """Build an engine of every ONNX file, in folders that last as long as the block; take others as they are."""
        runtime = self._runtime()
        with tempfile.TemporaryDirectory(prefix="secateur-bench-") as scratch:
            built = {}
            for side, path in files.items():
                if is_ready_made(path):
                    built[side] = ready_made(path, runtime)
                    continue
                options = BuildOptions(
                    batch_size=batch_size, max_batch_size=batch_size, sizes=self.sizes, num_threads=num_threads,
                    tolerance=usual_tolerance(path) if self.tolerance is None else self.tolerance, progress=progress,
                )  # fmt: skip
                folder = Path(scratch) / side
                result = runtime.build(path, folder, options)
                built[side] = ReadyMade(backend=runtime, result=result, folder=folder)
            yield built


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
