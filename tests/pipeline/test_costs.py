"""The saving is the exact finite difference of the cost."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from secateur.pipeline.costs import CostTerms


@st.composite
def terms_and_widths(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    num_terms, num_groups = draw(st.integers(0, 6)), draw(st.integers(1, 5))
    terms = CostTerms(
        groups=tuple(f"g{k}" for k in range(num_groups)),
        coefficient=rng.integers(0, 10**6, num_terms), a0=rng.integers(0, 64, num_terms),
        A=rng.integers(0, 3, (num_terms, num_groups)), b0=rng.integers(0, 64, num_terms),
        B=rng.integers(0, 3, (num_terms, num_groups)), constant=int(rng.integers(0, 10**9)),
    )  # fmt: skip
    return terms, rng.integers(8, 512, num_groups), rng.integers(1, 8, num_groups)


@given(terms_and_widths())
def test_saving_is_the_difference_of_totals(drawn):
    terms, widths, step = drawn
    for steps, savings in ((np.ones_like(step), terms.saving(widths)), (step, terms.saving(widths, step))):
        for g, saving in enumerate(savings):
            fewer = widths.copy()
            fewer[g] -= steps[g]
            assert saving == terms.total(widths) - terms.total(fewer)


def test_a_dense_layer_costs_inputs_times_outputs():
    one = np.ones(1, dtype=np.int64)
    zero = np.zeros(1, dtype=np.int64)
    terms = CostTerms(groups=("in", "out"), coefficient=9 * one, a0=zero, A=np.array([[0, 1]]), b0=zero,
                      B=np.array([[1, 0]]), constant=5)  # fmt: skip
    widths = terms.vector({"out": 4, "in": 3})
    assert terms.total(widths) == 5 + 9 * 3 * 4
    assert terms.saving(widths).tolist() == [36, 27]
