"""Small and published networks for quantisation, and ways to run their files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torchvision
from torch import Tensor, nn

from secateur.artifacts import Exported
from secateur.pipeline.structure import Plan, cut, trace
from secateur.workloads.classification import resnet20


class Residual(nn.Module):
    """Two convolutions, a shortcut around the second, pooling and a linear layer; channel 0 is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 5)
        with torch.no_grad():
            self.first.weight[0] = 0
            self.first.bias[0] = -1

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.first(image))
        x = torch.relu(x + self.second(x))
        return self.last(x.mean((2, 3)))


def pruned_resnet20() -> nn.Module:
    """Return ResNet-20 with half of every group's channels cut."""
    module = resnet20().eval()
    structure = trace(module, (torch.randn(2, 3, 32, 32),))
    return cut(module, structure, Plan.random(structure, keep=0.5))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


def vit() -> nn.Module:
    module = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10
    )
    nn.init.normal_(module.heads[0].weight, std=0.2)
    return module


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, (3, 8, 8)),
    "mlp": (mlp, (3, 4, 4)),
    "resnet20": (resnet20, (3, 32, 32)),
    "pruned resnet20": (pruned_resnet20, (3, 32, 32)),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (3, 32, 32)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.35), (3, 32, 32)),
    "vit": (vit, (3, 32, 32)),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, its file, and batches that resemble what its batch norms have seen."""

    module: nn.Module
    exported: Exported
    batches: list[Tensor]


def session(path: Path, optimised_to: Path | None = None) -> Any:
    """Open a file in ONNX Runtime: as it is written, or optimised, the optimised graph written too."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if optimised_to is None:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    else:
        options.optimized_model_filepath = str(optimised_to)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def outputs(path: Path, batch: Tensor, optimised_to: Path | None = None) -> np.ndarray:
    """Run a file on one batch."""
    opened = session(path, optimised_to)
    return opened.run(None, {opened.get_inputs()[0].name: batch.numpy()})[0]


def operators(path: Path) -> list[str]:
    """List the operators of a file."""
    return [node.op_type for node in onnx.load(path).graph.node]
