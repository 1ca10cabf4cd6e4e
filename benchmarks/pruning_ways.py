"""Ways of cutting trained networks, ours and Torch-Pruning's, for the benchmarks of pruning.

Every network is counted by the same counter, and cut to the most that is within a budget of multiply-adds. Ours differ
in signal, allocation and compensation. Torch-Pruning cannot follow the padded shortcuts of CIFAR's ResNets (it raises
an IndexError), so there it is given the channels inside the blocks only; ``inner`` is ours under the same restriction.
It ranks all layers' channels together and takes them in 400 steps, as its authors do, until the network is within the
budget: at once it would refuse to empty a layer, and leave that layer whole. Its Hessian importance is left out as
broken: ``accumulate_grad`` of 1.6.1 looks gradients up by name and keeps them by parameter, so that every sample
replaces the one before, and only the last counts.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from published import macs
from torch import Tensor, nn

from secateur.artifacts import Batch, Task
from secateur.calibration.batch_norm import reestimate_batch_norm
from secateur.calibration.batches import Loss, device_of, mean_loss
from secateur.calibration.labels import label_loss
from secateur.pipeline.allocation import ALLOCATORS
from secateur.pipeline.branching import Branching, branch_losses
from secateur.pipeline.compensation import Removal
from secateur.pipeline.prune import Prune
from secateur.pipeline.redundancy import estimate, tau_for_budget
from secateur.pipeline.settling import Settle
from secateur.pipeline.signals import Evidence, Needs, collect_evidence, saliency, signal_of
from secateur.pipeline.structure import Structure, trace
from secateur.workloads.classification import resnet20, resnet56, task
from secateur.workloads.classification.weights import with_weights

NUM_STEPS = 400
"""Steps in which the peer takes its channels."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained network: how it is built from a folder of weights or untrained, its task, the side of its pictures.

    ``stream`` names the modules that Torch-Pruning cannot cut, and the layer that makes the logits.
    """

    build: Callable[[Path | None], nn.Module]
    task: Task
    side: int
    stream: Callable[[nn.Module], list[str]]

    def example(self, device: torch.device | str = "cpu", num: int = 1) -> tuple[Tensor]:
        """Return inputs for the network."""
        return (torch.zeros(num, 3, self.side, self.side, device=device),)

    def macs(self, network: nn.Module) -> int:
        """Count the multiply-adds of one picture."""
        return macs(network, self.example(device_of(network)))


def _writers(network: nn.Module) -> list[str]:
    """Return the modules of a CIFAR ResNet that write the residual stream, and its head."""
    names = [name for name, _ in network.named_modules()]
    return [name for name in names if name in ("conv1", "linear") or name.endswith(".conv2")]


def _file(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name


SUBJECTS = {
    "resnet20": Subject(
        build=lambda f: resnet20(_file(f, "resnet20-12fca82f.th")), task=task(10), side=32, stream=_writers
    ),
    "resnet56": Subject(
        build=lambda f: resnet56(_file(f, "resnet56-4bfd9763.th")), task=task(10), side=32, stream=_writers
    ),
    "mobilenet_v2": Subject(
        build=lambda f: with_weights(torchvision.models.mobilenet_v2(), _file(f, "mobilenet_v2_imagenet_fp16.pth")),
        task=task(1000), side=224, stream=lambda _: ["classifier.1"],
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A way of ours; ``labels`` are those of the gradients, ``inner`` leaves the residual stream whole.

    With ``floors`` no group is cut below its effective filters, counted so that these alone would cost 0.8 of the
    budget. With more than one of the ``rounds``, budgets fall by equal factors and every round looks at what the
    one before it left. With ``branches`` residual branches may go whole.
    """

    signal: str = "fisher"
    labels: str = "sampled"
    allocator: str = "hierarchical"
    compensation: str = "none"
    inner: bool = False
    multiple: int = 1
    floors: bool = False
    rounds: int = 1
    branches: bool = False


DEFAULT = Ours(compensation=Prune.compensation, rounds=Prune.rounds)
"""What pruning does where nothing is said."""

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


def ours(way: Ours, network: nn.Module, budget: int, samples: list[Batch], evidence: "Evidences") -> nn.Module:
    """Return the network cut in one of our ways."""
    whole = evidence.subject.macs(network)
    for done in range(1, way.rounds):
        network = cut_once(way, network, math.floor(whole * (budget / whole) ** (done / way.rounds)), samples, evidence)
        evidence = evidence.of(network)
    return cut_once(way, network, budget, samples, evidence)


