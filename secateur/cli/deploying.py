"""The verbs that take an engine where it is used: deploy and triton."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import Json, RunFolder, show, show_json

Network = Annotated[str, typer.Option(help="compressed, quantized or original.")]
BackendOf = Annotated[str | None, typer.Option(help="Whose engine; the one that the run measured where absent.")]
Classes = Annotated[Path | None, typer.Option(help="A text file of the classes' names, one a line.")]


def deploy(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(help="Where the engine and its description go.", show_default=False)],
    network: Network = "compressed",
    backend: BackendOf = None,
    classes: Classes = None,
    as_json: Json = False,
) -> None:
    """Copy an engine of a finished run into a folder that secateur.deploy.load runs, without torch."""
    from secateur.deploying import deploy_run
    from secateur.storage import read

    names = () if classes is None else tuple(read(classes).decode().split("\n"))
    named = tuple(name.strip() for name in names if name.strip())
    description = deploy_run(run, folder, network=network, backend=backend, classes=named)
    if as_json:
        show_json(description.model_dump(mode="json"))
    else:
        show(f"{folder}: {description.engine.path}, {description.engine.size_bytes or 0:,} bytes, and deploy.json")


def triton(
    folder: Annotated[Path, typer.Argument(help="What secateur deploy wrote.", show_default=False)],
    repository: Annotated[Path, typer.Argument(help="The server's model repository.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="The model's name there.")] = None,
    max_batch_size: Annotated[int, typer.Option(min=1, help="The largest batch the server puts together.")] = 8,
) -> None:
    """Write a deployed engine as a model of NVIDIA's Triton inference server, with its config.pbtxt."""
    from secateur.triton import write_model

    show(f"{write_model(folder, repository, name=name, max_batch_size=max_batch_size)}: version 1 and config.pbtxt")
