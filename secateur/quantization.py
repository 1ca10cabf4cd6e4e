"""The step of a run that quantises the compressed network and measures what is left of its metrics."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from pydantic import TypeAdapter

from secateur.artifacts import QUANTIZED, Exported, FinetuneResult, HalveResult, Model, QuantizeResult
from secateur.backends import Backend
from secateur.backends.machine import sums_products_in_16_bits
from secateur.backends.onnxruntime import CPU, OnnxRuntime
from secateur.backends.protocol import Missing
from secateur.backends.torch import Torch
from secateur.calibration.batches import evaluate
from secateur.calibration.samples import draw_samples
from secateur.layer_precision import LayerPrecisions
from secateur.listening import Listener
from secateur.loading import Workload
from secateur.onnx_reading import read_onnx
from secateur.pipeline.finetune import Finetune
from secateur.pipeline.quantize import Halve, Mixed, Qat, Quantize
from secateur.pipeline.quantize.calibrated import Calibrated
from secateur.pipeline.quantize.described import compared, described
from secateur.pipeline.quantize.module import FileModule
from secateur.pipeline.quantize.running import Samples
from secateur.recipe import Recipe
from secateur.recipe_quantization import MixedSettings, QatSettings, QuantizeSettings
from secateur.report.gates import COMPRESSED
from secateur.steps import EVALUATION_BATCH_SIZE, write

PROCESSOR_BACKENDS = frozenset({"onnxruntime", "openvino"})
"""The runtimes that read activations with a zero point."""
EVALUATION, RESULT = "evaluation", "quantization"
"""The names of the step's results beside that of its export."""
UNFUSED = ("none", "basic")
"""ONNX Runtime's optimisations that leave Q/DQ nodes as they are."""
TARGET_OF_ALL = "tensorrt"
"""The target that every runtime of ONNX files reads."""
CHECKPOINT = "checkpoint"
ERRORS = {"float16": 0.001, "bfloat16": 0.008}
"""The change of the outputs that half precision may make where the recipe does not say: as their steps, 1 to 8."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """The quantisation that a recipe asks for."""

    recipe: Recipe
    settings: QuantizeSettings
    workload: Workload
    listener: Listener
    finetune: Finetune

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

    def facts(self) -> dict[str, Any]:
        """Return what the result depends on beside the recipe's section."""
        found = {"target": self.quantize.target, "weight_bits": self.quantize.weight_bits}
        if self.settings.qat is None:
            return found
        return {**found, "finetune": self.recipe.finetune, "sparse": self.recipe.sparsity is not None}

    def __call__(self, exported: Path, compressed: Model, folder: Path) -> None:
        """Write the compressed network's file once more, and evaluate what the new file says on the test set."""
        data, settings = self.workload.data, self.settings
        fixed_size = None if self.recipe.export.dynamic_batch else len(compressed.example_inputs[0])
        samples = draw_samples(
            data.train if data.calibration is None else data.calibration, data.test,
            num_samples=settings.samples, batch_size=fixed_size or settings.batch_size, seed=self.recipe.seed,
        )  # fmt: skip
        self.listener.message(
            f"calibrating on {len(samples.indices)} samples ({samples.num_shared} of the test set left out)"
        )
        source = exported / f"{COMPRESSED}.onnx"
        if settings.precision != "int8":
            result: QuantizeResult | HalveResult
            written, result = self._halved(settings.precision, source, samples, folder)
        else:
            written, result = self._rounded(source, samples, compressed, folder)
        module = FileModule(written.path, compressed)
        evaluation = evaluate(module, self.workload.task, data.test, EVALUATION_BATCH_SIZE)
        self.listener.message(", ".join(f"{metric} {value:.4f}" for metric, value in evaluation.metrics.items()))
        write(folder, QUANTIZED, written.result)
        write(folder, RESULT, result)
        write(folder, EVALUATION, evaluation)

    def _halved(self, dtype: str, source: Path, samples: Samples, folder: Path) -> tuple[Exported, HalveResult]:
        """Write the file in half precision."""
        path = folder / f"{QUANTIZED}.onnx"
        error = ERRORS[dtype] if self.settings.error == "auto" else self.settings.error
        halve = Halve(dtype=dtype, tolerance=error, keep=tuple(self.settings.skip))
        result = halve(source, samples, path)
        self.listener.message(
            f"{result.num_converted} nodes in {dtype}, {len(result.kept)} given back to float32: "
            f"outputs change by {result.error:.2g}"
        )
        content = path.read_bytes()
        parity, _ = compared(read_onnx(source), onnx.load_from_string(content), samples)
        return Exported(path=path, result=described(path, content, parity)), result

    def _rounded(
        self, source: Path, samples: Samples, compressed: Model, folder: Path
    ) -> tuple[Exported, QuantizeResult]:
        """Write the file in integers, trained where the recipe says so."""
        quantize, settings = self.quantize, self.settings
        if settings.mixed is not None:
            quantize = self._mixed(settings.mixed, source, samples)
        calibrated = quantize.correct(quantize.calibrate(source, samples), samples)
        training: tuple[FinetuneResult, ...] = ()
        if settings.qat is not None:
            calibrated, training = self._trained(settings.qat, calibrated, compressed, samples, folder)
        found = quantize.write(calibrated, samples, folder, name=QUANTIZED)
        ratios = ", ".join(f"{name} {ratio:.1f} dB" for name, ratio in found.result.signal_to_noise_db.items())
        self.listener.message(f"{len(found.result.layers)} layers in eight bits; signal to noise: {ratios}")
        for entry in found.result.unfused:
            self.listener.message(f"{entry.operator} {entry.node} stays in float32: {entry.reason}")
        return found.exported, found.result.model_copy(update={"training": training})

    def _mixed(self, wanted: MixedSettings, source: Path, samples: Samples) -> Quantize:
        """Choose a precision for every layer."""
        by_bytes = wanted.bytes is not None or wanted.cost == "bytes"
        mixed = Mixed(
            bytes=wanted.bytes, latency=wanted.latency, signal_to_noise_db=wanted.signal_to_noise_db,
            precisions=tuple(wanted.precisions), decreasing=wanted.decreasing,
        )  # fmt: skip
        quantize, table = mixed(source, samples, self.quantize, None if by_bytes else self._latencies)
        counts = Counter(row.precision for row in table)
        self.listener.message(", ".join(f"{counts[name]} layers in {name}" for name in wanted.precisions))
        return quantize

    def _trained(
        self, wanted: QatSettings, calibrated: Calibrated, compressed: Model, samples: Samples, folder: Path
    ) -> tuple[Calibrated, tuple[FinetuneResult, ...]]:
        """Train the rounded network on what the compressed one says."""
        qat = Qat(
            finetune=replace(self.finetune, epochs=wanted.epochs, learning_rate=wanted.learning_rate),
            learn_scales=wanted.scales == "learned", stages=tuple(wanted.stages),
            keep_zeros=self.recipe.sparsity is not None,
        )  # fmt: skip
        trained, results = qat(
            calibrated, compressed, self.workload.task, self.workload.data, samples,
            checkpoint_folder=folder / CHECKPOINT, progress=self.listener.progress,
        )  # fmt: skip
        for result in results:
            self.listener.message(f"trained for {result.num_epochs} epochs, epoch {result.best_epoch} kept")
        return trained, results


