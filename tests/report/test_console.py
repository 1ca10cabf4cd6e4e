"""The terminal shows what the page shows."""

import io
from collections.abc import Callable

from rich.console import Console

from secateur.artifacts import Summary
from secateur.report.console import redundancy_view, rich_table, verdict_panel
from secateur.report.gates import Gate
from secateur.report.tables.cutting import widths_table
from secateur.report.tables.table import Table


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
