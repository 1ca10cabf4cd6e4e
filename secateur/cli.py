"""The command line: verbs and how results are shown. Exit codes: 0 pass, 1 fail, 2 could not run, 3 undecided."""

import contextlib
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console, RenderableType

from secateur import __version__
from secateur.errors import SecateurError
from secateur.gaze_verb import gaze
from secateur.listening import Listener, Silent

COULD_NOT_RUN = 2
INTERRUPTED = 130
"""What typer makes of Ctrl-C."""

app = typer.Typer(
    name="secateur", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip

app.command()(gaze)

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as in --set prune.macs=0.5.")
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing of the progress.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Redo every step, whatever the run folder holds.")]

out = Console()
err = Console(stderr=True)


@app.command()
def run(
    recipe: RecipePath, overrides: Set = None, as_json: Json = False, quiet: Quiet = False, fresh: Fresh = False
) -> None:
    """Compress, export, build, measure and judge; a rerun resumes."""
    from secateur.chain import run as run_chain
    from secateur.recipe_file import read_recipe
    from secateur.report.console import verdict_panel
    from secateur.report.write import summary_json

    with _listener(quiet) as listener:
        outcome = run_chain(read_recipe(recipe, overrides or ()), beside=recipe.parent, fresh=fresh, listener=listener)
    if as_json:
        sys.stdout.write(summary_json(outcome.summary))
    else:
        _show(verdict_panel(outcome.summary), f"Report: {outcome.report}")
    raise typer.Exit(outcome.exit_code)


@app.command()
def estimate(
    recipe: RecipePath, overrides: Set = None, as_json: Json = False, quiet: Quiet = False, fresh: Fresh = False
) -> None:
    """Show how much of the network is superfluous, and its maximum compression."""
    from secateur.chain import estimate as estimate_chain
    from secateur.recipe_file import read_recipe
    from secateur.report.console import redundancy_view

    with _listener(quiet) as listener:
        redundancy, picture = estimate_chain(
            read_recipe(recipe, overrides or ()), beside=recipe.parent, fresh=fresh, listener=listener
        )
    if as_json:
        _json({**redundancy.model_dump(mode="json"), "maximum_compression": redundancy.maximum_compression})
    else:
        _show(redundancy_view(redundancy), f"Spectra: {picture}")


@app.command()
def check(recipe: RecipePath, overrides: Set = None, as_json: Json = False) -> None:
    """Print everything that a recipe means, in full, and touch nothing."""
    from secateur.check import check as check_recipe
    from secateur.recipe_file import read_recipe
    from secateur.report.console import rich_table
    from secateur.report.formatting import count, percent
    from secateur.report.tables.cutting import pinned_table
    from secateur.report.tables.table import Table

    found = check_recipe(read_recipe(recipe, overrides or ()), beside=recipe.parent)
    if as_json:
        _json(found.model_dump(mode="json"))
        return
    groups = Table(
        title="Groups that may be narrowed", header=("Group", "Block", "Channels", "Least", "Step"),
        right=frozenset({2, 3, 4}),
        rows=tuple((g.name, g.block, str(g.num_channels), str(g.least), str(g.multiple)) for g in found.groups),
    )  # fmt: skip
    budget = "latency of the layers, which a run measures"
    if found.target is not None and found.reachable is not None:
        budget = f"{count(found.target)} {found.budget}; without floors {percent(found.reachable)} can be reached"
    _show(
        yaml.safe_dump(found.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        rich_table(groups),
        rich_table(pinned_table(found.pinned)),
        f"Data: {found.data or 'no description'}; {found.num_train} training and {found.num_test} test samples",
        f"Task: {found.task}, metrics {', '.join(found.metrics)}; inputs {', '.join(map(str, found.input_shapes))}",
        f"Network: {count(found.macs)} MACs, {count(found.parameters)} parameters",
        f"Budget: {budget}",
        *(f"Runtime {name}: {state}" for name, state in found.backends.items()),
    )


@app.command()
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

    with _listener(quiet) as listener:
        comparison = bench_files(
            baseline, candidate, backend=backend, batch_size=batch, num_threads=threads,
            compare=Compare(max_s=max_s, seed=seed), progress=listener.progress,
        )  # fmt: skip
    if as_json:
        _json(comparison.model_dump(mode="json"))
        return
    speedup = comparison.speedup
    _show(
        rich_table(latency_table(comparison)),
        f"{comparison.outcome}: {speedup.value:.3f}x, "
        f"{speedup.confidence:.0%} interval {speedup.low:.3f} to {speedup.high:.3f}",
        *comparison.warnings,
    )  # fmt: skip


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show which runtimes work here, and what to install for the others."""
    from secateur.backends.doctor import doctor as diagnose
    from secateur.report.console import rich_table
    from secateur.report.tables.table import Table

    rows = diagnose()
    if as_json:
        _json([row.model_dump(mode="json") for row in rows])
        return
    for kind, title in (("backend", "Backends"), ("package", "Packages"), ("machine", "Machine")):
        of_kind = [row for row in rows if row.kind == kind]
        if kind == "backend":
            states = tuple((row.name, row.status, row.value, ", ".join(row.devices)) for row in of_kind)
            _show(rich_table(Table(title=title, header=("Name", "Status", "Version", "Devices"), rows=states)))
            _show(*(f" {row.name}: {row.detail}" for row in of_kind if row.detail), "")
        else:
            cells = tuple((row.name, row.value) for row in of_kind)
            _show(rich_table(Table(title=title, header=("Name", "Value"), rows=cells)))


@app.command()
def init(path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("recipe.yaml")) -> None:
    """Write a commented recipe for one's own network; three lines are to be edited."""
    from secateur.recipe_template import write_template

    write_template(path)
    _show(f"{path}: edit the three lines marked EDIT, then `secateur check {path}` and `secateur run {path}`.")


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from secateur.recipe_file import recipe_schema

    sys.stdout.write(recipe_schema())


def _print_version(wanted: bool) -> bool:
    if wanted:
        _show(f"secateur {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compress trained PyTorch networks into deployable engines and prove the gain."""


def main() -> None:
    """Run the command line; a failure that a user can cure is told without a traceback, and each exits with 2."""
    # Threads that wait for each other give their core away: on a busy machine training is several times faster for it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.getLogger("torch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    try:
        app()
    except SecateurError as error:
        err.print("[bold red]error[/bold red] ", end="")
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(COULD_NOT_RUN)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        err.print("interrupted; finished steps are kept, the same command goes on from there")
        sys.exit(COULD_NOT_RUN)
    except Exception:  # a defect, not a verdict: exit code 1 means that a gate failed
        traceback.print_exc()
        err.print("this is a defect of Secateur or of the functions that the recipe names; please report it")
        sys.exit(COULD_NOT_RUN)


@contextlib.contextmanager
def _listener(quiet: bool) -> Iterator[Listener]:
    from secateur.terminal import Terminal

    if quiet:
        yield Silent()
    else:
        with Terminal(err) as terminal:
            yield terminal


def _show(*parts: RenderableType) -> None:
    for part in parts:
        if isinstance(part, str):
            out.print(part, markup=False, highlight=False, soft_wrap=True)
        else:
            out.print(part)


def _json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
