"""The terminal shows what the page shows."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from secateur.artifacts import BenchCell, Summary
from secateur.cli import surroundings
from secateur.comparing import RunRow, RunsCompared, runs_table
from secateur.report.console import WRAPPED, fitting, redundancy_view, report_view, rich_table, verdict_panel
from secateur.report.gates import Gate, quantities_of
from secateur.report.tables import cutting, outcome, practice, running
from secateur.report.tables.cutting import widths_table
from secateur.report.tables.table import Table


def runs(summary: Summary) -> Table:
    measured = quantities_of(summary, seed=0)
    rows = tuple(
        RunRow(
            run=f"runs/gaze-sweep/keep-0.{share}", name="gaze", settings={"prune.macs": share / 10}, macs=1,
            parameters=1, primary="auc", verdict="pass", measured=measured,
        )
        for share in (7, 5, 3)
    )  # fmt: skip
    return runs_table(RunsCompared(runs=rows, warnings=()))


TABLES: dict[str, Callable[[Summary], Table]] = {
    "cells": lambda s: practice.cells_table([BenchCell(comparison=s.comparison, parity={})]),
    "compression": lambda s: cutting.compression_table(s.redundancy),
    "engines": lambda s: running.engines_table(s.engines),
    "exports": lambda s: running.exports_table(s.exports),
    "findings": lambda s: practice.findings_table(s.practice),
    "gates": lambda s: outcome.gates_table(s.verdict),
    "figures": outcome.key_figures_table,
    "latency": lambda s: running.latency_table(s.comparison),
    "layers": lambda s: practice.layers_table(s.practice),
    "measurement": lambda s: running.measurement_table(s.comparison),
    "pinned": lambda s: cutting.pinned_table(s.prune.pinned),
    "practice": lambda s: practice.practice_table(s.practice),
    "redundancy": lambda s: cutting.redundancy_table(s.redundancy),
    "rounds": lambda s: cutting.rounds_table(s.prune),
    "runs": runs,
    "widths": lambda s: cutting.widths_table(s.prune),
}


def text_of(drawn: object, width: int = 140) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(drawn)
    return console.file.getvalue()


def test_the_terminal_says_what_the_page_says(summary: Summary) -> None:
    shown = text_of(verdict_panel(summary))
    assert "gaze-resnet18: PASS" in shown
    assert "2.7x faster" in shown
    for gate in summary.verdict.gates:
        assert gate.quantity in shown


def test_the_terminal_lists_every_group(summary: Summary) -> None:
    estimate = text_of(redundancy_view(summary.redundancy))
    widths = text_of(rich_table(widths_table(summary.prune)))
    for group in summary.redundancy.groups:
        assert group.name in estimate
        assert group.name in widths
    assert "tau = 0.01 nats in the spectra of gate gradients" in estimate


def test_brackets_in_names_are_no_markup_in_the_terminal() -> None:
    assert "[red]x[/red]" in text_of(rich_table(Table(title="[b]", header=("[i]",), rows=(("[red]x[/red]",),))))


def test_an_undecided_run_says_so(make_summary: Callable[..., Summary]) -> None:
    summary = make_summary(num_blocks=2, gates=(Gate(quantity="speedup", at_least=2.7),))
    assert "UNDECIDED" in text_of(verdict_panel(summary))


@pytest.mark.parametrize("width", [80, 100, 240])
@pytest.mark.parametrize("name", TABLES)
def test_tables_are_no_wider_than_the_terminal_and_short_cells_stay_whole(
    small: Summary, name: str, width: int
) -> None:
    table = TABLES[name](small)
    shown = text_of(rich_table(table), width)
    assert max(map(len, shown.splitlines())) <= width
    kept, plain = fitting(table, width), " ".join(shown.split())
    assert all(column in table.spare for column in range(len(table.header)) if column not in kept)
    assert ("Left out at this width" in shown) == (len(kept) < len(table.header))
    assert all(table.header[column] in plain for column in table.spare)
    if name != "runs" or width > 100:  # six columns of intervals and settings that none can do without
        cells = [row[column] for row in table.rows for column in kept]
        assert [cell for cell in cells if len(cell) <= WRAPPED and cell not in shown] == []


def test_a_wide_terminal_leaves_nothing_out(small: Summary) -> None:
    assert "Left out" not in text_of(report_view(small), 240)
    assert "Left out at this width: Multiply-adds, a byte, Bound by, Predicted" in text_of(report_view(small), 80)


def test_the_report_in_the_terminal_has_its_numbers(small: Summary) -> None:
    shown = text_of(report_view(small), 240)
    for finding in small.practice.findings:
        assert finding.told in shown
    for layer in small.practice.after.layers:
        assert layer.name in shown
    assert "of the multiply-adds' promise realised" in shown
    assert "5 fresh instances x 40 blocks x 12 iterations" in shown


def test_columns_are_left_out_in_their_order() -> None:
    table = Table(title="", header=("aaaa", "bbbb", "cccc"), rows=(("1", "2", "3"),), spare=(1, 0))
    assert [fitting(table, width) for width in (20, 19, 13, 12, 5)] == [[0, 1, 2], [0, 2], [0, 2], [2], [2]]


def test_warnings_of_several_comparisons_say_whose_they_are(small: Summary, capsys: pytest.CaptureFixture[str]) -> None:
    many = small.comparison.model_copy(update={"batch_size": 8, "num_threads": 1})
    cells = [BenchCell(comparison=one, parity={}) for one in (small.comparison, many)]
    surroundings._show_bench(cells, [])
    shown = capsys.readouterr().out
    for where in ("batch 1, 2 threads", "batch 8, 1 thread"):
        assert f"{where}: {small.comparison.warnings[0]}" in shown
    surroundings._show_bench(cells[:1], [])
    assert f"\n{small.comparison.warnings[0]}" in capsys.readouterr().out
