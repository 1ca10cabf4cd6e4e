"""One pass serves any statistics, and none disturbs another."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from secateur.calibration.gates import pass_gates
from secateur.calibration.gram import GramTally, collect_gate_gram
from secateur.calibration.means import read_means
from secateur.calibration.quantities import GATE_GRADIENT, PLACES, Quantity
from secateur.calibration.statistics import Statistic, StatisticTally
from secateur.errors import DataError, TrainingError


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


ACTIVATION = Quantity(of=lambda reading: reading.sum(reading.entries))
CENTRED = Quantity(of=lambda reading: reading.sum(reading.centred), needs_mean=True)
STATISTICS = {
    "square": Statistic(quantities={"g": GATE_GRADIENT}, value=lambda values: values["g"].square()),
    "mean": Statistic(quantities={"a": ACTIVATION, "places": PLACES}, value=lambda v: v["a"] / v["places"]),
    "centred": Statistic(quantities={"c": CENTRED}, value=lambda values: values["c"]),
}


def test_takers_of_one_pass_get_what_each_would_get_alone(residual: Callable[[int], Any]) -> None:
    example = residual(1)
    batches = list(zip(example.inputs.split(5), example.targets.split(5), strict=True))
    gram, together = GramTally(groups=example.groups), StatisticTally(groups=example.groups, statistics=STATISTICS)
    passed = pass_gates(example.module, example.groups, iter(batches), cross_entropy, [gram, together])
    assert passed.num_samples == 12
    alone = collect_gate_gram(example.module, example.groups, batches, cross_entropy)
    found = together.means(12)
    for name, matrix in alone.gram.items():
        torch.testing.assert_close(gram.gram(12, "true").gram[name], matrix)
        torch.testing.assert_close(found["square"][name], matrix.diagonal())
        assert found["centred"][name].abs().max() < 1e-12
    for name, statistic in STATISTICS.items():
        tally = StatisticTally(groups=example.groups, statistics={name: statistic})
        pass_gates(example.module, example.groups, batches, cross_entropy, [tally])
        torch.testing.assert_close(tally.means(12)[name], found[name])


def test_means_are_those_of_what_each_layer_reads(residual: Callable[[int], Any]) -> None:
    example = residual(2)
    module, seen = example.module.eval(), {}
    layers = {"skip": (0, 2, 3), "second": (0, 2, 3), "head": (0,)}
    hooks = [
        module.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
        for name in layers
    ]
    module(example.inputs)
    for hook in hooks:
        hook.remove()
    batches = list(zip(example.inputs.split(5), example.targets.split(5), strict=True))
    found = read_means(module, [("readers", f"{name}.weight") for name in layers], batches)
    for name, axes in layers.items():
        torch.testing.assert_close(found["readers", f"{name}.weight"], seen[name].mean(axes).detach())


def test_weight_gradients_are_those_of_the_mean_loss(residual: Callable[[int], Any]) -> None:
    example = residual(3)
    module = example.module.eval()
    names = ["stem.weight", "second.weight", "head.weight"]
    wanted = torch.autograd.grad(
        functional.cross_entropy(module(example.inputs), example.targets), [module.get_parameter(n) for n in names]
    )
    batches = list(zip(example.inputs.split(5), example.targets.split(5), strict=True))
    passed = pass_gates(module, example.groups, batches, cross_entropy, [], weights=names)
    for name, gradient in zip(names, wanted, strict=True):
        torch.testing.assert_close(passed.weight_gradients[name], gradient)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_pass_without_gradients_does_not_ask_for_the_loss(residual: Callable[[int], Any]) -> None:
    example = residual(4)

    def loss(*_: Any) -> Tensor:
        raise TrainingError("loss", "a call", "none", "Do not.")

    def run(*names: str) -> None:
        tally = StatisticTally(groups=example.groups, statistics={name: STATISTICS[name] for name in names})
        pass_gates(example.module, example.groups, [(example.inputs, None)], loss, [tally])

    run("mean", "centred")
    with pytest.raises(TrainingError, match="found a call"):
        run("mean", "square")


def test_what_is_read_counts_where_the_loss_does_not_depend_on_it(residual: Callable[[int], Any]) -> None:
    example = residual(5)
    tally = StatisticTally(groups=example.groups, statistics={n: STATISTICS[n] for n in ("mean", "square")})
    batch = (example.inputs, example.targets)
    pass_gates(example.module, example.groups, [batch], lambda outputs, _: outputs[:, 0].detach(), [tally])
    found = tally.means(12)
    assert all((found["mean"][group.name].abs() > 0).any() for group in example.groups)
    assert all(not found["square"][group.name].any() for group in example.groups)


def test_no_batches_are_an_error(residual: Callable[[int], Any]) -> None:
    example = residual(6)
    with pytest.raises(DataError, match="calibration pass: found no batches; wanted at least one"):
        pass_gates(example.module, example.groups, [], cross_entropy, [])
