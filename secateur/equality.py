"""Whether two runtimes that must agree do: the numbers, or an error that carries them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.artifacts import Parity
from secateur.errors import EqualityError

Arrays = Sequence[np.ndarray]

LEAST_SCALE = 1e-6
"""Arrays that are smaller everywhere are taken as this large, so that zeros may differ by rounding."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far two lists of arrays are apart.

    ``absolute`` is max |c - r|; ``relative`` is the largest over the arrays of max |c - r| / max |r|, and ``array`` the
    position of that array. The scale is the array's own largest value, not one: softmax maps of a thousand pixels would
    otherwise agree with anything.
    """

    absolute: float
    relative: float
    array: int


def difference(reference: Arrays, candidate: Arrays) -> Difference:
    """Measure how far two lists of arrays are apart, in float64.

    Infinities and NaNs agree with themselves only. Where they do not, or where a shape or the number of arrays differs,
    the difference is infinite.
    """
    if len(reference) != len(candidate):
        return Difference(absolute=math.inf, relative=math.inf, array=min(len(reference), len(candidate)))
    apart = [_array_difference(r, c) for r, c in zip(reference, candidate, strict=True)]
    absolutes, relatives = zip(*apart, strict=True) if apart else ((0.0,), (0.0,))
    worst = max(range(len(relatives)), key=relatives.__getitem__)
    return Difference(absolute=max(absolutes), relative=relatives[worst], array=worst)


def _array_difference(reference: np.ndarray, candidate: np.ndarray) -> tuple[float, float]:
    if reference.shape != candidate.shape:
        return math.inf, math.inf
    r, c = reference.astype(np.float64), candidate.astype(np.float64)
    finite = np.isfinite(r) & np.isfinite(c)
    if not np.array_equal(r[~finite], c[~finite], equal_nan=True):
        return math.inf, math.inf
    absolute = float(np.abs(c[finite] - r[finite]).max(initial=0.0))
    return absolute, absolute / float(np.abs(r[finite]).max(initial=LEAST_SCALE))


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Hold a candidate runtime to a reference runtime.

    ``where`` names what is checked, ``output_names`` the arrays, ``tolerance`` the largest relative `Difference`.
    """

    where: str
    reference: str
    candidate: str
    output_names: tuple[str, ...]
    tolerance: float

    def check(self, outputs: Iterable[tuple[str, Arrays, Arrays]]) -> Parity:
        """Compare every (description of the batch, reference's outputs, candidate's outputs).

        Raises:
            EqualityError: a batch differs by more than the tolerance, or the reference's outputs hold no finite number.
        """
        worst_absolute = worst_relative = 0.0
        num_batches = 0
        for batch, reference, candidate in outputs:
            if not any(np.isfinite(np.asarray(array, dtype=np.float64)).any() for array in reference):
                raise EqualityError(
                    self.where, f"no finite number in the outputs of {self.reference} for {batch}", "finite outputs",
                    "Check the network's weights and the range of its inputs.",
                )  # fmt: skip
            apart = difference(reference, candidate)
            if not apart.relative <= self.tolerance:
                raise self._error(batch, apart, reference, candidate)
            worst_absolute = max(worst_absolute, apart.absolute)
            worst_relative = max(worst_relative, apart.relative)
            num_batches += 1
        return Parity(
            reference=self.reference,
            candidate=self.candidate,
            num_batches=num_batches,
            worst_absolute=worst_absolute,
            worst_relative=worst_relative,
            tolerance=self.tolerance,
        )

    def _error(self, batch: str, apart: Difference, reference: Arrays, candidate: Arrays) -> EqualityError:
        name = self.output_names[apart.array] if apart.array < len(self.output_names) else f"output {apart.array}"
        shapes = [[tuple(array.shape) for array in arrays] for arrays in (reference, candidate)]
        if shapes[0] != shapes[1]:
            found = f"shapes {shapes[1]} from {self.candidate} and {shapes[0]} from {self.reference} for {batch}"
        else:
            found = (
                f"a relative difference of {apart.relative:.3g} (absolute {apart.absolute:.3g}) in output {name!r} "
                f"between {self.reference} and {self.candidate} for {batch}"
            )
        return EqualityError(
            self.where, found, f"at most {self.tolerance:g} of the output's largest value",
            "Allow more with a larger tolerance if the arithmetic is coarser on purpose (half precision, TF32); "
            "otherwise look for random or mode-dependent operators in the network.",
        )  # fmt: skip
