"""Gaze frame by frame: read, predict, draw, write, and how long each of these takes."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image

from secateur.artifacts import Record
from secateur.backends import BACKENDS
from secateur.backends.onnx_file import OnnxInput, read_facts, read_inputs
from secateur.backends.protocol import BuildOptions, Engine, Progress, require, unheard
from secateur.errors import BackendError, DataError, LoadError
from secateur.workloads.gaze.drawing import draw_gaze
from secateur.workloads.gaze.frames import Frame, open_frames, open_sink, require_apart
from secateur.workloads.gaze.scan_path import ScanPath


class Pace(Record):
    """How many frames went through, and the mean time of each stage, in seconds a frame.

    The first frame is left out of the times: it pays for what happens once. ``frames_per_s`` is of all stages together.
    """

    num_frames: int
    read_s: float
    engine_s: float
    draw_s: float
    write_s: float
    frames_per_s: float


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Send frames through an engine: an ONNX file of a gaze network, built and run by ``backend``.

    The network takes one RGB picture in 0..1, [1, 3, height, width], and returns a log-density, [1, rows, columns].
    Where the file leaves height and width open they are ``size``, else what the file says of its pictures, else the
    first frame's; each brought to the nearest that the file admits.
    """

    backend: str = "onnxruntime"
    num_threads: int = 1
    scan_path: ScanPath = field(default_factory=ScanPath)
    max_frames: int | None = None
    size: tuple[int, int] | None = None

    def __call__(self, source: str, engine: Path, out: Path | None = None, *, progress: Progress = unheard) -> Pace:
        """Stream ``source`` (a film, pictures, a camera's number) and write the drawn frames to ``out``, if any.

        ``progress`` hears of every frame, outside of what is timed.

        Raises:
            BackendError: the backend is absent or refuses the network.
            DataError: the source cannot be read.
            LoadError: the network is no gaze network, or takes no pictures of the size that is asked for.
            StorageError: the frames cannot be written.
        """
        require_apart(source, out)
        times = []
        with open_frames(source) as frames:
            began = time.perf_counter()
            first = next(frames.each, None)
            if first is None:
                raise DataError(source, "no frames", "at least one", "Check the file.")
            took = time.perf_counter() - began
            known = [number for number in (frames.number, self.max_frames) if number is not None]
            with self._loaded(engine, first[1]) as predict, open_sink(out, frames.rate) as write:
                marks = [time.perf_counter() - took]
                for name, frame in itertools.chain([first], frames.each):
                    marks.append(time.perf_counter())
                    log_density = predict(frame)
                    marks.append(time.perf_counter())
                    drawn = draw_gaze(frame, log_density, self.scan_path(log_density))
                    marks.append(time.perf_counter())
                    write(name, drawn)
                    marks.append(time.perf_counter())
                    times.append(np.diff(marks))
                    progress("frames", len(times), min(known, default=0))
                    if len(times) == self.max_frames:
                        break
                    marks = [time.perf_counter()]
        read, ran, drew, wrote = np.mean(times[1:] or times, axis=0).tolist()
        return Pace(
            num_frames=len(times), read_s=read, engine_s=ran, draw_s=drew, write_s=wrote,
            frames_per_s=1 / (read + ran + drew + wrote),
        )  # fmt: skip

    @contextmanager
    def _loaded(self, path: Path, first: Frame) -> Iterator[Callable[[Frame], Float32[np.ndarray, "rows columns"]]]:
        if self.backend not in BACKENDS:
            raise BackendError(
                "gaze", f"the backend {self.backend!r}", f"one of {sorted(BACKENDS)}", "Choose one of these."
            )  # fmt: skip
        runtime = BACKENDS[self.backend]
        require(self.backend, runtime.unable_to_run(), "a backend that can run here")
        inputs = read_inputs(path)
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] != 3:
            raise _no_gaze_network(path, f"inputs of shapes {[list(each.shape) for each in inputs]}")
        sizes = self._open_sizes(path, inputs[0], first)
        _, _, *size = inputs[0].sized(1, sizes)
        if self.size is not None and size != list(self.size):
            raise LoadError(
                str(path), f"a network that does not take pictures of {_told(self.size)}", f"for example {_told(size)}",
                "Ask for this size, or for none.",
            )  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="secateur-gaze-") as scratch:
            options = BuildOptions(batch_size=1, max_batch_size=1, sizes=sizes, num_threads=self.num_threads)
            built = runtime.build(path, Path(scratch), options)
            with runtime.load(built, Path(scratch), num_threads=self.num_threads) as engine:
                yield lambda frame: _predict(engine, path, frame, (size[0], size[1]))

    def _open_sizes(self, path: Path, entry: OnnxInput, first: Frame) -> dict[str, int]:
        """Choose the height and width that the file leaves open, by the names that they have there."""
        facts = read_facts(path)
        wanted = self.size or (facts.pictures.size if facts.pictures is not None else first.shape[:2])
        return {
            name: facts.sizes[name].nearest(side) if name in facts.sizes else side
            for name, side in zip(entry.shape[2:], wanted, strict=True)
            if isinstance(name, str)
        }


def _predict(engine: Engine, path: Path, frame: Frame, size: tuple[int, int]) -> Float32[np.ndarray, "rows columns"]:
    small = Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR)
    picture = np.asarray(small, dtype=np.float32).transpose(2, 0, 1)[None] / np.float32(255)
    outputs = engine.run((np.ascontiguousarray(picture),))
    if len(outputs) != 1 or outputs[0].ndim != 3:
        raise _no_gaze_network(path, f"outputs of shapes {[list(each.shape) for each in outputs]}")
    log_density = outputs[0][0].astype(np.float32)
    total = float(np.exp(log_density.astype(np.float64)).sum())
    if not abs(total - 1) < 0.05:
        raise _no_gaze_network(path, f"a map whose exponential sums to {total:.4g}")
    return log_density


def _told(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _no_gaze_network(path: Path, found: str) -> LoadError:
    return LoadError(
        str(path), found, "one picture [1, 3, height, width] in, one log-density [1, rows, columns] out",
        "Give the ONNX file of a gaze network, for example of a run of recipes/gaze-demo.yaml.",
    )  # fmt: skip
