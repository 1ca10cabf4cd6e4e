"""The recipe that ``secateur init`` writes: every key with its meaning and its default, three lines to edit."""

import json
import textwrap
import typing
from pathlib import Path

from pydantic.fields import FieldInfo

from secateur.errors import RecipeError
from secateur.recipe import Recipe
from secateur.recipe_section import Section
from secateur.storage import write as write_file

_HEAD = """\
# yaml-language-server: $schema=recipe.schema.json
# A recipe of Secateur. Edit the three lines marked EDIT, then:
#   secateur check recipe.yaml    shows everything in full and touches nothing
#   secateur run recipe.yaml      compresses, exports, builds, measures and judges
# Completion in editors: secateur schema > recipe.schema.json
"""

_EDITED = {
    "name": "my-network",
    "model": "my_network:build                    # EDIT 1: module:function that returns your trained network",
    "data": (
        "\n  function: secateur.workloads.classification:image_folder"
        "\n  arguments: {folder: images, size: 64}   # EDIT 2: one subfolder of images a class; side in pixels"
    ),
    "task": "classification",
    "prune.macs": "0.5                                   # EDIT 3: the share of the multiply-adds that may stay",
}

_GATES = """\
  - {quantity: speedup, at_least: 1.2}
  - {quantity: top1_drop, at_most: 0.02}
  - {quantity: parity, at_most: 0.0001}
"""


def recipe_template() -> str:
    """Return a commented recipe whose keys, meanings and defaults are those of `Recipe` itself."""
    return _HEAD + "\n" + "\n".join(_lines(Recipe, ())) + "\n"


def write_template(path: Path) -> None:
    """Write the template to a file that must not be there yet.

    Raises:
        RecipeError: the file exists.
        StorageError: it cannot be written.
    """
    if path.exists():
        raise RecipeError(
            str(path), "a file of that name", "a name that is free", "Give another with `secateur init NAME`."
        )
    write_file(path, recipe_template().encode())


def _lines(section: type[Section], path: tuple[str, ...]) -> list[str]:
    depth = len(path)
    indent = "  " * depth
    lines = []
    for name, field in section.model_fields.items():
        key = ".".join((*path, name))
        below = _section_of(field)
        meaning = field.description or (below.__doc__ or "").strip() if below else field.description or ""
        lines += [f"{indent}# {line}" for line in textwrap.wrap(meaning, 110 - 2 * depth)]
        if key in _EDITED:
            lines.append(f"{indent}{name}: {_EDITED[key]}".replace(": \n", ":\n"))
        elif below is not None:
            lines += [f"{indent}{name}:", *_lines(below, (*path, name))]
        elif key == "gates":
            lines += [f"{indent}{name}:", _GATES.rstrip("\n")]
        elif field.default is None:
            lines.append(f"{indent}# {name}:")
        else:
            value = field.default
            lines.append(f"{indent}{name}: {json.dumps(str(value) if isinstance(value, Path) else value)}")
        if depth == 0:
            lines.append("")
    return lines


def _section_of(field: FieldInfo) -> type[Section] | None:
    annotation = field.annotation
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None
