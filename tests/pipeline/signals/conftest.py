"""A network, samples for it, and what signals need to know of both."""

from collections.abc import Callable, Iterable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.artifacts import Batch
from secateur.pipeline.signals import Evidence, Needs, Signal, collect_evidence
from secateur.pipeline.structure import Structure, trace

torch.set_num_threads(1)


class Network(nn.Module):
    """A convolution with batch-norm whose channels a second one reads; that one's are read where they are pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.second, self.last, self.head = nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(x)))
        return self.head(functional.relu(self.last(self.second(x))).mean((2, 3)))


class Residual(nn.Module):
    """A stream that three layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.back = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 1)
        self.skip, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = functional.relu(x + self.back(functional.relu(self.inner(x))))
        return self.head(functional.relu(x + self.skip(x)).mean((2, 3)))


def _network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    module = Network().double().eval()
    for norm in (module.norm, module.last):
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.uniform_(-0.2, 0.5)
        norm.running_mean.uniform_(-0.3, 0.3)
    return module


@pytest.fixture(scope="session")
def network() -> Callable[..., Network]:
    """Makes a network in a random but sensible state."""
    return _network


@pytest.fixture(scope="session")
def residual() -> nn.Module:
    torch.manual_seed(1)
    return Residual().double().eval()


@pytest.fixture(scope="session")
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(24, 3, 8, 8, dtype=torch.float64, generator=generator)
    return images, torch.randint(0, 4, (24,), generator=generator)


Collect = Callable[..., Evidence]


@pytest.fixture(scope="session")
def collect(batch: Batch) -> Collect:
    """Collects what signals need of a network, from one batch unless others are given."""

    structures: dict[type, Structure] = {}

    def structure_of(module: nn.Module) -> Structure:
        if type(module) not in structures:
            structures[type(module)] = trace(module, (batch[0][:2],))
        return structures[type(module)]

    def collected(
        module: nn.Module, signals: Iterable[Signal], batches: Sequence[Batch] | None = None, seed: int = 0
    ) -> Evidence:
        needs = Needs()
        for signal in signals:
            needs |= signal.needs
        return collect_evidence(
            needs, module, structure_of(module), batches or [batch], functional.cross_entropy, seed=seed
        )

    return collected


def scores_of(evidence: Evidence, signal: Signal) -> dict[str, Tensor]:
    return {group.name: signal(evidence, group) for group in evidence.structure.groups}


@pytest.fixture(scope="session")
def scores() -> Callable[[Evidence, Signal], dict[str, Tensor]]:
    """Returns a signal's scores of every group."""
    return scores_of
