"""Fixations: who looked where in which picture, in shares of its width and height."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64


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
        inner, (rows, columns) = self.inside(), grid
        row, column = (inner.down * rows).astype(np.int64), (inner.across * columns).astype(np.int64)
        cell = (inner.picture * rows + row) * columns + column
        return np.bincount(cell, minlength=num_pictures * rows * columns).astype(np.float32).reshape(-1, rows, columns)
