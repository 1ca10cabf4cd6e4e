"""Which node of an ONNX file is the first to compute something else than the program that it was written from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from secateur.equality import difference
from secateur.errors import BackendError
from secateur.pipeline.export_notes import SCOPES
from secateur.pipeline.quantize.running import Running


@dataclass(frozen=True, kw_only=True)
class FirstDifference:
    """A node, the module whose forward it is from, and how far it is off, relative to its largest value."""

    node: str
    operator: str
    module: str
    relative: float

    def __str__(self) -> str:
        """Say where it is."""
        place = f" in {self.module}" if self.module else ""
        return f"node {self.node!r} ({self.operator}){place}, relative difference {self.relative:.3g}"


class _Values(torch.fx.Interpreter):
    """Runs a graph and keeps what every node gives."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, np.ndarray] = {}

    def run_node(self, node: torch.fx.Node) -> Any:
        value = super().run_node(node)
        if isinstance(value, Tensor):
            self.values[node.name] = value.detach().numpy()
        return value


def first_difference(
    program: torch.export.ExportedProgram, proto: onnx.ModelProto, inputs: tuple[Tensor, ...], tolerance: float
) -> FirstDifference | None:
    """Run both on the same inputs and compare what carries the same name in both, in the file's order.

    The exporter names tensors after the program's nodes; what was folded or fused away has no counterpart and is passed
    over. None where nothing with a counterpart differs by more than the tolerance.

    Raises:
        BackendError: ONNX Runtime is absent or refuses the file with its inner tensors as outputs.
    """
    interpreter = _Values(program.module())
    with torch.no_grad():
        interpreter.run(*inputs)
    named = [name for node in proto.graph.node for name in node.output if name in interpreter.values]
    found = _run(proto, named, inputs)
    for node in proto.graph.node:
        for name in node.output:
            if name not in found:
                continue
            apart = difference([interpreter.values[name]], [found[name]]).relative
            if not apart <= tolerance:
                return FirstDifference(
                    node=node.name or name, operator=node.op_type, module=_module(node), relative=apart
                )
    return None


def _run(proto: onnx.ModelProto, named: list[str], inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    try:
        return Running(proto, named)(tuple(tensor.numpy() for tensor in inputs))
    except Exception as error:
        raise BackendError(
            "search for the first node that differs", f"{type(error).__name__}: {str(error)[:200]}",
            "a file that ONNX Runtime runs with its inner tensors as outputs", "Compare the outputs alone.",
        ) from error  # fmt: skip


def _module(node: onnx.NodeProto) -> str:
    """Read the dotted path of the module that the exporter noted at a node."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            paths = [path.strip(" '\"") for path in entry.value.strip("[]").split(",")]
            return next((path for path in reversed(paths[:-1]) if path), "")
    return ""
