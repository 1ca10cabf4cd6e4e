"""The verbs around runs: bench, doctor, init and schema."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.options import Json, Plots, Quiet, listening, show, show_json, write_plots
from secateur.errors import MeasurementError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from secateur.artifacts import BenchCell, Measurement


def bench(
    baseline: Annotated[
        Path,
        typer.Argument(
            help="An ONNX file, or an engine (.engine, .plan, .trt, .xml, .blob, .pt2).", show_default=False
        ),
    ],
    candidate: Annotated[
        Path | None, typer.Argument(help="Another one with the same inputs; without it, the first is timed alone.")
    ] = None,
    backend: Annotated[str, typer.Option(help="The runtime.")] = "onnxruntime",
    batch: Annotated[str, typer.Option(help="Samples a call: one number, or several as in 1,8.")] = "1",
    threads: Annotated[str, typer.Option(help="Threads of the runtime: one number, or several as in 1,2.")] = "1",
    clients: Annotated[
        str, typer.Option("--concurrency", help="Also let so many clients call at once, as in 1,2,4.")
    ] = "",
    cold: Annotated[int, typer.Option(min=0, help="Also start so many processes and time their first call.")] = 0,
    layers: Annotated[bool, typer.Option(help="Hold theory against practice, layer by layer.")] = True,
    size: Annotated[
        list[str] | None, typer.Option(metavar="NAME=NUMBER", help="A size that the files leave open, by its name.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="How far engines may be from their files, relatively: 1e-4, of integers 0.1."),
    ] = None,
    max_s: Annotated[
        float, typer.Option(min=1, help="Longest time a comparison or one file's timing may take, in seconds.")
    ] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of inputs, order and bootstrap.")] = 0,
    plots: Plots = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare the latencies of any two ONNX files or engines, paired and interleaved, and say where the gain went."""
    from secateur.backends.bench import Bench
    from secateur.backends.compare import Compare

    settings = Bench(
        backend=backend, sizes=_sizes(size or []), tolerance=tolerance, layers=layers, num_starts=cold,
        clients=_numbers("--concurrency", clients) if clients else (), compare=Compare(max_s=max_s, seed=seed),
    )  # fmt: skip
    batches, numbers = _numbers("--batch", batch), _numbers("--threads", threads)
    of_two = {"--concurrency": clients, "--cold": cold, "--plots": plots}
    if candidate is None and (asked := [option for option, value in of_two.items() if value]):
        raise MeasurementError(
            f"bench {' '.join(asked)}", "one file", "two files, which are compared", "Name another one, or the same."
        )
    with listening(quiet) as listener:
        if candidate is None:
            alone = [settings.alone(baseline, b, n, listener.progress) for b in batches for n in numbers]
            cells = []
        else:
            alone = []
            cells = list(
                settings.cells(
                    baseline, candidate, batch_sizes=batches, num_threads=numbers, progress=listener.progress
                )
            )
    if plots is not None:
        write_plots(plots, _drawn(cells))
    if as_json:
        show_json([*map(_told, cells), *(found.model_dump(mode="json") for found in alone)])
    else:
        _show_bench(cells, alone)


def _drawn(cells: "list[BenchCell]") -> "dict[str, Figure]":
    """Draw every comparison; names tell batch sizes and threads apart."""
    from secateur.report.plots.measured import measured_figures

    return {
        f"{name}-batch-{cell.comparison.batch_size}-threads-{cell.comparison.num_threads}": figure
        for cell in cells
        for name, figure in measured_figures(cell.comparison, cell.practice).items()
    }


def _told(cell: "BenchCell") -> dict[str, Any]:
    """Return a comparison for programs, with the shares of the promise that came true."""
    told = cell.model_dump(mode="json")
    if cell.practice is not None:
        was = {layer.name: layer for layer in cell.practice.before.layers}
        told["practice"] |= {
            "realised": cell.practice.realised, "realised_roofline": cell.practice.realised_roofline,
            "realised_layers": {
                layer.name: layer.realised(was[layer.name])
                for layer in cell.practice.after.layers
                if layer.name in was
            },
        }  # fmt: skip
    return told


def _show_bench(cells: "list[BenchCell]", alone: "list[Measurement]") -> None:
    from secateur.report.console import practice_view, rich_table
    from secateur.report.formatting import seconds, significant
    from secateur.report.tables import practice
    from secateur.report.tables.running import latency_table

    for found in alone:
        latency = found.latency
        energy = "" if found.energy_j is None else f", {significant(found.energy_j)} J a call"
        show(
            f"batch {found.batch_size}: median {seconds(latency.p50_s)} "
            f"({seconds(found.median.low)} to {seconds(found.median.high)}), p90 {seconds(latency.p90_s)}, "
            f"p95 {seconds(latency.p95_s)}, p99 {seconds(latency.p99_s)}, {significant(latency.throughput_per_s)} "
            f"samples/s, {latency.num_samples:,} calls, stopped by {found.stopped_by}{energy}"
        )
        if found.device is not None:
            parts = ", ".join(
                f"{name} {seconds(getattr(found.device, name).p50_s)}" for name in ("upload", "compute", "download")
            )
            used = "" if found.device.energy_j is None else f", {significant(found.device.energy_j)} J a call"
            show(f"on the device: {parts}{used}")
    if len(cells) == 1:
        show(rich_table(latency_table(cells[0].comparison)))
    if cells:
        show(rich_table(practice.cells_table(cells)))
    for cell in cells:
        if cell.practice is not None:
            show("", _where(cell), practice_view(cell.practice))
    for table in (practice.clients_table(cells), practice.cold_table(cells)):
        if table.rows:
            show(rich_table(table))
    for cell in cells:
        where = f"{_where(cell)}: " if len(cells) > 1 else ""
        show(*(f"{where}{warning}" for warning in cell.comparison.warnings))


def _where(cell: "BenchCell") -> str:
    threads = cell.comparison.num_threads
    return f"batch {cell.comparison.batch_size}, {threads} thread{'s' if threads != 1 else ''}"


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Read positive numbers with commas between."""
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise MeasurementError(
            f"{option} {text}",
            "no list of positive numbers",
            "numbers with commas between",
            f"For example {option} 1,8.",
        )
    return numbers


def _sizes(options: list[str]) -> dict[str, int]:
    sizes = {}
    for option in options:
        name, _, number = option.partition("=")
        if not name or not number.isdigit() or not int(number):
            raise MeasurementError(
                f"--size {option}", "no name=number", "a size's name, =, a number", "For example --size height=224."
            )
        sizes[name] = int(number)
    return sizes


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
