"""What the channels that a layer reads are on average."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from secateur.artifacts import Batch, as_tuple
from secateur.calibration.batches import device_of, to_device
from secateur.calibration.observe import observing
from secateur.calibration.processes import total
from secateur.calibration.quantities import exact, sum_type
from secateur.calibration.readers import Transform, channel_axis, tap_readers, weights_of
from secateur.calibration.wiring import SIDES, Side


def read_means(
    module: nn.Module, layers: Iterable[tuple[Side, str]], batches: Iterable[Batch]
) -> Mapping[tuple[Side, str], Tensor]:
    """Return the mean of every channel that these layers read or write, over samples and places, float64 [channels].

    One forward a batch, of the batches of all processes. Layers are named by their weights; those that are never met
    are left out.
    """
    sums: dict[tuple[Side, str], Tensor] = {}
    counts: dict[tuple[Side, str], int] = {}

    def tap(key: tuple[Side, str], axis: int) -> Transform:
        def collect(entries: Tensor) -> Tensor:
            rows = entries.movedim(axis, -1).flatten(0, -2)
            found = exact(rows.to(sum_type(module)).sum(0))
            sums[key] = sums[key] + found if key in sums else found
            counts[key] = counts.get(key, 0) + len(rows)
            return entries

        return collect

    keys = list(layers)
    weights = weights_of(module, [name for _, name in keys])
    taps = [{name: tap((s, name), channel_axis(weights[name])) for s, name in keys if s == side} for side in SIDES]
    device = device_of(module)
    with observing(module), torch.no_grad(), tap_readers(module, *taps):
        for inputs, _ in batches:
            module(*to_device(as_tuple(inputs), device))
    return {key: total(found) / total(found.new_tensor(counts[key])) for key, found in sums.items()}
