"""Moments of activations and Grams of filters' gradients are those of all samples at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from secateur.artifacts import Group, Reader, Slice
from secateur.calibration.activation_gram import collect_activation_gram
from secateur.calibration.activations import collect_activations
from secateur.calibration.readers import channel_axis, tap_readers
from secateur.calibration.weight_gradients import collect_weight_gradient_gram
from secateur.errors import DataError, TraceError, TrainingError

torch.set_num_threads(1)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def plain(num_channels: int) -> np.ndarray:
    return np.arange(num_channels)[:, None]


def rows_of(example: Any, reader: Reader) -> Tensor:
    """What a layer reads of all samples at once, [rows, num_channels, entries]."""
    found = []
    weight = example.module.get_parameter(reader.weight)

    def keep(x: Tensor) -> Tensor:
        found.append(x.detach().movedim(channel_axis(weight), -1).flatten(0, -2))
        return x

    with torch.no_grad(), tap_readers(example.module, {reader.weight: keep}):
        example.module(example.inputs)
    return torch.cat(found)[:, torch.from_numpy(reader.positions)]


def batches_of(example: Any, size: int) -> Any:
    return list(zip(example.inputs.split(size), example.targets.split(size), strict=True))


@settings(max_examples=6, deadline=None)
@given(size=st.integers(1, 12))
def test_moments_are_those_of_all_samples_however_they_are_batched(residual: Callable[[int], Any], size: int) -> None:
    example = residual(1)
    example.module.eval()
    moments = collect_activations(example.module, example.groups, batches_of(example, size))
    gram = collect_activation_gram(example.module, example.groups, batches_of(example, size))
    assert moments.num_samples == gram.num_samples == 12
    for group in example.groups:
        total = 0
        for reader in group.readers:
            rows = rows_of(example, reader)
            own = moments.moments[group.name][reader.weight]
            torch.testing.assert_close(own.mean, rows.mean(0))
            torch.testing.assert_close(own.variance, rows.var(0, correction=0))
            found = gram.readers[group.name][reader.weight]
            entries = rows.shape[2]
            torch.testing.assert_close(found.mean, rows.mean(0))
            torch.testing.assert_close(found.second, torch.einsum("nce,nde->cd", rows, rows) / (len(rows) * entries))
            apart = rows - rows.mean(0)
            total = total + torch.einsum("nce,nde->cd", apart, apart) / (len(rows) * entries)
            assert found.num_rows == len(rows)
        torch.testing.assert_close(gram.centred(group.name), total)
        assert (torch.linalg.eigvalsh(gram.uncentred(group.name) - gram.centred(group.name)) > -1e-9).all()


def test_copies_with_outgoing_weights_of_their_own_are_null_directions_of_activations_alone() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 6, 3), nn.Flatten(), nn.Linear(96, 4)).double()
    with torch.no_grad():
        module[0].weight[:4], module[0].bias[:4] = 2 * module[0].weight[4:8], 2 * module[0].bias[4:8]
        module[0].weight[8], module[0].bias[8] = 0, 0.7
    group = Group(
        name="0", num_channels=12, block="", slices=(Slice(tensor="0.weight", axis=0, indices=plain(12)),),
        readers=(Reader(weight="2.weight", positions=plain(12)),),
    )  # fmt: skip
    batch = [(torch.randn(60, 3, 8, 8, dtype=torch.float64), torch.randint(0, 4, (60,)))]
    found = collect_activation_gram(module, [group], batch)

    def num_null(matrix: Tensor) -> int:
        values = torch.linalg.eigvalsh(matrix)
        return int((values < 1e-12 * values[-1]).sum())

    assert num_null(found.centred("0")) == 5  # four copies and the constant
    assert num_null(found.uncentred("0")) == 4
    gradients = collect_weight_gradient_gram(module, {"0": group.slices}, batch, cross_entropy)
    assert num_null(gradients.gram["0"]) == 0


def test_the_gram_of_filters_gradients_is_that_of_batches_and_of_samples_in_batches_of_one(
    residual: Callable[[int], Any],
) -> None:
    example = residual(2)
    example.module.eval()
    written = {
        group.name: [part for part in group.slices if part.axis == 0 and part.tensor.endswith("weight")
                     and example.module.get_parameter(part.tensor).ndim > 1]
        for group in example.groups
    }  # fmt: skip
    for size in (1, 5, 12):
        found = collect_weight_gradient_gram(example.module, written, batches_of(example, size), cross_entropy)
        assert (found.num_samples, found.labels) == (12, "true")
        for name, parts in written.items():
            columns = []
            for inputs, targets in batches_of(example, size):
                loss = cross_entropy(example.module(inputs), targets).sum()
                weights = [example.module.get_parameter(part.tensor) for part in parts]
                columns += [g.flatten(1) for g in torch.autograd.grad(loss, weights)]
            G = torch.cat(columns, 1)
            torch.testing.assert_close(found.gram[name], G @ G.mT / 12)
            assert found.num_columns[name] == G.shape[1]


def test_filters_of_which_nothing_is_read_have_no_gradient() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).double()
    with torch.no_grad():
        module[1].weight[:, 2:4] = 0
    written = {"0": [Slice(tensor="0.weight", axis=0, indices=plain(6))]}
    batch = [(torch.randn(30, 4, dtype=torch.float64), torch.randint(0, 3, (30,)))]
    gram = collect_weight_gradient_gram(module, written, batch, cross_entropy).gram["0"]
    assert torch.equal(gram.diagonal() == 0, torch.tensor([False, False, True, True, False, False]))


@pytest.mark.parametrize("collect", [
    lambda e, batches: collect_activations(e.module, e.groups, batches),
    lambda e, batches: collect_activation_gram(e.module, e.groups, batches),
    lambda e, batches: collect_weight_gradient_gram(
        e.module, {"first": [Slice(tensor="first.weight", axis=0, indices=plain(6))]}, batches, cross_entropy
    ),
])  # fmt: skip
def test_the_network_is_left_as_it_was_and_no_batches_are_an_error(
    residual: Callable[[int], Any], collect: Callable[[Any, Any], Any]
) -> None:
    example = residual(8)
    module = example.module.train()
    module.second.weight.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    required = {name: p.requires_grad for name, p in module.named_parameters()}
    collect(example, batches_of(example, 6))
    assert all(m.training for m in module.modules())
    assert {name: p.requires_grad for name, p in module.named_parameters()} == required
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    with pytest.raises(DataError, match="found no batches"):
        collect(example, [])


def test_layers_that_are_never_met_and_losses_that_are_not_finite_are_named() -> None:
    module = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    module.forward = module["used"].forward
    group = Group(
        name="x", num_channels=3, block="", slices=(), readers=(Reader(weight="unused.weight", positions=plain(3)),)
    )
    with pytest.raises(TraceError, match=r"unused\.weight: found a weight that no convolution or linear layer"):
        collect_activations(module, [group], [(torch.ones(2, 3), None)])
    written = {"x": [Slice(tensor="used.weight", axis=0, indices=plain(2))]}
    with pytest.raises(TrainingError, match="weight gradients, batch 0: found a loss that is not finite"):
        collect_weight_gradient_gram(
            module, written, [(torch.full((2, 3), float("nan")), torch.zeros(2, dtype=torch.int64))], cross_entropy
        )
