"""Sparse pursuit keeps what its readers' outputs are made of, not what is loud."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.artifacts import Batch
from secateur.calibration.input_gram import collect_input_grams
from secateur.errors import DataError
from secateur.pipeline.signals import SIGNALS, Combination, Evidence, collect_evidence
from secateur.pipeline.signals.sparse_pursuit import Layer, SparsePursuit, layers_of
from secateur.pipeline.structure import trace


def layer(seed: int, channels: int, entries: int = 1, outputs: int = 4, places: int = 60) -> tuple[Layer, np.ndarray]:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((places, channels * entries)).clip(0)
    weight = random.standard_normal((channels, entries, outputs))
    return Layer(gram=rows.T @ rows, weight=weight), rows


def perceptron(useful: int, loud: int) -> nn.Module:
    """Loud units, of which nothing is read, come after useful ones."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, useful + loud), nn.ReLU(), nn.Linear(useful + loud, 8)).double().eval()
    module[0].weight.data[useful:] *= 10
    module[2].weight.data[:, useful:] = 0
    return module


def test_loud_channels_that_nothing_is_made_of_go_first() -> None:
    module, x = perceptron(32, 64), torch.randn(200, 12, dtype=torch.float64)
    structure = trace(module, (x[:2],))
    activation = Combination(input="activation", pointwise="absolute")
    needs = SIGNALS["i-spasp"].needs | activation.needs
    evidence = collect_evidence(needs, module, structure, [(x, None)], lambda *_: x.sum())
    (group,) = structure.groups
    pursued, loudness = SIGNALS["i-spasp"](evidence, group), activation(evidence, group)
    assert (pursued[32:] < 1e-12).all()
    assert (pursued[:32] > 1e-6).sum() >= 31
    assert set(loudness.argsort(descending=True)[:32].tolist()) <= set(range(32, 96))


@pytest.mark.parametrize("seed", range(6))
def test_outputs_made_of_few_channels_are_rebuilt_from_them(seed: int) -> None:
    found, _ = layer(seed, channels=12, entries=2)
    found.weight[4:] = 0
    kept, error = SparsePursuit(ridge=1e-9).support([found], 4)
    assert np.flatnonzero(kept).tolist() == [0, 1, 2, 3]
    assert error < 1e-12


@pytest.mark.parametrize("seed", range(6))
def test_the_support_is_near_the_best_of_all_and_better_than_loudness(seed: int) -> None:
    found, _ = layer(seed, channels=9)
    kept, error = SparsePursuit().support([found], 4)

    def error_of(channels: tuple[int, ...]) -> float:
        return found.error(found.fit(np.isin(np.arange(9), channels), 1e-4)) / found.energy

    every = [error_of(channels) for channels in itertools.combinations(range(9), 4)]
    assert kept.sum() == 4
    assert error == pytest.approx(error_of(tuple(np.flatnonzero(kept))))
    assert min(every) <= error <= np.quantile(every, 0.1)


def test_the_fit_is_ridge_regression_on_the_channels_kept() -> None:
    found, rows = layer(3, channels=6, entries=2)
    kept = np.array([True, False, True, True, False, False])
    columns = np.repeat(kept, 2)
    target, before = rows @ found.weight.reshape(12, -1), found.weight[kept].reshape(6, -1)
    ridge = 1e-3 * np.square(rows).sum(0).mean()
    padded = np.concatenate([rows[:, columns], np.sqrt(ridge) * np.eye(6)])
    wanted = np.linalg.lstsq(padded, np.concatenate([target, np.sqrt(ridge) * before]), rcond=None)[0]
    fitted = found.fit(kept, 1e-3)
    np.testing.assert_allclose(fitted[kept].reshape(6, -1), wanted, rtol=1e-9)
    assert not fitted[~kept].any()
    residual = target - rows[:, columns] @ wanted
    assert found.error(fitted) == pytest.approx(np.square(residual).sum())
    explained = [
        np.square(rows[:, 2 * j : 2 * j + 2].T @ residual).sum() / np.square(rows[:, 2 * j : 2 * j + 2]).sum()
        for j in range(6)
    ]
    np.testing.assert_allclose(found.explained(fitted), explained, rtol=1e-8, atol=1e-12)


def test_scores_lie_between_nothing_and_all_and_the_last_channels_are_worth_most(network: Any, collect: Any) -> None:
    signal = SIGNALS["i-spasp"]
    evidence = collect(network(), [signal])
    for group in evidence.structure.groups:
        score = signal(evidence, group)
        assert score.min() >= 0
        assert score.max() == pytest.approx(1)


def test_a_group_whose_readers_are_silent_is_worth_nothing(network: Any, collect: Any) -> None:
    module = network()
    module.second.weight.data.zero_()
    signal = SIGNALS["i-spasp"]
    evidence = collect(module, [signal])
    assert signal(evidence, evidence.structure.group("first")).tolist() == [0] * 8


class Reads(nn.Module):
    """A layer that makes six channels, and one that reads them."""

    def __init__(self, reader: nn.Module, dims: int) -> None:
        super().__init__()
        make = nn.Linear(3, 6) if dims == 0 else (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](3, 6, 1)
        self.make, self.reader = make, reader

    def forward(self, x: Tensor) -> Tensor:
        return self.reader(functional.relu(self.make(x)))


READERS = {
    "linear": (nn.Linear(6, 5), 0),
    "over one axis": (nn.Conv1d(6, 5, 3, stride=2, padding=1, dilation=2), 1),
    "over two axes": (nn.Conv2d(6, 5, (3, 2), stride=(1, 2), padding=(2, 1)), 2),
    "over three axes": (nn.Conv3d(6, 5, 2, stride=2, padding=1), 3),
    "reflected": (nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"), 2),
    "same": (nn.Conv2d(6, 5, 3, padding="same"), 2),
}


@pytest.mark.parametrize("name", READERS)
def test_second_moments_tell_the_energy_of_the_outputs(name: str) -> None:
    reader, dims = READERS[name]
    torch.manual_seed(0)
    module = Reads(reader, dims).double().eval()
    nn.init.zeros_(reader.bias)
    x = torch.randn(4, 7, 3).double() if dims == 0 else torch.randn(4, 3, *[7] * dims).double()
    structure = trace(module, (x,))
    (group,) = structure.groups
    grams = collect_input_grams(module, structure.groups, [(x[:3], None), (x[3:], None)])
    (layer,) = layers_of(Evidence(module=module, input_grams=grams), group)
    assert layer.energy == pytest.approx(module(x).square().sum().item() / 4)


@pytest.mark.parametrize(
    ("reader", "dims", "what"),
    [(nn.Conv2d(6, 6, 1, groups=2), 2, "a convolution in 2 groups"),
     (nn.ConvTranspose2d(6, 2, 2), 2, "a layer of another kind")],
)  # fmt: skip
def test_other_layers_are_named(reader: nn.Module, dims: int, what: str) -> None:
    module, x = Reads(reader, dims).eval(), torch.randn(2, 3, *[5] * dims)
    groups = trace(module, (x,)).groups
    with pytest.raises(DataError, match=f"input Gram, reader.weight: found {what}; wanted linear layers and"):
        collect_input_grams(module, groups, [(x, None)])


def test_no_batches_are_an_error(network: Any, batch: Batch) -> None:
    module = network()
    with pytest.raises(DataError, match="input Gram: found no batches"):
        collect_input_grams(module, trace(module, (batch[0][:2],)).groups, [])
