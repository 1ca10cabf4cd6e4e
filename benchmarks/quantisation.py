"""Pruning alone, quantisation alone, and both, by ours and by the peers: accuracy, size, latency.

The networks of `pruned`, whole and pruned, are quantised for processors by ours, by ONNX Runtime's ``quantize_static``
(Q/DQ, one scale a channel) and, where ``--nncf`` names a folder into which it was installed, by NNCF. All start from
one float32 file and see the same calibration samples; where the processor sums products in 16 bits, ours and ONNX
Runtime's weights have 7 bits. Ways with "qat" are trained rounded for ``--qat-steps`` steps by distillation from the
float32 network, those with four or falling bits have that many in their weights, kept in eight; the others are not
trained. Of "timed layers" those stay in float32 that ONNX Runtime, timed layer by layer, runs faster so. With
``--accuracy`` the files are written into ``--files`` and judged by ONNX Runtime's and OpenVINO's engines on ``--test``
samples of the test set; differences are paired, with intervals by bootstrap over the samples. ``--latency`` times the
files that are there, one sample on one thread, paired, and wants a machine on which nothing else runs. Both write into
results/quantisation.json and may be run one after the other.

    pip install --target nncf nncf onnx
    python benchmarks/quantisation.py --accuracy --files /tmp/quantised --nncf nncf \
        --weights cifar10_resnet_akamaster --data cifar10
    python benchmarks/quantisation.py --latency --files /tmp/quantised
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from pruned import SUBJECTS, Subject, pruned
from torch import Tensor, nn
from torch.utils.data import Subset

from secateur import Mixed, Qat, Quantize, bench
from secateur.artifacts import Data, Model, Task
from secateur.backends import BACKENDS as RUNTIMES
from secateur.backends.compare import Compare
from secateur.backends.machine import machine_facts, sums_products_in_16_bits
from secateur.calibration.batches import evaluate
from secateur.calibration.samples import CalibrationSamples, draw_samples
from secateur.layer_precision import LayerPrecisions
from secateur.pipeline.export import export
from secateur.report.bootstrap import bootstrap_means, percentile_interval

RESULTS = Path(__file__).parent / "results" / "quantisation.json"
NNCF = Path(__file__).parent / "quantise_with_nncf.py"
FLOAT, OURS = "float32", "secateur"
FOUR, BITS = 0.125, ("int8", "int6", "int5", "int4", "int3", "int2")
"""The bytes of four bits over those of float32, and what a layer's weights may have within as many on average."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of ours: its settings, whether bits fall from layer to layer, and whether it is trained."""

    settings: dict[str, Any] = field(default_factory=dict)
    falling: bool = False
    timed_on: str = ""
    trained: bool = False


WAYS = {
    OURS: Way(),
    "secateur, no correction": Way(settings={"corrections": ()}),
    "secateur, adaround": Way(settings={"corrections": ("adaround", "bias")}),
    "secateur, min-max": Way(settings={"calibrator": "min-max"}),
    "secateur, qat": Way(trained=True),
    "secateur, timed layers": Way(timed_on="onnxruntime"),
    "secateur, four bits": Way(settings={"corrections": ("adaround", "bias"), "weight_bits": 4}),
    "secateur, four bits, qat": Way(settings={"weight_bits": 4}, trained=True),
    "secateur, falling bits": Way(settings={"corrections": ("adaround", "bias")}, falling=True),
    "secateur, falling bits, qat": Way(falling=True, trained=True),
}
TIMED = (OURS, "secateur, timed layers", "onnxruntime", "nncf")
"""The ways that are timed; where values lie on their grids makes no engine faster."""
LEAST_DECIBELS = 20.0
"""What outputs must keep of signal over noise where layers that are faster in float32 stay so."""
BACKENDS = ("onnxruntime", "openvino")


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration samples as ONNX Runtime's tools want them."""

    def __init__(self, samples: CalibrationSamples, name: str) -> None:
        self._batches = iter([{name: inputs.numpy()} for inputs in samples])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, or None."""
        return next(self._batches, None)


class Engine(nn.Module):
    """A file in one of the runtimes, with all its optimisations, called as a network."""

    def __init__(self, path: Path, backend: str, threads: int) -> None:
        super().__init__()
        if backend == "onnxruntime":
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = threads, 3
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            name = session.get_inputs()[0].name
            self._run = lambda inputs: session.run(None, {name: inputs})[0]
        else:
            import openvino

            compiled = openvino.Core().compile_model(
                path, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
            )
            self._run = lambda inputs: compiled(inputs)[0]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the first output."""
        return torch.from_numpy(np.array(self._run(inputs.numpy())))


