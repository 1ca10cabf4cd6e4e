"""What the run achieved: gates, key figures, metrics, fine-tuning, durations."""

from collections.abc import Callable, Mapping

from secateur.artifacts import Evaluation, FinetuneResult, Interval, Summary, Verdict
from secateur.report.formatting import count, percent, ratio, requirement, seconds, significant, size, span
from secateur.report.gates import COMPRESSED, ORIGINAL, QUANTITIES, ROUNDED
from secateur.report.tables.table import Table


def gates_table(verdict: Verdict) -> Table:
    """List every gate with its line, what was measured and its verdict."""
    return Table(
        title="Gates",
        header=("Quantity", "Required", "Measured", "Verdict", "Meaning"),
        rows=tuple(
            (
                gate.quantity,
                requirement(gate.quantity, gate.at_least, gate.at_most),
                span(gate.quantity, gate.measured),
                gate.verdict.upper(),
                meaning(gate.quantity),
            )
            for gate in verdict.gates
        ),
        spare=(4,),
    )


def meaning(quantity: str) -> str:
    """Explain a quantity in a few words; metrics and their drops explain themselves by name."""
    if quantity.startswith(ROUNDED):
        return f"quantised: {meaning(quantity.removeprefix(ROUNDED))}"
    if quantity in QUANTITIES:
        return QUANTITIES[quantity]
    if quantity.endswith("_drop"):
        return f"how much worse {quantity.removesuffix('_drop')} became"
    return "metric of the compressed network on the test set"


def key_figures_table(summary: Summary) -> Table:
    """List what was bought, before and after."""
    prune, comparison = summary.prune, summary.comparison
    channels = sum(prune.widths_before.values()), sum(prune.widths_after.values())
    rows = [
        _change("MACs a sample", prune.macs_before, prune.macs_after, count),
        _change("Parameters", prune.parameters_before, prune.parameters_after, count),
    ]
    if channels[0]:
        rows.append(_change("Channels", *channels, count))
    before, after = (summary.exports.get(who) for who in (ORIGINAL, COMPRESSED))
    if before is not None and after is not None:
        rows.append(_change("ONNX file", before.size_bytes, after.size_bytes, size))
    label = f"Latency, median, batch {comparison.batch_size}"
    rows.append(_change(label, comparison.baseline.p50_s, comparison.candidate.p50_s, seconds, comparison.speedup))
    realised = summary.realised
    if realised is not None:
        rows.append(("Promise kept, ln speed-up / ln MAC ratio", "", "", percent(realised)))
    return Table(
        title="Key figures", header=("", "Before", "After", "Factor"), rows=tuple(rows), right=frozenset({1, 2, 3})
    )


def quality_table(evaluations: Mapping[str, Evaluation], intervals: Mapping[str, Mapping[str, Interval]]) -> Table:
    """List every metric of every evaluated network, and how much the compressed one lost, with its paired interval."""
    rows = []
    for name in dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation.metrics):
        values = [significant(e.metrics[name], 4) if name in e.metrics else "" for e in evaluations.values()]
        some = next(e for e in evaluations.values() if name in e.metrics)
        unit, drop = some.units.get(name, ""), intervals.get(COMPRESSED, {}).get(f"{name}_drop")
        better = "higher" if some.higher_is_better.get(name, True) else "lower"
        lost = span(f"{name}_drop", drop) if drop is not None else ""
        rows.append((f"{name} ({unit})" if unit else name, better, *values, lost))
    header = ("Metric", "Better", *evaluations, "Loss [95 % interval]")
    return Table(
        title="Metrics on the test set", header=header, rows=tuple(rows), right=frozenset(range(2, len(header)))
    )


def finetune_table(finetune: FinetuneResult) -> Table:
    """List the epochs of fine-tuning; the kept one is marked."""
    epochs = finetune.epochs
    metrics = list(dict.fromkeys(name for epoch in epochs for name in epoch.metrics))
    rows = tuple(
        (
            f"{e.epoch}{' (kept)' if e.epoch == finetune.best_epoch else ''}",
            *(significant(x) for x in (e.loss, e.task_loss, e.distillation_loss, e.feature_loss, e.learning_rate)),
            *(significant(e.metrics[name], 4) if name in e.metrics else "" for name in metrics),
        )
        for e in epochs
    )
    header = ("Epoch", "Loss", "Task", "Distillation", "Features", "Learning rate", *metrics)
    return Table(title="Epochs of fine-tuning", header=header, rows=rows, right=frozenset(range(1, len(header))))


def durations_table(durations_s: Mapping[str, float]) -> Table:
    """List how long each stage took, and all together."""
    rows = [(name, seconds(value)) for name, value in durations_s.items()]
    if len(rows) > 1:
        rows.append(("all stages", seconds(sum(durations_s.values()))))
    return Table(title="Durations", header=("Stage", "Time"), rows=tuple(rows), right=frozenset({1}))


def facts_table(facts: Mapping[str, float]) -> Table:
    """List figures about the data."""
    rows = tuple((name, significant(value, 4)) for name, value in facts.items())
    return Table(title="Data", header=("Figure", "Value"), rows=rows, right=frozenset({1}))


def _change(
    label: str, before: float | int, after: float | int, show: Callable[..., str], factor: Interval | None = None
) -> tuple[str, ...]:
    last = span("speedup", factor) if factor is not None else ratio(before / after)
    return label, show(before), show(after), last
