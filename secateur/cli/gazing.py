"""The verb that shows a gaze network at work on a film, a camera or pictures."""

import re
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import Json, Quiet, listening, show, show_json
from secateur.errors import LoadError


def gaze(
    source: Annotated[
        str, typer.Argument(help="A film, a folder of pictures, or a camera's number.", show_default=False)
    ],
    engine: Annotated[Path, typer.Option(help="The ONNX file of a gaze network.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="A film's name, as in seen.mp4, or a folder for a picture a frame.")
    ] = None,
    backend: Annotated[str, typer.Option(help="The runtime.")] = "onnxruntime",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    fixations: Annotated[int, typer.Option(min=0, help="Places of the scan path.")] = 5,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Height and width, as in 192x256, of a network that leaves them open."),
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw where people would look, frame by frame, and say how fast."""
    from secateur.workloads.gaze.scan_path import ScanPath
    from secateur.workloads.gaze.stream import Stream

    stream = Stream(
        backend=backend, num_threads=threads, scan_path=ScanPath(num_fixations=fixations), max_frames=frames,
        size=None if size is None else _size(size),
    )  # fmt: skip
    with listening(quiet) as listener:
        pace = stream(source, engine, out, progress=listener.progress)
    if as_json:
        show_json(pace.model_dump(mode="json"))
        return
    stages = {"read": pace.read_s, "engine": pace.engine_s, "draw": pace.draw_s, "write": pace.write_s}
    told = ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in stages.items())
    show(f"{pace.num_frames} frames, {pace.frames_per_s:.1f} frames/s: {told}" + (f". {out}" if out else ""))


def _size(option: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", option)
    if found is None:
        raise LoadError(f"--size {option}", "no height x width", "two numbers with x between", "For example 192x256.")
    return int(found[1]), int(found[2])