def file_of(stem: str, way: str) -> str:
    """Return the name of a file by one of our ways, without its ending."""
    return f"{stem}-{way.replace(', ', '-').replace(' ', '-')}"


def ours(
    way: Way, source: Path, samples: CalibrationSamples, model: Model, subject: Subject, data: Data, file: str,
    arguments: argparse.Namespace,
) -> Path:  # fmt: skip
    """Write a file by one of our ways; return where it is."""
    quantize = Quantize(**{"target": "cpu", "weight_bits": 7 if sums_products_in_16_bits() else 8, **way.settings})
    if way.falling:
        quantize, _ = Mixed(bytes=FOUR, precisions=BITS, decreasing=True)(source, samples, quantize)
    if way.timed_on:
        mixed = Mixed(signal_to_noise_db=LEAST_DECIBELS, precisions=("float32", "int8"))
        quantize, _ = mixed(source, samples, quantize, LayerPrecisions(backend=RUNTIMES[way.timed_on]))
    calibrated = quantize.correct(quantize.calibrate(source, samples), samples)
    if way.trained:
        qat = Qat(
            finetune=replace(
                subject.finetune, num_steps=arguments.qat_steps, learning_rate=arguments.qat_rate, device="cpu"
            )
        )
        place = arguments.files / f"{file}-{arguments.steps}-{arguments.qat_steps}-{arguments.qat_rate}-checkpoint"
        calibrated, _ = qat(calibrated, model, subject.task(), data, samples, checkpoint_folder=place)
    return quantize.write(calibrated, samples, arguments.files, name=file).exported.path


def quantised(
    source: Path, samples: CalibrationSamples, model: Model, subject: Subject, data: Data, stem: str,
    arguments: argparse.Namespace,
) -> Iterator[tuple[str, str, Path]]:  # fmt: skip
    """Write a file by every way; yield what it is called, by which version, and where it is."""
    folder, bits = arguments.files, 7 if sums_products_in_16_bits() else 8
    for name in arguments.ways:
        file = file_of(stem, name)
        yield name, version("secateur"), ours(WAYS[name], source, samples, model, subject, data, file, arguments)
    prepared, target = folder / f"{stem}-prepared.onnx", folder / f"{stem}-onnxruntime.onnx"
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)  # ONNX infers what its own tool gives up on
    quantize_static(
        str(prepared), str(target), Reader(samples, onnx.load(source).graph.input[0].name),
        quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        reduce_range=bits == 7, calibrate_method=CalibrationMethod.MinMax,
    )  # fmt: skip
    prepared.unlink()
    yield "onnxruntime", version("onnxruntime"), target
    if arguments.nncf:
        images, target = folder / "images.npy", folder / f"{stem}-nncf.onnx"
        np.save(images, np.concatenate([inputs.numpy() for inputs in samples]))
        done = subprocess.run(
            [sys.executable, str(NNCF), str(source), str(images), str(target)], check=True, capture_output=True,
            text=True, env={**os.environ, "PYTHONPATH": str(arguments.nncf)},
        )  # fmt: skip
        images.unlink()
        yield "nncf", done.stdout.strip().splitlines()[-1], target


