"""Measure how the channels of a group go together where layers read them, in one pass over a few batches."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from secateur.artifacts import Batch, Group, Reader
from secateur.calibration.activations import Visit, places, read_activations
from secateur.calibration.processes import total


@dataclass(frozen=True, kw_only=True, eq=False)
class ReaderGram:
    """Second moments of a group's channels in one layer's inputs, float64, over ``num_rows`` samples and places.

    ``second`` is A = E[a a^T], [num_channels, num_channels]; where a channel has several entries in the input (a
    flattened map), the mean over them of the matrix of each. ``mean`` is [num_channels, entries per channel].
    """

    second: Tensor
    mean: Tensor
    num_rows: int

    def centred(self) -> Float64[Tensor, "num_channels num_channels"]:
        """Return the covariance A - E[a] E[a]^T, likewise the mean over entries."""
        return self.second - self.mean @ self.mean.mT / self.mean.shape[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class ActivationGram:
    """The second moments of every group in the inputs of its readers: group's name, reading layer's weight, moments.

    Groups that no layer reads have those of the outputs of their writers. In a layer whose reader's matrix is A with
    the kept channels R and the removed ones S, T = A_RR^-1 A_RS are the weights of the kept channels that come nearest
    to the removed ones.
    """

    readers: Mapping[str, Mapping[str, ReaderGram]]
    num_samples: int

    def uncentred(self, name: str) -> Float64[Tensor, "num_channels num_channels"]:
        """Return a group's second moments, summed over its readers."""
        return torch.stack([gram.second for gram in self.readers[name].values()]).sum(0)

    def centred(self, name: str) -> Float64[Tensor, "num_channels num_channels"]:
        """Return a group's covariance, summed over its readers."""
        return torch.stack([gram.centred() for gram in self.readers[name].values()]).sum(0)

    def num_rows(self, name: str) -> int:
        """Return how many samples and places a group's matrices are made of."""
        return sum(gram.num_rows * gram.mean.shape[1] for gram in self.readers[name].values())


def collect_activation_gram(module: nn.Module, groups: Sequence[Group], batches: Iterable[Batch]) -> ActivationGram:
    """Return the second moments of the channels of every group, one forward a batch.

    Raises as `read_activations` does. Memory beyond the forward's is that of the matrices: one a group and reader. In
    several connected processes each gives batches of its own, and all return the moments of all samples.
    """
    sums = {(group.name, place.weight): _Sum(place) for group in groups for place in places(group)}
    inputs, outputs = dict[str, list[_Sum]](), dict[str, list[_Sum]]()
    for group in groups:
        for place in places(group):
            side = inputs if group.readers else outputs
            side.setdefault(place.weight, []).append(sums[group.name, place.weight])
    num_samples = read_activations(
        module, {n: _all(s) for n, s in inputs.items()}, {n: _all(s) for n, s in outputs.items()}, batches
    )
    return ActivationGram(
        readers={
            group.name: {place.weight: sums[group.name, place.weight].gram() for place in places(group)}
            for group in groups
        },
        num_samples=num_samples,
    )


def _all(sums: Sequence["_Sum"]) -> Visit:
    def visit(rows: Tensor) -> None:
        for each in sums:
            each.add(rows)

    return visit


class _Sum:
    """Sums of the channels at one place and of their products over all rows so far."""

    def __init__(self, place: Reader) -> None:
        self._positions = torch.from_numpy(place.positions)
        self._num_rows, width = 0, len(place.positions)
        self._sum = torch.zeros(place.positions.shape, dtype=torch.float64)
        self._products = torch.zeros(width, width, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Add one batch's rows [rows, channels]."""
        own = rows[:, self._positions.to(rows.device)]
        flat = own.transpose(1, 2).flatten(0, 1)
        self._num_rows += len(rows)
        self._sum = self._sum.to(rows.device) + own.sum(0)
        self._products = self._products.to(rows.device).addmm_(flat.mT, flat)

    def gram(self) -> ReaderGram:
        """Return the means over the rows of all processes, and of the products over entries too."""
        entries, num_rows = self._positions.shape[1], int(total(self._sum.new_tensor(self._num_rows)))
        return ReaderGram(
            second=(total(self._products) / (num_rows * entries)).cpu(),
            mean=(total(self._sum) / num_rows).cpu(),
            num_rows=num_rows,
        )
