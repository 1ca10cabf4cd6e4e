"""Cut trained CIFAR-10 networks at once, without any fine-tuning, by ours and by the peer, and write what is left.

ResNet-20 and ResNet-56 at 1/1.5, 1/2 and 1/3 of their multiply-adds. Every network is counted by the same counter,
settles in the same way (old or newly measured batch statistics, whichever has the lower loss on the calibration
images), and sees the same calibration images, drawn anew for each seed. Ours differ in signal, allocation and
compensation. Torch-Pruning cannot follow the padded shortcuts of these networks (it raises an IndexError), so it is
given the channels inside the blocks only, global ranking, and the largest share that meets the budget by bisection;
``inner`` is ours under the same restriction. Its Hessian importance is left out: its per-sample loss is that of the
batch. Accuracy is that on ``--test`` images of the test set. Writes results/pruning_quality.json and .png.

    pip install torch-pruning==1.6.1
    python benchmarks/pruning_quality.py --weights cifar10_resnet_akamaster --data cifar10
"""

import argparse
import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from networks import macs
from torch import nn

from secateur.artifacts import Batch, Data
from secateur.backends.machine import machine_facts
from secateur.calibration.batch_norm import reestimate_batch_norm
from secateur.calibration.batches import batches, mean_loss
from secateur.calibration.labels import label_loss
from secateur.pipeline.allocation import ALLOCATORS
from secateur.pipeline.compensation import Removal
from secateur.pipeline.settling import Settle
from secateur.pipeline.signals import Evidence, Needs, collect_evidence, saliency, signal_of
from secateur.pipeline.structure import Structure, trace
from secateur.workloads.classification import CifarResNet, cifar10, resnet20, resnet56, task

RESULTS = Path(__file__).parent / "results" / "pruning_quality.json"
NETWORKS = {"resnet20": (resnet20, "resnet20-12fca82f.th"), "resnet56": (resnet56, "resnet56-4bfd9763.th")}
RATIOS = (1.5, 2.0, 3.0)
TASK = task(10)


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A way of ours; ``labels`` are those of the gradients, ``inner`` leaves the residual stream whole."""

    signal: str = "fisher"
    labels: str = "sampled"
    allocator: str = "hierarchical"
    compensation: str = "none"
    inner: bool = False


OURS = {
    "fisher": Ours(),
    "fisher, true labels": Ours(labels="true"),
    "fisher, no cost term": Ours(allocator="ranked"),
    "fisher, knapsack": Ours(allocator="knapsack"),
    "joint": Ours(signal="joint"),
    "obs": Ours(signal="obs"),
    "obs + gates": Ours(signal="obs", compensation="gates"),
    "fisher + least squares": Ours(compensation="least-squares"),
    "joint + least squares": Ours(signal="joint", compensation="least-squares"),
    "l2 + least squares": Ours(signal="l2", compensation="least-squares"),
    "inner, fisher + least squares": Ours(inner=True, compensation="least-squares"),
    "uniform width, l2": Ours(signal="l2", allocator="uniform"),
    "uniform width, l2 + least squares": Ours(signal="l2", allocator="uniform", compensation="least-squares"),
}


def streams(network: CifarResNet) -> list[str]:
    """Return the modules that write the residual stream."""
    return [name for name, _ in network.named_modules() if name == "conv1" or name.endswith(".conv2")]


def ours(way: Ours, network: CifarResNet, budget: int, samples: list[Batch], evidence: "Evidences") -> nn.Module:
    """Return the network cut in one of our ways."""
    structure, found = evidence(way.labels, way.inner)
    scores = saliency(signal_of(way.signal), found, structure.groups)
    keep = ALLOCATORS[way.allocator](scores, structure.cost_terms("macs"), budget, structure.groups, {})
    removal = Removal(module=network, structure=structure, keep=keep, samples=samples, gate_gram=found.gate_gram)
    return Settle(compensation=way.compensation)(removal, TASK.loss).module


class Evidences:
    """What our signals look at, collected once for each kind of labels and structure."""

    def __init__(self, network: CifarResNet, samples: list[Batch], seed: int) -> None:
        self._network, self._samples, self._seed = network, samples, seed
        self._found: dict[tuple[str, bool], tuple[Structure, Evidence]] = {}

    def __call__(self, labels: str, inner: bool) -> tuple[Structure, Evidence]:
        """Return the structure and the evidence."""
        if (labels, inner) not in self._found:
            structure = trace(self._network, (torch.zeros(2, 3, 32, 32),), keep=streams(self._network) if inner else ())
            needs = Needs(gram=True)
            for way in OURS.values():
                needs |= signal_of(way.signal).needs
            loss = label_loss(TASK, labels, temperature=4.0, seed=self._seed)
            found = collect_evidence(needs, self._network, structure, self._samples, loss, labels=labels)
            self._found[labels, inner] = structure, found
        return self._found[labels, inner]


def peers() -> dict[str, Callable[[], Any]]:
    """Return Torch-Pruning's importances."""
    import torch_pruning

    return {
        "Torch-Pruning, GroupMagnitude": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2),
        "Torch-Pruning, GroupTaylor": torch_pruning.importance.GroupTaylorImportance,
        "Torch-Pruning, BNScale": torch_pruning.importance.BNScaleImportance,
    }


