"""Numbers as people read them."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.artifacts import Interval
from secateur.report import formatting


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (formatting.significant(2.7), "2.70"),
        (formatting.significant(0.0041567), "0.00416"),
        (formatting.significant(99.96), "100"),
        (formatting.significant(12345.0), "12,300"),
        (formatting.significant(1.234e-6, 2), "1.2e-6"),
        (formatting.significant(-0.5), "\u22120.500"),
        (formatting.significant(0.0), "0"),
        (formatting.significant(2.0, 6, trim=True), "2"),
        (formatting.significant(0.0125, 6, trim=True), "0.0125"),
        (formatting.significant(100.0, 6, trim=True), "100"),
        (formatting.significant(math.nan), "undefined"),
        (formatting.significant(math.inf), "∞"),
        (formatting.seconds(0.0079), "7.90 ms"),
        (formatting.seconds(3.21e-5), "32.1 µs"),
        (formatting.seconds(44.0), "44.0 s"),
        (formatting.seconds(1810.0), "30.2 min"),
        (formatting.seconds(9000.0), "2.50 h"),
        (formatting.size(45_100_000), "45.1 MB"),
        (formatting.size(12), "12 B"),
        (formatting.count(1_812_000_000), "1.81 G"),
        (formatting.count(999_600), "1.00 M"),
        (formatting.count(412), "412"),
        (formatting.percent(0.123), "12.3 %"),
        (formatting.percent(1.0), "100 %"),
        (formatting.percent(-0.05), "\u22125.0 %"),
        (formatting.ratio(2.714), "2.71x"),
        (formatting.requirement("latency_s", None, 0.01), "at most 10 ms"),
        (formatting.requirement("speedup", 2.0, 4.0), "at least 2x and at most 4x"),
        (formatting.span("auc", Interval(value=0.5, low=0.5, high=0.5)), "0.500"),
        (formatting.span("speedup", Interval(value=2.7, low=2.6, high=2.8)), "2.70x [2.60x, 2.80x]"),
        (formatting.metric_label("auc"), "AUC"),
        (formatting.metric_label("top1"), "top1"),
        (formatting.metric_label("information_gain"), "information gain"),
        (formatting.backend_label("onnxruntime"), "ONNX Runtime"),
        (formatting.backend_label("my_runtime"), "my_runtime"),
        (formatting.shortened("features.17.conv.0.0", 14), "…17.conv.0.0"),
        (formatting.shortened("averylongnamewithoutdots", 8), "…outdots"),
        (formatting.shortened("short", 8), "short"),
    ],
)
def test_examples(text: str, wanted: str) -> None:
    assert text == wanted


@given(st.floats(1e-9, 1e12), st.integers(1, 6), st.booleans())
def test_significant_digits_are_kept(value: float, digits: int, trim: bool) -> None:
    printed = formatting.significant(value, digits, trim=trim)
    assert float(printed.replace(",", "")) == pytest.approx(value, rel=0.5 * 10.0 ** (1 - digits) * 1.001)


@given(st.text(min_size=1, max_size=60), st.integers(4, 40))
def test_shortened_names_fit(text: str, length: int) -> None:
    shown = formatting.shortened(text, length)
    assert len(shown) <= length
    assert shown == text or text.endswith(shown[1:])


@pytest.mark.parametrize(
    ("value", "low", "high", "digits"),
    [
        (2.7, 2.6, 2.8, 2),
        (2.7, 2.68, 2.72, 3),
        (2.0, 2.0, 2.0, 2),
        (2.7, 2.7001, 2.7002, 4),
        (1.02, 0.9, 1.2, 3),
        (1.0, 0.9, 1.2, 2),
    ],
)
def test_digits_grow_until_the_ends_differ(value: float, low: float, high: float, digits: int) -> None:
    assert formatting.separating_digits(value, low, high) == digits


@given(st.floats(0, 1))
def test_percentages_are_short(share: float) -> None:
    assert re.fullmatch(r"(100|\d{1,2}\.\d) %|100.0 %", formatting.percent(share))
