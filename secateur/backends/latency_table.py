"""Time layers by themselves at the widths that matter to the hardware, once a machine and runtime."""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from pydantic import ValidationError

from secateur.artifacts import LatencyGrid, Layer, LayerShape, Record
from secateur.backends.layer_file import CALL
from secateur.backends.machine import conditions, kept_name
from secateur.backends.measure import BRIEF, Stopwatch
from secateur.backends.protocol import Backend, Progress, require, unheard
from secateur.backends.single_file import layer_median_s
from secateur.errors import StorageError
from secateur.storage import read, write


class LatencyEntry(Record):
    """The median seconds of one call, without those of a call that computes nothing."""

    shape: LayerShape
    rows: int
    columns: int
    latency_s: float


class LatencyFile(Record):
    """What a file of measured layers holds: where and how they were measured, and the entries."""

    conditions: dict[str, str]
    entries: tuple[LatencyEntry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Time layers on a backend, each built into a network of its own, and keep what was measured in ``folder``.

    A layer's lengths are measured in steps of ``step``, or of so many steps at once that there are ``most`` lengths of
    each of its two axes at most. The layer stands between an expansion of one number to its input and the maximum of
    its output, so that nothing large is copied from or to the host; the time of a call with one number and no layer is
    taken off. Entries live in one JSON file for each processor, devices, system, backend, version, batch size and
    number of threads; each is written as soon as it is measured, so that an interruption loses no other.
    """

    backend: Backend
    folder: Path
    step: int = 8
    most: int = 8
    batch_size: int = 1
    num_threads: int = 1
    stopwatch: Stopwatch = BRIEF

    def grids(self, layers: Sequence[Layer], progress: Progress = unheard) -> list[tuple[str, LatencyGrid]]:
        """Return the name of each layer's weight and its latencies, measuring those that no file holds.

        Raises:
            BackendError: the runtime is unavailable, or refuses a layer.
            StorageError: the file cannot be read or written.
        """
        require(self.backend.name, self.backend.unable_to_run(), "a runtime that runs here")
        known = self._read()
        axes = [(layer, *self._lengths(layer)) for layer in layers]
        wanted = {
            (layer.shape, row, column): None
            for layer, rows, columns in axes
            for row, column in itertools.product(rows.tolist(), columns.tolist())
        }
        missing = [key for key in wanted if key not in known]
        if missing:
            idle_s = self._median_s(CALL, 1, 1)
            for done, key in enumerate(missing):
                progress("layers timed", done, len(missing))
                known[key] = max(0.0, self._median_s(*key) - idle_s)
                self._write(known)
            progress("layers timed", len(missing), len(missing))
        return [
            (
                layer.weight,
                LatencyGrid(
                    rows=rows, columns=columns,
                    latency_s=np.array([[known[layer.shape, r, c] for c in columns.tolist()] for r in rows.tolist()]),
                ),
            )
            for layer, rows, columns in axes
        ]  # fmt: skip

    @property
    def path(self) -> Path:
        """The file that entries of this machine, backend and settings are kept in."""
        return self.folder / kept_name(self.backend, self._conditions)

    def _lengths(self, layer: Layer) -> tuple[Int64[np.ndarray, " row"], Int64[np.ndarray, " column"]]:
        """Return the lengths to measure along each axis of the weight; those of groups come in whole groups."""
        shape = layer.shape
        whole = max(1, shape.groups)
        grouped = shape.per_input if shape.groups == 0 and shape.operator == "convolution" else whole
        if layer.columns == 1:
            return _steps(layer.rows, math.lcm(self.step, grouped), self.most), np.ones(1, dtype=np.int64)
        return (
            _steps(layer.rows, math.lcm(self.step, grouped), self.most),
            _steps(layer.columns, math.ceil(self.step / whole), self.most),
        )

    def _median_s(self, shape: LayerShape, rows: int, columns: int) -> float:
        return layer_median_s(
            self.backend, shape, rows, columns, self.stopwatch, batch_size=self.batch_size, num_threads=self.num_threads
        )

    @functools.cached_property
    def _conditions(self) -> dict[str, str]:
        """Return what a latency depends on besides the layer."""
        return conditions(self.backend, self.num_threads, batch_size=str(self.batch_size))

    def _read(self) -> dict[tuple[LayerShape, int, int], float]:
        if not self.path.exists():
            return {}
        try:
            content = LatencyFile.model_validate_json(read(self.path))
        except ValidationError as error:
            raise StorageError(
                str(self.path), f"no table of latencies ({error.errors()[0]['msg']})", "a file that was measured",
                "Remove it, and the layers are measured again.",
            ) from error  # fmt: skip
        return {(entry.shape, entry.rows, entry.columns): entry.latency_s for entry in content.entries}

    def _write(self, known: dict[tuple[LayerShape, int, int], float]) -> None:
        entries = tuple(
            LatencyEntry(shape=shape, rows=rows, columns=columns, latency_s=latency)
            for (shape, rows, columns), latency in known.items()
        )
        content = LatencyFile(conditions=self._conditions, entries=entries)
        write(self.path, content.model_dump_json(indent=0).encode())


def _steps(whole: int, step: int, most: int) -> Int64[np.ndarray, " length"]:
    """Return at most so many lengths up to the whole, evenly spaced on steps."""
    wide = step * math.ceil(math.ceil(whole / step) / most)
    return np.unique(np.append(np.arange(wide, whole, wide, dtype=np.int64), whole))
