"""Ways of cutting LeNet-5: ours, and Fisher pruning at once or, as it was published, one map at a time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from fisher_prices import prices
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from secateur.artifacts import Data, Model
from secateur.calibration.labels import LabelKind, label_loss
from secateur.pipeline.allocation import ALLOCATORS, Allocator
from secateur.pipeline.compensation import Removal
from secateur.pipeline.prune import Prune
from secateur.pipeline.settling import Settle
from secateur.pipeline.signals import Evidence, collect_evidence, saliency, signal_of
from secateur.pipeline.structure import Structure, trace
from secateur.workloads.classification import task

TASK = task(10)
EXAMPLE = torch.zeros(2, 1, 28, 28)
Samples = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Way:
    """How channels are chosen, and what makes up for them.

    Without an allocator it is Fisher pruning with FLOPs, whose price is chosen beforehand. With ``is_gradual`` one
    channel goes at a time, and training goes on in between.
    """

    labels: LabelKind = "true"
    allocator: Allocator | None = None
    compensation: str = "none"
    is_gradual: bool = False


WAYS = {
    "ours": Way(labels="sampled", allocator=ALLOCATORS["hierarchical"], compensation="least-squares"),
    "Fisher, automatic beta": Way(allocator=ALLOCATORS["automatic"]),
    "Fisher with FLOPs": Way(),
    "Fisher, beta = 0": Way(allocator=ALLOCATORS["ranked"]),
    "Fisher, automatic beta, one at a time": Way(allocator=ALLOCATORS["automatic"], is_gradual=True),
    "Fisher with FLOPs, one at a time": Way(is_gradual=True),
    "Fisher, beta = 0, one at a time": Way(allocator=ALLOCATORS["ranked"], is_gradual=True),
}


def cut(network: nn.Module, way: Way, allocator: Allocator, share: float, samples: Samples) -> nn.Module:
    """Return the network cut at once so that at most ``share`` of its operations are left."""
    structure, evidence = _looked_at(network, way.labels, samples)
    scores, cost = saliency(signal_of("fisher"), evidence, structure.groups), structure.cost_terms("macs")
    keep = allocator(scores, cost, math.floor(share * structure.macs()), structure.groups, {})
    removal = Removal(module=network, structure=structure, keep=keep, samples=samples, gate_gram=evidence.gate_gram)
    return Settle(compensation=way.compensation)(removal, TASK.loss).module


def cut_gradually(
    network: nn.Module, allocator: Allocator, share: float, samples: Samples, train: Callable[[nn.Module, float], None]
) -> nn.Module:  # fmt: skip
    """Return the network cut by one channel after the other; ``train`` is told what share of its cost each left."""
    pictures, labels = (torch.cat(each) for each in zip(*samples, strict=True))
    dataset, before = TensorDataset(pictures, labels), trace(network, (EXAMPLE,)).macs()

    def recover(model: Model) -> Model:
        nonlocal before
        now = trace(model.module, (EXAMPLE,)).macs()
        train(model.module, now / before)
        before = now
        return model

    prune = Prune(
        keep=share, schedule="one-at-a-time", allocator=allocator, labels="true", samples=len(pictures), batch_size=64,
        compensation="none", batch_norm=False,
    )  # fmt: skip
    model = Model(module=network, example_inputs=(EXAMPLE,))
    return prune(model, TASK, Data(train=dataset, test=dataset), recover=recover)[0].module


def betas(network: nn.Module, share: float, samples: Samples) -> list[float]:
    """Return the prices that a cut of a network to a share of its cost may ask for."""
    structure, evidence = _looked_at(network, "true", samples)
    scores, cost = saliency(signal_of("fisher"), evidence, structure.groups), structure.cost_terms("macs")
    return prices(scores, cost, math.floor(share * structure.macs()), structure.groups)


def _looked_at(network: nn.Module, labels: LabelKind, samples: Samples) -> tuple[Structure, Evidence]:
    structure = trace(network, (EXAMPLE,))
    loss = label_loss(TASK, labels, temperature=4.0)
    return structure, collect_evidence(signal_of("fisher").needs, network, structure, samples, loss, labels=labels)
