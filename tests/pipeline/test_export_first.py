"""The first node of a file that computes something else than the network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from secateur.artifacts import Model
from secateur.errors import EqualityError
from secateur.pipeline.export import export
from secateur.pipeline.export_first import first_difference


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("changed", ["first", "second", "head"])
def test_the_node_of_a_changed_weight_is_named(changed: str) -> None:
    torch.manual_seed(0)
    inputs = (torch.rand(2, 3, 8, 8),)
    program = torch.onnx.export(Named().eval(), inputs, dynamo=True, verbose=False)
    proto = program.model_proto
    assert first_difference(program.exported_program, proto, inputs, 1e-4) is None
    for weight in proto.graph.initializer:
        if weight.name == f"{changed}.weight":
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.1), weight.name))
    found = first_difference(program.exported_program, proto, inputs, 1e-4)
    assert found is not None
    assert found.module == changed
    assert found.operator in ("Conv", "Gemm", "MatMul", "Add")
    assert 0.01 < found.relative < 0.5


def test_an_export_that_is_not_equal_says_where(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model(module=Named(), example_inputs=(torch.rand(2, 3, 8, 8),))
    with pytest.raises(EqualityError, match=r"relative difference .*; the first to differ is node .*Conv.* in first"):
        export(model, tmp_path, name="network", tolerance=-1.0)
    assert list(tmp_path.iterdir()) == []
