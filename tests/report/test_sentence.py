"""The sentence that people read first."""

import re
from collections.abc import Callable

import pytest

from secateur.artifacts import Interval, Summary
from secateur.report.gates import Gate
from secateur.report.sentence import headline, reasons


def with_comparison(summary: Summary, **changes) -> Summary:
    return summary.model_copy(update={"comparison": summary.comparison.model_copy(update=changes)})


def test_the_headline_is_one_sentence(summary: Summary) -> None:
    wanted = r"3\.1x fewer MACs, 2\.7x faster \(95 % interval 2\.6-2\.8\) on ONNX Runtime, AUC 0\.854 -> 0\.850: PASS"
    assert re.fullmatch(wanted, headline(summary))


@pytest.mark.parametrize(
    ("outcome", "speedup", "words"),
    [
        ("equivalent", (1.0, 0.995, 1.006), "as fast as before (0.995-1.01x) on ONNX Runtime"),
        ("unresolved", (1.1, 0.95, 1.25), "no difference in speed resolved (0.950-1.25x) on ONNX Runtime"),
        ("slower", (0.978, 0.956, 0.999), "1.02x slower (95 % interval 1.00-1.05) on ONNX Runtime"),
        ("slower", (0.5, 0.4, 0.625), "2.0x slower (95 % interval 1.6-2.5) on ONNX Runtime"),
    ],
)
def test_other_outcomes(summary: Summary, outcome: str, speedup: tuple[float, ...], words: str) -> None:
    value, low, high = speedup
    changed = with_comparison(summary, outcome=outcome, speedup=Interval(value=value, low=low, high=high))
    assert words in headline(changed)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (1_812_000_000, "as many MACs as before"),
        (3_624_000_000, "2.0x more MACs"),
        (1_760_000_000, "1.03x fewer MACs"),
    ],
)
def test_macs_that_were_not_saved_are_not_called_fewer(summary: Summary, after: int, words: str) -> None:
    changed = summary.model_copy(update={"prune": summary.prune.model_copy(update={"macs_after": after})})
    assert headline(changed).startswith(words)


def test_an_unevaluated_metric_is_left_out(summary: Summary) -> None:
    assert "->" not in headline(summary.model_copy(update={"primary": "absent"}))


def test_reasons_name_every_gate_that_did_not_pass(make_summary: Callable[..., Summary]) -> None:
    gates = (
        Gate(quantity="mac_ratio", at_least=2.0), Gate(quantity="speedup", at_least=2.7),
        Gate(quantity="latency_s", at_most=0.001),
    )  # fmt: skip
    told = reasons(make_summary(num_blocks=2, gates=gates))
    assert len(told) == 2
    assert re.fullmatch(r"latency_s is 8\.00 ms \[.*\], required is at most 1 ms\.", told[0])
    assert re.fullmatch(r"speedup is 2\.70x \[.*\], which does not settle whether it is at least 2\.7x\.", told[1])


def test_a_pass_without_gates_says_so(make_summary: Callable[..., Summary]) -> None:
    summary = make_summary(num_blocks=2, gates=())
    assert summary.verdict.verdict == "pass"
    assert reasons(summary) == ("No gates were set: nothing was required, so nothing could fail.",)
