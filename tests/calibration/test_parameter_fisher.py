"""The Fisher information of parameters is the mean square of single samples' gradients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from secateur.calibration import parameter_fisher
from secateur.calibration.parameter_fisher import ParameterFisher, collect_parameter_fisher, load_parameter_fisher
from secateur.errors import DataError, StorageError, TrainingError


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def one_by_one(module: nn.Module, inputs: Tensor, targets: Tensor, loss: Any = cross_entropy) -> dict[str, Tensor]:
    """Differentiate every sample's loss by itself."""
    module.eval()
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for image, target in zip(inputs, targets, strict=True):
        value = loss(module(image[None]), target[None]).sum()
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True, materialize_grads=True)
        for name, gradient in zip(parameters, found, strict=True):
            sums[name] += gradient.square()
    return {name: values / len(inputs) for name, values in sums.items()}


def assert_same(found: ParameterFisher, wanted: dict[str, Tensor]) -> None:
    assert found.fisher.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found.fisher[name].dtype == torch.float64
        torch.testing.assert_close(found.fisher[name], values.detach().double(), rtol=1e-9, atol=1e-15)


@settings(max_examples=6, deadline=None)
@given(batch_size=st.integers(1, 12), most=st.sampled_from([1, 3000, 2**26]))
def test_it_is_the_mean_square_of_single_gradients_however_samples_are_batched(
    residual: Callable[[int], Any], batch_size: int, most: int
) -> None:
    example = residual(3)
    example.module.second.bias.requires_grad_(False)
    batches = zip(example.inputs.split(batch_size), example.targets.split(batch_size), strict=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameter_fisher, "MOST_ENTRIES", most)
        result = collect_parameter_fisher(example.module, batches, cross_entropy, labels="true")
    assert (result.num_samples, result.labels) == (12, "true")
    assert "second.bias" not in result.fisher
    assert_same(result, one_by_one(example.module, example.inputs, example.targets))


class Deciding(nn.Module):
    """Looks at values, which vmap cannot follow, has a parameter that it never uses, and returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.idle = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": self.first(x) if float(x.sum()) > 0 else self.second(x), "count": torch.arange(len(x))}


def test_a_network_that_looks_at_values_is_differentiated_sample_by_sample() -> None:
    torch.manual_seed(0)
    net, inputs, targets = Deciding().double(), torch.randn(6, 4).double(), torch.arange(6) % 3

    def loss(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        return cross_entropy(outputs["scores"], labels)

    batches = [(inputs[i : i + 1], targets[i : i + 1]) for i in range(6)]
    assert_same(collect_parameter_fisher(net, batches, loss), one_by_one(net, inputs, targets, loss))


def test_for_a_linear_gaussian_model_it_is_the_hessian() -> None:
    """With loss (y - t)^2 / 2 and residuals of unit variance, E[g^2] = E[x^2], the curvature."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Linear(3, 1, bias=False).double()
    x = torch.randn(20000, 3, dtype=torch.float64, generator=generator)
    target = net(x).detach()[:, 0] + torch.randn(20000, dtype=torch.float64, generator=generator)
    found = collect_parameter_fisher(net, [(x, target)], lambda y, t: (y[:, 0] - t).square() / 2)
    torch.testing.assert_close(found.fisher["weight"][0], x.square().mean(0), rtol=0.1, atol=0)


def test_the_network_is_left_as_it_was(residual: Callable[[int], Any]) -> None:
    example = residual(8)
    module = example.module.train()
    module.first.eval()
    module.skip.weight.grad = torch.ones_like(module.skip.weight)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes, random = {name: m.training for name, m in module.named_modules()}, torch.get_rng_state()
    collect_parameter_fisher(module, [(example.inputs, example.targets)], cross_entropy)
    assert torch.equal(torch.get_rng_state(), random)
    assert {name: m.training for name, m in module.named_modules()} == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert all(p.requires_grad for p in module.parameters())
    assert torch.equal(module.skip.weight.grad, torch.ones_like(module.skip.weight))
    assert all(p.grad is None for name, p in module.named_parameters() if name != "skip.weight")


def test_a_loss_that_is_not_finite_names_its_batch(residual: Callable[[int], Any]) -> None:
    example = residual(9)
    batches = [(example.inputs[:2], torch.tensor([0, 1])), (example.inputs[2:4], torch.tensor([2, 3]))]
    with pytest.raises(TrainingError, match=r"parameter Fisher, batch 1: found a loss of inf; wanted a finite loss"):
        collect_parameter_fisher(example.module, batches, lambda o, t: cross_entropy(o, t) / (t != 3))
    with pytest.raises(DataError, match="parameter Fisher: found no batches"):
        collect_parameter_fisher(example.module, [], cross_entropy)


def test_a_file_keeps_everything_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    kept = ParameterFisher(fisher={"a.weight": torch.rand(3, 2).double()}, num_samples=7, labels="sampled")
    path = tmp_path / "new" / "fisher.safetensors"
    kept.save(path)
    read = load_parameter_fisher(path)
    assert (read.num_samples, read.labels) == (7, "sampled")
    assert torch.equal(read.fisher["a.weight"], kept.fisher["a.weight"].float())
    assert [p.name for p in path.parent.iterdir()] == ["fisher.safetensors"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StorageError, match=r"fisher\.safetensors: found .*wanted a parameter Fisher file"):
        load_parameter_fisher(path)
