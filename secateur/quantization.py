"""The step of a run that quantises the compressed network and measures what is left of its metrics."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.artifacts import QUANTIZED, Model
from secateur.backends import BACKENDS
from secateur.backends.machine import sums_products_in_16_bits
from secateur.backends.protocol import Missing
from secateur.backends.torch import Torch
from secateur.calibration.batches import evaluate
from secateur.calibration.samples import draw_samples
from secateur.layer_precision import LayerPrecisions
from secateur.listening import Listener
from secateur.loading import Workload
from secateur.pipeline.quantize import Mixed, Quantize
from secateur.pipeline.quantize.module import FileModule
from secateur.pipeline.quantize.quantize import Calibrated
from secateur.recipe import QuantizeSettings, Recipe
from secateur.report.gates import COMPRESSED
from secateur.steps import EVALUATION_BATCH_SIZE, write

PROCESSOR_BACKENDS = frozenset({"onnxruntime", "openvino"})
"""The runtimes that read activations with a zero point."""
EVALUATION, RESULT = "evaluation", "quantization"
"""The names of the step's results beside that of its export."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """The quantisation that a recipe asks for."""

    recipe: Recipe
    settings: QuantizeSettings
    workload: Workload
    listener: Listener

    @property
    def quantize(self) -> Quantize:
        """The settings with what they leave open filled in for the runtime that is timed, on this machine."""
        settings = self.settings
        timed_on_processor = self.recipe.measure.backend in PROCESSOR_BACKENDS
        target = ("cpu" if timed_on_processor else "tensorrt") if settings.target == "auto" else settings.target
        narrow = timed_on_processor and sums_products_in_16_bits()
        bits = (7 if narrow else 8) if settings.weight_bits == "auto" else settings.weight_bits
        return Quantize(
            target=target, calibrator=settings.calibrator, corrections=tuple(settings.corrections), weight_bits=bits,
            skip=tuple(settings.skip),
        )  # fmt: skip

    def _latencies(self, calibrated: Calibrated, precisions: Sequence[str]) -> dict[str, dict[str, float]]:
        """Time the layers on the runtime that is timed."""
        measured = self.recipe.measure
        timed = LayerPrecisions(
            backend=self.recipe.build.backend(measured.backend),
            batch_size=measured.batch_size,
            num_threads=measured.num_threads,
        )
        return timed(calibrated, precisions, self.listener.progress)

    def facts(self) -> dict[str, str | int]:
        """Return what the result depends on beside the recipe's section."""
        return {"target": self.quantize.target, "weight_bits": self.quantize.weight_bits}

    def __call__(self, exported: Path, compressed: Model, folder: Path) -> None:
        """Quantise the compressed network's file, and evaluate what the new file says on the test set."""
        data, settings = self.workload.data, self.settings
        fixed_size = None if self.recipe.export.dynamic_batch else len(compressed.example_inputs[0])
        samples = draw_samples(
            data.train if data.calibration is None else data.calibration, data.test,
            num_samples=settings.samples, batch_size=fixed_size or settings.batch_size, seed=self.recipe.seed,
        )  # fmt: skip
        self.listener.message(
            f"calibrating on {len(samples.indices)} samples ({samples.num_shared} of the test set left out)"
        )
        source, quantize = exported / f"{COMPRESSED}.onnx", self.quantize
        if settings.mixed is not None:
            wanted = settings.mixed
            by_bytes = wanted.bytes is not None or wanted.cost == "bytes"
            mixed = Mixed(
                bytes=wanted.bytes, latency=wanted.latency, signal_to_noise_db=wanted.signal_to_noise_db,
                precisions=tuple(wanted.precisions),
            )  # fmt: skip
            quantize, table = mixed(source, samples, quantize, None if by_bytes else self._latencies)
            counts = Counter(row.precision for row in table)
            self.listener.message(", ".join(f"{counts[name]} layers in {name}" for name in wanted.precisions))
        found = quantize(source, samples, folder, name=QUANTIZED)
        ratios = ", ".join(f"{name} {ratio:.1f} dB" for name, ratio in found.result.signal_to_noise_db.items())
        self.listener.message(f"{len(found.result.layers)} layers in eight bits; signal to noise: {ratios}")
        for entry in found.result.unfused:
            self.listener.message(f"{entry.operator} {entry.node} stays in float32: {entry.reason}")
        module = FileModule(found.exported.path, compressed)
        evaluation = evaluate(module, self.workload.task, data.test, EVALUATION_BATCH_SIZE)
        self.listener.message(", ".join(f"{metric} {value:.4f}" for metric, value in evaluation.metrics.items()))
        write(folder, QUANTIZED, found.exported.result)
        write(folder, RESULT, found.result)
        write(folder, EVALUATION, evaluation)


def unreadable(backend: str, target: str) -> Missing | None:
    """Say why a runtime cannot read a file that is quantised for a target, or None."""
    if isinstance(BACKENDS[backend], Torch):
        return Missing(
            found="a quantised network, which is an ONNX file alone",
            remedy="Use another runtime for it: onnxruntime, openvino, tensorrt or tensorrt_rtx.",
        )
    if target != "cpu" or backend in PROCESSOR_BACKENDS:
        return None
    return Missing(
        found="activations rounded to uint8 with a zero point, which the runtime does not read",
        remedy="Set quantize.target to tensorrt to build this engine.",
    )
