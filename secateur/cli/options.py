"""What verbs share: options, and how progress and results are shown."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType

from secateur.listening import Listener, Silent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as in --set prune.macs=0.5.")
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing of the progress.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Redo every step, whatever the run folder holds.")]
Beside = Annotated[
    Path, typer.Option(help="A folder whose modules the recipe may name, besides the working folder.")
]  # fmt: skip
PolicyPath = Annotated[Path | None, typer.Option("--policy", help="Gates in place of the recipe's, a YAML file.")]
Junit = Annotated[Path | None, typer.Option("--junit", help="Write the gates as JUnit XML into this file.")]
Markdown = Annotated[Path | None, typer.Option("--markdown", help="Write the verdict as Markdown into this file.")]
Plots = Annotated[
    Path | None, typer.Option("--plots", metavar="FOLDER", help="Draw the plots into this folder, as PNG files.")
]  # fmt: skip

out = Console()
err = Console(stderr=True)


@contextlib.contextmanager
def listening(quiet: bool) -> Iterator[Listener]:
    """Draw progress on standard error, or be silent."""
    from secateur.terminal import Terminal

    if quiet:
        yield Silent()
    else:
        with Terminal(err) as terminal:
            yield terminal


def show(*parts: RenderableType) -> None:
    """Print results for people on standard output."""
    for part in parts:
        if isinstance(part, str):
            out.print(part, markup=False, highlight=False, soft_wrap=True)
        else:
            out.print(part)


def show_json(value: Any) -> None:
    """Print a result for programs on standard output."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def write_plots(folder: Path, figures: "Mapping[str, Figure]") -> None:
    """Write every figure into a folder, as PNG files by their names; raises `StorageError`."""
    from secateur.report.plots.canvas import png
    from secateur.storage import write

    for name, figure in figures.items():
        write(folder / f"{name}.png", png(figure))
