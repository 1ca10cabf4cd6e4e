"""What stays in float32 between rounded tensors stays so in ONNX Runtime, which would round its weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rounding import outputs
from torch import nn

from secateur.artifacts import Model
from secateur.backends import BACKENDS
from secateur.backends.protocol import BuildOptions
from secateur.pipeline.export import export
from secateur.pipeline.quantize import Quantize
from secateur.pipeline.quantize.rewrite import WEIGHTED

LAYERS: dict[str, Callable[[], list[nn.Module]]] = {
    "Conv": lambda: [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1)],
    "ConvTranspose": lambda: [nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 2, stride=2), nn.Conv2d(8, 4, 1)],
}


def build(operator: str) -> nn.Module:
    """Two layers in eight bits around one whose channels differ a hundredfold, so that no one scale does for all."""
    torch.manual_seed(0)
    first, middle, last = LAYERS[operator]()
    with torch.no_grad():
        middle.weight.mul_(torch.logspace(-1, 1, 8).view(-1, *[1] * (middle.weight.ndim - 1)))
    return nn.Sequential(first, nn.ReLU(), middle, nn.ReLU(), last).eval()


@pytest.mark.parametrize("operator", LAYERS)
def test_a_layer_in_float32_keeps_its_weights(operator: str, tmp_path: Path) -> None:
    module, batch = build(operator), torch.randn(16, 3, 10, 10)
    exported = export(Model(module=module, example_inputs=(batch[:2],)), tmp_path, name="float")
    middle = [node.name for node in onnx.load(exported.path).graph.node if node.op_type in WEIGHTED][1]
    skip = [] if operator == "ConvTranspose" else [middle]  # which is never in eight bits
    found = Quantize(target="cpu", weight_bits=7, skip=skip)(exported, [batch], tmp_path, name="mixed")
    assert len(found.result.layers) == 2
    assert not any("another scale" in entry.reason for entry in found.result.unfused)
    wanted = outputs(found.exported.path, batch)
    optimised = outputs(found.exported.path, batch, tmp_path / "optimised.onnx")
    assert np.abs(optimised - wanted).max() <= 0.005 * np.abs(wanted).max()
    made = onnx.load(tmp_path / "optimised.onnx").graph
    assert [t.data_type for t in made.initializer if len(t.dims) > 1].count(onnx.TensorProto.FLOAT) == 1
    for backend in ("onnxruntime", "openvino"):
        result = BACKENDS[backend].build(found.exported.path, tmp_path / backend, BuildOptions(tolerance=0.02))
        assert result.status == "built"