def peer(importance: Callable[[], Any], network: CifarResNet, budget: int, samples: list[Batch]) -> nn.Module:
    """Return the network cut by Torch-Pruning to the most that is within the budget."""
    import torch_pruning

    x = torch.zeros(1, 3, 32, 32)
    # What GroupTaylor reads: the mean loss's gradients.
    loss = sum(TASK.loss(network(inputs), targets).mean() / len(samples) for inputs, targets in samples)
    gradients = torch.autograd.grad(loss, list(network.parameters()))

    def at(share: float) -> nn.Module:
        small = copy.deepcopy(network)
        whole = [small.get_submodule(name) for name in streams(small)]
        pruner = torch_pruning.pruner.BasePruner(
            small, x, importance=importance(), global_pruning=True, pruning_ratio=share, max_pruning_ratio=1.0,
            ignored_layers=[small.linear, *whole],
        )  # fmt: skip
        for parameter, gradient in zip(small.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        pruner.step()
        small.zero_grad()
        return small.eval()

    low, high = 0.0, 1.0
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (middle, high) if macs(at(middle), (x,)) > budget else (low, middle)
    return at(high)


def settled(network: nn.Module, samples: list[Batch]) -> nn.Module:
    """Return a network of the peer's with the better of its old and its re-estimated batch statistics."""
    trial = copy.deepcopy(network)
    reestimate_batch_norm(trial, samples)
    return min((network, trial), key=lambda module: mean_loss(module, TASK.loss, samples))


def accuracy(network: nn.Module, test: list[Batch]) -> float:
    """Return the share of pictures whose class is found."""
    with torch.no_grad():
        right = [int((network(inputs).argmax(1) == targets).sum()) for inputs, targets in test]
    return sum(right) / sum(len(targets) for _, targets in test)


def measure(name: str, weights: Path, data: Data, num_test: int, seeds: int) -> Iterator[dict[str, Any]]:
    """Cut one network in all ways and tell what is left, one way after the other."""
    build, file = NETWORKS[name]
    network = build(weights / file).eval()
    test = list(batches(data.test, 250, limit=num_test, seed=0))
    example = (torch.zeros(1, 3, 32, 32),)
    whole = macs(network, example)
    yield {"network": name, "way": "uncut", "ratio": 1.0, "seed": 0, "macs": whole, "accuracy": accuracy(network, test)}
    for seed in range(seeds):
        samples = list(batches(data.calibration, 32, limit=512, seed=seed))
        evidence = Evidences(network, samples, seed)
        for ratio in RATIOS:
            budget = math.floor(whole / ratio)
            ways = {n: partial(ours, way, network, budget, samples, evidence) for n, way in OURS.items()}
            ways |= {n: partial(peer, importance, network, budget, samples) for n, importance in peers().items()}
            for way, cut_down in ways.items():
                small = cut_down()
                small = settled(small, samples) if way in peers() else small
                yield {
                    "network": name, "way": way, "ratio": ratio, "seed": seed, "macs": macs(small, example),
                    "accuracy": accuracy(small, test),
                }  # fmt: skip


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
