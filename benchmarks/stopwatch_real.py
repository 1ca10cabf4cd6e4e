"""Try the paired comparison on a real runtime, where the truth is known; write results/stopwatch_real.json.

The same network twice, and against a network that does 3 % more work by construction: every call of the baseline is
followed by a busy wait of 3 % of its median. Every trial is written when it is done, and a rerun goes on behind the
last one. To be run on a quiet machine.

    python benchmarks/stopwatch_real.py [--trials 100] [--max-s 15] [--backend onnxruntime]
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from stopwatch import PLANTED, RESULTS, Found, told
from stopwatch_tools import network

from secateur.backends import BACKENDS
from secateur.backends.compare import Compare
from secateur.backends.machine import machine_facts
from secateur.backends.measure import measure
from secateur.backends.protocol import BuildOptions, Engine

FILE = RESULTS / "stopwatch_real.json"


class Slower(Engine):
    """An engine that after every call waits actively for a share of what a call takes."""

    def __init__(self, engine: Engine, wait_s: float) -> None:
        self._engine, self._wait_s = engine, wait_s

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Call, then wait."""
        outputs = self._engine.run(inputs)
        until = time.perf_counter() + self._wait_s
        while time.perf_counter() < until:
            pass
        return outputs

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


def read(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the trials that were done with these settings."""
    content = json.loads(FILE.read_text()) if FILE.exists() else {}
    return content["trials"] if {key: content.get(key) for key in settings} == settings else []


def write(settings: dict[str, Any], trials: list[dict[str, Any]]) -> None:
    """Write the trials and what they add up to."""
    machine = machine_facts().model_dump(mode="json", include={"cpu", "num_cores", "system", "versions", "commit"})
    summed = {
        **told([Found(**trial["null"]) for trial in trials], 1.0, "null"),
        **told([Found(**trial["planted"]) for trial in trials], PLANTED, "planted"),
    }
    content = {"machine": machine, **settings, "real": summed, "trials": trials}
    FILE.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Compare until there are as many trials as asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--max-s", type=float, default=15.0)
    parser.add_argument("--backend", default="onnxruntime")
    arguments = parser.parse_args()
    name, backend = arguments.backend, BACKENDS[arguments.backend]
    settings = {
        "backend": f"{name} {backend.version()}", "network": "resnet18 at 64 x 64, batch 1, one thread",
        "max_s": arguments.max_s,
    }  # fmt: skip
    trials = read(settings)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        file, inputs = network(folder)
        built = backend.build(file, folder, BuildOptions())

        def load() -> Engine:
            return backend.load(built, folder)

        with load() as engine:
            call_s = measure(engine, inputs).latency.p50_s
        wait_s = (PLANTED - 1) * call_s
        for trial in range(len(trials), arguments.trials):
            compare = Compare(max_s=arguments.max_s, seed=trial)
            same = compare.compare(load, load, inputs, backend=name, num_threads=1)
            planted = compare.compare(lambda: Slower(load(), wait_s), load, inputs, backend=name, num_threads=1)
            sides = {"null": asdict(Found.by(same)), "planted": asdict(Found.by(planted))}
            trials.append({**sides, "call_s": call_s, "others": max(same.others or 0.0, planted.others or 0.0)})
            print(trial, same.outcome, same.speedup, planted.outcome, planted.speedup, flush=True)
            write(settings, trials)


if __name__ == "__main__":
    main()
