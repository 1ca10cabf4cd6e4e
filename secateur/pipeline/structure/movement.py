"""Operators that move entries: they act on the labels just as they act on the data."""

import numpy as np

from secateur.pipeline.structure.call import Call, labels_of
from secateur.pipeline.structure.labels import Labels, Value


def identity(call: Call) -> Value | tuple[Value, ...]:
    """Return the labels as they are."""
    value = call.values()[0]
    if call.shapes[0] != value.shape:
        return call.pinned("an operator changes the shape unexpectedly")
    return call.returning(labels_of(call.flow, value), value.extent)


def permute(call: Call) -> Value:
    """Reorder axes."""
    value = call.tensor("self")
    rank = len(value.shape)
    order = list(range(rank))
    if "dims" in call.arguments:
        order = [d % rank for d in call.arguments["dims"]]
    elif {"dim0", "axis0"} & call.arguments.keys() or call.name == "t":
        pair = [call.arguments.get(f"dim{k}", call.arguments.get(f"axis{k}", k)) % max(rank, 1) for k in (0, 1)]
        order[pair[0]], order[pair[1]] = order[pair[1]], order[pair[0]]
    elif "source" in call.arguments:
        source = [d % rank for d in np.atleast_1d(call.arguments["source"])]
        target = [d % rank for d in np.atleast_1d(call.arguments["destination"])]
        rest = iter(d for d in range(rank) if d not in source)
        order = [source[target.index(d)] if d in target else next(rest) for d in range(rank)]
    elif call.name == "numpy_T":
        order.reverse()
    else:
        order[-2:] = reversed(order[-2:])
    labels = labels_of(call.flow, value)
    return call.returning(labels.transpose(order), tuple(value.extent[d] for d in order))


def view(call: Call) -> Value | tuple[Value, ...]:
    """Merge and split axes. Splitting an axis of channels ties the rows, so that all of them lose equally many."""
    value = call.tensor("self")
    labels, target = labels_of(call.flow, value), call.shapes[0]
    old_axes = [a for a, size in enumerate(value.shape) if size != 1]
    new_axes = [a for a, size in enumerate(target) if size != 1]
    sizes = [labels.shape[a] for a in old_axes]
    if labels.size == 0 or 0 in target:
        return call.pinned("an empty tensor")
    out_sizes, out_extent = [1] * len(target), list(target)
    part_sizes: list[int] = []  # the labels' shape: expanded in parts where they vary, 1 elsewhere
    part_targets: list[list[int]] = []
    for old, new in _parts([value.shape[a] for a in old_axes], [target[a] for a in new_axes]):
        if any(sizes[i] > 1 for i in old):
            part_sizes += [value.shape[old_axes[i]] for i in old]
            part_targets.append([target[new_axes[j]] for j in new])
        else:
            part_sizes += [1] * len(old)
            part_targets.append([1] * len(new))
            if all(value.extent[old_axes[i]] == 1 for i in old):
                for j in new:
                    out_extent[new_axes[j]] = 1
    flat = np.broadcast_to(labels.reshape([labels.shape[a] for a in old_axes]), part_sizes)
    for a, size in zip(new_axes, [n for part in part_targets for n in part], strict=True):
        out_sizes[a] = size
    result = collapsed(flat.reshape(out_sizes))
    return call.returning(_equal_rows(call, result, part_targets, new_axes), tuple(out_extent))


def _parts(old: list[int], new: list[int]) -> list[tuple[list[int], list[int]]]:
    """Match runs of axes with equal products: [4, 6, 5] to [24, 5] is ([0, 1], [0]), ([2], [1])."""
    parts, i, j = [], 0, 0
    while i < len(old):
        one, two, size_old, size_new = [i], [j], old[i], new[j]
        while size_old != size_new:
            if size_old < size_new:
                i += 1
                one.append(i)
                size_old *= old[i]
            else:
                j += 1
                two.append(j)
                size_new *= new[j]
        parts.append((one, two))
        i, j = i + 1, j + 1
    return parts


def _equal_rows(call: Call, labels: Labels, part_targets: list[list[int]], new_axes: list[int]) -> Labels:
    """Tie the labels across all but the last of the axes that one axis was split into."""
    position = 0
    for part in part_targets:
        axes = [a for a in new_axes[position : position + len(part)] if labels.shape[a] > 1]
        position += len(part)
        for axis in axes[:-1]:
            call.flow.tie_rows(labels, axis)
    return labels


