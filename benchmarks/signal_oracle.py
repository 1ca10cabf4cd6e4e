"""Score all signals against the truth: the change of the loss when each channel is really removed.

ResNet-20 on CIFAR-10. Every channel of every group is switched off alone, without fine-tuning, and the mean loss over
test images is taken; signals see other images, of the training set, with their true labels. Told is Spearman's rank
correlation of scores with the rise of the loss, and with the size of its change (Molchanov et al. 2017, arXiv
1611.06440) over all channels and as the mean of those within each group. How well two halves of the test images agree
on the truth says what can be reached. Writes results/signal_oracle.json.

    python benchmarks/signal_oracle.py --network resnet20-12fca82f.th --data cifar10
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from detail_tables import signal_oracle
from scipy.stats import rankdata
from torch import nn

from secateur.artifacts import Batch
from secateur.calibration.batches import batches, mean_loss
from secateur.calibration.masks import masked
from secateur.pipeline.signals import SIGNALS, TABLES, Combination, Needs, Signal, collect_evidence
from secateur.pipeline.structure import Structure, trace
from secateur.workloads.classification import cifar10, resnet20, task

RESULTS = Path(__file__).parent / "results" / "signal_oracle.json"


def signals() -> dict[str, Signal]:
    """Return the named signals and all combinations of the tables."""
    combinations = [
        Combination(**dict(zip(TABLES, names, strict=True))) for names in itertools.product(*TABLES.values())
    ]
    return {**SIGNALS, **{combination.name: combination for combination in combinations}}


def truth(module: nn.Module, structure: Structure, samples: list[Batch]) -> np.ndarray:
    """Return how much the mean loss of each batch rises when each channel of each group is removed alone."""

    def losses() -> np.ndarray:
        return np.array([mean_loss(module, task(10).loss, [batch]) for batch in samples])

    whole, rises = losses(), []
    for group in structure.groups:
        for channel in range(group.num_channels):
            with masked(module, structure.groups, {group.name: torch.arange(group.num_channels) != channel}):
                rises.append(losses() - whole)
        print(f"{group.name}: {group.num_channels} channels", flush=True)
    return np.stack(rises, 1)


def scores(module: nn.Module, structure: Structure, samples: list[Batch]) -> dict[str, np.ndarray]:
    """Return every signal's scores of all channels of all groups, from one collection."""
    table, needs = signals(), Needs()
    for signal in table.values():
        needs |= signal.needs
    evidence = collect_evidence(needs, module, structure, samples, task(10).loss)
    return {
        name: np.concatenate([signal(evidence, group).numpy() for group in structure.groups])
        for name, signal in table.items()
    }


def correlations(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of each row with what is wanted, 0 for rows that tell nothing apart."""
    ranks, target = rankdata(found, axis=-1), rankdata(wanted)
    ranks, target = ranks - ranks.mean(-1, keepdims=True), target - target.mean()
    length = np.linalg.norm(ranks, axis=-1) * np.linalg.norm(target)
    return np.divide(ranks @ target, length, out=np.zeros_like(length), where=length > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=Path, required=True, help="the trained weights")
    parser.add_argument("--data", type=Path, required=True, help="the folder of CIFAR-10")
    parser.add_argument("--samples", type=int, default=256, help="images for signals, and as many others for the truth")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, module = cifar10(arguments.data), resnet20(arguments.network).eval()
    structure = trace(module, (torch.zeros(2, 3, 32, 32),))
    found = scores(module, structure, list(batches(data.calibration, 64, limit=arguments.samples, seed=0)))
    rises = truth(module, structure, list(batches(data.test, 64, limit=arguments.samples, seed=1)))
    wanted, first, second = rises.mean(0), rises[::2].mean(0), rises[1::2].mean(0)
    rows = np.stack(list(found.values()))
    edges = np.cumsum([group.num_channels for group in structure.groups])[:-1]
    within = np.mean(
        [correlations(f, w) for f, w in zip(np.split(abs(rows), edges, 1), np.split(abs(wanted), edges), strict=True)],
        axis=0,
    )
    result = {
        "network": "resnet20", "num_samples": arguments.samples, "num_groups": len(structure.groups),
        "num_channels": len(wanted), "num_raising": int((wanted > 0).sum()),
        "num_orders": len(np.unique(rankdata(rows, axis=1), axis=0)),
        "halves": {
            "rise": round(float(correlations(first, second)), 4),
            "change": round(float(correlations(abs(first), abs(second))), 4),
        },
        "signals": {
            name: {"rise": round(float(r), 4), "change": round(float(c), 4), "within": round(float(w), 4)}
            for name, r, c, w in zip(
                found, correlations(rows, wanted), correlations(abs(rows), abs(wanted)), within, strict=True
            )
        },
        "truth": {
            group.name: np.round(rise, 6).tolist()
            for group, rise in zip(structure.groups, np.split(wanted, edges), strict=True)
        },
    }  # fmt: skip
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(signal_oracle()))
