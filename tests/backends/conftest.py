"""A clock that only engines move, engines that take a set time, and real ONNX files."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from secateur.artifacts import Exported, Model, OpenSize
from secateur.backends.protocol import Engine
from secateur.pipeline.export import export


@dataclass
class SyntheticClock:
    """Time that passes only when it is told to."""

    tick_s: float = 1e-9
    time_s: float = 0.0

    def now(self) -> float:
        return self.time_s


@dataclass
class SyntheticEngine(Engine):
    """An engine whose calls take drawn times."""

    clock: SyntheticClock
    duration_s: Callable[[], float]
    num_calls: int = 0
    is_open: bool = True

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        self.num_calls += 1
        self.clock.time_s += self.duration_s()
        return inputs

    def close(self) -> None:
        self.is_open = False


@dataclass
class SyntheticSide:
    """One side of a comparison: every loaded engine has an offset of its own and log-normal noise on every call."""

    clock: SyntheticClock
    generator: np.random.Generator
    call_s: float = 0.025
    between: float = 0.0
    within: float = 0.0
    engines: list[SyntheticEngine] = field(default_factory=list)

    def load(self) -> SyntheticEngine:
        instance_s = self.call_s * np.exp(self.between * self.generator.standard_normal())
        engine = SyntheticEngine(
            self.clock, lambda: float(instance_s * np.exp(self.within * self.generator.standard_normal()))
        )
        self.engines.append(engine)
        return engine


@pytest.fixture
def clock() -> SyntheticClock:
    return SyntheticClock()


@pytest.fixture
def side(clock: SyntheticClock) -> Callable[..., SyntheticSide]:
    def make(seed: int = 0, **settings: float) -> SyntheticSide:
        return SyntheticSide(clock, np.random.default_rng(seed), **settings)

    return make


def convnet(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5),
    )  # fmt: skip


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A network of 32 channels, its batch size open."""
    model = Model(module=convnet(32), example_inputs=(torch.randn(2, 3, 24, 24),))
    return export(
        model, tmp_path_factory.mktemp("wide"), name="wide", input_names=["image"], output_names=["scores"],
        program=True,
    )  # fmt: skip


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The same network as pruning leaves it: 13 channels."""
    model = Model(module=convnet(13), example_inputs=(torch.randn(2, 3, 24, 24),))
    return export(
        model, tmp_path_factory.mktemp("narrow"), name="narrow", input_names=["image"], output_names=["scores"],
        program=True,
    )  # fmt: skip


class Segmenter(nn.Module):
    """Halves its input and comes back to the full size beside it: both sides have to be even."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.out = nn.Conv2d(9, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        coarse = nn.functional.interpolate(torch.relu(self.down(image)), scale_factor=2.0)
        return self.out(torch.cat([image, coarse], 1))


@pytest.fixture(scope="session")
def sized(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A network that takes pictures of any even height and width from 16 to 64."""
    torch.manual_seed(0)
    model = Model(module=Segmenter(), example_inputs=(torch.rand(2, 3, 32, 32),))
    sizes = {name: OpenSize(axis=axis, least=16, most=64, multiple=2) for axis, name in ((2, "height"), (3, "width"))}
    return export(model, tmp_path_factory.mktemp("sized"), name="sized", open_sizes=sizes, program=True)


@pytest.fixture(scope="session")
def not_onnx(tmp_path_factory: pytest.TempPathFactory, wide: Exported) -> dict[str, Path]:
    """Files that are no ONNX files: absent, empty, text, and a truncated one."""
    folder = tmp_path_factory.mktemp("not-onnx")
    contents = {"empty": b"", "text": b"hello, this is no network\n", "truncated": wide.path.read_bytes()[:1000]}
    for name, content in contents.items():
        (folder / f"{name}.onnx").write_bytes(content)
    return {name: folder / f"{name}.onnx" for name in ("absent", *contents)}
