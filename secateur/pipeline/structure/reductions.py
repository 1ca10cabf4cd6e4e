"""Operators that mix entries along some axes: channels along these are pinned, others pass."""

import re

import numpy as np

from secateur.pipeline.structure.call import Call, labels_of
from secateur.pipeline.structure.labels import Value, fixed


def reduction(call: Call) -> Value | tuple[Value, ...]:
    """Drop the reduced axes (all of them where none is named)."""
    value = call.values()[0]
    rank = len(value.shape)
    labels = labels_of(call.flow, value)
    axes = axes_of(call, rank)
    if call.flow.varying(labels) & axes:
        return call.pinned("channels are reduced to one number")
    for axis in axes:
        labels = labels.take([0], axis)
    keeps = len(call.shapes[0]) == rank
    labels = labels if keeps else labels.squeeze(tuple(sorted(axes)))
    return tuple(Value(labels=labels, shape=s, extent=s) for s in call.shapes)


def axes_of(call: Call, rank: int) -> set[int]:
    """Return the axes that a call names as ``dim``, all where it names none."""
    named = call.arguments.get("dim")
    if named is None or named == []:
        named = range(rank)
    return {int(d) % rank for d in np.atleast_1d(list(named) if not isinstance(named, int) else named)}


def along_axis(call: Call) -> Value | tuple[Value, ...]:
    """Mix entries along one axis and keep it: softmax, cumulative sums, sorting, rolling."""
    value = call.values()[0]
    rank = max(len(value.shape), 1)
    named = call.arguments["dim"] if "dim" in call.arguments else call.arguments.get("dims")
    axes = range(rank) if named is None or named == [] else [int(d) % rank for d in np.atleast_1d(named)]
    labels = labels_of(call.flow, value)
    if call.flow.varying(labels) & set(axes):
        return call.pinned("channels are mixed along their axis")
    for axis in axes:
        labels = labels.take([0], axis)
    return tuple(Value(labels=labels, shape=s, extent=s) for s in call.shapes)


def over_space(call: Call) -> Value | tuple[Value, ...]:
    """Pool or resize the last axes, as many as the operator's name says."""
    value = call.values()[0]
    labels = labels_of(call.flow, value)
    spatial = int(next(iter(re.findall(r"([123])d", call.name)), "0"))
    if any(size > 1 for size in labels.shape[len(labels.shape) - spatial :]):
        return call.pinned("channels lie on an axis that is pooled or resized")
    return tuple(Value(labels=labels, shape=s, extent=s) for s in call.shapes)


def creation(call: Call) -> tuple[Value, ...]:
    """Make constants."""
    return tuple(fixed(shape) for shape in call.shapes)
