"""Try the paired comparison on a real runtime, where the truth is known; write results/stopwatch_real.json.

The same network twice, and against a network that does 3 % more work by construction: every call of the baseline is
followed by a busy wait of 3 % of what it took. Every trial is written when it is done, with how busy other processes
kept the machine meanwhile, and a rerun goes on behind the last one.

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
from secateur.backends.protocol import BuildOptions, Engine
from secateur.workloads.classification import resnet20

FILE = RESULTS / "stopwatch_real.json"


class Slower(Engine):
    """An engine that after every call waits actively for a share of what the call took."""

    def __init__(self, engine: Engine, share: float) -> None:
        self._engine, self._share = engine, share

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Call, then wait."""
        started = time.perf_counter()
        outputs = self._engine.run(inputs)
        returned = time.perf_counter()
        until = returned + self._share * (returned - started)
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
        "backend": f"{name} {backend.version()}", "network": "ResNet-20 at 32 x 32, batch 1, one thread",
        "max_s": arguments.max_s,
    }  # fmt: skip
    trials = read(settings)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        file, inputs = network(folder, "resnet20", resnet20, 32)
        built = backend.build(file, folder, BuildOptions())

        def load() -> Engine:
            return backend.load(built, folder)

        def load_slower() -> Engine:
            return Slower(load(), PLANTED - 1)

        def load_watched() -> Engine:
            return Slower(load(), 0.0)  # looks at the clock as often

        for trial in range(len(trials), arguments.trials):
            compare = Compare(max_s=arguments.max_s, seed=trial)
            same = compare.compare(load, load, inputs, backend=name, num_threads=1)
            planted = compare.compare(load_slower, load_watched, inputs, backend=name, num_threads=1)
            sides = {"null": asdict(Found.by(same)), "planted": asdict(Found.by(planted))}
            trials.append(
                {**sides, "call_s": same.baseline.p50_s, "others": max(same.others or 0.0, planted.others or 0.0)}
            )
            print(trial, same.outcome, same.speedup, planted.outcome, planted.speedup, flush=True)
            write(settings, trials)


if __name__ == "__main__":
    main()
