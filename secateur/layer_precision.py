"""What each layer of a network takes in each precision, timed on a runtime."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from secateur.backends.measure import Stopwatch, WarmUp
from secateur.backends.onnx_file import random_inputs, read_inputs
from secateur.backends.protocol import Backend, BuildOptions, Progress, require, unheard
from secateur.pipeline.quantize.quantize import Calibrated
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
    stopwatch: Stopwatch = field(
        default_factory=lambda: Stopwatch(
            duration_s=0.05, least_calls=16, warm_up=WarmUp(least_s=0.02, most_s=1.0, window_s=0.01, agreement=0.05)
        )
    )

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
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write(folder / "layer.onnx", content)
            options = BuildOptions(
                batch_size=self.batch_size, max_batch_size=self.batch_size, num_threads=self.num_threads, tolerance=1.0
            )
            built = self.backend.build(folder / "layer.onnx", folder, options)
            inputs = random_inputs(read_inputs(folder / "layer.onnx"), self.batch_size, seed=0)
            with self.backend.load(built, folder, num_threads=self.num_threads) as engine:
                return self.stopwatch.time(engine, inputs).p50_s
