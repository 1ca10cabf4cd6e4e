"""Cut trained CIFAR-10 networks at once, without any fine-tuning, by ours and by the peer, and write what is left.

ResNet-20 and ResNet-56 at 1/1.5, 1/2 and 1/3 of their multiply-adds, in the ways of `pruning_ways`. Ours settle as they
do (old or newly measured batch statistics, whichever has the lower loss on the calibration images). The peer's are
measured twice: as it leaves them, and settled like ours. All see the same calibration images, drawn anew for each
seed. Accuracy is that on ``--test`` images of the test set. Writes results/pruning_quality.json and .png.

    pip install torch-pruning==1.6.1
    python benchmarks/pruning_quality.py --weights cifar10_resnet_akamaster --data cifar10
"""

import argparse
import json
import math
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pruning_ways import OURS, SUBJECTS, Evidences, Subject, accuracy, ours, peer, peers, settled
from torch import nn

from secateur.artifacts import Batch, Data
from secateur.backends.machine import machine_facts
from secateur.calibration.batches import batches
from secateur.workloads.classification import cifar10

RESULTS = Path(__file__).parent / "results" / "pruning_quality.json"
RATIOS = (1.5, 2.0, 3.0)
NETWORKS = ("resnet20", "resnet56")


def measure(name: str, weights: Path, data: Data, num_test: int, seeds: int) -> Iterator[dict[str, Any]]:
    """Cut one network in all ways and tell what is left, one way after the other."""
    subject = SUBJECTS[name]
    network = subject.build(weights).eval()
    test = list(batches(data.test, 250, limit=num_test, seed=0))
    whole = subject.macs(network)
    yield {"network": name, "way": "uncut", "ratio": 1.0, "seed": 0, "macs": whole, "accuracy": accuracy(network, test)}
    for seed in range(seeds):
        samples = list(batches(data.calibration, 32, limit=512, seed=seed))
        evidence = Evidences(subject, network, samples, seed)
        for ratio in RATIOS:
            budget = math.floor(whole / ratio)
            for way, small in cut_in_all_ways(subject, network, budget, samples, evidence):
                yield {
                    "network": name, "way": way, "ratio": ratio, "seed": seed, "macs": subject.macs(small),
                    "accuracy": accuracy(small, test),
                }  # fmt: skip


def cut_in_all_ways(
    subject: Subject, network: nn.Module, budget: int, samples: list[Batch], evidence: Evidences
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the name of each way and what it makes of the network."""
    for name, way in OURS.items():
        yield name, ours(way, network, budget, samples, evidence)
    for name, importance in peers().items():
        left = peer(importance, subject, network, budget, samples)
        if left is not None:
            yield name, settled(left, samples, subject.task.loss)
            yield f"{name}, as it leaves it", left


def main() -> None:
    """Measure, write, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    data, rows = cifar10(arguments.data), list[dict[str, Any]]()
    if RESULTS.exists():
        rows = [row for row in json.loads(RESULTS.read_text())["rows"] if row["network"] not in arguments.networks]
    for name in arguments.networks:
        for row in measure(name, arguments.weights, data, arguments.test, arguments.seeds):
            rows.append(row)
            print(row, flush=True)
            content = {
                "rows": rows, "num_test": arguments.test, "num_calibration": 512, "torch": torch.__version__,
                "torch_pruning": version("torch-pruning"), "machine": machine_facts().model_dump(),
            }  # fmt: skip
            RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    draw(rows)


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw accuracy against the multiply-adds that are left."""
    import matplotlib.pyplot as plt

    shown = ("fisher", "fisher + least squares", "uniform width, l2", "Torch-Pruning, GroupMagnitude",
             "Torch-Pruning, GroupTaylor", "Torch-Pruning, BNScale")  # fmt: skip
    names = list(dict.fromkeys(row["network"] for row in rows))
    figure, panels = plt.subplots(1, len(names), figsize=(5 * len(names), 4), sharey=True, squeeze=False)
    for panel, name in zip(panels[0], names, strict=True):
        own = [row for row in rows if row["network"] == name]
        for way in shown:
            points = [(1.0, own[0]["accuracy"])]
            for ratio in RATIOS:
                same = [row["accuracy"] for row in own if row["way"] == way and row["ratio"] == ratio]
                points += [(1 / ratio, sum(same) / len(same))] if same else []
            panel.plot(*zip(*points, strict=True), marker="o", label=way)
        panel.set(title=f"{name}, no fine-tuning", xlabel="share of multiply-adds", ylabel="accuracy")
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
