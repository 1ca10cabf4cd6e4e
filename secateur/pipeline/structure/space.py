"""Operators that move channels into space, neighbourhoods in space into channels, or channels among each other."""

import math
from collections.abc import Callable

import numpy as np

from secateur.pipeline.structure.call import Call, Rule, labels_of
from secateur.pipeline.structure.labels import Labels, Value


def over_channels(axis: int, argument: str = "self") -> Callable[[Callable[[Call, Labels], Labels]], Rule]:
    """Make a rule of what happens to labels that differ along one axis only; others are pinned."""

    def decorate(moved: Callable[[Call, Labels], Labels]) -> Rule:
        def rule(call: Call) -> Value | tuple[Value, ...]:
            labels = labels_of(call.flow, call.tensor(argument))
            if math.prod(labels.shape) != labels.shape[axis]:
                return call.pinned("labels vary over space")
            return call.returning(moved(call, labels))

        return rule

    return decorate


@over_channels(-3)
def pixel_shuffle(call: Call, labels: Labels) -> Labels:
    """Move blocks of r * r channels into space; each block is cut as one."""
    return _merged_blocks(call, labels, call.arguments["upscale_factor"] ** 2)


@over_channels(-3)
def pixel_unshuffle(call: Call, labels: Labels) -> Labels:
    """Move space into r * r copies of every channel."""
    return np.repeat(labels, call.arguments["downscale_factor"] ** 2 if labels.size > 1 else 1, -3)


@over_channels(-3)
def gather_patches(call: Call, labels: Labels) -> Labels:
    """Put the neighbourhood of every place into channels: one copy of a channel for each place in the kernel."""
    return np.repeat(labels, math.prod(call.arguments["kernel_size"]) if labels.size > 1 else 1, -3).squeeze(-1)


@over_channels(-2)
def add_patches(call: Call, labels: Labels) -> Labels:
    """Add neighbourhoods in channels up over space; all channels of one place in the output are cut as one."""
    return _merged_blocks(call, labels[..., None], math.prod(call.arguments["kernel_size"]))


def _merged_blocks(call: Call, labels: Labels, size: int) -> Labels:
    """Cut every run of so many channels as one, [..., channels, 1, 1] -> [..., channels / size, 1, 1]."""
    if labels.size == 1:
        return labels
    rows = labels.reshape(-1, size)
    call.flow.merge(*np.split(rows, size, 1))
    return rows[:, :1].reshape((1,) * (labels.ndim - 3) + (-1, 1, 1))


@over_channels(1)
def channel_shuffle(call: Call, labels: Labels) -> Labels:
    """Deal channels out in turn from as many runs as there are groups, which must stay equally long."""
    if labels.size == 1:
        return labels
    rows = labels.reshape(int(call.arguments["groups"]), -1)
    call.flow.tie_rows(rows, 0)
    return rows.T.reshape(labels.shape)


@over_channels(1, "input")
def sample(call: Call, labels: Labels) -> Labels:
    """Look places up that are computed; their coordinates are never cut."""
    call.flow.pin(labels_of(call.flow, call.tensor("grid")).reshape(-1), "coordinates of places")
    return labels


def windows(call: Call) -> Value | tuple[Value, ...]:
    """Cut an axis into windows that may overlap, whose entries come last."""
    labels = labels_of(call.flow, call.tensor("self"))
    axis = int(call.arguments["dimension"]) % labels.ndim
    if labels.shape[axis] > 1:
        return call.pinned("channels are cut into windows")
    return call.returning(labels[..., None])
