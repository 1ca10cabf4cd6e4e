"""What the calibration pass over gates costs beside a plain forward and backward of the same pictures.

ResNet-20, ResNet-56 and MobileNetV2 with random weights. Plain is a forward in evaluation mode and the gradients of the
mean loss in all weights; the pass collects the gate-gradient Gram matrices of all groups, with drawn labels. Both take
turns, ``--rounds`` of them, one thread; told are the medians of the paired ratios of processor time and of wall time.
Writes results/calibration_cost.json.

    python benchmarks/calibration_cost.py
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pruning_ways import SUBJECTS

from secateur.backends.machine import machine_facts
from secateur.calibration.gram import collect_gate_gram
from secateur.calibration.labels import label_loss
from secateur.pipeline.structure import trace

RESULTS = Path(__file__).parent / "results" / "calibration_cost.json"
BATCHES = {"resnet20": (32, 64, 4), "resnet56": (32, 64, 2), "mobilenet_v2": (224, 8, 2)}
"""Side of the pictures, pictures a batch, batches."""


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return processor and wall seconds."""
    processor, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - processor, time.perf_counter() - wall


def measure(name: str, num_rounds: int) -> dict[str, object]:
    """Time one network."""
    torch.manual_seed(0)
    subject, (side, size, number) = SUBJECTS[name], BATCHES[name]
    network = subject.build(None).eval()
    groups = trace(network, subject.example(num=2)).groups
    samples = [(torch.randn(size, 3, side, side), torch.randint(0, 10, (size,))) for _ in range(number)]
    parameters = list(network.parameters())

    def plain() -> None:
        for inputs, targets in samples:
            torch.autograd.grad(subject.task.loss(network(inputs), targets).mean(), parameters)

    def calibrate() -> None:
        loss = label_loss(subject.task, "sampled", temperature=4.0, seed=0)
        collect_gate_gram(network, groups, samples, loss, labels="sampled")

    plain()
    calibrate()
    pairs = [(timed(plain), timed(calibrate)) for _ in range(num_rounds)]
    processor = [ours[0] / theirs[0] for theirs, ours in pairs]
    return {
        "num_pictures": size * number, "num_groups": len(groups),
        "plain_s": statistics.median(theirs[0] for theirs, _ in pairs),
        "processor_ratio": statistics.median(processor), "lowest": min(processor), "highest": max(processor),
        "wall_ratio": statistics.median(ours[1] / theirs[1] for theirs, ours in pairs),
    }  # fmt: skip


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--networks", nargs="*", default=list(BATCHES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, object] = {"machine": machine_facts().model_dump(), "torch": torch.__version__}
    for name in arguments.networks:
        found[name] = measure(name, arguments.rounds)
        print(name, found[name], flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
