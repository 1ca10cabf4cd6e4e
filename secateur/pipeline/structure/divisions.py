"""Operators that take an axis apart: into chunks, slices, single entries."""

import numpy as np

from secateur.pipeline.structure.call import Call, labels_of
from secateur.pipeline.structure.labels import Labels, Value
from secateur.pipeline.structure.movement import collapsed


def chunk(call: Call) -> tuple[Value, ...]:
    """Split an axis; channels at the same position of every chunk are cut together, so all chunks stay equally long."""
    value = call.tensor("self")
    axis = int(call.arguments.get("dim") or 0) % len(value.shape)
    labels = labels_of(call.flow, value)
    if labels.shape[axis] == 1:
        return tuple(Value(labels=labels, shape=shape, extent=shape) for shape in call.shapes)
    sizes = [shape[axis] for shape in call.shapes]
    parts = np.split(labels, np.cumsum(sizes)[:-1], axis)
    if axis in call.flow.varying(labels):
        is_equal = len(set(sizes)) == 1
        if call.name == "chunk" and is_equal:
            call.flow.merge(*parts)
        else:
            pieces = [_row(part, axis) for part in parts]
            reason = "channels are split into parts of fixed sizes"
            call.flow.divide(parts if is_equal else (), pieces, labels, reason)
    return tuple(Value(labels=collapsed(p), shape=s, extent=s) for p, s in zip(parts, call.shapes, strict=True))


def gated(call: Call) -> Value | tuple[Value, ...]:
    """Multiply one half of the channels by a function of the other: position p of both halves is cut as one."""
    value = call.tensor("self")
    axis = int(call.arguments["dim"]) % len(value.shape)
    labels = labels_of(call.flow, value)
    if labels.shape[axis] == 1:
        return call.returning(labels)
    return call.returning(collapsed(call.flow.merge(*np.split(labels, 2, axis))))


def take_slice(call: Call) -> Value | tuple[Value, ...]:
    """Slice an axis. Bounds are fixed numbers: the channels between a bound and the end it counts from are pinned.

    The bounds may be computed from widths all the same: that is decided later. Every n-th channel stays every n-th one
    where all n of them are cut together.
    """
    value = call.tensor("self")
    axis = int(call.arguments.get("dim") or 0) % len(value.shape)
    labels, size = labels_of(call.flow, value), value.shape[axis]
    if labels.shape[axis] == 1:
        return call.returning(labels, tuple(min(e, s) for e, s in zip(value.extent, call.shapes[0], strict=True)))
    start, end = call.arguments.get("start"), call.arguments.get("end")
    start, end = start or 0, size if end is None else end
    if axis not in call.flow.varying(labels):
        return call.returning(collapsed(labels.take(range(size)[start : end : call.arguments.get("step", 1)], axis)))
    step = call.arguments.get("step", 1)
    if step != 1:
        if size % step or not 0 <= start < step or end < size:
            return call.pinned("channels are taken with a stride")
        rows = np.moveaxis(labels, axis, -1).reshape(*np.moveaxis(labels, axis, -1).shape[:-1], -1, step)
        call.flow.merge(*(rows[..., k] for k in range(step)))
        return call.returning(collapsed(np.moveaxis(rows[..., start], -1, axis)))
    positions = range(size)[start:end]
    bounds = [slice(0, b if b < size else 0) if b >= 0 else slice(max(size + b, 0), size) for b in (start, end)]
    bounded = [labels.take(range(size)[part], axis).reshape(-1) for part in bounds]
    length = len(positions)
    is_part = 0 < length < size and size % length == 0 and positions[0] % length == 0
    parts = np.split(labels, size // length, axis) if is_part else []
    row = _row(labels, axis)
    pieces = [row[: positions.start], row[: positions.stop], row[positions.start : positions.stop]]
    call.flow.divide(parts, pieces, np.concatenate(bounded), "a slice has a fixed bound among channels")
    return call.returning(collapsed(labels.take(positions, axis)))


def _row(labels: Labels, axis: int) -> Labels:
    """Return the labels along one axis, [size], at the first place of the others."""
    return np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis])[0]


def index(call: Call) -> Value | tuple[Value, ...]:
    """Look entries up along one axis that holds no channels; the index's own axes take its place."""
    indices = list(call.arguments["indices"])
    used = [a for a, looked_up in enumerate(indices) if looked_up is not None]
    return _looked_up(call, used, [indices[a] for a in used])


def index_select(call: Call) -> Value | tuple[Value, ...]:
    """Look entries up along one axis that holds no channels."""
    axis = int(call.arguments["dim"]) % len(call.tensor("self").shape)
    return _looked_up(call, [axis], [call.tensor("index")])


def _looked_up(call: Call, axes: list[int], places: list[Value]) -> Value | tuple[Value, ...]:
    labels = labels_of(call.flow, call.tensor("self"))
    for table in [place.tensor for place in places if place.tensor is not None]:
        call.flow.freeze(table, "its entries are places to look up")
    if len(axes) != 1 or call.flow.varying(labels) & set(axes) or places[0].labels.any():
        return call.pinned("channels are looked up by index")
    labels = labels.take([0], axes[0])
    new = (1,) * len(places[0].shape)
    return call.returning(labels.reshape(labels.shape[: axes[0]] + new + labels.shape[axes[0] + 1 :]))


def select(call: Call) -> Value | tuple[Value, ...]:
    """Take one entry of an axis, which then is gone; a channel that is picked by number is pinned."""
    value = call.tensor("self")
    axis = int(call.arguments["dim"]) % len(value.shape)
    labels = labels_of(call.flow, value)
    if axis in call.flow.varying(labels):
        return call.pinned("a channel is picked by its number")
    labels = labels.take([int(call.arguments["index"])], axis) if labels.shape[axis] > 1 else labels
    return call.returning(labels.squeeze(axis), tuple(e for a, e in enumerate(value.extent) if a != axis))


def unbind(call: Call) -> tuple[Value, ...]:
    """Take an axis apart into its entries."""
    value = call.tensor("self")
    axis = int(call.arguments.get("dim") or 0) % len(value.shape)
    labels = labels_of(call.flow, value)
    if axis in call.flow.varying(labels):
        return call.pinned("channels are taken apart one by one")
    rows = np.split(labels, labels.shape[axis], axis)
    rows = rows if len(rows) > 1 else rows * len(call.shapes)
    return tuple(Value(labels=row.squeeze(axis), shape=s, extent=s) for row, s in zip(rows, call.shapes, strict=True))
