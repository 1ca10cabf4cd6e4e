"""Products with a matrix that stays coded: blocks of it are decoded, used and forgotten."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array

from secateur.errors import DataError
from secateur.pipeline.packing.entropy import AT_A_TIME
from secateur.pipeline.packing.forms import FORMS, Code, chunks


@dataclass(frozen=True, kw_only=True, eq=False)
class CodedMatrix:
    """The weights of a layer as the matrix [rows, entries] of their first axis and all others.

    ``matrix @ x`` and ``x @ matrix`` never hold more than about ``at_a_time`` of its values (HAM and sHAM, Marinò et
    al. 2021, ICPR): a dense code is decoded by blocks of rows, of a sparse code the values that are not zero.
    """

    code: Code
    dtype: np.dtype
    at_a_time: int = AT_A_TIME

    __array_ufunc__ = None  # so that numpy leaves ``array @ matrix`` to this class

    def __post_init__(self) -> None:
        if self.code.form == "planes" or not np.issubdtype(self.dtype, np.number):
            raise DataError(
                "product with coded weights", f"form {self.code.form}, type {self.dtype}",
                f"{' or '.join(name for name in FORMS if name != 'planes')} of a number",
                "Weights that share no values are decoded first: Archive.tensor(name).",
            )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and entries."""
        return self.code.shape[0], self.code.row_size

    def __matmul__(self, x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Return the product with columns: [entries, ...] to [rows, ...]."""
        self._require(x.shape[0], self.shape[1])
        result = np.zeros((self.shape[0], *x.shape[1:]), dtype=np.result_type(self.dtype, x.dtype))
        for rows, block in self._blocks():
            result[rows] += block @ x
        return result

    def __rmatmul__(self, x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Return the product of rows with the matrix: [..., rows] to [..., entries]."""
        self._require(x.shape[-1], self.shape[0])
        result = np.zeros((*x.shape[:-1], self.shape[1]), dtype=np.result_type(self.dtype, x.dtype))
        for rows, block in self._blocks():
            result += x[..., rows] @ block
        return result

    def _blocks(self) -> Iterator[tuple[slice, Any]]:
        """Walk the matrix by blocks of rows: which, and what of them was decoded."""
        size = self.shape[1]
        if self.code.form == "ham":
            height = max(1, self.at_a_time // max(1, size))
            for start, bits in enumerate(self.code.streams[0].read(height * size)):
                block = bits.view(self.dtype).reshape(-1, size)
                yield slice(start * height, start * height + len(block)), block
            return
        for places, bits in chunks(self.code, self.at_a_time):
            if not len(places):
                continue
            first, last = int(places[0]) // size, int(places[-1]) // size
            rows, entries = places // size - first, places % size
            yield (
                slice(first, last + 1),
                csr_array((bits.view(self.dtype), (rows, entries)), shape=(last + 1 - first, size)),
            )

    def _require(self, found: int, wanted: int) -> None:
        if found != wanted:
            raise DataError(
                "product with coded weights", f"{found} entries", f"{wanted}, of a matrix of shape {self.shape}",
                "Lay the other factor out as the layer's weights are.",
            )  # fmt: skip
