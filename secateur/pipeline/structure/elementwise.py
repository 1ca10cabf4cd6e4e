"""Operators that combine values entry by entry: what meets is cut together."""

import numpy as np

from secateur.pipeline.structure.call import Call, labels_of
from secateur.pipeline.structure.labels import Labels, Value

_Operand = tuple[Labels, tuple[int, ...]]
"""Labels and extent."""


def elementwise(call: Call) -> Value | tuple[Value, ...]:
    """Merge the labels that meet, as broadcasting lets them meet.

    An operand that is one entry long on the axis along which the others' labels vary (a spatial gate on all channels, a
    scalar) does not couple these channels: its own label, if it has one, is pinned instead.
    """
    shape = call.shapes[0]
    operands = [_aligned(v, labels, len(shape)) for v, labels in _labelled(call)]
    longest = tuple(max(sizes) for sizes in zip(*(extent for _, extent in operands), strict=True)) if shape else ()
    varying = [frozenset(call.flow.varying(labels)) for labels, _ in operands]
    if len({v for v in varying if v}) > 1:
        operands = _without_fixed(call, operands, varying)
        varying = [frozenset(call.flow.varying(labels)) for labels, _ in operands]
    axes = frozenset().union(*varying)
    if not axes:
        return call.returning(_single(call, [labels for labels, _ in operands], len(shape)), longest)
    if any(v and v != axes for v in varying):
        return call.pinned("channels on different axes meet, as in an outer product")
    meeting = []
    for labels, extent in operands:
        if labels.size == 1 and all(extent[a] == 1 for a in axes):
            call.flow.pin(labels.reshape(-1), "one channel is spread over many")
        else:
            meeting.append(labels)
    merged = call.flow.merge(*meeting)
    results = tuple(call.returning(merged, longest) for _ in call.shapes)
    return results if len(results) > 1 else results[0]


def _without_fixed(call: Call, operands: list[_Operand], varying: list[frozenset[int]]) -> list[_Operand]:
    """Give up the labels of parameters, and those on an axis that another operand has at a length of its own."""

    def gives_up(number: int) -> bool:
        others = [(extent, v) for n, ((_, extent), v) in enumerate(zip(operands, varying, strict=True)) if n != number]
        return call.flow.is_data(operands[number][0]) or any(
            v and extent[a] > 1 and a not in v for extent, v in others for a in varying[number]
        )

    return [(call.flow.given_up(labels) if gives_up(n) else labels, extent)
            for n, (labels, extent) in enumerate(operands)]  # fmt: skip


def _labelled(call: Call) -> list[tuple[Value, Labels]]:
    """Return the operands with their labels.

    A parameter of several axes (a position embedding) gets labels along the one axis on which the others' vary.
    """
    values = call.values()
    spread = [v for v in values if v.tensor is not None and sum(size > 1 for size in v.shape) > 1]
    others = [(v, labels_of(call.flow, v)) for v in values if v not in spread]
    axes = {a - len(v.shape) for v, labels in others for a, size in enumerate(labels.shape) if size > 1}
    found = list(others)
    for value in spread:
        rank, axis = len(value.shape), min(axes, default=0)
        if value.tensor is not None and len(axes) == 1 and -axis <= rank and value.shape[axis] > 1:
            found.append((value, call.flow.spread(value.tensor, rank + axis)))
        else:
            found.append((value, labels_of(call.flow, value)))
    return found


def _aligned(value: Value, labels: Labels, rank: int) -> _Operand:
    """Pad labels and extent with leading ones, as broadcasting does."""
    lead = (1,) * (rank - len(value.shape))
    return labels.reshape(lead + labels.shape), lead + value.extent


def _single(call: Call, operands: list[Labels], rank: int) -> Labels:
    """Merge operands whose labels vary along no axis: a lone channel takes no harm from constants."""
    labelled = [labels for labels in operands if labels.any()]
    return call.flow.merge(*labelled) if labelled else np.zeros((1,) * rank, dtype=np.int64)


def prelu(call: Call) -> Value | tuple[Value, ...]:
    """Tie the slopes, one a channel, to the channels."""
    value, weight = call.tensor("self"), call.tensor("weight")
    if max(weight.shape, default=1) == 1:
        return call.returning(labels_of(call.flow, value), value.extent)
    if weight.tensor is None or value.varying() - {1}:
        return call.pinned("the slopes are not a parameter of one entry a channel")
    along = value.along(1)
    call.flow.tie(weight.tensor, 0, along, np.arange(along.size))
    return call.returning(value.labels, value.extent)
