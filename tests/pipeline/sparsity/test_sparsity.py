"""2:4 sparsity: exactly two of every four, through fine-tuning and into the exported file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from secateur.artifacts import Data, Model
from secateur.errors import LoadError
from secateur.pipeline.export import export
from secateur.pipeline.finetune import Finetune
from secateur.pipeline.sparsity import Discovery, Sparsify, sparse_layers, two_of_four
from secateur.workloads.classification import task

TASK = task(4)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.body = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(torch.relu(self.deep(torch.relu(self.stem(x))))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (256,), generator=generator)
    patterns = torch.randn(4, 3, 6, 6, generator=generator)
    images = patterns[labels] + 0.5 * torch.randn(256, 3, 6, 6, generator=generator)
    return Data(train=TensorDataset(images[:192], labels[:192]), test=TensorDataset(images[192:], labels[192:]))


@pytest.fixture(scope="module")
def model(data: Data) -> Model:
    torch.manual_seed(0)
    module = Small()
    images, labels = data.train.tensors
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        TASK.loss(module(images), labels).mean().backward()
        optimizer.step()
    return Model(module=module.eval(), example_inputs=(images[:2],))


def loss(model: Model, data: Data) -> float:
    images, labels = data.test.tensors
    with torch.no_grad():
        return float(TASK.loss(model.module(images), labels).mean())


def fours(weight: Tensor) -> Tensor:
    return weight.movedim(1, -1).unflatten(-1, (-1, 4))


@given(
    st.integers(1, 5), st.integers(1, 4), st.sampled_from([(), (3,), (2, 3)]), st.sampled_from([1, 2, 1000]),
    st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_two_of_every_four_stay_and_none_is_worth_less(
    outputs: int, quarters: int, kernel: tuple[int, ...], kinds: int, seed: int
) -> None:
    # With few kinds many scores are equal.
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, kinds, (outputs, 4 * quarters, *kernel), generator=generator).float()
    mask = two_of_four(scores)
    assert mask.shape == scores.shape
    assert bool((fours(mask).sum(-1) == 2).all())
    kept = fours(scores).masked_fill(~fours(mask), torch.inf).amin(-1)
    gone = fours(scores).masked_fill(fours(mask), -torch.inf).amax(-1)
    assert bool((kept >= gone).all())


def test_layers_that_cannot_be_sparse_are_told(model: Model, data: Data) -> None:
    found, dense = sparse_layers(model.module)
    assert list(found) == ["body.weight", "head.weight"]
    assert dense == {"stem.weight": "3 inputs, no multiple of 4", "deep.weight": "a convolution in 8 groups"}
    assert sparse_layers(model.module, ["head"])[1]["head.weight"] == "kept"
    with pytest.raises(LoadError, match=r"\['nothing'\]"):
        sparse_layers(model.module, ["nothing"])
    with pytest.raises(LoadError, match="no layer that can be sparse"):
        Sparsify(keep=("head", "body"))(model, TASK, data)


@pytest.mark.parametrize("method", ["magnitude", "discovery"])
def test_the_pattern_lasts_through_fine_tuning_and_export(
    method: str, model: Model, data: Data, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    sparse, masks = Sparsify(method=method, discovery=Discovery(num_steps=60))(model, TASK, data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())
    finetune = Finetune(num_steps=20, batch_size=32, learning_rate=1e-2, validation_share=0.0)
    healed, _ = finetune(sparse, model, TASK, data, masks=masks)
    for name, mask in masks.items():
        weight = healed.module.get_parameter(name)
        assert bool((weight[~mask] == 0).all())
        assert not torch.equal(weight, sparse.module.get_parameter(name))
        assert bool(((fours(weight) != 0).sum(-1) <= 2).all())
        assert float((weight != 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert loss(healed, data) < loss(sparse, data)
    file = export(healed, tmp_path, name="sparse")
    weights = [numpy_helper.to_array(t) for t in onnx.load(file.path).graph.initializer if len(t.dims) > 1]
    halves = [w for w in weights if abs(float(np.mean(w == 0)) - 0.5) < 0.02]
    assert len(halves) == 2


def test_discovery_finds_more_than_magnitude(model: Model, data: Data) -> None:
    """Before any fine-tuning: indicators have seen the loss, magnitudes have not."""
    found = {
        method: loss(Sparsify(method=method, discovery=Discovery(num_steps=120))(model, TASK, data)[0], data)
        for method in ("magnitude", "discovery")
    }
    assert found["discovery"] < found["magnitude"]
