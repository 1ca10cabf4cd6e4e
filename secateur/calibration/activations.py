"""Measure the mean and variance of every channel where layers read it, in one pass over a few batches."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from secateur.artifacts import Batch, Group, Reader, as_tuple
from secateur.calibration.batches import batch_size_of, device_of, to_device
from secateur.calibration.observe import observing
from secateur.calibration.processes import num_processes, total
from secateur.calibration.quantities import exact
from secateur.calibration.readers import Transform, channel_axis, require_met, tap_readers, weights_of
from secateur.errors import DataError

Visit = Callable[[Float64[Tensor, "rows channels"]], None]
"""Takes what one call of a layer reads (or makes): one row a sample and place."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Mean and variance of a group's channels in one layer's inputs, float64 [num_channels, entries per channel]."""

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Activations:
    """The moments of every group in the inputs of its readers: group's name, reading layer's weight, moments.

    Groups that no layer reads have those of the outputs of their writers.
    """

    moments: Mapping[str, Mapping[str, Moments]]
    num_samples: int


def places(group: Group) -> tuple[Reader, ...]:
    """Return where a group's channels are looked at: its readers' inputs or, without any, its writers' outputs."""
    return group.readers or group.writers


def read_activations(
    module: nn.Module, inputs: Mapping[str, Visit], outputs: Mapping[str, Visit], batches: Iterable[Batch]
) -> int:
    """Show what layers read and make, by the name of their weight, to functions; return the number of samples.

    One forward a batch in eval mode; the network is left as it was. The number is that of all connected processes,
    each of which sees batches of its own. Raises TraceError where a layer is never met, DataError where batches are
    absent.
    """
    device = device_of(module)
    weights = weights_of(module, {**inputs, **outputs})

    def tap(name: str, visit: Visit) -> Transform:
        axis = channel_axis(weights[name])

        def show(tensor: Tensor) -> Tensor:
            rows = tensor.detach().movedim(axis, -1).reshape(-1, tensor.shape[axis])
            visit(exact(rows))
            return tensor

        return show

    taps = [{name: tap(name, visit) for name, visit in side.items()} for side in (inputs, outputs)]
    num_samples = 0
    with observing(module), torch.no_grad(), tap_readers(module, *taps) as seen:
        for raw, _ in batches:
            num_samples += batch_size_of(raw)
            module(*to_device(as_tuple(raw), device))
    if num_samples == 0:
        raise DataError("activations", "no batches", "at least one", "Give a data set with samples.")
    require_met(sorted(set(weights) - seen))
    return int(total(exact(torch.tensor(num_samples, device=device))))


def collect_activations(module: nn.Module, groups: Sequence[Group], batches: Iterable[Batch]) -> Activations:
    """Return the mean and variance of every channel of these groups over samples and places, one forward a batch.

    Batches are merged by Chan's rule, so that the variance of a constant is that of rounding, and so are connected
    processes, each of which gives batches of its own. Raises as `read_activations` does.
    """
    inputs = {place.weight: _Running() for group in groups for place in group.readers}
    outputs = {place.weight: _Running() for group in groups if not group.readers for place in group.writers}
    num_samples = read_activations(
        module, {n: r.add for n, r in inputs.items()}, {n: r.add for n, r in outputs.items()}, batches
    )
    for running in (*inputs.values(), *outputs.values()) if num_processes() > 1 else ():
        running.share()
    return Activations(
        moments={
            group.name: {
                place.weight: (inputs if group.readers else outputs)[place.weight].at(place.positions)
                for place in places(group)
            }
            for group in groups
        },
        num_samples=num_samples,
    )


class _Running:
    """Mean and sum of squared deviations of each channel over all rows so far."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Merge a batch into the moments (Chan, Golub and LeVeque 1979, "Updating formulae")."""
        mean = rows.mean(0)
        squares = (rows - mean).square().sum(0)
        if self._count == 0:
            self._count, self._mean, self._squares = len(rows), mean, squares
            return
        total, apart = self._count + len(rows), mean - self._mean
        self._squares = self._squares + squares + apart.square() * (self._count * len(rows) / total)
        self._mean = self._mean + apart * (len(rows) / total)
        self._count = total

    def share(self) -> None:
        """Merge the moments of all processes into each one's."""
        count = total(self._mean.new_tensor(self._count))
        mean = total(self._mean * self._count) / count
        self._squares = total(self._squares + self._count * (self._mean - mean).square())
        self._count, self._mean = int(count), mean

    def at(self, positions: np.ndarray) -> Moments:
        """Return the moments at these positions of the channels."""
        index = torch.from_numpy(positions)
        return Moments(mean=self._mean.cpu()[index], variance=(self._squares / self._count).cpu()[index])
