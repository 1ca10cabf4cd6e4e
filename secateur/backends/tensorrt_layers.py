"""The layers of an engine after fusion, as TensorRT's verbose log lists them at the end of a build."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

NO_WORK = {"shape_call", "runtime_function"}
"""Kinds of layers that compute sizes, on the host."""


@dataclass(frozen=True, kw_only=True)
class FusedLayer:
    """One layer: its kind, what it reads and writes, its tactic, and the ONNX nodes that went into it.

    ``reads`` and ``precision`` are the types of what it reads and writes first: a convolution in eight bits reads them
    and writes what it summed up. ``read_channels`` and ``channels`` are those of the same tensors as they are laid out,
    which are wider than the network's where a kernel needs it.
    """

    name: str
    kind: str
    reads: str
    read_channels: int | None
    precision: str
    channels: int | None
    tactic: str
    nodes: tuple[str, ...]


def parse_layers(told: str) -> tuple[FusedLayer, ...]:
    """Read what follows ``Layers:`` in the log, one layer a line."""
    return tuple(_layer(line) for line in told.splitlines() if line.startswith("Name: "))


def _layer(line: str) -> FusedLayer:
    name, kind = re.match(r"Name: (.*?), LayerType: (\w+)", line).groups()  # type: ignore[union-attr]
    (reads, read_channels), (precision, channels) = (_first(line, side) for side in ("Inputs", "Outputs"))
    tactic = re.search(r"TacticName: ([^,]*)", line)
    return FusedLayer(
        name=name, kind=kind, reads=reads, read_channels=read_channels, precision=precision, channels=channels,
        tactic=tactic[1].strip() if tactic else "", nodes=tuple(re.findall(r"\[ONNX Layer: ([^\]]*)\]", line)),
    )  # fmt: skip


def _first(line: str, side: str) -> tuple[str, int | None]:
    """Return type and channels of the first tensor on one side; channels of four-dimensional ones alone."""
    told = re.search(rf"{side}: \[ {{ Name: .*?, Dimensions: \[([-\d,]*)\].*?Datatype: (\w+)", line)
    if told is None:
        return "", None
    shape = [int(size) for size in told[1].split(",") if size]
    return told[2], shape[1] if len(shape) == 4 else None


def summary(layers: Sequence[FusedLayer]) -> str:
    """Count the layers that work on the device by kind and the type that they read, the most first."""
    work = [layer for layer in layers if layer.kind not in NO_WORK]
    counted = Counter(f"{layer.kind} {layer.reads or layer.precision}".strip() for layer in work)
    return ", ".join(f"{count} {what}" for what, count in counted.most_common())
