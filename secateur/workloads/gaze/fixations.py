"""Fixations: who looked where in which picture, in shares of its width and height."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Fixations:
    """One entry a fixation: its picture, its viewer, and its place.

    ``across`` and ``down`` are shares of the picture's width and height: [0, 1) inside of it. Pixels of files that
    count from one are shifted by one half, so that places are where the middle of a pixel is.
    """

    picture: Int64[np.ndarray, " fixations"]
    viewer: Int64[np.ndarray, " fixations"]
    across: Float64[np.ndarray, " fixations"]
    down: Float64[np.ndarray, " fixations"]

    def __len__(self) -> int:
        return len(self.picture)

    def where(self, chosen: Bool[np.ndarray, " fixations"] | Int64[np.ndarray, " chosen"]) -> "Fixations":
        """Return the chosen ones."""
        return Fixations(
            picture=self.picture[chosen], viewer=self.viewer[chosen], across=self.across[chosen], down=self.down[chosen]
        )  # fmt: skip

    def inside(self) -> "Fixations":
        """Return those inside their picture; places that are not finite are outside."""
        return self.where((self.across >= 0) & (self.across < 1) & (self.down >= 0) & (self.down < 1))

    def counts(self, num_pictures: int, grid: tuple[int, int]) -> Float32[np.ndarray, "pictures rows columns"]:
        """Count the fixations inside their pictures in the cells of a grid (rows, columns)."""
        (rows, columns), cell = grid, self._cells(grid)
        return np.bincount(cell, minlength=num_pictures * rows * columns).astype(np.float32).reshape(-1, rows, columns)

    def sparse_counts(self, num_pictures: int, grid: tuple[int, int]) -> Float[Tensor, "pictures rows columns"]:
        """Count them as `counts` does, in a sparse tensor, float64: what measures of large maps read fastest."""
        rows, columns = grid
        cell, number = np.unique(self._cells(grid), return_counts=True)
        where = np.stack([cell // (rows * columns), cell // columns % rows, cell % columns])
        return torch.sparse_coo_tensor(
            torch.from_numpy(where), torch.from_numpy(number).double(), (num_pictures, rows, columns),
            is_coalesced=True, check_invariants=True,
        )  # fmt: skip

    def _cells(self, grid: tuple[int, int]) -> Int64[np.ndarray, " fixations_inside"]:
        inner, (rows, columns) = self.inside(), grid
        row, column = (inner.down * rows).astype(np.int64), (inner.across * columns).astype(np.int64)
        return (inner.picture * rows + row) * columns + column
