"""Operators that move channels into space, neighbourhoods in space into channels, or channels among each other."""

import math

import numpy as np

from secateur.pipeline.structure.call import Call, labels_of
from secateur.pipeline.structure.labels import Value


def pixel_shuffle(call: Call) -> Value | tuple[Value, ...]:
    """Move blocks of r * r channels into space; each block is cut as one."""
    value, labels = call.tensor("self"), labels_of(call.flow, call.tensor("self"))
    blocks = call.arguments["upscale_factor"] ** 2
    axis = len(value.shape) - 3
    if math.prod(labels.shape) != labels.shape[axis]:
        return call.pinned("labels vary over space")
    if labels.size == 1:
        return call.returning(labels)
    rows = labels.reshape(-1, blocks)
    call.flow.merge(*np.split(rows, blocks, 1))
    return call.returning(rows[:, :1].reshape((1,) * axis + (-1, 1, 1)))


def pixel_unshuffle(call: Call) -> Value | tuple[Value, ...]:
    """Move space into r * r copies of every channel."""
    value, labels = call.tensor("self"), labels_of(call.flow, call.tensor("self"))
    axis = len(value.shape) - 3
    if math.prod(labels.shape) != labels.shape[axis]:
        return call.pinned("labels vary over space")
    times = call.arguments["downscale_factor"] ** 2 if labels.size > 1 else 1
    return call.returning(np.repeat(labels, times, axis))


def gather_patches(call: Call) -> Value | tuple[Value, ...]:
    """Put the neighbourhood of every place into channels: one copy of a channel for each place in the kernel."""
    value, labels = call.tensor("self"), labels_of(call.flow, call.tensor("self"))
    axis = len(value.shape) - 3
    if math.prod(labels.shape) != labels.shape[axis]:
        return call.pinned("labels vary over space")
    times = math.prod(call.arguments["kernel_size"]) if labels.size > 1 else 1
    return call.returning(np.repeat(labels, times, axis).squeeze(-1))


def add_patches(call: Call) -> Value | tuple[Value, ...]:
    """Add neighbourhoods in channels up over space; all channels of one place in the output are cut as one."""
    value, labels = call.tensor("self"), labels_of(call.flow, call.tensor("self"))
    axis = len(value.shape) - 2
    if math.prod(labels.shape) != labels.shape[axis]:
        return call.pinned("labels vary over space")
    if labels.size == 1:
        return call.returning(labels[..., None])
    rows = labels.reshape(-1, math.prod(call.arguments["kernel_size"]))
    call.flow.merge(*np.split(rows, rows.shape[1], 1))
    return call.returning(rows[:, :1].reshape((1,) * axis + (-1, 1, 1)))


def channel_shuffle(call: Call) -> Value | tuple[Value, ...]:
    """Deal channels out in turn from as many runs as there are groups, which must stay equally long."""
    labels, groups = labels_of(call.flow, call.tensor("self")), int(call.arguments["groups"])
    if math.prod(labels.shape) != labels.shape[1]:
        return call.pinned("labels vary over space")
    if labels.size == 1:
        return call.returning(labels)
    rows = labels.reshape(groups, -1)
    call.flow.tie_rows(rows, 0)
    return call.returning(rows.T.reshape(labels.shape))


def windows(call: Call) -> Value | tuple[Value, ...]:
    """Cut an axis into windows that may overlap, whose entries come last."""
    labels = labels_of(call.flow, call.tensor("self"))
    axis = int(call.arguments["dimension"]) % labels.ndim
    if labels.shape[axis] > 1:
        return call.pinned("channels are cut into windows")
    return call.returning(labels[..., None])


def sample(call: Call) -> Value | tuple[Value, ...]:
    """Look places up that are computed; their coordinates are never cut."""
    labels = labels_of(call.flow, call.tensor("input"))
    if math.prod(labels.shape) != labels.shape[1]:
        return call.pinned("labels vary over space")
    call.flow.pin(labels_of(call.flow, call.tensor("grid")).reshape(-1), "coordinates of places")
    return call.returning(labels)
