"""The verbs of compact storage: pack and unpack."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import Json, show, show_json


def pack(
    source: Annotated[
        Path, typer.Argument(help="An ONNX file, or a saved network's .safetensors.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="The archive; FILE.pack where absent.")] = None,
    sharing: Annotated[
        str | None, typer.Option(help="Let each layer's weights share values: k-means, uniform or entropy.")
    ] = None,
    levels: Annotated[int, typer.Option(min=1, help="Values that a layer's weights share, beside zero.")] = 32,
    form: Annotated[str, typer.Option(help="ham, sham, planes, or the smallest for each tensor: auto.")] = "auto",
    as_json: Json = False,
) -> None:
    """Pack the weights of a file by entropy coding, bit by bit or with shared values."""
    from secateur.pipeline.packing.pack import Pack
    from secateur.pipeline.packing.pack import pack as pack_file
    from secateur.report.console import rich_table
    from secateur.report.tables.packing import packing_table

    found = pack_file(source, out, Pack(sharing=sharing, levels=levels, form=form))
    if as_json:
        show_json(found.model_dump(mode="json"))
        return
    show(
        rich_table(packing_table(found)),
        f"{found.source_bytes:,} bytes are {found.archive_bytes:,}, {found.ratio:.1%}",
    )


def unpack(
    source: Annotated[Path, typer.Argument(help="An archive.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The file; the archive's name without .pack where absent.")] = None,
) -> None:
    """Write the file that an archive was made from, its weights equal bit by bit to those that were packed."""
    from secateur.pipeline.packing.pack import unpack as unpack_file

    show(f"{unpack_file(source, out)}: as it was packed")
