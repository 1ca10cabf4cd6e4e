"""What stands in for a module of a residual branch that was removed."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from secateur.artifacts import Record

VALUE = "value"
"""What a stand-in calls its constant."""


class Window(Record):
    """How a convolution or pooling changes the length of an axis: (n + 2 padding - dilation (kernel - 1) - 1) / stride.

    One is added to the quotient, which is rounded down.
    """

    kernel: int
    stride: int
    padding: int
    dilation: int

    def __call__(self, length: int) -> int:
        """Return the new length."""
        return (length + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


class Place(Record):
    """The shape of what a stand-in returns, and where its network expects it.

    ``sizes`` has one number an axis, None where the length follows from that axis of the module's first input through
    ``windows``, which are named by the axis. ``axis`` is that of the channels, ``item`` the position in a tuple and its
    length where the module returns one. ``producer`` is the path, from the module's parent on, of the layer that made
    the channels: groups are named after it.
    """

    sizes: tuple[int | None, ...]
    windows: Mapping[int, tuple[Window, ...]] = Field(default_factory=dict)
    axis: int = 0
    item: tuple[int, int] | None = None
    producer: str = ""


class StandIn(nn.Module):
    """Return a constant, one ``value`` a channel, or zeros where nothing reads what the module returns.

    The result never shares memory with the input or the value: forwards may write in place.
    """

    def __init__(self, place: Place, value: Tensor | None) -> None:
        super().__init__()
        self.place = place
        self.value = None if value is None else nn.Parameter(value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module would, whatever its inputs hold."""
        source = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        place, sizes = self.place, list[int]()
        for axis, size in enumerate(place.sizes):
            length = source.shape[axis] if size is None else size
            for window in place.windows.get(axis, ()):
                length = window(length)
            sizes.append(length)
        if self.value is None:
            result = source.new_zeros(sizes)
        else:
            sizes[place.axis] = len(self.value)
            own = [-1 if axis == place.axis else 1 for axis in range(len(sizes))]
            result = torch.clone(self.value.reshape(own).expand(sizes), memory_format=torch.contiguous_format)
        if place.item is None:
            return result
        return tuple(result if position == place.item[0] else None for position in range(place.item[1]))

    def extra_repr(self) -> str:
        """Say how many channels are constant."""
        return "zeros" if self.value is None else f"constant of {len(self.value)}"


def stand_ins(module: nn.Module) -> dict[str, StandIn]:
    """Return a network's stand-ins by path."""
    return {path: owner for path, owner in module.named_modules() if isinstance(owner, StandIn)}


def put(module: nn.Module, path: str, stand_in: StandIn) -> None:
    """Put a stand-in in a module's place, in the same mode."""
    parent, _, name = path.rpartition(".")
    stand_in.train(module.get_submodule(path).training)
    setattr(module.get_submodule(parent), name, stand_in)


def made_by_constants(module: nn.Module) -> dict[str, str]:
    """Map the constants in a network to the paths of the layers that made their channels before."""
    found = {}
    for path, owner in stand_ins(module).items():
        if owner.value is not None:
            parent = path.rpartition(".")[0]
            producer = owner.place.producer
            found[f"{path}.{VALUE}"] = f"{parent}.{producer}" if parent and producer else producer or path
    return found
