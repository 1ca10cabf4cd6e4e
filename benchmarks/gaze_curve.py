"""Ways of cutting a trained gaze network to falling budgets, ours and others', for the benchmark of gaze prediction.

Each way starts at the same trained network and goes from budget to budget. After every cut all networks take the same
number of steps of the same distillation. Torch-Pruning gets the largest global share that meets a budget, by bisection,
and the mean loss's gradients, which its GroupTaylor reads; all ways have their batch statistics measured again where
that lowers the loss.
"""

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from networks import macs
from pruning_ways import settled as better_statistics
from torch import Tensor, nn

from secateur.artifacts import Batch
from secateur.calibration.batches import mean_loss
from secateur.calibration.labels import label_loss
from secateur.pipeline.allocation import ALLOCATORS, Allocator
from secateur.pipeline.allocation.theis import Theis
from secateur.pipeline.compensation import Removal
from secateur.pipeline.settling import Settle
from secateur.pipeline.signals import collect_evidence, saliency, signal_of
from secateur.pipeline.structure import trace
from secateur.pipeline.structure.copying import tensors
from secateur.pipeline.structure.resize import resized
from secateur.workloads.gaze.backbones import BACKBONES
from secateur.workloads.gaze.network import GazeNetwork
from secateur.workloads.gaze.task import task

TASK = task()
MOBILE = "mobilenetv2"
FAMILY: dict[str, Callable[..., nn.Module]] = {**BACKBONES, MOBILE: GazeNetwork}
"""All networks by name; MobileNetV2's sees pictures at half the height and width."""
BETAS = (6e-5, 6e-4, 6e-3, 6e-2)
"""Prices in nats a giga-multiply-add that Fisher pruning with FLOPs chooses from, by the loss after the cut."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of ours: which channels, how many of them where, and what makes up for them."""

    signal: str = "fisher"
    labels: str = "true"
    allocators: Sequence[Allocator]
    compensation: str = "none"
    multiple: int = 1

    def __call__(self, network: nn.Module, budget: int, samples: list[Batch], size: tuple[int, int]) -> nn.Module:
        """Return the network cut to a budget in multiply-adds; of several allocators the one with the least loss."""
        example = torch.zeros(2, 3, *size)
        structure = trace(copy.deepcopy(network).cpu(), (example,), multiple=self.multiple)
        signal = signal_of(self.signal)
        loss = label_loss(TASK, self.labels, temperature=4.0)  # type: ignore[arg-type]
        evidence = collect_evidence(signal.needs, network, structure, samples, loss, labels=self.labels)
        scores, cost = saliency(signal, evidence, structure.groups), structure.cost_terms("macs")
        found = []
        for allocator in self.allocators:
            keep = allocator(scores, cost, budget, structure.groups, {})
            removal = Removal(
                module=network, structure=structure, keep=keep, samples=samples, gate_gram=evidence.gate_gram
            )
            found.append(Settle(compensation=self.compensation)(removal, TASK.loss))
        return min(found, key=lambda settled: settled.loss).module


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Torch-Pruning with one of its importances."""

    importance: Callable[[], Any]

    def __call__(self, network: nn.Module, budget: int, samples: list[Batch], size: tuple[int, int]) -> nn.Module:
        """Return the network cut to the most that is within a budget in multiply-adds."""
        import torch_pruning

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
            if multiply_adds(small, size) > budget:
                low = middle
            else:
                high, found = middle, small
        if found is None:
            raise ValueError(f"no share of Torch-Pruning's has at most {budget:,} multiply-adds")
        return better_statistics(found.eval(), samples, TASK.loss)


def ways() -> dict[str, Callable[..., nn.Module]]:
    """Return every way by its name, Torch-Pruning's where it is installed."""
    own: dict[str, Callable[..., nn.Module]] = {
        "ours": Way(
            labels="sampled", allocators=[ALLOCATORS["hierarchical"]], compensation="least-squares", multiple=8
        ),
        "Fisher, automatic beta": Way(allocators=[ALLOCATORS["automatic"]]),
        "Fisher with FLOPs": Way(allocators=[Theis(beta=beta) for beta in BETAS]),
        "Fisher, beta = 0": Way(allocators=[ALLOCATORS["ranked"]]),
        "uniform width": Way(signal="l2", allocators=[ALLOCATORS["uniform"]]),
    }  # fmt: skip
    try:
        import torch_pruning
    except ImportError:
        return own
    return own | {
        "Torch-Pruning, GroupTaylor": Peer(importance=torch_pruning.importance.GroupTaylorImportance),
        "Torch-Pruning, GroupMagnitude": Peer(
            importance=lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2)
        ),
    }


def multiply_adds(network: nn.Module, size: tuple[int, int]) -> int:
    """Count a network's multiply-adds on one picture, without running it."""
    return macs(copy.deepcopy(network).to("meta").eval(), (torch.zeros(1, 3, *size, device="meta"),))


def family_of(row: str) -> str:
    """Return which network of `FAMILY` a row is about; those of the ensemble are numbered."""
    return re.sub(r" \d+$", "", row.partition(",")[0])


def budgets_of(network: nn.Module, size: tuple[int, int], ratios: Sequence[float]) -> list[int]:
    """Return the multiply-adds that each ratio leaves of a network's."""
    whole = multiply_adds(network, size)
    return [math.floor(whole / ratio) for ratio in ratios]


def shapes_of(network: nn.Module) -> dict[str, list[int]]:
    """Return the shapes of a network's tensors by name, from which one of equal latency can be built again."""
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items() if tensor.ndim}


def rebuilt(name: str, shapes: Mapping[str, Sequence[int]], state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return a cut network of `FAMILY` in evaluation mode: its shapes, and its weights where they were kept.

    Without them it has those of a fresh network, which takes as long.
    """
    whole = FAMILY[name](log_prior=torch.zeros(*shapes["log_prior"]))
    own = tensors(whole)
    network = resized(whole, {key: own[key].detach()[tuple(slice(n) for n in shapes[key])].clone() for key in shapes})
    if state is not None:
        network.load_state_dict(single_precision(state))
    return network.eval()


def single_precision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in single precision where they are not whole numbers."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def half_precision(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's tensors on the processor, in half precision where they are not whole numbers."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def loss_on(network: nn.Module, samples: list[Batch]) -> float:
    """Return a network's mean loss on samples, nats a fixation."""
    return mean_loss(network, TASK.loss, samples)
