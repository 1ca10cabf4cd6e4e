"""The verbs that take finished runs: report, gate, verify, compare. They run nothing and leave run folders alone."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import (
    Beside,
    Json,
    Junit,
    Markdown,
    Plots,
    PolicyPath,
    Quiet,
    RunFolder,
    listening,
    show,
    write_plots,
)


def report(run: RunFolder, plots: Plots = None, as_json: Json = False) -> None:
    """Show a finished run: verdict, quality, latencies, and theory against practice layer by layer; exits with 0."""
    from secateur.judging import read_run
    from secateur.report.console import report_view
    from secateur.report.tracking import plots as drawn
    from secateur.report.write import summary_json

    summary = read_run(run)
    if plots is not None:
        write_plots(plots, drawn(summary))
    if as_json:
        sys.stdout.write(summary_json(summary))
    else:
        show(report_view(summary), f"Report: {run / 'report.html'}")


def gate(
    run: RunFolder, policy: PolicyPath = None, junit: Junit = None, markdown: Markdown = None, as_json: Json = False
) -> None:
    """Judge a finished run by a policy, or by its own gates, without running anything again."""
    from secateur.judging import judge_run, write_verdict
    from secateur.recipe_file import read_policy
    from secateur.report.console import verdict_panel

    summary = judge_run(run, None if policy is None else read_policy(policy))
    write_verdict(summary, junit=junit, markdown=markdown)
    if as_json:
        sys.stdout.write(summary.verdict.model_dump_json(indent=1) + "\n")
    else:
        show(verdict_panel(summary))
    raise typer.Exit(summary.verdict.exit_code)


def verify(
    run: RunFolder,
    beside: Beside = Path(),
    parity: Annotated[bool, typer.Option(help="Compute engines, ONNX files and networks again.")] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hash every file of a finished run again and hold engine, ONNX file and network to each other."""
    from secateur.report.console import rich_table
    from secateur.report.tables.table import Table
    from secateur.verify import verify as verify_run

    with listening(quiet) as listener:
        found = verify_run(run, beside=beside, parity=parity, listener=listener)
    if as_json:
        sys.stdout.write(found.model_dump_json(indent=1) + "\n")
    else:
        rows = tuple((difference.kind, difference.path, difference.told) for difference in found.differences)
        arrows = tuple((arrow.state, arrow.what, arrow.told) for arrow in found.arrows)
        if rows:
            show(rich_table(Table(title="Files", header=("State", "File", "Found"), rows=rows)))
        if arrows:
            show(rich_table(Table(title="Parity", header=("State", "What", "Found"), rows=arrows)))
        intact = f"{len(rows)} files differ" if rows else f"{found.num_files} files are as they were"
        show(f"{found.folder}: {intact}", f"Manifest: sha256 {found.digest}")
    raise typer.Exit(found.exit_code)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.", show_default=False)],
    plot: Annotated[Path | None, typer.Option(help="Draw quality over latency into this PNG file.")] = None,
    as_json: Json = False,
) -> None:
    """Put finished runs beside each other: in what their recipes differ and what came of it; exits with 0."""
    from secateur.comparing import compare_runs, pareto_png, runs_table
    from secateur.report.console import rich_table
    from secateur.storage import write

    found = compare_runs(runs)
    if plot is not None:
        write(plot, pareto_png(found))
    if as_json:
        sys.stdout.write(found.model_dump_json(indent=1) + "\n")
    else:
        show(rich_table(runs_table(found)), *found.warnings)
