"""What a network takes and gives beside its weights: open sizes, how pictures become inputs, names of classes."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from secateur.artifacts.record import Record

LARGEST_ONNX_BYTES = 2**31 - 2**20
"""A protobuf message, and so a single ONNX file, ends at 2 GiB; the graph beside the weights is left a mebibyte."""
PREFIX = "secateur."


class OpenSize(Record):
    """A size, other than the batch's, that an ONNX file leaves open: ``least`` to ``most`` in steps of ``multiple``.

    It is that of one axis of some inputs, which are counted from 0.
    """

    axis: int
    least: int
    most: int
    multiple: int = 1
    inputs: tuple[int, ...] = (0,)

    def nearest(self, size: int) -> int:
        """Return the size within the bounds and in their steps that is nearest to another."""
        return min(max(round(size / self.multiple) * self.multiple, self.least), self.most)


class Pictures(Record):
    """How pictures become the network's input: resized to rows and columns, (value * scale - mean) / std.

    ``mean`` and ``std`` have one entry, or one a channel; channels come first in the network's input. The whole picture
    is stretched to the size; with ``shorter_side`` it is scaled until that is its shorter side, and the middle cut out.
    """

    size: tuple[int, int]
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    shorter_side: int | None = None


class FileFacts(Record):
    """What an ONNX file says of itself in its metadata, under keys that begin with ``secateur.``.

    ``lineage`` names the run and the hashes of the weights it began with and of those inside.
    """

    lineage: dict[str, str] = Field(default_factory=dict)
    classes: tuple[str, ...] = ()
    pictures: Pictures | None = None
    sizes: dict[str, OpenSize] = Field(default_factory=dict)

    def entries(self) -> dict[str, str]:
        """Return the metadata's entries, JSON each, of what is known."""
        told = self.model_dump(mode="json", exclude_defaults=True)
        return {f"{PREFIX}{key}": json.dumps(value, sort_keys=True) for key, value in told.items()}

    @classmethod
    def of(cls, entries: Mapping[str, str]) -> "FileFacts":
        """Read a file's metadata; other tools' entries are left alone, no entries give empty facts.

        Raises ValueError where an entry of ours is not as it was written.
        """
        ours = {key.removeprefix(PREFIX): value for key, value in entries.items() if key.startswith(PREFIX)}
        known: dict[str, Any] = {key: json.loads(value) for key, value in ours.items() if key in cls.model_fields}
        return cls.model_validate(known)
