"""Cut trained networks at once, without any fine-tuning, by ours and by the peer, and write what is left.

ResNet-20 and ResNet-56 at 1/1.5, 1/2 and 1/3 of their multiply-adds, in the ways of `pruning_ways`; MobileNetV2, which
bears less, at 1/1.25 and 1/1.5, in few of them. Ours settle as they do (old or newly measured batch statistics,
whichever has the lower loss on the calibration images). The peer's are measured twice: as it leaves them, and settled
like ours. All see the same calibration images, drawn anew for each seed. Accuracy is that on ``--test`` images of
CIFAR-10's test set; of the ImageNet pictures each seed tests on another third and draws from the others. Rows are
written one by one, and a rerun goes on from there; ``--fresh`` begins anew. Writes results/pruning_quality.json and
.png.

    pip install torch-pruning==1.6.1
    python benchmarks/pruning_quality.py --weights models/cifar10_resnet_akamaster --cifar10 cifar10
    python benchmarks/pruning_quality.py --weights models --imagenet imagenet_val1300 --calibration 256 --seeds 1
"""

import argparse
import json
import math
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pictures_on_device import DevicePictures, decode_imagenet
from pruning_ways import OURS, SUBJECTS, Evidences, accuracy, ours, peer, peers, settled
from torch import nn

from secateur.artifacts import Batch
from secateur.backends.machine import machine_facts
from secateur.calibration.batches import batches
from secateur.pipeline.finetune.memory_layout import channels_last
from secateur.workloads.classification import cifar10

RESULTS = Path(__file__).parent / "results" / "pruning_quality.json"
RATIOS = {"resnet20": (1.5, 2.0, 3.0), "resnet56": (1.5, 2.0, 3.0), "mobilenet_v2": (1.25, 1.5)}
FEW = ("fisher", "fisher + least squares", "uniform width, l2", "uniform width, l2 + least squares")
"""The ways of ours that large networks are cut in."""


def pictures(name: str, arguments: argparse.Namespace, seed: int) -> tuple[list[Batch], list[Batch]]:
    """Return a seed's calibration and test pictures."""
    if name != "mobilenet_v2":
        data = cifar10(arguments.cifar10)
        drawn = batches(data.calibration, 32, limit=arguments.calibration, seed=seed)
        return list(drawn), list(batches(data.test, 250, limit=arguments.test, seed=0))
    held = _decoded(arguments.imagenet)
    third = len(held["labels"]) // 3
    test, others = np.split(np.roll(np.arange(len(held["labels"])), -seed * third), [third])
    parts = [DevicePictures.of(held["pixels"][i], held["labels"][i], 0, torch.device("cpu")) for i in (others, test)]
    return parts[0].batches(32, limit=arguments.calibration, seed=seed), parts[1].batches(32)


@cache
def _decoded(folder: Path) -> dict[str, np.ndarray]:
    return decode_imagenet(folder, None)


def measure(name: str, arguments: argparse.Namespace, done: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Cut one network in all ways that are not done and tell what is left, one way after the other."""
    subject = SUBJECTS[name]
    network = channels_last(subject.build(arguments.weights).eval(), subject.example())
    whole = subject.macs(network)
    for seed in range(arguments.seeds):
        samples, test = pictures(name, arguments, seed)
        evidence = Evidences(subject, network, samples, seed)
        facts = {"network": name, "seed": seed, "num_calibration": _num(samples), "num_test": _num(test)}
        if (name, "uncut", 1.0, seed) not in done:
            yield facts | {"way": "uncut", "ratio": 1.0, "macs": whole, "accuracy": accuracy(network, test)}
        for ratio in RATIOS[name]:
            for way in [*(FEW if name == "mobilenet_v2" else OURS), *peers()]:
                wanted = any(fnmatch(way, pattern) for pattern in arguments.ways)
                if wanted and (name, way, ratio, seed) not in done:
                    for called, small in cut(way, network, math.floor(whole / ratio), samples, evidence):
                        named = facts | {"way": called, "ratio": ratio}
                        if small is None:
                            yield named | {"unreachable": True}
                        else:
                            yield named | {"macs": subject.macs(small), "accuracy": accuracy(small, test)}


def cut(
    way: str, network: nn.Module, budget: int, samples: list[Batch], evidence: Evidences
) -> Iterator[tuple[str, nn.Module | None]]:
    """Yield what a way makes of the network, with its name; the peer's also as the peer leaves it, and this first.

    None where the peer never gets within the budget.
    """
    if way in OURS:
        yield way, ours(OURS[way], network, budget, samples, evidence)
        return
    left = peer(peers()[way], evidence.subject, network, budget, samples)
    if left is None:
        yield way, None
        return
    yield f"{way}, as it leaves it", left
    yield way, settled(left, samples, evidence.subject.task.loss)


def _num(drawn: list[Batch]) -> int:
    return sum(len(targets) for _, targets in drawn)


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells a row from the others."""
    return row["network"], row["way"], row["ratio"], row["seed"]


def main() -> None:
    """Measure, write, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--cifar10", type=Path)
    parser.add_argument("--imagenet", type=Path)
    parser.add_argument("--networks", nargs="*", default=list(RATIOS))
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="*", default=["*"], help="patterns of names; all where absent")
    parser.add_argument("--fresh", action="store_true", help="make these networks' rows anew")
    arguments = parser.parse_args()
    names = [n for n in arguments.networks if (arguments.imagenet if n == "mobilenet_v2" else arguments.cifar10)]
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = [row for row in rows if not (arguments.fresh and row["network"] in names)]
    for name in names:
        done = {_place(row) for row in rows}
        for row in measure(name, arguments, done):
            if _place(row) in done:
                continue
            rows.append(row)
            print(row, flush=True)
            content = {
                "rows": rows, "torch": torch.__version__, "torch_pruning": version("torch-pruning"),
                "machine": machine_facts().model_dump(),
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
            for ratio in RATIOS[name]:
                same = [row["accuracy"] for row in own if row["way"] == way and row["ratio"] == ratio
                        and "accuracy" in row]  # fmt: skip
                points += [(1 / ratio, sum(same) / len(same))] if same else []
            panel.plot(*zip(*points, strict=True), marker="o", label=way)
        panel.set(title=f"{name}, no fine-tuning", xlabel="share of multiply-adds", ylabel="accuracy")
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
