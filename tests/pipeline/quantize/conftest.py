"""Files of networks, with batch norms that have seen data, and what quantisation makes of them, each made once."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rounding import NETWORKS, Case
from torch import nn

from secateur.artifacts import Model
from secateur.pipeline.export import export
from secateur.pipeline.quantize import Quantize, Quantized


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    made: dict[str, Case] = {}

    def make(name: str) -> Case:
        if name not in made:
            torch.manual_seed(0)
            build, shape = NETWORKS[name]
            module = build().train()
            with torch.no_grad():
                for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
                    norm.bias.normal_(0, 0.3)
                for _ in range(10):
                    module(torch.randn(16, *shape))
            module.eval()
            model = Model(module=module, example_inputs=(torch.randn(2, *shape),))
            exported = export(model, tmp_path_factory.mktemp("float"), name="float", tolerance=1e-3)
            made[name] = Case(module=module, exported=exported, batches=[torch.randn(8, *shape) for _ in range(3)])
        return made[name]

    return make


@pytest.fixture(scope="session")
def quantized(case: Callable[[str], Case], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Quantized]:
    made: dict[str, Quantized] = {}

    def make(name: str, **settings: Any) -> Quantized:
        # Seven bits, which no processor's sums of products overflow.
        settings = {"target": "tensorrt", "weight_bits": 7, **settings}
        key = f"{name} {sorted(settings.items())}"
        if key not in made:
            found = case(name)
            made[key] = Quantize(**settings)(
                found.exported, found.batches, tmp_path_factory.mktemp("int8"), name="quantized"
            )
        return made[key]

    return make