def judged(path: Path, task: Task, data: Data, arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Return the primary metric of every test sample, by runtime."""
    test = Subset(data.test, range(min(arguments.test, len(data.test))))  # type: ignore[arg-type]
    found = {}
    for backend in BACKENDS:
        evaluation = evaluate(Engine(path, backend, arguments.threads), task, test, 50)
        found[backend] = np.array(evaluation.per_sample[task.primary])
    return found


def difference(minuend: np.ndarray, subtrahend: np.ndarray) -> dict[str, float]:
    """Return the mean of paired differences with its 95 % interval."""
    apart = minuend - subtrahend
    draws = bootstrap_means(apart[:, None], 2000, 0)[:, 0]
    return percentile_interval(float(apart.mean()), draws).model_dump()


def accuracies(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Write a network's files and judge them, the float32 file of each state first."""
    subject = SUBJECTS[name]
    task, data = subject.task(), subject.data(arguments.data)
    samples = draw_samples(
        data.train if data.calibration is None else data.calibration, data.test,
        num_samples=arguments.samples, batch_size=16, seed=0,
    )  # fmt: skip
    states: dict[str, Model] = {
        "whole": subject.whole(arguments.weights),
        "pruned": pruned(name, arguments.weights, data, arguments.files, arguments.steps),
    }
    rows: list[dict[str, Any]] = []
    whole: dict[str, np.ndarray] = {}
    for state, model in states.items():
        stem = f"{name}-{state}"
        source = export(model, arguments.files, name=f"{stem}-{FLOAT}", tolerance=1e-3).path
        base, by_ours = judged(source, task, data, arguments), {}
        whole = whole or base
        files = [(FLOAT, "", source), *quantised(source, samples, model, subject, data, stem, arguments)]
        for way, by_version, path in files:
            found = base if way == FLOAT else judged(path, task, data, arguments)
            by_ours = found if way == OURS else by_ours
            rows.append({
                "network": name, "state": state, "by": way, "version": by_version, "file": path.name,
                "metric": task.primary, "size_bytes": path.stat().st_size,
                "quality": {backend: float(values.mean()) for backend, values in found.items()},
                "lost": {b: difference(base[b], found[b]) for b in BACKENDS},
                "lost_of_whole": {b: difference(whole[b], found[b]) for b in BACKENDS},
                **({"behind_ours": {b: difference(by_ours[b], found[b]) for b in BACKENDS}} if by_ours else {}),
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def latencies(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time every file against the float32 file of its state, and float32 files of pruned networks against the whole."""
    floats = {(row["network"], row["state"]): row["file"] for row in rows if row["by"] == FLOAT}
    for row in rows:
        state, is_float = row["state"], row["by"] == FLOAT
        if row["network"] not in arguments.networks or (is_float and state == "whole"):
            continue
        if not is_float and row["by"] not in TIMED:
            continue
        baseline = floats[row["network"], "whole" if is_float else state]
        for backend in BACKENDS:
            result = bench(
                arguments.files / baseline, arguments.files / row["file"], backend=backend, tolerance=1.0,
                compare=Compare(max_s=arguments.max_s),
            )  # fmt: skip
            yield {
                "file": row["file"], "baseline": baseline, "backend": backend,
                "baseline_s": result.baseline.p50_s, "candidate_s": result.candidate.p50_s,
                "speedup": result.speedup.model_dump(), "outcome": result.outcome,
            }  # fmt: skip


def place(row: dict[str, Any]) -> tuple[str, bool, int]:
    """Return where a row stands among all: by network, whole before pruned, by way."""
    return row["network"], row["state"] == "pruned", [FLOAT, *WAYS, "onnxruntime", "nncf"].index(row["by"])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accuracy", action="store_true", help="write and judge the files")
    parser.add_argument("--latency", action="store_true", help="time the files that are there")
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--nncf", type=Path, help="the folder that NNCF was installed into")
    parser.add_argument("--networks", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning after pruning")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), help="of ours, with which others are compared")
    parser.add_argument("--qat-steps", type=int, default=100, help="of training of rounded networks")
    parser.add_argument("--qat-rate", type=float, default=1e-4, help="its learning rate")
    parser.add_argument("--threads", type=int, default=1, help="of the engines that are judged")
    parser.add_argument("--max-s", type=float, default=20.0, help="seconds a latency comparison")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.files.mkdir(parents=True, exist_ok=True)
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"rows": [], "latency": []}
    if arguments.accuracy:
        for name in arguments.networks:
            rows = accuracies(name, arguments)
            files = {row["file"] for row in rows}
            same = found.get("steps") == arguments.steps  # rows of another pruned network are no company
            kept = [r for r in found["rows"] if r["file"] not in files and (same or r["network"] != name)]
            found["rows"] = sorted(kept + rows, key=place)
            found["latency"] = [row for row in found["latency"] if row["file"] not in files]
            found |= {
                "num_test": arguments.test, "num_calibration": arguments.samples, "steps": arguments.steps,
                "qat_steps": arguments.qat_steps, "qat_rate": arguments.qat_rate,
                "sums_products_in_16_bits": sums_products_in_16_bits(), "openvino": version("openvino"),
            }  # fmt: skip
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.latency:
        for row in latencies(found["rows"], arguments):
            same = (row["file"], row["backend"])
            found["latency"] = [r for r in found["latency"] if (r["file"], r["backend"]) != same] + [row]
            found["latency_machine"] = machine_facts().model_dump()
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
