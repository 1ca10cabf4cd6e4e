"""Which fields of a backend a recipe may set, and what they mean there."""

import typing
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

TF32 = "Allow float32 convolutions and products the 10-bit mantissa of tensor cores; needs a wider build.tolerance."
"""What such a setting means everywhere."""


def always(backend: Any) -> bool:
    """Say yes."""
    return True


@dataclass(frozen=True)
class Setting:
    """Makes a field of a backend's dataclass a key of recipes, when it annotates the field's type.

    ``meaning`` is told in the recipe's schema; ``of`` says whether an entry of the table has this setting.
    """

    meaning: str
    of: Callable[[Any], bool] = always


@dataclass(frozen=True, kw_only=True)
class Settable:
    """A field of an entry of the table that may be set: its type, its value there, and its meaning."""

    kind: Any
    default: Any
    meaning: str


def settings_of(backend: Any) -> dict[str, Settable]:
    """Return what may be set of an entry of the table by the names of its fields, in their order."""
    if not is_dataclass(backend):
        return {}
    kinds = typing.get_type_hints(type(backend), include_extras=True)
    found = {}
    for field in fields(backend):
        kind, *marks = typing.get_args(kinds[field.name]) or (None,)
        for mark in marks:
            if isinstance(mark, Setting) and mark.of(backend):
                others = [other for other in marks if other is not mark]
                found[field.name] = Settable(
                    kind=typing.Annotated[(kind, *others)] if others else kind,
                    default=getattr(backend, field.name), meaning=mark.meaning,
                )  # fmt: skip
    return found
