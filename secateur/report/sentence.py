"""Say a run's outcome in one sentence that needs no glossary."""

from secateur.artifacts import Comparison, Summary
from secateur.report.formatting import (
    backend_label,
    confidence,
    metric_label,
    ratio,
    requirement,
    separating_digits,
    significant,
    span,
)
from secateur.report.gates import COMPRESSED, ORIGINAL


def headline(summary: Summary) -> str:
    """Return the outcome and the verdict, costs first.

    For example: 3.1x fewer MACs, 2.7x faster (95 % interval 2.6-2.8) on ONNX Runtime, AUC 0.861 -> 0.857: PASS.
    """
    return f"{achievement(summary)}: {summary.verdict.verdict.upper()}"


def achievement(summary: Summary) -> str:
    """Return the outcome without the verdict."""
    parts = (_cost(summary), _speed(summary.comparison), _quality(summary))
    return ", ".join(part for part in parts if part)


def reasons(summary: Summary) -> tuple[str, ...]:
    """Return one sentence a gate that did not pass, failures first, or the one sentence that explains a pass."""
    verdict = summary.verdict
    if not verdict.gates:
        return ("No gates were set: nothing was required, so nothing could fail.",)
    told = []
    for gate in sorted(verdict.gates, key=lambda gate: gate.verdict != "fail"):
        wanted = requirement(gate.quantity, gate.at_least, gate.at_most)
        measured = span(gate.quantity, gate.measured)
        if gate.verdict == "fail":
            told.append(f"{gate.quantity} is {measured}, required is {wanted}.")
        elif gate.verdict == "undecided":
            told.append(f"{gate.quantity} is {measured}, which does not settle whether it is {wanted}.")
    return tuple(told) or (f"{'The gate' if len(verdict.gates) == 1 else f'All {len(verdict.gates)} gates'} passed.",)


def _cost(summary: Summary) -> str:
    value = summary.mac_ratio
    digits = 2 if not 0.95 <= value < 1.05 else 3
    if significant(value, digits) == "1.00":
        return "as many MACs as before"
    return f"{ratio(value, digits)} fewer MACs" if value > 1 else f"{ratio(1 / value, digits)} more MACs"


def _speed(comparison: Comparison) -> str:
    speedup, where = comparison.speedup, backend_label(comparison.backend)
    if comparison.outcome == "equivalent":
        return f"as fast as before ({_limits(speedup.low, speedup.high, 3)}x) on {where}"
    if comparison.outcome == "unresolved":
        return f"no difference in speed resolved ({_limits(speedup.low, speedup.high, 3)}x) on {where}"
    value, low, high = speedup.value, speedup.low, speedup.high
    if comparison.outcome == "slower":
        value, low, high = (1 / end for end in (value, high, low))
    digits = separating_digits(value, low, high)
    limits = f"{confidence(speedup)} {_limits(low, high, digits)}"
    return f"{ratio(value, digits)} {comparison.outcome} ({limits}) on {where}"


def _limits(low: float, high: float, digits: int) -> str:
    return f"{significant(low, digits)}-{significant(high, digits)}"


def _quality(summary: Summary) -> str:
    before, after = (summary.evaluations.get(who) for who in (ORIGINAL, COMPRESSED))
    if before is None or after is None or summary.primary not in before.metrics or summary.primary not in after.metrics:
        return ""
    unit = after.units.get(summary.primary, "")
    values = " -> ".join(significant(evaluation.metrics[summary.primary]) for evaluation in (before, after))
    return f"{metric_label(summary.primary)} {values} {unit}".rstrip()
