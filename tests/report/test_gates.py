"""Laws of gates, and what quantities are made of."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from secateur.artifacts import Comparison, Evaluation, Interval, Summary
from secateur.errors import DataError, RecipeError
from secateur.report.gates import (
    QUANTITIES,
    Gate,
    allowed_quantities,
    check_gates,
    judge,
    network_intervals,
    quantities,
)

RANK = {"fail": 0, "undecided": 1, "pass": 2}
FINITE = st.floats(-1e6, 1e6)


@st.composite
def intervals(draw) -> Interval:
    low, value, high = sorted(draw(st.tuples(FINITE, FINITE, FINITE)))
    return Interval(value=value, low=low, high=high)


def verdict(interval: Interval, at_least: float | None = None, at_most: float | None = None) -> str:
    return judge({"speedup": interval}, [Gate(quantity="speedup", at_least=at_least, at_most=at_most)]).verdict


@given(intervals(), FINITE, FINITE)
def test_a_stricter_line_never_helps(interval: Interval, one: float, other: float) -> None:
    easy, hard = sorted((one, other))
    assert RANK[verdict(interval, at_least=hard)] <= RANK[verdict(interval, at_least=easy)]
    assert RANK[verdict(interval, at_most=easy)] <= RANK[verdict(interval, at_most=hard)]


@given(intervals(), FINITE)
def test_the_two_directions_mirror_each_other(interval: Interval, line: float) -> None:
    mirrored = Interval(value=-interval.value, low=-interval.high, high=-interval.low)
    assert verdict(interval, at_least=line) == verdict(mirrored, at_most=-line)


@given(FINITE, FINITE, FINITE)
def test_a_point_is_never_undecided(value: float, one: float, other: float) -> None:
    point = Interval(value=value, low=value, high=value)
    least, most = sorted((one, other))
    assert verdict(point, at_least=one) == ("pass" if value >= one else "fail")
    assert verdict(point, at_least=least, at_most=most) == ("pass" if least <= value <= most else "fail")


@given(intervals(), FINITE, FINITE)
def test_two_bounds_are_no_better_than_each(interval: Interval, one: float, other: float) -> None:
    least, most = sorted((one, other))
    both = RANK[verdict(interval, at_least=least, at_most=most)]
    assert both == min(RANK[verdict(interval, at_least=least)], RANK[verdict(interval, at_most=most)])


@given(st.lists(st.sampled_from(["pass", "fail", "undecided"]), max_size=5))
def test_the_worst_gate_decides_and_the_exit_code_tells(wanted: list[str]) -> None:
    interval = Interval(value=1.0, low=0.5, high=1.5)
    lines = {"pass": 0.0, "undecided": 1.0, "fail": 2.0}
    found = judge({"speedup": interval}, [Gate(quantity="speedup", at_least=lines[one]) for one in wanted])
    assert [gate.verdict for gate in found.gates] == wanted
    expected = "fail" if "fail" in wanted else "undecided" if "undecided" in wanted else "pass"
    assert found.verdict == expected
    assert found.exit_code == {"pass": 0, "fail": 1, "undecided": 3}[expected]


def test_an_undefined_quantity_is_undecided() -> None:
    nothing = Interval(value=math.nan, low=-math.inf, high=math.inf)
    assert verdict(nothing, at_least=0.1) == "undecided"
    assert verdict(nothing, at_most=0.1) == "undecided"


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "a gate with at_least, at_most or both"),
        ({"at_least": 2.0, "at_most": 1.0}, "at_least no larger than at_most"),
        ({"at_least": "2"}, "valid number"),
        ({"at_least": True}, "valid number"),
        ({"at_most": math.nan}, "finite"),
        ({"at_most": math.inf}, "finite"),
        ({"at_laest": 2.0}, "Extra inputs"),
    ],
)
def test_gates_are_validated(bounds: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Gate(quantity="speedup", **bounds)


def test_an_unknown_quantity_lists_the_allowed_ones() -> None:
    gates = [Gate(quantity="speed", at_least=1.0)]
    with pytest.raises(RecipeError, match=r"'speed'; wanted one of speedup, mac_ratio, .*size_bytes, auc, auc_drop"):
        check_gates(gates, ["auc"])
    with pytest.raises(RecipeError, match="'speed'; wanted one of speedup"):
        judge({"speedup": Interval(value=1, low=1, high=1)}, gates)
    check_gates([Gate(quantity=name, at_least=0.0) for name in allowed_quantities(["auc"])], ["auc"])


def test_gates_on_eight_bits_need_a_network_in_eight_bits() -> None:
    gate = Gate(quantity="quantized_auc_drop", at_most=0.01)
    check_gates([gate], ["auc"], quantized=True)
    with pytest.raises(RecipeError, match=r"'quantized_auc_drop' in a run without a quantised network.*quantize: "):
        check_gates([gate], ["auc"])
    with pytest.raises(RecipeError, match="one of speedup"):
        check_gates([Gate(quantity="quantized_mac_ratio", at_least=2)], ["auc"], quantized=True)


@pytest.mark.parametrize("metrics", [["speedup"], ["auc", "auc_drop"]])
def test_a_metric_may_not_hide_a_quantity(metrics: list[str]) -> None:
    with pytest.raises(RecipeError, match="twice"):
        allowed_quantities(metrics)


def measured(summary: Summary, **changes) -> dict[str, Interval]:
    parts = {name: getattr(summary, name) for name in ("prune", "evaluations", "exports", "engines", "comparison")}
    return quantities(**(parts | changes), num_resamples=500)


def test_every_allowed_quantity_is_measured(summary: Summary) -> None:
    found = measured(summary)
    assert sorted(found) == sorted(allowed_quantities(summary.evaluations["compressed"].metrics))
    assert set(QUANTITIES) <= set(found)
    for interval in found.values():
        assert interval.low <= interval.value <= interval.high


def test_every_quantity_of_a_network_in_eight_bits_is_measured(summary: Summary) -> None:
    rounded = {
        "evaluations": {**summary.evaluations, "quantized": summary.evaluations["pruned"]},
        "exports": {**summary.exports, "quantized": summary.exports["compressed"]},
        "engines": {**summary.engines, "quantized": summary.engines["compressed"]},
    }
    found = measured(summary, **rounded, quantized_comparison=summary.comparison)
    names = allowed_quantities(summary.evaluations["compressed"].metrics, quantized=True)
    assert sorted(found) == sorted(names)
    assert found["quantized_speedup"] == found["speedup"]
    assert found["quantized_auc_drop"].value > found["auc_drop"].value
    assert {name: found[name] for name in measured(summary)} == measured(summary)


def test_engines_that_failed_are_counted_and_absent_runtimes_are_not(summary: Summary) -> None:
    one = summary.engines["original"][0]
    engines = {"original": [one], "compressed": [one, one.model_copy(update={"status": "failed", "parity": None})]}
    assert measured(summary, engines=engines)["failed_engines"].value == 1
    skipped = {"original": [one], "compressed": [one.model_copy(update={"status": "skipped", "parity": None})]}
    assert measured(summary, engines=skipped)["failed_engines"].value == 0


def test_quantities_say_what_the_summary_says(summary: Summary) -> None:
    found = measured(summary)
    assert found["speedup"] == summary.comparison.speedup
    assert found["mac_ratio"].value == summary.mac_ratio
    assert found["realised"].value == summary.realised
    assert found["realised"].low == pytest.approx(
        math.log(summary.comparison.speedup.low) / math.log(summary.mac_ratio)
    )
    assert found["size_ratio"].value == 45_100_000 / 14_800_000
    assert found["parity"].value == 2.1e-6  # an engine's, which is worse than the exports'
    assert found["latency_s"].value == summary.comparison.candidate.p50_s
    assert found["latency_s"].low < found["latency_s"].high
    assert found["size_bytes"].value == 14_800_000
    assert (found["p99_s"].value, found["p99_s"].high) == (summary.comparison.candidate.p99_s, math.inf)
    p99 = Interval(value=0.01, low=0.009, high=0.012)
    timed = summary.comparison.model_copy(update={"p99": p99})
    assert measured(summary, comparison=timed)["p99_s"] == p99
    assert found["auc"].value == pytest.approx(summary.evaluations["compressed"].metrics["auc"])


def test_realised_is_undefined_without_saved_macs(summary: Summary) -> None:
    prune = summary.prune.model_copy(update={"macs_after": summary.prune.macs_before})
    realised = measured(summary, prune=prune)["realised"]
    assert math.isnan(realised.value)
    assert (realised.low, realised.high) == (-math.inf, math.inf)


def test_a_drop_is_positive_where_worse_whichever_way_the_metric_points() -> None:
    better, worse = (0.9, 0.8, 0.7), (0.8, 0.7, 0.6)

    def pair(before: tuple[float, ...], after: tuple[float, ...], higher: bool) -> Interval:
        made = {
            name: Evaluation(
                num_samples=3, metrics={"m": sum(values) / 3}, per_sample={"m": values}, higher_is_better={"m": higher}
            )
            for name, values in (("original", before), ("compressed", after))
        }
        return network_intervals(made, num_resamples=200)["compressed"]["m_drop"]

    assert pair(better, worse, True).value == pytest.approx(0.1)
    assert pair(worse, better, False).value == pytest.approx(0.1)
    assert pair(worse, better, True).value == pytest.approx(-0.1)
    # Every sample loses the same: pairing leaves no doubt, however much the samples differ.
    assert pair(better, worse, True).low == pytest.approx(0.1)
    assert pair(better, worse, True).high == pytest.approx(0.1)


def test_adding_a_network_does_not_move_the_others(summary: Summary) -> None:
    evaluations = {name: summary.evaluations[name] for name in ("original", "compressed")}
    few = network_intervals(evaluations, num_resamples=300)["compressed"]
    many = network_intervals(summary.evaluations, num_resamples=300)["compressed"]
    for name, interval in few.items():
        assert [many[name].low, many[name].value, many[name].high] == pytest.approx(
            [interval.low, interval.value, interval.high], rel=1e-12
        )


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"m": (1.0, math.nan, 1.0)}, "m of sample 1 = nan; wanted finite values"),
        ({}, "no samples of m; wanted one value a test sample"),
        ({"m": (1.0, 1.0)}, r"3 samples \(original\) and 2 \(compressed\); wanted the same test samples"),
    ],
)
def test_bad_samples_are_refused(samples: dict[str, tuple[float, ...]], message: str) -> None:
    good = Evaluation(num_samples=3, metrics={"m": 1.0}, per_sample={"m": (1.0, 1.0, 1.0)})
    bad = Evaluation(num_samples=3, metrics={"m": 1.0}, per_sample=samples)
    with pytest.raises(DataError, match=message):
        network_intervals({"original": good, "compressed": bad}, num_resamples=10)


def test_metrics_of_different_lengths_are_refused() -> None:
    odd = Evaluation(num_samples=3, metrics={"a": 1.0, "b": 1.0}, per_sample={"a": (1.0, 1.0), "b": (1.0,)})
    with pytest.raises(DataError, match="metrics of different lengths"):
        network_intervals({"original": odd}, num_resamples=10)


def test_ten_thousand_samples_keep_to_the_normal_approximation() -> None:
    generator = np.random.default_rng(0)
    before = generator.random(10_000) < 0.93
    after = before ^ (generator.random(10_000) < 0.02)
    made = {
        name: Evaluation(
            num_samples=10_000,
            metrics={"accuracy": float(values.mean())},
            per_sample={"accuracy": tuple(values.astype(float).tolist())},
        )
        for name, values in (("original", before), ("compressed", after))
    }
    drop = network_intervals(made, num_resamples=2000)["compressed"]["accuracy_drop"]
    half_width = 1.96 * (before.astype(float) - after).std() / 100
    assert drop.high - drop.value == pytest.approx(half_width, rel=0.1)
    assert drop.value - drop.low == pytest.approx(half_width, rel=0.1)


def test_a_comparison_without_samples_leaves_the_latency_open(summary: Summary) -> None:
    comparison: Comparison = summary.comparison.model_copy(update={"samples_s": {"baseline": (), "candidate": ()}})
    assert verdict(measured(summary, comparison=comparison)["latency_s"], at_most=1.0) == "undecided"
