"""What each layer of a network takes in each precision, timed on a runtime."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secateur.backends.measure import BRIEF, Stopwatch
from secateur.backends.protocol import Backend, Progress, require, unheard
from secateur.backends.single_file import samples_s
from secateur.pipeline.quantize.calibrated import Calibrated
from secateur.pipeline.quantize.single import single_layer
from secateur.storage import write


@dataclass(frozen=True, kw_only=True)
class LayerPrecisions:
    """Time every layer of a calibrated graph by itself in each precision, less what a call without a layer takes.

    Layers in int8 read and write integers. What the runtime adds between layers of different precisions is not in it.
    """

    backend: Backend
    batch_size: int = 1
    num_threads: int = 1
    stopwatch: Stopwatch = BRIEF

    def __call__(
        self, calibrated: Calibrated, precisions: Sequence[str], progress: Progress = unheard
    ) -> dict[str, dict[str, float]]:
        """Return the median seconds of a call by layer and precision, float32 among them; layers alike are timed once.

        Raises:
            BackendError: the runtime is unavailable, or refuses a layer.
            ExportError: the size of a layer's input is open.
        """
        require(self.backend.name, self.backend.unable_to_run(), "a runtime that runs here")
        idle_s = self._median_s(single_layer(calibrated, None, "float32", self.batch_size).SerializeToString())
        layers, known = calibrated.placement.layers, dict[bytes, float]()
        found: dict[str, dict[str, float]] = {}
        for done, node in enumerate(layers):
            progress("layers timed", done, len(layers))
            own = found.setdefault(node.name, {})
            for precision in dict.fromkeys(("float32", *precisions)):
                proto = single_layer(calibrated, node, precision, self.batch_size)
                content = proto.SerializeToString(deterministic=True)
                for tensor in proto.graph.initializer:
                    if not tensor.name.startswith(("single_ones", "single_full", "single_axes")):
                        tensor.ClearField("raw_data")
                key = proto.SerializeToString(deterministic=True)
                if key not in known:
                    known[key] = max(0.0, self._median_s(content) - idle_s)
                own[precision] = known[key]
        progress("layers timed", len(layers), len(layers))
        return found

    def _median_s(self, content: bytes) -> float:
        def written(path: Path) -> Path:
            write(path, content)
            return path

        samples = samples_s(
            self.backend, written, self.stopwatch,
            batch_size=self.batch_size, num_threads=self.num_threads, tolerance=1.0,
        )  # fmt: skip
        return float(np.median(samples))
