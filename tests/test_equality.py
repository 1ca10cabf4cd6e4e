"""Differences between runtimes: their laws, and the errors that carry them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secateur.equality import LEAST_SCALE, Agreement, difference
from secateur.errors import EqualityError

arrays = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(-1e6, 1e6, width=32))


@given(arrays)
def test_nothing_differs_from_itself(array: np.ndarray) -> None:
    apart = difference([array, array], [array, array.copy()])
    assert (apart.absolute, apart.relative) == (0, 0)


@given(arrays, st.integers(-10, 10), st.integers(-3, 3))
def test_relative_differences_do_not_know_the_unit(array: np.ndarray, shift: int, exponent: int) -> None:
    reference = array.astype(np.float64) + 2.0**shift
    candidate = reference + 2.0**-20 * np.abs(reference).max()
    scaled = difference([reference * 10.0**exponent], [candidate * 10.0**exponent])
    if np.abs(reference).max() * 10.0**exponent > LEAST_SCALE:
        assert scaled.relative == pytest.approx(2.0**-20, rel=1e-3)


def test_small_outputs_are_held_to_their_own_scale() -> None:
    maps = np.full((1, 1000), 1e-3)
    assert difference([maps], [maps + 1e-4]).relative == pytest.approx(0.1)
    assert difference([np.zeros(3)], [np.full(3, 1e-12)]).relative == pytest.approx(1e-6)


def test_the_worst_array_is_named() -> None:
    apart = difference([np.full(2, 1000.0), np.ones(2)], [np.full(2, 1001.0), np.full(2, 1.5)])
    assert (apart.absolute, apart.relative, apart.array) == (1, 0.5, 1)


@pytest.mark.parametrize(
    ("reference", "candidate", "equal"),
    [
        ([np.inf, 1], [np.inf, 1], True),
        ([np.nan, 1], [np.nan, 1], True),
        ([np.nan, 1], [0, 1], False),
        ([0, 1], [np.nan, 1], False),
        ([np.inf, 1], [-np.inf, 1], False),
    ],
)
def test_infinities_and_nans_agree_with_themselves_only(reference: list, candidate: list, equal: bool) -> None:
    apart = difference([np.array(reference, dtype=float)], [np.array(candidate, dtype=float)])
    assert apart.relative == (0 if equal else math.inf)


def test_shapes_and_numbers_of_arrays_count() -> None:
    assert difference([np.ones(2)], [np.ones((1, 2))]).relative == math.inf
    assert difference([np.ones(2)], []).absolute == math.inf
    assert difference([], []).relative == 0


AGREEMENT = Agreement(where="here", reference="a", candidate="b", output_names=("x", "y"), tolerance=0.01)


def test_agreement_keeps_the_worst_of_all_batches() -> None:
    parity = AGREEMENT.check([("one", [np.full(2, 2.0)], [np.full(2, 2.002)]), ("two", [np.ones(2)], [np.ones(2)])])
    assert parity.num_batches == 2
    assert parity.worst_absolute == pytest.approx(0.002)
    assert parity.worst_relative == pytest.approx(0.001)
    assert (parity.reference, parity.candidate, parity.tolerance) == ("a", "b", 0.01)


@pytest.mark.parametrize(
    ("reference", "candidate", "text"),
    [
        ([np.ones(2), np.ones(2)], [np.ones(2), np.full(2, 1.5)],
         r"^here: found a relative difference of 0\.5 \(absolute 0\.5\) in output 'y' between a and b for one; "
         r"wanted at most 0\.01 of the output's largest value\. Allow more"),
        ([np.ones(2)], [np.ones(3)], r"shapes \[\(3,\)\] from b and \[\(2,\)\] from a for one"),
        ([np.ones(2), np.ones(2)], [np.ones(2)], r"shapes \[\(2,\)\] from b and \[\(2,\), \(2,\)\] from a"),
        ([np.full(2, np.nan)], [np.full(2, np.nan)], r"no finite number in the outputs of a for one"),
    ],
)  # fmt: skip
def test_disagreement_is_an_error_with_numbers(reference: list, candidate: list, text: str) -> None:
    with pytest.raises(EqualityError, match=text):
        AGREEMENT.check([("one", reference, candidate)])
