"""Ways of cutting a trained gaze network at once to a budget, ours and Torch-Pruning's.

Torch-Pruning gets the largest global share that meets a budget, by bisection, and the mean loss's gradients, which its
GroupTaylor reads; all ways have their batch statistics measured again where that lowers the loss.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from fisher_prices import prices
from gaze_family import multiply_adds
from pruning_ways import settled as better_statistics
from torch import nn

from secateur.artifacts import Batch
from secateur.calibration.batches import mean_loss
from secateur.calibration.labels import label_loss
from secateur.pipeline.allocation import Allocator
from secateur.pipeline.allocation.theis import Theis
from secateur.pipeline.compensation import Removal
from secateur.pipeline.settling import Settle, Settled
from secateur.pipeline.signals import collect_evidence, saliency, signal_of
from secateur.pipeline.structure import trace
from secateur.workloads.gaze.task import task

TASK = task()


@dataclass(frozen=True, kw_only=True)
class Given:
    """What every way gets: a network, the multiply-adds that may stay, and pictures to decide on.

    ``judged`` are training pictures that no gradient and no statistic is taken from. ``train`` trains a network in
    place for so many steps while it is being cut, ``num_steps`` at most to this budget: a way that takes some has as
    many fewer left for the training afterwards, so that all ways train equally.
    """

    network: nn.Module
    budget: int
    samples: list[Batch]
    judged: list[Batch]
    size: tuple[int, int]
    train: Callable[[nn.Module, int], None]
    num_steps: int


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A network within its budget, how many steps it was trained on the way there, and what there is to tell."""

    network: nn.Module
    num_steps: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of ours: which channels, how many of them where, and what makes up for them.

    Without an allocator it is Fisher pruning with FLOPs at the price ``beta`` whose network has the least loss on the
    judged pictures.
    """

    signal: str = "fisher"
    labels: str = "true"
    allocator: Allocator | None = None
    compensation: str = "none"
    multiple: int = 1

    def __call__(self, given: Given) -> Cut:
        """Return the network cut to the budget."""
        network, samples = given.network, given.samples
        example = torch.zeros(2, 3, *given.size)
        structure = trace(copy.deepcopy(network).cpu(), (example,), multiple=self.multiple)
        signal = signal_of(self.signal)
        loss = label_loss(TASK, self.labels, temperature=4.0)  # type: ignore[arg-type]
        evidence = collect_evidence(signal.needs, network, structure, samples, loss, labels=self.labels)
        scores, cost = saliency(signal, evidence, structure.groups), structure.cost_terms("macs")

        def settled(allocator: Allocator) -> Settled:
            keep = allocator(scores, cost, given.budget, structure.groups, {})
            removal = Removal(
                module=network, structure=structure, keep=keep, samples=samples, gate_gram=evidence.gate_gram
            )
            return Settle(compensation=self.compensation)(removal, TASK.loss)

        if self.allocator is not None:
            return Cut(network=settled(self.allocator).module)
        tried = []
        for beta in prices(scores, cost, given.budget, structure.groups):
            module = settled(Theis(beta=beta)).module
            tried.append((loss_on(module, given.judged), beta, module))
        _, beta, module = min(tried, key=lambda each: each[0])
        losses = {f"{each:.3g}": value for value, each, _ in tried}
        return Cut(network=module, facts={"beta": beta, "judged_loss_by_beta": losses})


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Torch-Pruning with one of its importances."""

    importance: Callable[[], Any]

    def __call__(self, given: Given) -> Cut:
        """Return the network cut to the most that is within the budget."""
        import torch_pruning

        network, samples, size = given.network, given.samples, given.size
        device = next(network.parameters()).device
        example = torch.zeros(1, 3, *size, device=device)
        network = network.eval().requires_grad_(True)
        # What GroupTaylor reads: the mean loss's gradients.
        gradients = [torch.zeros_like(p) for p in network.parameters()]
        for inputs, targets in samples:
            loss = TASK.loss(network(inputs.to(device)), targets.to(device)).mean() / len(samples)
            for total, part in zip(gradients, torch.autograd.grad(loss, list(network.parameters())), strict=True):
                total += part
        low, high, found = 0.0, 1.0, None
        for _ in range(8):
            middle = (low + high) / 2
            small = copy.deepcopy(network)
            pruner = torch_pruning.pruner.BasePruner(
                small, example, importance=self.importance(), global_pruning=True, pruning_ratio=middle,
                max_pruning_ratio=1.0, ignored_layers=[small.readout[-1]],
            )  # fmt: skip
            for parameter, gradient in zip(small.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            pruner.step()
            small.zero_grad()
            if multiply_adds(small, size) > given.budget:
                low = middle
            else:
                high, found = middle, small
        if found is None:
            raise ValueError(f"no share of Torch-Pruning's has at most {given.budget:,} multiply-adds")
        return Cut(network=better_statistics(found.eval(), samples, TASK.loss))


def loss_on(network: nn.Module, samples: list[Batch]) -> float:
    """Return a network's mean loss on samples, nats a fixation."""
    return mean_loss(network, TASK.loss, samples)