def collapsed(labels: Labels) -> Labels:
    """Reduce to size 1 the axes along which labels do not vary."""
    for axis, size in enumerate(labels.shape):
        first = labels.take([0], axis)
        if size > 1 and bool((labels == first).all()):
            labels = first
    return labels


def expand(call: Call) -> Value:
    """Repeat axes of size 1; the extent remembers that they are one entry long."""
    value = call.tensor("self")
    labels = labels_of(call.flow, value)
    lead = (1,) * (len(call.shapes[0]) - len(value.shape))
    return call.returning(labels.reshape(lead + labels.shape), lead + value.extent)


def repeat(call: Call) -> Value:
    """Tile the labels along the axes on which they vary."""
    value = call.tensor("self")
    times = call.arguments["repeats"] if "repeats" in call.arguments else call.arguments["dims"]
    labels = labels_of(call.flow, value)
    lead = max(len(times) - labels.ndim, 0)
    labels = labels.reshape((1,) * lead + labels.shape)
    times = (1,) * (labels.ndim - len(times)) + tuple(times)
    return call.returning(np.tile(labels, [n if size > 1 else 1 for n, size in zip(times, labels.shape, strict=True)]))


def repeat_interleave(call: Call) -> Value | tuple[Value, ...]:
    """Repeat every label in place."""
    value, dim, times = call.tensor("self"), call.arguments["dim"], call.arguments["repeats"]
    if dim is None or not isinstance(times, int):
        return call.pinned("entries are repeated unequally")
    labels = labels_of(call.flow, value)
    return call.returning(np.repeat(labels, times, axis=dim) if labels.shape[dim] > 1 else labels)


def concatenate(call: Call) -> Value | tuple[Value, ...]:
    """Join labels along an axis, or along a new one. Where they vary along others, these must stay equally long."""
    values = [v for v in call.values() if v.shape != (0,)]
    rank = len(call.shapes[0])
    axis = int(call.arguments.get("dim") or 0) % rank
    arrays = [labels_of(call.flow, v) for v in values]
    counts = [v.shape[axis] if call.name != "stack" else 1 for v in values]
    if call.name == "stack":
        arrays = [np.expand_dims(a, axis) for a in arrays]
    if not any(a.any() for a in arrays):
        return call.returning(np.zeros((1,) * rank, dtype=np.int64))
    across = [call.flow.varying(array) - {axis} for array in arrays]
    if len({frozenset(v) for v in across if v}) > 1:
        arrays = [call.flow.given_up(array) if v and call.flow.is_data(array) else array
                  for array, v in zip(arrays, across, strict=True)]  # fmt: skip
    others = [tuple(1 if a == axis else s for a, s in enumerate(array.shape)) for array in arrays]
    common = np.broadcast_shapes(*others)
    if max(common) > 1:
        pieces = [np.unique(array, axis=axis) if array.shape[axis] > 1 else array for array in arrays]
        rows = [row for piece in pieces for row in np.split(piece, piece.shape[axis], axis)]
        return call.returning(collapsed(call.flow.merge(*(np.broadcast_to(row, common) for row in rows))))
    full = [np.broadcast_to(array, [n if a == axis else s for a, s in enumerate(common)])
            for array, n in zip(arrays, counts, strict=True)]  # fmt: skip
    return call.returning(collapsed(np.concatenate(full, axis)))


def pad(call: Call) -> Value | tuple[Value, ...]:
    """Pad with label 0 along axes of channels: padded positions are never cut."""
    value, amounts = call.tensor("self"), list(call.arguments.get("pad") or call.arguments["padding"])
    mode = call.arguments.get("mode") or ("constant" if "constant" in call.name else call.name)
    labels, rank = labels_of(call.flow, value), len(value.shape)
    widths = [(0, 0)] * rank
    for k in range(len(amounts) // 2):
        widths[rank - 1 - k] = (int(amounts[2 * k]), int(amounts[2 * k + 1]))
    # Axes of size 1 may carry a lone label; only where all labels are zero is the axis known to hold none.
    touched = [a for a, w in enumerate(widths) if w != (0, 0) and labels.shape[a] > 1]
    if touched and (mode != "constant" or min(min(widths[a]) for a in touched) < 0):
        return call.pinned("channels are padded with other channels or cropped")
    labels = np.pad(labels, [w if a in touched else (0, 0) for a, w in enumerate(widths)])
    return call.returning(labels)


def flip(call: Call) -> Value:
    """Reverse axes."""
    value = call.tensor("self")
    return call.returning(np.flip(labels_of(call.flow, value), call.arguments["dims"]), value.extent)
