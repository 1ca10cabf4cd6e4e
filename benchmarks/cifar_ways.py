"""Ways of cutting trained CIFAR-10 networks, ours and Torch-Pruning's, for the benchmarks of pruning.

Every network is counted by the same counter, and cut to the most that is within a budget of multiply-adds. Ours differ
in signal, allocation and compensation. Torch-Pruning cannot follow the padded shortcuts of these networks (it raises an
IndexError), so it is given the channels inside the blocks only, global ranking, and the largest share that meets the
budget by bisection; ``inner`` is ours under the same restriction. Its Hessian importance is left out: its per-sample
loss is that of the batch.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from networks import macs
from torch import nn

from secateur.artifacts import Batch
from secateur.calibration.batch_norm import reestimate_batch_norm
from secateur.calibration.batches import Loss, mean_loss
from secateur.calibration.labels import label_loss
from secateur.pipeline.allocation import ALLOCATORS
from secateur.pipeline.compensation import Removal
from secateur.pipeline.redundancy import estimate, tau_for_budget
from secateur.pipeline.settling import Settle
from secateur.pipeline.signals import Evidence, Needs, collect_evidence, saliency, signal_of
from secateur.pipeline.structure import Structure, trace
from secateur.workloads.classification import CifarResNet, resnet20, resnet56, task

NETWORKS = {"resnet20": (resnet20, "resnet20-12fca82f.th"), "resnet56": (resnet56, "resnet56-4bfd9763.th")}
TASK = task(10)


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A way of ours; ``labels`` are those of the gradients, ``inner`` leaves the residual stream whole.

    With ``floors`` no group is cut below its effective filters, counted so that these alone would cost 0.8 of the
    budget. With more than one of the ``rounds``, budgets fall by equal factors and every round looks at what the
    one before it left.
    """

    signal: str = "fisher"
    labels: str = "sampled"
    allocator: str = "hierarchical"
    compensation: str = "none"
    inner: bool = False
    multiple: int = 1
    floors: bool = False
    rounds: int = 1


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
    "fisher + least squares, four rounds": Ours(compensation="least-squares", rounds=4),
    "l2 + least squares": Ours(signal="l2", compensation="least-squares"),
    "inner, fisher + least squares": Ours(inner=True, compensation="least-squares"),
    "uniform width, l2": Ours(signal="l2", allocator="uniform"),
    "uniform width, l2 + least squares": Ours(signal="l2", allocator="uniform", compensation="least-squares"),
}


def streams(network: nn.Module) -> list[str]:
    """Return the modules that write the residual stream."""
    return [name for name, _ in network.named_modules() if name == "conv1" or name.endswith(".conv2")]


def ours(way: Ours, network: nn.Module, budget: int, samples: list[Batch], evidence: "Evidences") -> nn.Module:
    """Return the network cut in one of our ways."""
    whole = macs(network, (torch.zeros(1, 3, 32, 32),))
    for done in range(1, way.rounds):
        network = cut_once(way, network, math.floor(whole * (budget / whole) ** (done / way.rounds)), samples, evidence)
        evidence = evidence.of(network)
    return cut_once(way, network, budget, samples, evidence)


def cut_once(way: Ours, network: nn.Module, budget: int, samples: list[Batch], evidence: "Evidences") -> nn.Module:
    """Return the network cut in one round."""
    structure, found = evidence(way.labels, way.inner, way.multiple)
    scores, cost = saliency(signal_of(way.signal), found, structure.groups), structure.cost_terms("macs")
    floors = effective_widths(structure, found, math.floor(0.8 * budget)) if way.floors else {}
    keep = ALLOCATORS[way.allocator](scores, cost, budget, structure.groups, floors)
    removal = Removal(module=network, structure=structure, keep=keep, samples=samples, gate_gram=found.gate_gram)
    return Settle(compensation=way.compensation)(removal, TASK.loss).module


def effective_widths(structure: Structure, found: Evidence, budget: int) -> dict[str, int]:
    """Return the effective filters of every group at the tail, the same for all, at which they fit the budget."""
    if found.gate_gram is None:
        raise ValueError("effective filters are counted in the Gram matrices of the gates' gradients")
    redundancy = estimate(structure, found.gate_gram, 1.0)
    tau = tau_for_budget(redundancy, structure.cost_terms("macs"), budget, structure.groups)
    if tau is None:
        raise ValueError(f"no tail has floors below {budget} multiply-adds")
    return {group.name: group.num_effective for group in estimate(structure, found.gate_gram, tau).groups}


class Evidences:
    """What our signals look at, collected once for each kind of labels and structure."""

    def __init__(self, network: nn.Module, samples: list[Batch], seed: int) -> None:
        self._network, self._samples, self._seed = network, samples, seed
        self._found: dict[tuple[str, bool, int], tuple[Structure, Evidence]] = {}

    def of(self, network: nn.Module) -> "Evidences":
        """Return the same of another network."""
        return Evidences(network, self._samples, self._seed)

    def __call__(self, labels: str, inner: bool, multiple: int) -> tuple[Structure, Evidence]:
        """Return the structure and the evidence."""
        if (labels, inner, multiple) not in self._found:
            keep = streams(self._network) if inner else ()
            structure = trace(self._network, (torch.zeros(2, 3, 32, 32),), keep=keep, multiple=multiple)
            needs = Needs(gram=True)
            for way in OURS.values():
                needs |= signal_of(way.signal).needs
            loss = label_loss(TASK, labels, temperature=4.0, seed=self._seed)
            found = collect_evidence(needs, self._network, structure, self._samples, loss, labels=labels)
            self._found[labels, inner, multiple] = structure, found
        return self._found[labels, inner, multiple]


def peers() -> dict[str, Callable[[], Any]]:
    """Return Torch-Pruning's importances."""
    import torch_pruning

    return {
        "Torch-Pruning, GroupMagnitude": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2),
        "Torch-Pruning, GroupTaylor": torch_pruning.importance.GroupTaylorImportance,
        "Torch-Pruning, BNScale": torch_pruning.importance.BNScaleImportance,
    }


def peer(importance: Callable[[], Any], network: CifarResNet, budget: int, samples: list[Batch]) -> nn.Module | None:
    """Return the network cut by Torch-Pruning to the most that is within the budget, None where no share is."""
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

    low, high, found = 0.0, 1.0, None
    for _ in range(9):
        middle = (low + high) / 2
        small = at(middle)
        if macs(small, (x,)) > budget:
            low = middle
        else:
            high, found = middle, small
    return found


def settled(network: nn.Module, samples: list[Batch], loss: Loss = TASK.loss) -> nn.Module:
    """Return a network of the peer's with the better of its old and its re-estimated batch statistics."""
    trial = copy.deepcopy(network)
    reestimate_batch_norm(trial, samples)
    return min((network, trial), key=lambda module: mean_loss(module, loss, samples))


def accuracy(network: nn.Module, test: list[Batch]) -> float:
    """Return the share of pictures whose class is found."""
    with torch.no_grad():
        right = [int((network(inputs).argmax(1) == targets).sum()) for inputs, targets in test]
    return sum(right) / sum(len(targets) for _, targets in test)
