"""Where fixated values stand among a map's values: how many are below, how many equal.

On a processor a large map is not sorted. Its values fall into equal intervals between the least and the greatest
fixated one, and only those in an interval of a fixated value are compared with it, so that the counts are exact; time
grows with the number of cells alone, where values are spread. Small maps are sorted, many at a time.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from secateur.errors import DataError
from secateur.workloads.gaze.metrics import Maps, places

NUM_INTERVALS = 2**13
PIECE = 2**15
"""Cells that are looked at together, so that what is made of them stays in a processor's cache."""
FEW = 4
"""Fixated values below which each is compared with all."""
LARGE = 2**15
"""Cells of a map from which it pays not to sort it."""

Values = Float[Tensor, "batch cells"]


class Ranks(NamedTuple):
    """How many values, or what weight of them, are below each fixated value, and how many equal it."""

    below: Float64[Tensor, " fixated"]
    equal: Float64[Tensor, " fixated"]


class Own(NamedTuple):
    """How fixated cells stand among those of their own picture.

    ``following`` is one cell of the next higher value, -1 where there is none; ``num_cells`` has an entry a picture.
    """

    cells_below: Float64[Tensor, " fixated"]
    weight_below: Float64[Tensor, " fixated"]
    weight_equal: Float64[Tensor, " fixated"]
    following: Int64[Tensor, " fixated"]
    num_cells: Int64[Tensor, " pictures"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fixated:
    """The fixated cells of a batch, picture by picture: whose they are, their values and their fixations."""

    picture: Int64[Tensor, " fixated"]
    values: Float[Tensor, " fixated"]
    weights: Float64[Tensor, " fixated"]
    num_pictures: int

    @cached_property
    def num_fixations(self) -> Float64[Tensor, " pictures"]:
        """Each picture's fixations."""
        return self._summed(self.weights)

    @cached_property
    def num_cells(self) -> Int64[Tensor, " pictures"]:
        """Each picture's fixated cells."""
        return torch.bincount(self.picture, minlength=self.num_pictures)

    def mean(self, scores: Float64[Tensor, " fixated"]) -> Float64[Tensor, " pictures"]:
        """Return each picture's mean over its fixations."""
        return self._summed(scores * self.weights) / self.num_fixations

    @cached_property
    def among_themselves(self) -> Own:
        """How the cells stand among one another."""
        order = self.values.argsort(stable=True)
        order = order[self.picture[order].argsort(stable=True)]
        picture, values, weights = self.picture[order], self.values[order], self.weights[order]
        changes = (picture[1:] != picture[:-1]) | (values[1:] != values[:-1])
        number = torch.cat([changes.new_zeros(min(1, len(order))), changes]).cumsum(0)
        first = torch.cat([changes.new_ones(min(1, len(order))), changes]).nonzero().squeeze(1)
        start = (self.num_cells.cumsum(0) - self.num_cells)[picture]
        before = torch.cat([weights.new_zeros(1), weights.cumsum(0)])
        end = torch.cat([first[1:], first.new_full((min(1, len(order)),), len(order))])
        own_first, own_end = first[number], end[number]
        same = own_end < (start + self.num_cells[picture])
        following = torch.where(same, order[own_end.clamp_max(max(0, len(order) - 1))], -1)
        own = Own(
            cells_below=(own_first - start).double(),
            weight_below=before[own_first] - before[start],
            weight_equal=before[own_end] - before[own_first],
            following=following,
            num_cells=self.num_cells,
        )
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return own._replace(**{name: getattr(own, name)[back] for name in own._fields if name != "num_cells"})

    def by_picture(self) -> tuple[Float[Tensor, " _"], ...]:
        """Return each picture's values."""
        return torch.split(self.values, self.num_cells.tolist())

    def side_by_side(self) -> tuple[Float[Tensor, "pictures most"], Int64[Tensor, " fixated"]]:
        """Return the values in a row a picture, zeros behind them, and each one's place in its row."""
        start = self.num_cells.cumsum(0) - self.num_cells
        place = torch.arange(len(self.values), device=self.values.device) - start[self.picture]
        most = int(self.num_cells.max()) if self.num_pictures else 0
        rows = self.values.new_zeros(self.num_pictures, most)
        rows[self.picture, place] = self.values
        return rows, place

    def _summed(self, values: Float64[Tensor, " fixated"]) -> Float64[Tensor, " pictures"]:
        return values.new_zeros(self.num_pictures).index_add_(0, self.picture, values)


def fixated_in(saliency: Maps, counts: Maps) -> Fixated:
    """Return the cells that people looked at."""
    picture, cell, weights = places(counts)
    values = saliency.detach().flatten(1)[picture, cell]
    return Fixated(picture=picture, values=values, weights=weights.double(), num_pictures=len(counts))


def ranks(values: Values, fixated: Fixated) -> Ranks:
    """Count, for every fixated value, its picture's values below it and those equal to it; DataError for nan."""
    values = values.detach()
    if values.device.type != "cpu":
        return _ranks_in_order(_without_nan(values.sort(1).values), fixated)
    if values.shape[1] < LARGE:
        return _ranks_in_order(_without_nan(torch.from_numpy(np.sort(values.numpy(), axis=1))), fixated)
    found = [
        _counted(row, own)
        for row, own in zip(values.numpy(), (each.numpy() for each in fixated.by_picture()), strict=True)
    ]
    below, equal = (np.concatenate([each[side] for each in found]) for side in (0, 1))
    return Ranks(torch.from_numpy(below).double(), torch.from_numpy(equal).double())


def weighted_ranks(values: Values, fixated: Fixated, weights: Float64[Tensor, "batch cells"]) -> Ranks:
    """Weigh, for every fixated value, its picture's values below it and those equal to it; DataError for nan."""
    order = values.detach().argsort(1)
    masses = torch.cat([weights.new_zeros(len(weights), 1), weights.gather(1, order).cumsum(1)], dim=1)
    return _ranks_in_order(_without_nan(values.detach().gather(1, order)), fixated, masses)


def _ranks_in_order(
    ordered: Values, fixated: Fixated, masses: Float64[Tensor, "batch one_more"] | None = None
) -> Ranks:
    rows, place = fixated.side_by_side()
    ordered = ordered.contiguous()  # or searchsorted would copy it twice, and warn
    least, most = (torch.searchsorted(ordered, rows, right=right)[fixated.picture, place] for right in (False, True))
    if masses is not None:
        least, most = masses[fixated.picture, least], masses[fixated.picture, most]
    return Ranks(least.double(), (most - least).double())


def _without_nan(ordered: Values) -> Values:
    """Return values in order, among which nan would be the last, unless there is any."""
    if ordered.shape[1] and bool(ordered[:, -1].isnan().any()):
        raise _undefined()
    return ordered


def _undefined() -> DataError:
    return DataError("saliency maps", "nan", "numbers", "Look for what makes the map undefined.")


def _counted(values: Float[np.ndarray, " cells"], fixated: Float[np.ndarray, " fixated"]) -> tuple[np.ndarray, ...]:
    """Count, for every fixated value of a picture, the values below it and those equal to it, without sorting all."""
    thresholds, place = np.unique(fixated, return_inverse=True)
    if len(thresholds) < FEW:
        _require_numbers(values)
        less, same = (
            [np.count_nonzero(compared(values, each)) for each in thresholds] for compared in (np.less, np.equal)
        )
        return np.array(less, dtype=np.int64)[place], np.array(same, dtype=np.int64)[place]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        scale = (NUM_INTERVALS - 1) / (thresholds[-1] - thresholds[0])
    if not (0 < scale < np.inf) or not np.isfinite(thresholds).all():
        _require_numbers(values)
        ordered = np.sort(values)
        least, most = (ordered.searchsorted(thresholds, side) for side in ("left", "right"))
        return least[place], (most - least)[place]
    # Interval 0 is below all thresholds and the last above them; rounding keeps the order, which is all that counts.
    own = _intervals(thresholds, thresholds[0], scale)
    chosen = np.zeros(NUM_INTERVALS + 2, dtype=bool)
    chosen[own] = True
    number, close = np.zeros(NUM_INTERVALS + 2, dtype=np.int64), list[np.ndarray]()
    for first in range(0, len(values), PIECE):
        piece = values[first : first + PIECE]
        _require_numbers(piece)
        interval = _intervals(piece, thresholds[0], scale)
        number += np.bincount(interval, minlength=NUM_INTERVALS + 2)
        close.append(piece[np.flatnonzero(chosen.take(interval))])
    near = np.sort(np.concatenate(close))
    # Of the values near, those in lower intervals come first; the others below count by interval.
    far_below = np.where(chosen, 0, number).cumsum()[own]
    least, most = (near.searchsorted(thresholds, side) for side in ("left", "right"))
    return (far_below + least)[place], (most - least)[place]


def _require_numbers(values: Float[np.ndarray, " cells"]) -> None:
    if np.isnan(values.min()):
        raise _undefined()


def _intervals(values: Float[np.ndarray, " cells"], lowest: np.floating, scale: np.floating) -> np.ndarray:
    moved = np.subtract(values, lowest)
    np.multiply(moved, scale, out=moved)
    np.add(moved, 1, out=moved)
    return np.clip(moved, 0, NUM_INTERVALS + 1, out=moved).astype(np.intp)
