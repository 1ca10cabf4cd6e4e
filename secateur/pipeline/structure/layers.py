"""Layers with parameters: they tie channels to entries of their parameters."""

import math

import numpy as np

from secateur.pipeline.structure.call import Call, labels_of
from secateur.pipeline.structure.labels import Labels, Value, fixed


def convolution(call: Call) -> Value | tuple[Value, ...]:
    """Tie a convolution's input and output channels to its weight and bias.

    Weights are [out, in / groups, ...], transposed ones [in, out / groups, ...]. In a grouped convolution the channels
    at the same position of all groups are cut together, so that every group loses equally many; in a depthwise one
    (one input channel a group) input channel i is cut with the outputs that are computed from it.
    """
    value, weight, bias = call.tensor("input", "self"), call.tensor("weight"), call.value("bias")
    groups = int(call.arguments.get("groups") or 1)
    transposed = "transpose" in call.name or bool(call.arguments.get("transposed"))
    spatial = len(weight.shape) - 2
    side = value.shape if transposed else call.shapes[0]
    positions = math.prod(side) // side[1 if len(side) > spatial + 1 else 0] // call.per_sample
    kernel = math.prod(weight.shape[2:])
    if weight.tensor is None or len(value.shape) != spatial + 2 or (bias is not None and bias.tensor is None):
        call.flow.multiply(positions * kernel * weight.shape[0] * weight.shape[1])
        return call.pinned("the convolution's weight is computed, or its input has no batch axis")
    call.flow.multiply(positions * kernel, weight.tensor)
    inputs = channels(call, value, 1)
    num_in, num_out = value.shape[1], call.shapes[0][1]
    axis_in, axis_out = (0, 1) if transposed else (1, 0)
    flow, name = call.flow, weight.tensor

    if groups == num_in > 1:
        # The group's one weight axis holds inputs (transposed) or outputs; either way it shrinks with the inputs.
        outputs = flow.rows(name, 0, producer=True)
        flow.merge(outputs.reshape(groups, -1), inputs.reshape(groups, 1))
        outputs = np.repeat(outputs, num_out // groups) if transposed else outputs
        flow.at_least_two.append(outputs)
    else:
        position = np.arange(num_in)
        flow.tie(name, axis_in, inputs, position if transposed else position % (num_in // groups))
        if transposed and groups > 1:
            flow.merge(*inputs.reshape(groups, -1))
        flow.read(name, inputs)
        rows = flow.rows(name, axis_out, producer=True)
        outputs = np.tile(rows, groups) if transposed else rows
        if groups > 1:
            flow.merge(*outputs.reshape(groups, -1))
            flow.at_least_two.append(inputs)
    if bias is not None and bias.tensor is not None:
        flow.tie(bias.tensor, 0, outputs, np.arange(num_out))
        flow.biases[name] = bias.tensor
    return call.returning(outputs.reshape((1, -1) + (1,) * spatial))


def linear(call: Call) -> Value | tuple[Value, ...]:
    """Tie a linear layer's input and output features to its weight [out, in] and bias, which may be computed."""
    value, weight, bias = call.tensor("input"), call.tensor("weight"), call.value("bias")
    rows = math.prod(value.shape[:-1]) // call.per_sample
    if weight.tensor is None or len(weight.shape) != 2:
        call.flow.multiply(rows * math.prod(weight.shape))
        return call.pinned("the linear layer's weight is computed")
    labels = labels_of(call.flow, value)
    if labels.shape[-1] == 1 and call.flow.varying(labels):
        return _linear_across(call, weight, labels, rows)
    call.flow.multiply(rows, weight.tensor)
    inputs = features(call, value)
    call.flow.tie(weight.tensor, 1, inputs, np.arange(inputs.size))
    call.flow.read(weight.tensor, inputs)
    outputs = call.flow.rows(weight.tensor, 0, producer=True)
    if bias is not None and bias.tensor is not None:
        call.flow.tie(bias.tensor, 0, outputs, np.arange(outputs.size))
        call.flow.biases[weight.tensor] = bias.tensor
    elif bias is not None:
        outputs = call.flow.merge(outputs, np.broadcast_to(bias.labels.reshape(-1), outputs.shape))
    return call.returning(outputs.reshape((1,) * (len(call.shapes[0]) - 1) + (-1,)))


def _linear_across(call: Call, weight: Value, labels: Labels, rows: int) -> Value:
    """Let channels pass a linear layer that mixes something else (tokens), whose own features then stay whole."""
    flow, name = call.flow, str(weight.tensor)
    flow.multiply(rows * math.prod(weight.shape) // labels.size, labels=labels.reshape(-1))
    flow.pin(flow.rows(name, 0, producer=True), "its layer mixes what is not channels, and channels pass it")
    flow.tie(name, 1, np.zeros(weight.shape[1], dtype=np.int64), np.arange(weight.shape[1]))
    return call.returning(labels)


def norm_by_channel(call: Call) -> Value | tuple[Value, ...]:
    """Tie batch or instance norm's parameters and running statistics to the channels they belong to."""
    value = call.tensor("input")
    inputs = channels(call, value, 1)
    position = np.arange(inputs.size)
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = call.value(name)
        if tensor is None:
            continue
        if tensor.tensor is None:
            return call.pinned("the norm's parameters are computed")
        call.flow.tie(tensor.tensor, 0, inputs, position)
    weight, bias = call.value("weight"), call.value("bias")
    call.flow.normalised.append((None if weight is None else weight.tensor, inputs))
    if weight is not None and bias is not None:
        call.flow.biases[str(weight.tensor)] = str(bias.tensor)
    if not any(call.value(name) for name in ("weight", "running_mean")):
        call.flow.counted.append((call.flow.module, inputs))
    result = call.returning(inputs.reshape((1, -1) + (1,) * (len(value.shape) - 2)))
    return (result, *(fixed(shape) for shape in call.shapes[1:])) if len(call.shapes) > 1 else result


def norm_over_channels(call: Call) -> Value | tuple[Value, ...]:
    """Tie a layer or RMS norm's parameters to the channels of the last axis, over which it takes its statistics."""
    value, weight, bias = call.tensor("input"), call.value("weight"), call.value("bias")
    first = len(value.shape) - len(call.arguments["normalized_shape"])
    labels = labels_of(call.flow, value)
    if not any(size > 1 for size in labels.shape[first:]):
        return call.returning(labels, value.extent)
    own = [v for v in (weight, bias) if v is not None]
    if weight is None or len(call.arguments["normalized_shape"]) > 1 or any(v.tensor is None for v in own):
        return call.pinned("channels are normalised together")
    along = features(call, value)
    _tie_norm(call, along, weight, bias)
    return call.returning(along.reshape((1,) * (len(value.shape) - 1) + (-1,)))


def group_norm(call: Call) -> Value | tuple[Value, ...]:
    """Tie a group norm's parameters; channels at the same position of all groups are cut together."""
    value, weight, bias = call.tensor("input"), call.value("weight"), call.value("bias")
    own = [v for v in (weight, bias) if v is not None]
    if weight is None or any(v.tensor is None for v in own):
        return call.pinned("channels are normalised together")
    along = channels(call, value, 1)
    call.flow.merge(*along.reshape(int(call.arguments["num_groups"]), -1))
    _tie_norm(call, along, weight, bias)
    return call.returning(along.reshape((1, -1) + (1,) * (len(value.shape) - 2)))


def _tie_norm(call: Call, along: Labels, weight: Value, bias: Value | None) -> None:
    position = np.arange(along.size)
    for tensor in (weight.tensor, bias.tensor if bias is not None else None):
        if tensor is not None:
            call.flow.tie(tensor, 0, along, position)
    call.flow.normalise(str(weight.tensor), along)
    if bias is not None and bias.tensor is not None:
        call.flow.biases[str(weight.tensor)] = bias.tensor


def embedding(call: Call) -> Value | tuple[Value, ...]:
    """Tie the columns of an embedding table to the features of its result."""
    weight = call.tensor("weight")
    if weight.tensor is None:
        return call.pinned("the embedding table is computed")
    columns = call.flow.rows(weight.tensor, 1, producer=True)
    return call.returning(columns.reshape((1,) * (len(call.shapes[0]) - 1) + (-1,)))


def channels(call: Call, value: Value, axis: int) -> Labels:
    """Return one label a channel; where labels vary along another axis too, all of them are pinned."""
    labels = labels_of(call.flow, value)
    if call.flow.varying(labels) - {axis}:
        call.flow.pin(labels.reshape(-1), "channels lie on an axis that the layer does not read as channels")
        return np.zeros(value.shape[axis], dtype=np.int64)
    rows = np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis])
    along = call.flow.merge(rows[0], *rows[1:]) if len(rows) > 1 else rows[0]
    return np.broadcast_to(along, (value.shape[axis],))


def features(call: Call, value: Value) -> Labels:
    """Return one label a position of the last axis, on which the layer treats all others alike.

    Labels that differ between places (the class token's and the patches') meet in the layer's one position each.
    """
    labels = labels_of(call.flow, value)
    rows = np.broadcast_to(labels, (*labels.shape[:-1], value.shape[-1])).reshape(-1, value.shape[-1])
    if labels.shape[-1] == 1 and len(rows) > 1:
        call.flow.pin(labels.reshape(-1), "channels lie on an axis that the layer does not read as channels")
        return np.zeros(value.shape[-1], dtype=np.int64)
    return call.flow.merge(rows[0], *np.unique(rows[1:], axis=0)) if len(rows) > 1 else rows[0]
