"""The command line. Exit codes: 0 pass, 1 fail, 2 could not run, 3 undecided."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from secateur import __version__
from secateur.cli.compressing import check, estimate, run, sweep
from secateur.cli.deploying import deploy, triton
from secateur.cli.gazing import gaze
from secateur.cli.judging import compare, gate, report, verify
from secateur.cli.options import err, show
from secateur.cli.packing import pack, unpack
from secateur.cli.surroundings import bench, doctor, init, schema
from secateur.errors import SecateurError

COULD_NOT_RUN = 2
INTERRUPTED = 130
"""What typer makes of Ctrl-C."""
RESUMED = frozenset({"run", "sweep", "estimate"})
"""Verbs that go on where they were interrupted."""

VERBS: dict[Callable[..., Any], str] = {
    run: "secateur run recipe.yaml --set prune.macs=0.3 --policy release.yaml --junit gates.xml",
    sweep: "secateur sweep recipe.yaml --keep 0.7,0.5,0.35",
    estimate: "secateur estimate recipe.yaml --json",
    check: "secateur check recipe.yaml --set prune.keep=[head]",
    report: "secateur report runs/my-network --plots plots",
    gate: "secateur gate runs/my-network --policy release.yaml --junit gates.xml --markdown gates.md",
    verify: "secateur verify runs/my-network",
    compare: "secateur compare runs/my-network runs/other --json",
    bench: "secateur bench original.onnx compressed.onnx --backend openvino --batch 1,8 --threads 1,2 --plots plots",
    pack: "secateur pack compressed.onnx --sharing k-means --levels 32",
    unpack: "secateur unpack compressed.onnx.pack --out compressed.onnx",
    deploy: "secateur deploy runs/my-network deployed --backend openvino",
    triton: "secateur triton deployed models --name my-network",
    gaze: "secateur gaze film.mp4 --engine gaze.onnx --out seen.mp4",
    doctor: "secateur doctor --json",
    init: "secateur init recipe.yaml",
    schema: "secateur schema",
}
"""Every verb with the example that its help shows."""

app = typer.Typer(name="secateur", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)
for _verb, _example in VERBS.items():
    app.command(epilog=f"Example: {_example}")(_verb)


def _print_version(wanted: bool) -> bool:
    if wanted:
        show(f"secateur {__version__}")
        raise typer.Exit
    return wanted


@app.callback(
    epilog="Exit codes: 0 every gate passed, 1 one failed, 2 it could not run, 3 an interval straddles a line."
)
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
        resumed = "; finished steps are kept, the same command goes on from there"
        err.print(f"interrupted{resumed if RESUMED & {*sys.argv[1:2]} else ''}")
        sys.exit(COULD_NOT_RUN)
    except Exception:  # a defect, not a verdict: exit code 1 means that a gate failed
        traceback.print_exc()
        err.print("this is a defect of Secateur or of the functions that the recipe names; please report it")
        sys.exit(COULD_NOT_RUN)
