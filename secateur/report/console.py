"""Draw results for the terminal."""

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from secateur.artifacts import Redundancy, Summary
from secateur.report.formatting import percent
from secateur.report.redundancy import found_told, rule_told
from secateur.report.sentence import headline, reasons
from secateur.report.tables import cutting, outcome
from secateur.report.tables.table import Table

VERDICT_STYLES = {"pass": "green", "fail": "red", "undecided": "yellow"}


def rich_table(table: Table) -> RichTable:
    """Return a table for the terminal; verdicts are coloured, nothing in the cells is read as markup."""
    drawn = RichTable(title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column, name in enumerate(table.header):
        drawn.add_column(Text(name), justify=table.aligned(column), overflow="fold")
    for row in table.rows:
        drawn.add_row(
            *(Text(cell, style=VERDICT_STYLES.get(cell.lower(), "") if cell.isupper() else "") for cell in row)
        )
    return drawn


def verdict_panel(summary: Summary) -> Panel:
    """Return the outcome in a frame of the verdict's colour, with the gates below it."""
    style = VERDICT_STYLES[summary.verdict.verdict]
    inside: list[RenderableType] = [Text(headline(summary), style="bold")]
    inside += [Text(reason) for reason in reasons(summary)]
    if summary.verdict.gates:
        gates = outcome.gates_table(summary.verdict)
        inside.append(rich_table(Table(title="", header=gates.header[:4], rows=tuple(row[:4] for row in gates.rows))))
    title = Text(f" {summary.name}: {summary.verdict.verdict.upper()} ", style=f"bold {style}")
    return Panel(Group(*inside), title=title, title_align="left", border_style=style)


def redundancy_view(redundancy: Redundancy) -> Group:
    """Return the estimate: every group's effective filters with a bar, then the largest compression."""
    table = cutting.redundancy_table(redundancy)
    bars = [_bar(group.num_effective / group.num_channels) for group in redundancy.groups]
    drawn = rich_table(
        Table(title=table.title, header=(*table.header, "Effective share"), right=table.right,
              rows=tuple((*row, bar) for row, bar in zip(table.rows, bars, strict=True)))
    )  # fmt: skip
    most = redundancy.maximum_compression
    rule = rule_told(redundancy)
    timed = f"{percent(most['latency'])} of the layers' latency, " if "latency" in most else ""
    told = (
        f"By {rule}, {percent(most['filters'])} of the filters, {timed}"
        f"{percent(most['macs'])} of the MACs and {percent(most['parameters'])} of the parameters are superfluous "
        f"({redundancy.num_samples:,} samples, {redundancy.labels} labels)."
    )
    further = [Text(line) for line in found_told(redundancy)]
    return Group(drawn, rich_table(cutting.compression_table(redundancy)), Text(told), *further)


def _bar(share: float, width: int = 12) -> str:
    return "█" * round(share * width) + "░" * (width - round(share * width))
