"""Build, load and close engines, and call them, many times over; write results/engine_leaks.json with what they leave.

Every backend that runs here is built, loaded and closed ``--loads`` times and called ``--calls`` times on a small
convolutional network. Resident memory is read after each hundredth part; what counts is the slope over the second half
(Theil and Sen's), when caches and pools are full.

    python benchmarks/engine_leaks.py --loads 1000 --calls 100000
"""

import argparse
import gc
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from scipy.stats import theilslopes
from torch import nn

from secateur.artifacts import Model
from secateur.backends import BACKENDS
from secateur.backends.machine import machine_facts
from secateur.backends.protocol import Backend, BuildOptions, Engine
from secateur.pipeline.export import export

RESULTS = Path(__file__).parent / "results" / "engine_leaks.json"
PARTS = 100


def growth(work: Callable[[], object], times: int) -> dict[str, float]:
    """Repeat work; return the bytes that each time leaves behind, and memory before and after."""
    process, step = psutil.Process(), max(1, times // PARTS)
    seen = []
    work()
    gc.collect()
    gc.freeze()  # what modules hold; looking through it a hundred times would take longer than the work
    for index in range(times):
        work()
        if index % step == 0:
            gc.collect()
            seen.append((index, process.memory_info().rss))
    late = np.array(seen[len(seen) // 2 :], dtype=float)
    slope, _, low, high = theilslopes(late[:, 1], late[:, 0])
    gc.unfreeze()
    return {"times": times, "bytes_each": slope, "low": low, "high": high, "first": seen[0][1], "last": seen[-1][1]}


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("--loads", type=int, default=1_000)
    wanted.add_argument("--calls", type=int, default=100_000)
    wanted.add_argument("--backends", nargs="+", choices=sorted(BACKENDS), default=list(BACKENDS))
    wanted.add_argument("--results", type=Path, default=RESULTS)
    arguments = wanted.parse_args()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 13, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(13, 5))
    found: dict[str, Any] = {"machine": machine_facts().model_dump(), "backends": {}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        exported = export(
            Model(module=network, example_inputs=(torch.rand(2, 3, 16, 16),)), folder, name="small", program=True
        )
        inputs = (np.zeros((1, 3, 16, 16), np.float32),)
        for name in arguments.backends:
            backend = BACKENDS[name]
            if (missing := backend.unable_to_run()) is not None:
                found["backends"][name] = {"skipped": str(missing)}
                continue

            def made(backend: Backend = backend, name: str = name) -> Engine:
                return backend.load(backend.build(exported.path, folder / name, BuildOptions()), folder / name)

            with made() as engine:
                calls = growth(lambda e=engine: e.run(inputs), arguments.calls)
            loads = growth(lambda m=made: m().close(), arguments.loads)
            found["backends"][name] = {"version": backend.version(), "calls": calls, "loads": loads}
            print(
                name, f"{calls['bytes_each']:.1f} bytes a call, {loads['bytes_each']:.0f} bytes an engine", flush=True
            )
            arguments.results.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
