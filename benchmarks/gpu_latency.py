"""Time uncut networks against networks of half the channels on an NVIDIA GPU; write results/gpu_latency.json.

ResNet-50, MobileNetV2 and the packaged gaze network are cut by this project where the script runs: every group to half
its channels, in steps of eight (``aligned``) and to one channel less than half (``unaligned``, odd widths). Which
channels go is drawn at random, since a latency depends on widths alone. Engines are those of the table of backends:
PyTorch eager, compiled and as CUDA graphs in three precisions, ONNX Runtime's CUDA provider with bound memory, with and
without CUDA graphs, and TensorRT for RTX where it is installed and takes the GPU. TF32 is off everywhere.

The three variants of a network are timed in turns, in random order, round after round: each round is a block of calls
between device events (upload, computation, download apart) and a block of calls by the host's clock. Speed-ups are of
the computation, uncut over cut, on the same runtime, precision and batch size, with a bootstrap interval over rounds.
Every engine's outputs are compared with PyTorch's in float32. A stage that fails is recorded with its reason and the
next one runs; what takes longest (torch.compile) comes last and ends with the time that is given.

    python benchmarks/gpu_latency.py --seconds 120
    python benchmarks/gpu_latency.py --device cpu --small --seconds 60    # a rehearsal, whose figures mean nothing
"""

import argparse
import json
import math
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_variants import NETWORKS, VARIANTS, inputs_of, prepare

from secateur.artifacts import EngineResult, realised_fraction
from secateur.backends.device_time import device_times
from secateur.backends.machine import machine_facts
from secateur.backends.measure import PerformanceCounter, time_calls
from secateur.backends.onnxruntime import OnnxRuntime
from secateur.backends.protocol import Backend, BuildOptions, Engine
from secateur.backends.statistics import instance_bootstrap
from secateur.backends.tensorrt import TensorRt
from secateur.backends.torch import Torch
from secateur.equality import difference
from secateur.storage import read, sha256, write

BATCHES = (1, 8, 32)
ROUNDS = 10
BLOCK_S = 0.008
STARTED = time.monotonic()
Key = tuple[str, str, str]


