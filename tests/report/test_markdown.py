"""Any text fits into a table, and strips stay in their box."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.artifacts import GateResult, Interval
from secateur.report.markdown import escaped, markdown_table
from secateur.report.strip import gate_strip
from secateur.report.tables.table import Table

CELL = st.text(alphabet=st.sampled_from("ab|\\`*_[]<&~\n\t .$#-"), max_size=12)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[CELL] * n), min_size=1, max_size=5)))
def test_any_cell_fits_into_a_markdown_table(rows: list[tuple[str, ...]]) -> None:
    text = markdown_table(Table(title="t", header=rows[0], rows=tuple(rows[1:]), right=frozenset({0})))
    lines = text.split("\n")
    assert len(lines) == len(rows) + 1
    for line in lines:
        unescaped = re.sub(r"\\.", "", line)
        assert unescaped.count("|") == len(rows[0]) + 1
        assert "<" not in unescaped


def test_names_with_inner_underscores_stay_readable() -> None:
    assert escaped("layer_1.conv_2") == "layer_1.conv_2"
    assert escaped("__init__") == r"\_\_init\_\_"


def test_a_table_of_unequal_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="every row needs 2 cells"):
        Table(title="t", header=("a", "b"), rows=(("1",),))


@given(
    st.tuples(*[st.floats(-1e3, 1e3)] * 3),
    st.one_of(st.none(), st.floats(-1e3, 1e3)),
    st.floats(-1e3, 1e3),
)
def test_strips_stay_inside_their_box(ends: tuple[float, float, float], at_least: float | None, at_most: float) -> None:
    low, value, high = sorted(ends)
    measured = Interval(value=value, low=low, high=high)
    gate = GateResult(quantity="speedup", at_least=at_least, at_most=at_most, measured=measured, verdict="fail")
    drawn = gate_strip(gate)
    places = [float(x) for x in re.findall(r'(?:x1|x2|cx|x)="([-\d.]+)"', drawn)]
    assert places
    assert all(0 <= place <= 180 for place in places)
