"""Small networks whose channel groups are written down by hand."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.artifacts import Group, Reader, Slice

torch.set_num_threads(1)  # the tests' tensors are too small to share among cores


def plain(num_channels: int) -> np.ndarray:
    return np.arange(num_channels)[:, None]


class Residual(nn.Module):
    """Stem, one residual block, a linear head on flattened 2x2 maps: the stream has three readers."""

    def __init__(self, stream: int = 8, inner: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stream, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(stream)
        self.first = nn.Conv2d(stream, inner, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(inner)
        self.second = nn.Conv2d(inner, stream, 1)
        self.skip = nn.Conv2d(stream, stream, 1)
        self.head = nn.Linear(stream * 4, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(images)), inplace=True)
        y = functional.relu(self.first_norm(self.first(x)), inplace=True)
        x = self.skip(x) + self.second(y)
        return self.head(functional.adaptive_avg_pool2d(functional.relu(x), 2).flatten(1))


def residual_groups(stream: int = 8, inner: int = 6) -> tuple[Group, ...]:
    wide, narrow, maps = plain(stream), plain(inner), np.arange(stream)[:, None] * 4 + np.arange(4)
    norm = ("weight", "bias", "running_mean", "running_var")

    def group(name: str, positions: np.ndarray, slices: list[tuple[str, int]], readers: tuple[str, ...]) -> Group:
        return Group(
            name=name,
            num_channels=len(positions),
            block=name,
            slices=(
                *(Slice(tensor=tensor, axis=axis, indices=plain(len(positions))) for tensor, axis in slices),
                *(Slice(tensor=reader, axis=1, indices=positions) for reader in readers),
            ),
            readers=tuple(Reader(weight=reader, positions=positions) for reader in readers),
        )

    return (
        group("stem", wide, [("stem.weight", 0), *((f"norm.{n}", 0) for n in norm)], ("first.weight", "skip.weight")),
        group(
            "skip",
            maps,
            [("skip.weight", 0), ("skip.bias", 0), ("second.weight", 0), ("second.bias", 0)],
            ("head.weight",),
        ),
        group("first", narrow, [("first.weight", 0), *((f"first_norm.{n}", 0) for n in norm)], ("second.weight",)),
    )


@dataclass(frozen=True, kw_only=True)
class Example:
    """A network in random but sensible state, its groups, and samples for it."""

    module: nn.Module
    groups: tuple[Group, ...]
    inputs: Tensor
    targets: Tensor


def settle(module: nn.Module, seed: int) -> None:
    """Give norms statistics and affine parameters that differ between channels."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low, high in (
                (norm.weight, 0.5, 1.5),
                (norm.bias, -0.3, 0.5),
                (norm.running_mean, -0.2, 0.2),
                (norm.running_var, 0.5, 1.5),
            ):
                tensor.data.uniform_(low, high, generator=generator)


@pytest.fixture(scope="session")
def residual() -> Callable[[int], Example]:
    def make(seed: int = 0) -> Example:
        torch.manual_seed(seed)
        module = Residual().double()
        settle(module, seed)
        return Example(
            module=module,
            groups=residual_groups(),
            inputs=torch.randn(12, 3, 6, 6, dtype=torch.float64),
            targets=torch.randint(0, 5, (12,)),
        )

    return make


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")
