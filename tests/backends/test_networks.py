"""Engines of really pruned networks of several kinds agree with PyTorch's own eager answer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from networks import SelfAttention, randomise_norms, scaled
from torch import nn

from secateur.artifacts import Model
from secateur.backends import BACKENDS
from secateur.backends.protocol import BuildOptions
from secateur.pipeline.export import export
from secateur.pipeline.structure import Plan, cut, trace


class Residual(nn.Module):
    """A residual stream, a depthwise convolution and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU())
        self.inner = nn.Sequential(nn.Conv2d(16, 24, 1), nn.ReLU6(), nn.Conv2d(24, 24, 3, padding=1, groups=24))
        self.back, self.head = nn.Conv2d(24, 16, 1), nn.ConvTranspose2d(40, 4, 2, stride=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        inner = self.inner(x)
        return self.head(torch.cat([x + self.back(inner), inner], 1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, (2, 3, 12, 12)),
    "attention": (lambda: nn.Sequential(SelfAttention(scaled), nn.LayerNorm(12), nn.Linear(12, 5)), (2, 6, 12)),
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=7), (2, 3, 48, 48)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_engines_agree_with_eager(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    network, inputs = randomise_norms(build()), (torch.randn(shape),)
    structure = trace(network, inputs)
    small = cut(network, structure, Plan.random(structure, 0.6, seed=0))
    exported = export(Model(module=small, example_inputs=inputs), tmp_path, name=name, program=True)
    image = torch.randn(3, *shape[1:])
    with torch.no_grad():
        wanted = small(image)
    tried = 0
    for runtime in ("torch", "onnxruntime", "openvino"):
        backend = BACKENDS[runtime]
        if backend.unable_to_run() is None:
            result = backend.build(exported.path, tmp_path / runtime, BuildOptions())
            with backend.load(result, tmp_path / runtime) as engine:
                (found,) = engine.run((image.numpy(),))
            torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)
            tried += 1
    assert tried
