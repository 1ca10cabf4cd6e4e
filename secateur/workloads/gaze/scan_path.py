"""Scan-path candidates: where a viewer may look one after another."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64


@dataclass(frozen=True, kw_only=True)
class ScanPath:
    """Take the highest place, inhibit its surroundings, and go on: winner takes all with inhibition of return.

    Inhibition is a Gaussian of deviation ``radius``, a share of the grid's longer side: the density is multiplied by
    1 - exp(-d^2 / (2 radius^2)) at distance d of each place (after Itti, Koch and Niebur 1998).
    """

    num_fixations: int = 5
    radius: float = 0.08

    def __call__(self, log_density: Float[np.ndarray, "rows columns"]) -> Float64[np.ndarray, "fixations 2"]:
        """Return the places in order as shares of the width and of the height; none twice."""
        left = np.exp(log_density.astype(np.float64) - float(log_density.max()))
        rows, columns = left.shape
        down, across = np.arange(rows)[:, None], np.arange(columns)[None, :]
        places = np.zeros((min(self.num_fixations, left.size), 2))
        for place in places:
            row, column = np.unravel_index(int(left.argmax()), left.shape)
            place[:] = (column + 0.5) / columns, (row + 0.5) / rows
            distance = (down - row) ** 2 + (across - column) ** 2
            left *= -np.expm1(distance * (-0.5 / (self.radius * max(rows, columns)) ** 2))
            left[row, column] = -1.0
        return places
