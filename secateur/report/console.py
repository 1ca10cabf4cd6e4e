"""Draw results for the terminal."""

from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from secateur.artifacts import Practice, Redundancy, Summary
from secateur.report.formatting import percent
from secateur.report.gates import ORIGINAL, network_intervals
from secateur.report.redundancy import found_told, rule_told
from secateur.report.sentence import headline, reasons
from secateur.report.tables import cutting, outcome, practice, rounding, running
from secateur.report.tables.table import Table

VERDICT_STYLES = {"pass": "green", "fail": "red", "undecided": "yellow"}
WRAPPED = 24
"""Characters that a cell needs; longer ones are wrapped between words before a column is left out."""
BETWEEN, EDGES = 3, 2
"""Characters between two columns, and at both edges together."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A table as wide as the place it is drawn in: spare columns are left out where they do not fit, and named."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the columns that fit."""
        shown = fitting(self.table, options.max_width)
        yield _drawn(self.table.only(shown))
        left_out = [name for column, name in enumerate(self.table.header) if column not in shown]
        if left_out:
            yield Text(f"Left out at this width: {', '.join(left_out)} (a wider window or --json tells)", style="dim")


def fitting(table: Table, width: int) -> list[int]:
    """Return the columns that fit into so many characters; all that are not spare are among them."""
    needed = {
        column: max(min(WRAPPED, cell_len(cell)) for cell in (name, *(row[column] for row in table.rows)))
        for column, name in enumerate(table.header)
    }
    for column in table.spare:
        if sum(needed.values()) + BETWEEN * (len(needed) - 1) + EDGES <= width:
            break
        del needed[column]
    return list(needed)


def rich_table(table: Table) -> Fitted:
    """Return a table for the terminal; verdicts are coloured, nothing in the cells is read as markup."""
    return Fitted(table=table)


def _drawn(table: Table) -> RichTable:
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


def practice_view(found: Practice) -> Group:
    """Return theory against practice: of the call, of every layer, and where the gain went."""
    tables = (practice.practice_table(found), practice.layers_table(found), practice.findings_table(found))
    return Group(*(rich_table(table) for table in tables if table.rows))


def report_view(summary: Summary) -> Group:
    """Return what the report's page says in numbers, the verdict first."""
    evaluations = summary.evaluations
    intervals = network_intervals(evaluations) if ORIGINAL in evaluations else {}
    tables = (
        outcome.key_figures_table(summary), outcome.quality_table(evaluations, intervals),
        cutting.rounds_table(summary.prune), running.engines_table(summary.engines),
        rounding.quantization_table(summary), running.latency_table(summary.comparison),
        running.measurement_table(summary.comparison),
    )  # fmt: skip
    parts: list[RenderableType] = [verdict_panel(summary), *(rich_table(table) for table in tables if table.rows)]
    return Group(*parts, *([] if summary.practice is None else [practice_view(summary.practice)]))


def redundancy_view(redundancy: Redundancy) -> Group:
    """Return the estimate: every group's effective filters with a bar, then the largest compression."""
    table = cutting.redundancy_table(redundancy)
    bars = [_bar(group.num_effective / group.num_channels) for group in redundancy.groups]
    drawn = rich_table(
        Table(title=table.title, header=(*table.header, "Effective share"), right=table.right,
              rows=tuple((*row, bar) for row, bar in zip(table.rows, bars, strict=True)), spare=table.spare)
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