def read_result(folder: Path) -> QuantizeResult | HalveResult:
    """Read what the step found of the file that it wrote."""
    content = (folder / f"{RESULT}.json").read_text(encoding="utf-8")
    return TypeAdapter(QuantizeResult | HalveResult).validate_json(content)


def kind_of(settings: QuantizeSettings) -> str:
    """Name what runtimes must read: the target that integers are for, or half precision's type."""
    if settings.precision != "int8":
        return settings.precision
    return TARGET_OF_ALL if settings.target == "auto" else settings.target


def unreadable(backend: Backend, kind: str) -> Missing | None:
    """Say why a runtime cannot read a file that is quantised for a target, or in a type of half precision, or None.

    ONNX Runtime on GPUs has arithmetic in bfloat16 for some operators, convolutions and products among them: whether
    for all of a network, opening it says.
    """
    if isinstance(backend, Torch):
        return Missing(
            found="a quantised network, which is an ONNX file alone",
            remedy="Use another runtime for it: onnxruntime, openvino, tensorrt or tensorrt_rtx.",
        )
    if kind == "bfloat16" and isinstance(backend, OnnxRuntime) and backend.provider == CPU:
        return Missing(
            found="a network in bfloat16, in which the runtime has no arithmetic on the processor",
            remedy="Use openvino, tensorrt or tensorrt_rtx for it, or set quantize.precision to float16.",
        )
    if kind == "tensorrt_float8" and isinstance(backend, OnnxRuntime) and backend.optimisation not in UNFUSED:
        return Missing(
            found="floats of eight bits, which the runtime's optimiser fuses into operators that take none",
            remedy=f"Set build.options.{backend.name}.optimisation to basic.",
        )
    if kind != "cpu" or backend.name in PROCESSOR_BACKENDS:
        return None
    return Missing(
        found="activations rounded to uint8 with a zero point, which the runtime does not read",
        remedy="Set quantize.target to tensorrt to build this engine.",
    )
