"""The verbs around runs: bench, doctor, init and schema."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import Json, Quiet, listening, show, show_json


def bench(
    baseline: Annotated[Path, typer.Argument(help="An ONNX file.", show_default=False)],
    candidate: Annotated[Path, typer.Argument(help="An ONNX file with the same inputs.", show_default=False)],
    backend: Annotated[str, typer.Option(help="The runtime.")] = "onnxruntime",
    batch: Annotated[int, typer.Option(min=1, help="Samples a call.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    max_s: Annotated[float, typer.Option(min=1, help="Longest time the comparison may take, in seconds.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of inputs, order and bootstrap.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare the latencies of any two ONNX files, paired and interleaved."""
    from secateur.backends.bench import bench as bench_files
    from secateur.backends.compare import Compare
    from secateur.report.console import rich_table
    from secateur.report.tables.running import latency_table

    with listening(quiet) as listener:
        comparison = bench_files(
            baseline, candidate, backend=backend, batch_size=batch, num_threads=threads,
            compare=Compare(max_s=max_s, seed=seed), progress=listener.progress,
        )  # fmt: skip
    if as_json:
        show_json(comparison.model_dump(mode="json"))
        return
    speedup = comparison.speedup
    show(
        rich_table(latency_table(comparison)),
        f"{comparison.outcome}: {speedup.value:.3f}x, "
        f"{speedup.confidence:.0%} interval {speedup.low:.3f} to {speedup.high:.3f}",
        *comparison.warnings,
    )  # fmt: skip


def doctor(as_json: Json = False) -> None:
    """Show which runtimes work here, and what to install for the others."""
    from secateur.backends.doctor import doctor as diagnose
    from secateur.report.console import rich_table
    from secateur.report.tables.table import Table

    rows = diagnose()
    if as_json:
        show_json([row.model_dump(mode="json") for row in rows])
        return
    for kind, title in (("backend", "Backends"), ("package", "Packages"), ("machine", "Machine")):
        of_kind = [row for row in rows if row.kind == kind]
        if kind == "backend":
            states = tuple((row.name, row.status, row.value, ", ".join(row.devices)) for row in of_kind)
            show(rich_table(Table(title=title, header=("Name", "Status", "Version", "Devices"), rows=states)))
            show(*(f" {row.name}: {row.detail}" for row in of_kind if row.detail), "")
        else:
            cells = tuple((row.name, row.value) for row in of_kind)
            show(rich_table(Table(title=title, header=("Name", "Value"), rows=cells)))


def init(path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("recipe.yaml")) -> None:
    """Write a commented recipe for one's own network; three lines are to be edited."""
    from secateur.recipe_template import write_template

    write_template(path)
    show(f"{path}: edit the three lines marked EDIT, then `secateur check {path}` and `secateur run {path}`.")


def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from secateur.recipe_file import recipe_schema

    sys.stdout.write(recipe_schema())
