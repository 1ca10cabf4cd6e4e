"""The samples of a batch are found wherever a layer's input has them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.artifacts import Group, Reader
from secateur.calibration.gram import collect_gate_gram
from secateur.calibration.layout import Layout, find_layouts
from secateur.errors import TraceError


class Attention(nn.Module):
    """Attention whose tokens come before the batch inside, and are folded token-major for the output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x).mean(1)


class Frames(nn.Module):
    """Video frames folded into the batch, then as tokens."""

    def __init__(self, major: bool) -> None:
        super().__init__()
        self.major = major
        self.embed, self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

    def forward(self, video: Tensor) -> Tensor:
        batch = len(video)
        frames = video.flatten(0, 1) if self.major else video.transpose(0, 1).flatten(0, 1)
        x = self.conv(self.embed(frames)).mean((2, 3))
        x = x.unflatten(0, (batch, -1) if self.major else (-1, batch))
        return self.head(x).mean(1 if self.major else 0)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Layout]]] = {
    "attention": (
        Attention,
        (3, 4),
        {
            "attention.in_proj_weight": Layout(axis=1),
            "attention.out_proj.weight": Layout(axis=0, major=False),
            "head.weight": Layout(),
        },
    ),
    "frames folded after the batch": (
        lambda: Frames(True),
        (3, 3, 5, 5),
        {"conv.weight": Layout(), "head.weight": Layout()},
    ),
    "frames folded before the batch": (
        lambda: Frames(False),
        (3, 3, 5, 5),
        {"conv.weight": Layout(major=False), "head.weight": Layout(axis=1)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_layouts_are_found_and_give_every_sample_its_own_gates(name: str) -> None:
    make, shape, expected = CASES[name]
    torch.manual_seed(0)
    module = make().double().eval()
    inputs = torch.randn(3, *shape, dtype=torch.float64)  # as many samples as tokens: shapes cannot tell them apart
    with torch.no_grad():
        assert find_layouts(module, list(expected), inputs, 3) == expected
    groups = [
        Group(
            name=weight,
            num_channels=dict(module.named_parameters())[weight].shape[1],
            block="",
            slices=(),
            readers=(
                Reader(weight=weight, positions=np.arange(dict(module.named_parameters())[weight].shape[1])[:, None]),
            ),
        )
        for weight in expected
    ]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum(1)

    batch = (inputs, torch.randn(3, 2 if "frames" in name else 3, dtype=torch.float64))
    together = collect_gate_gram(module, groups, [batch], loss)
    alone = collect_gate_gram(module, groups, [(batch[0][i : i + 1], batch[1][i : i + 1]) for i in range(3)], loss)
    for weight in expected:
        assert together.gram[weight].diagonal().max() > 0
        torch.testing.assert_close(together.gram[weight], alone.gram[weight], rtol=1e-9, atol=1e-12)


class Mixing(nn.Module):
    """Batch statistics in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x - x.mean(0))


def test_a_network_that_mixes_samples_is_refused() -> None:
    with pytest.raises(
        TraceError, match=r"head\.weight: found an input in which a change of one sample .* reaches the others"
    ):
        find_layouts(Mixing(), ["head.weight"], torch.randn(4, 4), 4)


def test_equal_samples_and_dropout_that_is_always_on_do_not_mislead() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(12, 4))
    assert find_layouts(module, ["2.weight"], torch.ones(4, 2, 2, 2), 4) == {"2.weight": Layout()}

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(nn.functional.dropout(x, 0.5, training=True))

    assert find_layouts(Noisy(), ["head.weight"], torch.randn(4, 4), 4) == {"head.weight": Layout()}
