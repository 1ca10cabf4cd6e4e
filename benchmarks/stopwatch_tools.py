"""Hold the stopwatch against other tools on one network; write results/stopwatch_tools.json.

    python benchmarks/stopwatch_tools.py [--rounds 9]

The median call by this stopwatch, by a loop as that of onnxruntime_perf_test, by torch.utils.benchmark and, on
OpenVINO, by its benchmark_app. Instances of one network differ for as long as they live, and benchmark_app is a process
of its own: so each tool of each round measures in a fresh process, in an order drawn anew, and tools are compared
within a round. To be run on a quiet machine.
"""

import argparse
import json
import multiprocessing
import random
import re
import statistics
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils import benchmark

from secateur.artifacts import EngineResult, Model
from secateur.backends import BACKENDS
from secateur.backends.machine import machine_facts
from secateur.backends.measure import Stopwatch, WarmUp, measure
from secateur.backends.protocol import BuildOptions, Engine
from secateur.backends.stopping import Stopping
from secateur.pipeline.export import export

RESULTS = Path(__file__).parent / "results"
WARM_S, TIMED_S = 1.0, 3.0


def network(folder: Path, name: str, build: Callable[[], nn.Module], side: int) -> tuple[Path, tuple[np.ndarray, ...]]:
    """Export an untrained network for one picture of ``side`` x ``side`` pixels and draw it."""
    torch.manual_seed(0)
    model = Model(module=build().eval(), example_inputs=(torch.randn(1, 3, side, side),))
    inputs = (np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(np.float32),)
    return export(model, folder, name=name, dynamic_batch=False).path, inputs


def stopwatch(engine: Engine, inputs: tuple[np.ndarray, ...]) -> float:
    """Return this stopwatch's median, in seconds."""
    watch = Stopwatch(stopping=Stopping(least_s=TIMED_S, most_s=2 * TIMED_S), warm_up=WarmUp(least_s=WARM_S))
    return measure(engine, inputs, stopwatch=watch).latency.p50_s


def perf_test(engine: Engine, inputs: tuple[np.ndarray, ...]) -> float:
    """Return the median as onnxruntime_perf_test comes by it: calls one by one for a time."""
    times = []
    end = time.perf_counter() + TIMED_S
    while (before := time.perf_counter()) < end:
        engine.run(inputs)
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def torch_timer(engine: Engine, inputs: tuple[np.ndarray, ...]) -> float:
    """Return the median of torch.utils.benchmark."""
    timer = benchmark.Timer("engine.run(inputs)", globals={"engine": engine, "inputs": inputs}, num_threads=1)
    return timer.blocked_autorange(min_run_time=TIMED_S).median


TOOLS: dict[str, Callable[[Engine, tuple[np.ndarray, ...]], float]] = {
    "secateur": stopwatch, "perf_test loop": perf_test, "torch.utils.benchmark": torch_timer,
}  # fmt: skip


def timed(tool: str, runtime: str, built: EngineResult, folder: Path, inputs: tuple[np.ndarray, ...]) -> float:
    """Load the engine, let it warm up, and time it with the tool."""
    with BACKENDS[runtime].load(built, folder) as engine:
        end = time.perf_counter() + WARM_S
        while time.perf_counter() < end:
            engine.run(inputs)
        return TOOLS[tool](engine, inputs)


def benchmark_app(file: Path) -> float:
    """Return the median that OpenVINO's own tool prints, installed with it beside this Python."""
    tool = Path(sysconfig.get_path("scripts")) / "benchmark_app"
    command = [
        str(tool), "-m", str(file), "-d", "CPU", "-api", "sync", "-t", str(round(WARM_S + TIMED_S)), "-ip", "f32",
        "-nthreads", "1", "-infer_precision", "f32", "-hint", "none", "-nstreams", "1", "-nireq", "1",
    ]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"Median:\s*([\d.]+)\s*ms", output)
    if match is None:
        raise SystemExit(f"benchmark_app printed no median:\n{output[-2000:]}")
    return float(match[1]) * 1e-3


def agreement(runtime: str, rounds: int, file: Path, inputs: tuple[np.ndarray, ...]) -> dict[str, Any]:
    """Return each tool's medians over the rounds, in seconds, and how far they are from this stopwatch's."""
    folder = file.parent / runtime
    built = BACKENDS[runtime].build(file, folder, BuildOptions())
    names = [*TOOLS, *(["benchmark_app"] if runtime == "openvino" else [])]
    medians: dict[str, list[float]] = {name: [] for name in names}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as fresh:
        for number in range(rounds):
            for name in random.Random(number).sample(names, len(names)):
                if name == "benchmark_app":
                    median = benchmark_app(file)
                else:
                    median = fresh.submit(timed, name, runtime, built, folder, inputs).result()
                medians[name].append(median)
    ratios = {name: np.divide(times, medians["secateur"]) - 1 for name, times in medians.items()}
    return {
        name: {"median_s": statistics.median(times), "rounds_s": times,
               "against_secateur": float(np.median(ratios[name])),
               "quartiles": np.quantile(ratios[name], [0.25, 0.75]).tolist()}
        for name, times in medians.items()
    }  # fmt: skip


def main() -> None:
    """Measure by every tool on ONNX Runtime and OpenVINO."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        file, inputs = network(Path(place), "resnet18", torchvision.models.resnet18, 64)
        tools = {runtime: agreement(runtime, arguments.rounds, file, inputs) for runtime in ("onnxruntime", "openvino")}
    machine = machine_facts().model_dump(mode="json", include={"cpu", "num_cores", "system", "versions", "commit"})
    result = {"machine": machine, "rounds": arguments.rounds, "seconds": time.perf_counter() - started, "tools": tools}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "stopwatch_tools.json").write_text(json.dumps(result, indent=1) + "\n")
    for runtime, rows in tools.items():
        for name, row in rows.items():
            print(runtime, name, f"{1e3 * row['median_s']:.3f} ms {row['against_secateur']:+.1%}", flush=True)


if __name__ == "__main__":
    main()