def main() -> None:
    """Prepare, measure stage by stage, and write after each."""
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("--seconds", type=float, default=120.0, help="when to begin no further cell")
    wanted.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    wanted.add_argument("--small", action="store_true", help="small pictures, few rounds, batches 1 and 2")
    wanted.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=list(NETWORKS))
    wanted.add_argument("--scratch", type=Path, default=Path("/tmp/secateur-gpu-latency"))
    wanted.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "gpu_latency.json")
    wanted.add_argument("--rtx", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = wanted.parse_args()
    if arguments.rtx:
        print(rtx_engine(TensorRt(package="tensorrt_rtx"), *arguments.rtx).model_dump_json(indent=1))
        return
    found: dict[str, Any] = {"stages": {}, "cells": [], "networks": {}, "machine": None}
    torch.set_num_threads(1)
    run_stage(found, arguments, "prepare", lambda: prepare(found, arguments))
    run_stage(found, arguments, "machine", lambda: found.update(machine=facts(arguments.device)))
    for name, backends, precisions in stages(arguments.device):
        run_stage(found, arguments, name, lambda b=backends, p=precisions: measure(found, arguments, b, p))
    found["gpu_after"] = gpu_facts()
    save(found, arguments)


def stages(device: str) -> list[tuple[str, list[Backend], list[str]]]:
    """List what is measured, the most telling first."""
    if device == "cpu":
        return [
            ("torch", [Torch()], ["fp32"]),
            ("onnxruntime", [OnnxRuntime()], ["fp32", "fp16"]),
            ("tensorrt_rtx", [TensorRt(package="tensorrt_rtx")], ["fp16"]),
            ("torch_compile", [Torch(name="torch_compile", mode="compile")], ["fp32"]),
        ]
    cuda = Torch(name="torch_cuda", device="cuda")
    bound = OnnxRuntime(name="onnxruntime_cuda", provider="CUDAExecutionProvider", search="heuristic")
    return [
        ("torch", [cuda, replace(cuda, name="torch_cuda_graph", mode="cuda_graph")], ["fp16", "fp32", "bf16"]),
        ("onnxruntime", [replace(bound, name="onnxruntime_cuda_graph", cuda_graph=True), bound], ["fp16", "fp32"]),
        ("tensorrt_rtx", [TensorRt(package="tensorrt_rtx", cuda_graph=True)], ["fp16", "fp32"]),
        ("torch_compile", [replace(cuda, name="torch_cuda_compile", mode="compile")], ["fp16"]),
    ]


def run_stage(found: dict[str, Any], arguments: argparse.Namespace, name: str, work: Callable[[], object]) -> None:
    """Do one stage; whatever ends it is written down."""
    before = time.monotonic()
    told = {"error": ""}
    try:
        work()
    except Exception as error:
        traceback.print_exc()
        told["error"] = f"{type(error).__name__}: {error}"[:600]
    told["duration_s"] = f"{time.monotonic() - before:.1f}"
    found["stages"].setdefault(name, {}).update(told)
    print(f"[{time.monotonic() - STARTED:6.1f} s] {name}: {told['error'] or 'done'}", flush=True)
    save(found, arguments)


def save(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    write(arguments.results, json.dumps(found, indent=1).encode())


def facts(device: str) -> dict[str, Any]:
    """Say what was measured on, and that PyTorch's kernels are not searched for."""
    return {
        **machine_facts().model_dump(), "gpu": gpu_facts(), "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device == "cuda" else None,
        "cudnn_benchmark": torch.backends.cudnn.benchmark, "tf32": False, "torch": version("torch"),
    }  # fmt: skip


def gpu_facts() -> dict[str, str]:
    """Ask the driver about the GPU."""
    asked = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,power.limit,temperature.gpu,pstate"
    try:
        told = subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return {"error": str(error)}
    return dict(zip(asked.split(","), (part.strip() for part in told.splitlines()[0].split(",")), strict=True))


def measure(
    found: dict[str, Any], arguments: argparse.Namespace, backends: Sequence[Backend], precisions: Sequence[str]
) -> None:
    """Load the three variants side by side and time them in turns, for every batch size."""
    batches = (1, 2) if arguments.small else BATCHES
    rounds = 4 if arguments.small else ROUNDS
    problems = []
    if isinstance(backends[0], TensorRt):
        probe(arguments)
    for precision in precisions:
        for network in arguments.networks:
            for backend in backends:
                compiles = getattr(backend, "mode", "") == "compile"
                if time.monotonic() - STARTED > arguments.seconds - (25 if compiles else 0):
                    problems.append(f"{backend.name} {network} {precision}: no time left")
                    continue
                try:
                    with ExitStack() as opened:
                        engines = {v: load(opened, backend, (network, v, precision), arguments) for v in VARIANTS}
                        for batch in (8,) if compiles else batches:
                            inputs = inputs_of(network, batch, precision, arguments.small)
                            cell = timed_in_turns(engines, inputs, rounds, arguments.device)
                            where = {"backend": backend.name, "version": backend.version(), "network": network}
                            where |= {"precision": precision, "batch": batch}
                            found["cells"].append({**where, **judged(cell, found["networks"][network])})
                            reference(found, arguments, found["cells"][-1], engines, inputs)
                            print(told(found["cells"][-1]), flush=True)
                except Exception as error:
                    traceback.print_exc(limit=3)
                    problems.append(f"{backend.name} {network} {precision}: {type(error).__name__}: {error}"[:400])
    found["stages"].setdefault(backends[0].name, {})["problems"] = problems


def load(opened: ExitStack, backend: Backend, key: Key, arguments: argparse.Namespace) -> Engine:
    """Load what `prepared` wrote as an engine of a backend."""
    network, variant, precision = key
    folder = arguments.scratch / f"{network}_{variant}"
    if isinstance(backend, TensorRt):
        result = rtx_engine(backend, folder / f"{precision}.onnx", folder / "rtx")
        return opened.enter_context(backend.load(result, folder / "rtx"))
    name = f"{precision}.pt2" if isinstance(backend, Torch) else f"{precision}.onnx"
    result = EngineResult(
        backend=backend.name, backend_version=backend.version(), status="built", path=name,
        sha256=sha256(read(folder / name)),
    )  # fmt: skip
    return opened.enter_context(backend.load(result, folder))


def rtx_engine(backend: TensorRt, onnx_file: Path, folder: Path) -> EngineResult:
    """Build a portable engine of TensorRT for RTX, and prove its outputs where it runs."""
    options = BuildOptions(batch_size=1, max_batch_size=32, tolerance=0.1 if onnx_file.stem == "fp16" else 1e-3)
    return backend.build(onnx_file, folder, options)


def probe(arguments: argparse.Namespace) -> None:
    """Build, load and run one engine in another process, which a GPU that the compiler was not made for may end."""
    file = arguments.scratch / f"{arguments.networks[-1]}_aligned" / "fp16.onnx"
    tried = subprocess.run(
        [sys.executable, __file__, "--rtx", str(file), str(file.parent / "probe")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    print(tried.stdout[-1500:], tried.stderr[-1500:], flush=True)
    if tried.returncode != 0:
        raise RuntimeError(f"exit {tried.returncode}: {tried.stderr.strip()[-400:]}")


def timed_in_turns(
    engines: dict[str, Engine], inputs: tuple[np.ndarray, ...], rounds: int, device: str
) -> dict[str, dict[str, np.ndarray]]:
    """Warm up, then time blocks of every variant in random order; return block medians in seconds."""
    clock, generator = PerformanceCounter(), np.random.default_rng(0)
    calls = {}
    for variant, engine in engines.items():
        for _ in range(5):
            engine.run(inputs)
        calls[variant] = max(3, math.ceil(BLOCK_S / float(np.median(time_calls(call(engine, inputs), 3, clock)))))
    kinds = ("upload_s", "compute_s", "download_s", "end_to_end_s")
    times: dict[str, dict[str, list[float]]] = {v: {kind: [] for kind in kinds} for v in engines}
    for _ in range(rounds):
        for variant in generator.permutation(list(engines)):
            engine, kept = engines[variant], times[variant]
            host = time_calls(call(engine, inputs), calls[variant], clock)
            kept["end_to_end_s"].append(float(np.median(host)))
            parts = device_times(engine, inputs, calls[variant]) if device == "cuda" else np.stack([host] * 3, axis=1)
            for kind, values in zip(kinds, parts.T, strict=False):
                kept[kind].append(float(np.median(values)))
    return {v: {kind: np.array(values) for kind, values in kept.items()} for v, kept in times.items()}


def call(engine: Engine, inputs: tuple[np.ndarray, ...]) -> Callable[[], object]:
    return lambda: engine.run(inputs)


def judged(cell: dict[str, dict[str, np.ndarray]], networks: dict[str, Any]) -> dict[str, Any]:
    """Turn block medians into latencies, speed-ups with intervals, and the share of the promise that came true."""
    row: dict[str, Any] = {
        "median_s": {v: {kind: float(np.median(x)) for kind, x in kept.items()} for v, kept in cell.items()},
        "blocks_s": {v: {kind: x.tolist() for kind, x in kept.items()} for v, kept in cell.items()},
        "speedup": {},
    }
    for variant in VARIANTS[1:]:
        promise = networks["uncut"]["macs"] / networks[variant]["macs"]
        row["speedup"][variant] = {"macs": promise}
        for kind in ("compute_s", "end_to_end_s"):
            ratios = np.log(cell["uncut"][kind]) - np.log(cell[variant][kind])
            found = instance_bootstrap(ratios[:, None], num_resamples=2000, confidence=0.95, seed=0)
            row["speedup"][variant][kind.removesuffix("_s")] = {
                "value": math.exp(found.value), "low": math.exp(found.low), "high": math.exp(found.high),
                "realised": realised_fraction(promise, math.exp(found.value)),
            }  # fmt: skip
    return row


REFERENCES: dict[tuple[str, str, int], tuple[np.ndarray, ...]] = {}


def reference(
    found: dict[str, Any], arguments: argparse.Namespace, row: dict[str, Any], engines: dict[str, Engine],
    inputs: tuple[np.ndarray, ...],
) -> None:  # fmt: skip
    """Compare every engine's outputs with PyTorch's, eager and in float32, on the same inputs."""
    row["relative_difference"] = {}
    eager = Torch(name="torch_reference", device=arguments.device)
    for variant, engine in engines.items():
        key = (row["network"], variant, row["batch"])
        if key not in REFERENCES:
            with ExitStack() as opened:
                whole = load(opened, eager, (row["network"], variant, "fp32"), arguments)
                for batch in (1, 2) if arguments.small else BATCHES:
                    drawn = inputs_of(row["network"], batch, "fp32", arguments.small)
                    REFERENCES[(row["network"], variant, batch)] = whole.run(drawn)
        apart = difference(REFERENCES[key], engine.run(inputs))
        row["relative_difference"][variant] = apart.relative


def told(row: dict[str, Any]) -> str:
    times = row["median_s"]
    parts = " ".join(f"{times[v]['compute_s'] * 1e3:.3f}" for v in VARIANTS)
    gains = " ".join(f"x{row['speedup'][v]['compute']['value']:.2f}" for v in VARIANTS[1:])
    apart = max(row["relative_difference"].values())
    return (
        f"  {row['backend']} {row['network']} {row['precision']} batch {row['batch']}: {parts} ms, {gains}, {apart:.1e}"
    )


if __name__ == "__main__":
    main()
