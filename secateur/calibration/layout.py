"""Find out where the samples of a batch are in the inputs of each layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.artifacts import as_tuple
from secateur.calibration.readers import channel_axis, tap_readers, weights_of
from secateur.errors import TraceError

CHANGE = 1e-4
"""Relative to the largest entry; below it a difference is rounding."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the batch is in a layer's input once its channels are last.

    The batch shares ``axis`` with ``axis length / batch`` other entries (windows, frames, tokens); it is the slow one
    of the two if ``major``.
    """

    axis: int = 0
    major: bool = True

    def sum(self, inputs: Tensor, channels: int, batch: int) -> Float[Tensor, "batch channels"]:
        """Sum all entries of each sample and channel; ``channels`` is the negative axis of the channels."""
        return self._reduce(inputs, channels, batch, torch.sum)

    def max(self, inputs: Tensor, channels: int, batch: int) -> Float[Tensor, "batch channels"]:
        """Return the largest entry of each sample and channel."""
        return self._reduce(inputs, channels, batch, torch.amax)

    def _reduce(self, inputs: Tensor, channels: int, batch: int, reduction: Callable[..., Tensor]) -> Tensor:
        moved = inputs.movedim(channels, -1)
        # The axes that do not hold the batch go first, without a copy of the whole tensor.
        others = tuple(axis for axis in range(moved.ndim - 1) if axis != self.axis)
        rows = reduction(moved, dim=others) if others else moved
        pairs = rows.reshape(*((batch, -1) if self.major else (-1, batch)), rows.shape[-1])
        return reduction(pairs, dim=1 if self.major else 0)


def find_layouts(module: nn.Module, weights: Sequence[str], inputs: Any, batch: int) -> dict[str, Layout]:
    """Return each reading layer's layout, from how its input reacts when one sample of a batch changes.

    Two forwards of a few samples. Attention puts tokens before the batch, windows and frames are folded into it: shapes
    alone do not tell. Raises TraceError where a change of one sample reaches another one's entries, for then the
    network has no per-sample gradients. With a single sample there is nothing to tell apart.
    """
    if batch < 2:
        return {name: Layout() for name in weights}
    num = min(batch, 3)
    few = tuple(tensor[:num] for tensor in as_tuple(inputs))
    changed = tuple(torch.cat((tensor[1:2], tensor[1:])) for tensor in few)
    before, after = _record(module, weights, few), _record(module, weights, changed)
    layouts = {}
    for name, weight in weights_of(module, weights).items():
        calls = list(zip(before.get(name, []), after.get(name, []), strict=True))
        layout = _explain(calls, channel_axis(weight), num)
        if layout is None:
            raise TraceError(
                name, "an input in which a change of one sample of the batch reaches the others",
                "samples that are computed independently in eval mode",
                "Turn batch statistics off in eval mode, and keep this layer out with keep=.",
            )  # fmt: skip
        layouts[name] = layout
    return layouts


def _record(module: nn.Module, weights: Sequence[str], inputs: tuple[Tensor, ...]) -> dict[str, list[Tensor]]:
    """Return the inputs of each layer, in the order of its calls."""
    calls: dict[str, list[Tensor]] = {name: [] for name in weights}

    def recorder(name: str) -> Any:
        def record(tensor: Tensor) -> Tensor:
            calls[name].append(tensor.detach().clone())
            return tensor

        return record

    devices = [inputs[0].device] if inputs[0].is_cuda else []
    with (
        torch.random.fork_rng(devices),
        torch.no_grad(),
        tap_readers(module, {name: recorder(name) for name in weights}),
    ):
        module(*inputs)
    return calls


def _explain(calls: list[tuple[Tensor, Tensor]], channels: int, batch: int) -> Layout | None:
    """Return the first layout under which only the first sample's entries differ in every call."""
    if not calls:
        return Layout()
    dims = min(before.ndim for before, _ in calls) - 1
    for layout in (Layout(axis=axis, major=major) for axis in range(dims) for major in (True, False)):
        fits = True
        for before, after in calls:
            if before.movedim(channels, -1).shape[layout.axis] % batch:
                fits = False
                break
            change = layout.max((after - before).abs(), channels, batch)[1:]
            fits = fits and bool(change.max() <= CHANGE * before.abs().max())
        if fits:
            return layout
    return None
