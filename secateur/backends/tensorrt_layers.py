"""The layers of an engine after fusion, as TensorRT's verbose log lists them at the end of a build."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

NO_WORK = {"shape_call", "runtime_function"}
"""Kinds of layers that compute sizes, on the host."""


@dataclass(frozen=True, kw_only=True)
class FusedLayer:
    """One layer: its kind, the type and channels that it writes, its tactic, and the ONNX nodes that went into it.

    ``channels`` are those of the tensor as it is laid out, which is wider than the network's where a kernel needs it.
    """

    name: str
    kind: str
    precision: str
    channels: int | None
    tactic: str
    nodes: tuple[str, ...]


def parse_layers(told: str) -> tuple[FusedLayer, ...]:
    """Read what follows ``Layers:`` in the log, one layer a line."""
    return tuple(_layer(line) for line in told.splitlines() if line.startswith("Name: "))


def _layer(line: str) -> FusedLayer:
    name, kind = re.match(r"Name: (.*?), LayerType: (\w+)", line).groups()  # type: ignore[union-attr]
    outputs = re.search(r"Outputs: \[(.*?)\], TacticName: ([^,]*)", line)
    written, tactic = outputs.groups() if outputs else ("", "")
    types = re.findall(r"Datatype: (\w+)", written)
    sizes = re.search(r"Dimensions: \[([-\d,]*)\]", written)
    shape = [int(size) for size in sizes.group(1).split(",") if size] if sizes else []
    return FusedLayer(
        name=name, kind=kind, precision=types[0] if types else "", channels=shape[1] if len(shape) == 4 else None,
        tactic=tactic.strip(), nodes=tuple(re.findall(r"\[ONNX Layer: ([^\]]*)\]", line)),
    )  # fmt: skip


def summary(layers: Sequence[FusedLayer]) -> str:
    """Count the layers that work on the device by kind and type, the most first."""
    counted = Counter(f"{layer.kind} {layer.precision}".strip() for layer in layers if layer.kind not in NO_WORK)
    return ", ".join(f"{count} {what}" for what, count in counted.most_common())