def cut_once(way: Ours, network: nn.Module, budget: int, samples: list[Batch], evidence: "Evidences") -> nn.Module:
    """Return the network cut in one round."""
    structure, found = evidence(way.labels, way.inner, way.multiple, way.branches)
    scores = saliency(signal_of(way.signal), found, structure.groups)
    floors = effective_widths(structure, found, math.floor(0.8 * budget)) if way.floors else {}
    branching = Branching(
        allocator=ALLOCATORS[way.allocator], cost=lambda left: left.cost_terms("macs"),
        losses=branch_losses(structure, scores, way.signal, found.gate_gram),
    )  # fmt: skip
    keep = branching(scores, budget, structure, floors)
    removal = Removal(module=network, structure=structure, keep=keep, samples=samples, gate_gram=found.gate_gram)
    return Settle(compensation=way.compensation)(removal, evidence.subject.task.loss).module


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

    def __init__(self, subject: Subject, network: nn.Module, samples: list[Batch], seed: int) -> None:
        self.subject = subject
        self._network, self._samples, self._seed = network, samples, seed
        self._found: dict[tuple[str, bool, int, bool], tuple[Structure, Evidence]] = {}

    def of(self, network: nn.Module) -> "Evidences":
        """Return the same of another network."""
        return Evidences(self.subject, network, self._samples, self._seed)

    def __call__(self, labels: str, inner: bool, multiple: int, branches: bool = False) -> tuple[Structure, Evidence]:
        """Return the structure and the evidence."""
        key = labels, inner, multiple, branches
        if key not in self._found:
            keep = self.subject.stream(self._network) if inner else ()
            example = self.subject.example(device_of(self._network), 2)
            structure = trace(self._network, example, keep=keep, multiple=multiple, branches=branches)
            needs = Needs(gram=True)
            for way in OURS.values():
                needs |= signal_of(way.signal).needs
            loss = label_loss(self.subject.task, labels, temperature=4.0, seed=self._seed)
            found = collect_evidence(needs, self._network, structure, self._samples, loss, labels=labels)
            self._found[key] = structure, found
        return self._found[key]


def peers() -> dict[str, Callable[[], Any]]:
    """Return Torch-Pruning's importances."""
    import torch_pruning

    return {
        "Torch-Pruning, GroupMagnitude": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2),
        "Torch-Pruning, GroupTaylor": torch_pruning.importance.GroupTaylorImportance,
        "Torch-Pruning, BNScale": torch_pruning.importance.BNScaleImportance,
    }


def peer(
    importance: Callable[[], Any], subject: Subject, network: nn.Module, budget: int, samples: list[Batch]
) -> nn.Module | None:
    """Return the network cut by Torch-Pruning step by step until it is within the budget; None where it never is."""
    import torch_pruning

    device, measure = device_of(network), importance()
    # What GroupTaylor reads: the mean loss's gradients, which are cut along with the weights.
    gradients = [torch.zeros_like(parameter) for parameter in network.parameters()]
    for inputs, targets in samples if isinstance(measure, torch_pruning.importance.GroupTaylorImportance) else ():
        loss = subject.task.loss(network(inputs.to(device)), targets.to(device)).mean() / len(samples)
        for total, part in zip(gradients, torch.autograd.grad(loss, list(network.parameters())), strict=True):
            total += part
    small = copy.deepcopy(network).cpu()
    pruner = torch_pruning.pruner.BasePruner(
        small, subject.example()[0], importance=measure, global_pruning=True, pruning_ratio=1.0,
        max_pruning_ratio=1.0, iterative_steps=NUM_STEPS,
        ignored_layers=[small.get_submodule(name) for name in subject.stream(small)],
    )  # fmt: skip
    for parameter, gradient in zip(small.parameters(), gradients, strict=True):
        parameter.grad = gradient.cpu()
    places = num_places(small, subject.example()[0])
    for _ in range(NUM_STEPS):
        pruner.step()
        if sum(num * small.get_parameter(name).numel() for name, num in places.items()) <= budget:
            small.zero_grad()
            return small.eval().to(device)
    return None


def num_places(network: nn.Module, picture: Tensor) -> dict[str, int]:
    """Return how often each convolution's or linear layer's weights are multiplied with, by the weights' names."""
    found: dict[str, int] = {}
    hooks = [
        module.register_forward_hook(
            lambda own, _, made, name=name: found.update({f"{name}.weight": made.numel() // len(own.weight)})
        )
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        network(picture)
    for hook in hooks:
        hook.remove()
    return found


def settled(network: nn.Module, samples: list[Batch], loss: Loss) -> nn.Module:
    """Return a network of the peer's with the better of its old and its re-estimated batch statistics."""
    trial = copy.deepcopy(network)
    reestimate_batch_norm(trial, samples)
    return min((network, trial), key=lambda module: mean_loss(module, loss, samples))


def accuracy(network: nn.Module, test: list[Batch]) -> float:
    """Return the share of pictures whose class is found."""
    device = device_of(network)
    with torch.no_grad():
        right = sum((network(inputs.to(device)).argmax(1) == targets.to(device)).sum() for inputs, targets in test)
    return int(right) / sum(len(targets) for _, targets in test)
