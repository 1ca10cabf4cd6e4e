"""Which sizes an exported file leaves open: what torch.export is told of them, and what became of them in the graph."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from secateur.artifacts import OpenSize
from secateur.errors import ExportError

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class OpenShape:
    """The open sizes of a network's inputs: the batch, where it has a name, and others.

    ``example`` are the inputs that the network is exported with.
    """

    name: str
    example: Inputs
    batch: str | None
    sizes: Mapping[str, OpenSize]

    def check(self) -> None:
        """Raise `ExportError` where a size is not one of the example's, or its bounds make no sense."""
        for name, size in self.sizes.items():
            told = f"axis {size.axis}, {size.least} to {size.most} in steps of {size.multiple}"
            wanted = ""
            if not re.fullmatch(r"[A-Za-z_]\w*", name) or name == self.batch:
                wanted = "a name of letters, digits and '_' that is not the batch's"
            elif any(i >= len(self.example) or not 0 < size.axis < self.example[i].ndim for i in size.inputs):
                wanted = f"an axis behind the batch's of inputs of shapes {self._shapes()}"
            elif not size.inputs or not 1 <= size.least < size.most or size.multiple < 1:
                wanted = "at least one input, and 1 <= least < most"
            elif size.least % size.multiple or size.most % size.multiple:
                wanted = f"multiples of {size.multiple}"
            elif any(not _admits(size, self.example[i].shape[size.axis]) for i in size.inputs):
                wanted = f"bounds that the example inputs keep, whose shapes are {self._shapes()}"
            if wanted:
                raise ExportError(
                    f"export of {self.name}, open size {name!r}", told, wanted, "Correct the size's name or numbers."
                )

    def torch_dims(self, network: nn.Module) -> tuple[object, ...] | None:
        """Return what torch.export takes as dynamic shapes; what ``*inputs`` gathers is one nested tuple to it."""
        if self.batch is None and not self.sizes:
            return None
        axes: list[dict[int, Any]] = [{} for _ in self.example]
        if self.batch is not None:
            shared = torch.export.Dim(self.batch)
            axes = [{0: shared} for _ in self.example]
        for name, size in self.sizes.items():
            dim = _dim(name, size)
            for index in size.inputs:
                axes[index][size.axis] = dim
        kinds = [parameter.kind for parameter in inspect.signature(network.forward).parameters.values()]
        if inspect.Parameter.VAR_POSITIONAL not in kinds:
            return tuple(axes)
        first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        return (*axes[:first], tuple(axes[first:]))

    def settle(self, graph: onnx.GraphProto, program: torch.export.ExportedProgram | None) -> None:
        """Give the open sizes their names throughout the graph, whose inner sizes have the captured program's symbols.

        Raises:
            ExportError: one is fixed in the graph, or open only together with another or in other steps than asked.
        """
        # Where forward depends on a size, the exporter falls back to the example's without an error.
        found: dict[str, str] = {}
        for name, index, axis in self._open_axes():
            value = graph.input[index]
            symbol = value.type.tensor_type.shape.dim[axis].dim_param
            if not symbol:
                raise self._baked(name, value.name)
            if found.setdefault(symbol, name) != name:
                raise ExportError(
                    f"export of {self.name}", f"a graph in which {name} always equals {found[symbol]}", "both open",
                    "Do not let forward combine what differs in these sizes; or leave only one of them open.",
                )  # fmt: skip
            plain = re.fullmatch(r"\w+", symbol) is not None
            if not plain and (name == self.batch or self.sizes[name].multiple == 1):
                raise ExportError(
                    f"export of {self.name}", f"a graph that takes {name} only as {symbol}", f"any {name}",
                    "Say in which steps it comes (multiple), as the network's strides and upsampling ask for.",
                )  # fmt: skip
        captured = [] if program is None else _input_shapes(program)
        for name, index, axis in self._open_axes():
            told = graph.input[index].type.tensor_type.shape.dim[axis].dim_param
            for symbol in (told, *(str(shape[axis]) for shape in captured[index : index + 1])):
                found.setdefault(symbol, name)
                for steps in set(re.findall(r"[A-Za-z_]\w*", symbol)) - {symbol}:
                    found.setdefault(steps, f"{name}_steps")
        _rename(graph, found)

    def variations(self) -> list[dict[str, int]]:
        """Return sizes to try: all the least, all the largest, two mixtures of these, and all a step over the least."""
        if not self.sizes:
            return []
        bounds = [(size.least, size.most) for size in self.sizes.values()]
        picks = [[low for low, _ in bounds], [high for _, high in bounds]]
        picks += [[bound[(place + turn) % 2] for place, bound in enumerate(bounds)] for turn in (0, 1)]
        picks += [[size.least + size.multiple for size in self.sizes.values()]]
        return [dict(zip(self.sizes, pick, strict=True)) for pick in dict.fromkeys(map(tuple, picks))]

    def shape(self, index: int, sizes: Mapping[str, int], batch_size: int) -> tuple[int, ...]:
        """Return the shape of an input at some sizes; those not given are the example's."""
        shape = [batch_size, *self.example[index].shape[1:]]
        for name, size in sizes.items():
            if index in self.sizes[name].inputs:
                shape[self.sizes[name].axis] = size
        return tuple(shape)

    def admits(self, inputs: Inputs) -> bool:
        """Tell whether the file takes inputs of these shapes."""
        free = {(index, axis): name for name, index, axis in self._open_axes()}
        for index, (given, usual) in enumerate(zip(inputs, self.example, strict=True)):
            for axis, (size, own) in enumerate(zip(given.shape, usual.shape, strict=True)):
                name = free.get((index, axis))
                if name is None and size != own:
                    return False
                if name is not None and name != self.batch and not _admits(self.sizes[name], size):
                    return False
        return True

    def _open_axes(self) -> list[tuple[str, int, int]]:
        """List name, input and axis of every open size, the batch first."""
        batch = [] if self.batch is None else [(self.batch, index, 0) for index in range(len(self.example))]
        return batch + [(name, index, size.axis) for name, size in self.sizes.items() for index in size.inputs]

    def _shapes(self) -> list[tuple[int, ...]]:
        return [tuple(tensor.shape) for tensor in self.example]

    def _baked(self, name: str, where: str) -> ExportError:
        is_batch = name == self.batch
        size = "batch size" if is_batch else name
        return ExportError(
            f"export of {self.name}", f"the {size} of the example baked into input {where!r}", f"an open {size}",
            f"Do not let forward branch on the {size} or turn it into a number; or export with "
            f"{'dynamic_batch=False' if is_batch else 'this size fixed'}.",
        )  # fmt: skip


def _input_shapes(program: torch.export.ExportedProgram) -> list[torch.Size]:
    """Return the shapes of a program's inputs, with symbols where they are open."""
    wanted = program.graph_signature.user_inputs
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    return [values[name].shape for name in wanted if isinstance(values.get(str(name)), Tensor)]


def _admits(size: OpenSize, found: int) -> bool:
    return size.nearest(found) == found


def _dim(name: str, size: OpenSize) -> Any:
    if size.multiple == 1:
        return torch.export.Dim(name, min=size.least, max=size.most)
    steps = torch.export.Dim(f"{name}_steps", min=size.least // size.multiple, max=size.most // size.multiple)
    return size.multiple * steps


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename symbols wherever a shape is noted, inside of longer expressions too."""
    whole = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:{whole})(?!\w)")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda match: names[match[0]], dim.dim_param)
