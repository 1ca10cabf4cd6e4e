"""See a convolution or linear layer as a matrix that multiplies rows of inputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

LAYERS: dict[Any, int] = {functional.linear: 0, functional.conv1d: 1, functional.conv2d: 2, functional.conv3d: 3}
"""The functions that apply such a layer, with the number of axes that their kernel runs over."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Application:
    """One call of a layer: what it was given.

    ``inputs`` are [..., features] for a linear layer and [samples, channels, *places] for a convolution, ``weight`` is
    [outputs, inputs / groups, *kernel].
    """

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int

    @staticmethod
    def of(func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "Application":
        """Read the arguments of one of the functions in `LAYERS`."""
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        rank = LAYERS[func]

        def each(name: str, default: int) -> tuple[int, ...]:
            value = given.get(name, default)
            return (value,) * rank if isinstance(value, int) else tuple(value)

        padding = given.get("padding", 0)
        return Application(
            inputs=given["input"], weight=given["weight"], bias=given.get("bias"), stride=each("stride", 1),
            padding=padding if isinstance(padding, str) else each("padding", 0), dilation=each("dilation", 1),
            groups=given.get("groups", 1),
        )  # fmt: skip

    @property
    def rank(self) -> int:
        """The number of axes that the kernel runs over."""
        return self.weight.ndim - 2

    def patches(self, part: slice) -> Float[Tensor, "rows groups entries"]:
        """Return what the weight multiplies to give each output of these samples, their places in order."""
        windows = self._windows(part)
        return windows.reshape(-1, self.groups, self.weight[0].numel())

    def patches_at(self, part: slice, rows: Int64[Tensor, " chosen"]) -> Float[Tensor, "chosen groups entries"]:
        """Return these rows of `patches`, without making the others."""
        windows = self._windows(part)
        sizes = windows.shape[: 1 + self.rank] if self.rank else windows.shape[:-1]
        chosen = windows[torch.unravel_index(rows.to(windows.device), sizes)]
        return chosen.reshape(-1, self.groups, self.weight[0].numel())

    def _windows(self, part: slice) -> Tensor:
        """View a convolution's inputs as [samples, *places, channels, *kernel], a linear layer's as they are."""
        inputs = self.inputs[part]
        if self.rank == 0:
            return inputs
        inputs = functional.pad(inputs, self._margins())
        for axis, (size, dilation, stride) in enumerate(
            zip(self.weight.shape[2:], self.dilation, self.stride, strict=True), start=2
        ):
            reach = dilation * (size - 1) + 1
            inputs = inputs.unfold(axis, reach, stride)[..., ::dilation]
        return inputs.movedim(1, 1 + self.rank)  # [samples, channels, *places, *kernel] before

    def _margins(self) -> list[int]:
        """Return the zeros before and after each axis, the last axis first, as `functional.pad` wants them."""
        margins: list[int] = []
        for axis in reversed(range(self.rank)):
            if isinstance(self.padding, str):
                total = self.dilation[axis] * (self.weight.shape[2 + axis] - 1) if self.padding == "same" else 0
                margins += [total // 2, total - total // 2]
            else:
                margins += [self.padding[axis]] * 2
        return margins


def rows_of(outputs: Tensor, rank: int) -> Float[Tensor, "rows outputs"]:
    """Return the outputs of a layer whose kernel runs over ``rank`` axes, in the order of `Application.patches`."""
    return (outputs.movedim(1, -1) if rank else outputs).reshape(-1, outputs.shape[1 if rank else -1])
