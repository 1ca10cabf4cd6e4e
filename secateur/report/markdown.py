"""Write a run as compact Markdown: the verdict first, then tables."""

import re
from collections.abc import Iterable, Mapping

from secateur.artifacts import Interval, Summary
from secateur.report.sentence import headline, reasons
from secateur.report.tables import cutting, outcome, practice, rounding, running
from secateur.report.tables.table import Table


def render_markdown(summary: Summary, intervals: Mapping[str, Mapping[str, Interval]]) -> str:
    """Return the report as GitHub-flavoured Markdown.

    ``intervals`` are metrics and drops of every network, see `secateur.report.gates.network_intervals`.
    """
    found = summary.practice
    sections: list[tuple[str, Iterable[Table]]] = [
        ("Gates", [outcome.gates_table(summary.verdict)]),
        ("Key figures", [outcome.key_figures_table(summary)]),
        ("Quality", [outcome.quality_table(summary.evaluations, intervals), outcome.finetune_table(summary.finetune)]),
        ("Speed", [running.latency_table(summary.comparison), running.measurement_table(summary.comparison)]),
        ("Theory and practice",
         [] if found is None else [practice.practice_table(found), practice.findings_table(found)]),
        ("Pruning", [cutting.rounds_table(summary.prune), cutting.widths_table(summary.prune),
                     cutting.pinned_table(summary.prune.pinned)]),
        ("Redundancy", [cutting.compression_table(summary.redundancy)]),
        ("Engines", [running.engines_table(summary.engines), running.exports_table(summary.exports)]),
        ("Quantisation", [rounding.quantization_table(summary)]),
        ("Machine", [running.machine_table(summary.comparison.machine)]),
        ("Data and time", [outcome.facts_table(summary.facts), outcome.durations_table(summary.durations_s)]),
    ]  # fmt: skip
    lines = [f"# {escaped(summary.name)}", "", f"**{escaped(headline(summary))}**", ""]
    lines += [f"- {escaped(reason)}" for reason in reasons(summary)]
    about = ". ".join(part for part in (f"Task {summary.task}", summary.data) if part)
    lines += ["", f"{escaped(about)}. Written by secateur {escaped(summary.version)}.", ""]
    for title, tables in sections:
        filled = [table for table in tables if table.rows]
        if filled:
            lines += [f"## {title}", ""]
        for table in filled:
            if table.title != title:
                lines += [f"### {table.title}", ""]
            lines += [markdown_table(table), ""]
    return "\n".join(lines)


def render_verdict(summary: Summary) -> str:
    """Return the verdict alone as Markdown: the outcome in one sentence, why, and the gates, for a CI job's summary."""
    lines = [f"## {escaped(summary.name)}: {summary.verdict.verdict.upper()}", "", escaped(headline(summary)), ""]
    lines += [f"- {escaped(reason)}" for reason in reasons(summary)]
    gates = outcome.gates_table(summary.verdict)
    return "\n".join([*lines, *(["", markdown_table(gates)] if gates.rows else []), ""])


def markdown_table(table: Table) -> str:
    """Return one table; every row has as many cells as the header, whatever the cells hold."""
    rule = ["--:" if table.aligned(column) == "right" else ":--" for column in range(len(table.header))]
    rows = [[escaped(cell) for cell in row] for row in (table.header, *table.rows)]
    rows.insert(1, rule)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is: no markup, no HTML, one line."""
    text = re.sub(r"([\\`*|\[\]])", r"\\\1", " ".join(text.split()))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # underscores within words are no markup
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("~~", r"\~\~")
