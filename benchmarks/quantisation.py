"""Quantise trained CIFAR-10 networks to eight bits, by ours and by the peers, and write accuracy and latency.

Ours by calibrator and correction, for processors (uint8 activations) and for TensorRT (int8, symmetric); ONNX Runtime's
``quantize_static`` in Q/DQ format, by its calibrators; NNCF where ``--nncf-python`` names an interpreter that has it.
All start from one float32 file and see the same calibration images. Accuracy is that of ONNX Runtime's CPU engine on
``--test`` images of the test set (``engine``), and of the file computed as it is written (``file``): they differ where
the processor sums products in 16 bits, which 8-bit weights overflow. Latency is one image on one thread, paired with
the float32 file. Writes results/quantisation.json.

    python -m venv nncf && nncf/bin/pip install nncf onnx
    python benchmarks/quantisation.py --weights cifar10_resnet_akamaster --data cifar10 --nncf-python nncf/bin/python
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from secateur import Quantize, bench
from secateur.artifacts import Model
from secateur.backends.compare import Compare
from secateur.backends.machine import machine_facts, sums_products_in_16_bits
from secateur.calibration.batches import batches
from secateur.calibration.samples import CalibrationSamples, draw_samples
from secateur.pipeline.export import export
from secateur.pipeline.quantize import CALIBRATORS
from secateur.workloads.classification import cifar10, resnet20, resnet56

RESULTS = Path(__file__).parent / "results" / "quantisation.json"
NNCF = Path(__file__).parent / "quantise_with_nncf.py"
NETWORKS = {"resnet20": (resnet20, "resnet20-12fca82f.th"), "resnet56": (resnet56, "resnet56-4bfd9763.th")}
CORRECTIONS: tuple[tuple[str, ...], ...] = ((), ("bias",), ("equalisation",), ("equalisation", "bias"))
METHODS = {"min-max": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy,
           "percentile": CalibrationMethod.Percentile}  # fmt: skip
Images = list[tuple[np.ndarray, np.ndarray]]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images as ONNX Runtime's tools want them."""

    def __init__(self, samples: CalibrationSamples, name: str) -> None:
        self._batches = iter([{name: inputs.numpy()} for inputs in samples])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, or None."""
        return next(self._batches, None)


def ours(source: Path, samples: CalibrationSamples, folder: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """Quantise in all ways of ours: every calibrator, and every correction with the default calibrator."""
    for target in ("cpu", "tensorrt"):
        for bits in (8, 7) if target == "cpu" else (8,):
            ways = [(name, ()) for name in CALIBRATORS] + [("mse", c) for c in CORRECTIONS if c]
            for calibrator, corrections in ways:
                settings = Quantize(target=target, calibrator=calibrator, corrections=corrections, weight_bits=bits)
                found = settings(source, samples, folder, name="ours")
                way = {"by": "secateur", "target": target, "calibrator": calibrator, "weight_bits": bits,
                       "corrections": "+".join(corrections) or "none",
                       "signal_to_noise_db": found.result.signal_to_noise_db}  # fmt: skip
                yield way, found.exported.path


def onnxruntimes(source: Path, samples: CalibrationSamples, folder: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """Quantise with ONNX Runtime's own tool, as its documentation advises for processors."""
    prepared, target = folder / "prepared.onnx", folder / "onnxruntime.onnx"
    quant_pre_process(str(source), str(prepared))
    name = onnx.load(source).graph.input[0].name
    for calibrator, method in METHODS.items():
        for bits in (8, 7):
            quantize_static(
                str(prepared), str(target), Reader(samples, name), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=bits == 7,
                calibrate_method=method,
            )  # fmt: skip
            way = {"by": f"onnxruntime {version('onnxruntime')}", "target": "cpu", "calibrator": calibrator,
                   "weight_bits": bits, "corrections": "none"}  # fmt: skip
            yield way, target


def nncfs(
    python: str, source: Path, samples: CalibrationSamples, folder: Path
) -> Iterator[tuple[dict[str, Any], Path]]:
    """Quantise with NNCF, in its own environment."""
    images, target = folder / "images.npy", folder / "nncf.onnx"
    np.save(images, np.concatenate([inputs.numpy() for inputs in samples]))
    done = subprocess.run(
        [python, str(NNCF), str(source), str(images), str(target)], check=True, capture_output=True, text=True
    )
    way = {"by": f"nncf {done.stdout.strip().splitlines()[-1]}", "target": "cpu", "calibrator": "its default",
           "weight_bits": 8, "corrections": "its default"}  # fmt: skip
    yield way, target


def accuracy(path: Path, images: Images, *, optimised: bool) -> float:
    """Return the share of images that a file tells right."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    right = [session.run(None, {name: inputs})[0].argmax(1) == targets for inputs, targets in images]
    return float(np.concatenate(right).mean())


def latencies(source: Path, path: Path, max_s: float) -> dict[str, Any]:
    """Compare a file with the float32 one, on both runtimes for processors."""
    found = {}
    for backend in ("onnxruntime", "openvino"):
        result = bench(source, path, backend=backend, compare=Compare(max_s=max_s), tolerance=1.0)
        found[backend] = {"float_s": result.baseline.p50_s, "quantised_s": result.candidate.p50_s,
                          "speedup": result.speedup.model_dump(), "outcome": result.outcome}  # fmt: skip
    return found


def measure(name: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for every way to quantise a network, the float32 file first."""
    build, file = NETWORKS[name]
    data = cifar10(arguments.data)
    module = build(arguments.weights / file).eval()
    images = [(x.numpy(), y.numpy()) for x, y in batches(data.test, 250, limit=arguments.test)]
    assert data.calibration is not None
    samples = draw_samples(data.calibration, data.test, num_samples=arguments.samples, batch_size=32, seed=0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        example = torch.from_numpy(images[0][0][:2])
        source = export(Model(module=module, example_inputs=(example,)), folder, name="float").path
        base = {"network": name, "by": "float32", "engine": accuracy(source, images, optimised=True)}
        yield {**base, "size_bytes": source.stat().st_size}
        ways = [ours(source, samples, folder), onnxruntimes(source, samples, folder)]
        if arguments.nncf_python:
            ways.append(nncfs(arguments.nncf_python, source, samples, folder))
        for found in ways:
            for way, path in found:
                row = {"network": name, **way, "size_bytes": path.stat().st_size,
                       "engine": accuracy(path, images, optimised=True),
                       "file": accuracy(path, images, optimised=False)}  # fmt: skip
                usual = way["calibrator"] in ("mse", "min-max", "its default") and way["corrections"] != "equalisation"
                if arguments.max_s and way["target"] == "cpu" and usual:
                    row["latency"] = latencies(source, path, arguments.max_s)
                yield row


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--max-s", type=float, default=30.0, help="seconds a latency comparison; 0 leaves them out")
    parser.add_argument("--nncf-python", default="", help="a Python interpreter that has nncf")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if RESULTS.exists():
        rows = [row for row in json.loads(RESULTS.read_text())["rows"] if row["network"] not in arguments.networks]
    for name in arguments.networks:
        for row in measure(name, arguments):
            rows.append(row)
            print(row, flush=True)
            content = {
                "rows": rows, "num_test": arguments.test, "num_calibration": arguments.samples,
                "sums_products_in_16_bits": sums_products_in_16_bits(), "machine": machine_facts().model_dump(),
            }  # fmt: skip
            RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
