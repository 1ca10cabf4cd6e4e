"""Products and sums of activations: channels that are summed over are cut on both sides together, others pass."""

import math

import numpy as np

from secateur.pipeline.structure import reductions
from secateur.pipeline.structure.call import Call, labels_of
from secateur.pipeline.structure.labels import Contraction, Labels, Passing, Value, fixed

REASON = "activations are multiplied with each other over this axis"


def matmul(call: Call) -> Value | tuple[Value, ...]:
    """Multiply matrices, or stacks of them; vectors and products with a sum pin what they touch."""
    matrices = [v for v in (call.value(n) for n in ("self", "tensor", "other", "mat1", "batch1", "mat2", "batch2",
                                                    "vec", "vec2")) if v is not None]  # fmt: skip
    left, right = matrices[-2:]
    if len(matrices) > 2 or min(len(left.shape), len(right.shape)) < 2:
        call.flow.multiply(math.prod(call.shapes[0]) * left.shape[-1] // call.per_sample)
        return call.pinned(REASON)
    batch = [f"b{k}" for k in range(max(len(left.shape), len(right.shape)) - 2, 0, -1)]
    terms = [[*batch[len(batch) - len(v.shape) + 2 :], *last] for v, last in ((left, "ik"), (right, "kj"))]
    labels = contract(call, left, right, terms, [*batch, "i", "j"])
    return call.pinned(REASON) if labels is None else call.returning(labels)


def attention(call: Call) -> Value | tuple[Value, ...]:
    """Multiply queries with keys, and their softmax with values; without a scale of its own it follows the width."""
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    if call.arguments.get("enable_gqa"):
        key, value = (_for_each_query(call, shared, query.shape[-3]) for shared in (key, value))
    batch = [f"b{k}" for k in range(len(query.shape) - 2)]
    follows = call.arguments.get("scale") is None
    mask = call.value("attn_mask")
    if mask is not None:
        call.flow.pin(labels_of(call.flow, mask).reshape(-1), REASON)
    weights = Value(
        labels=np.zeros((1,) * len(query.shape), dtype=np.int64),
        shape=(*query.shape[:-1], key.shape[-2]), extent=query.shape,
    )  # fmt: skip
    scores = contract(call, query, key, [[*batch, "i", "k"], [*batch, "j", "k"]], [*batch, "i", "j"], follows=follows)
    labels = contract(call, weights, value, [[*batch, "i", "j"], [*batch, "j", "e"]], [*batch, "i", "e"])
    return call.pinned(REASON) if labels is None or scores is None else call.returning(labels)


def _for_each_query(call: Call, shared: Value, num_heads: int) -> Value:
    """Repeat heads of keys or values that several heads of queries share (Ainslie et al. 2023, arXiv 2305.13245)."""
    labels, times = labels_of(call.flow, shared), num_heads // shared.shape[-3]
    repeated = np.repeat(labels, times, axis=-3) if labels.shape[-3] > 1 else labels
    shape = (*shared.shape[:-3], num_heads, *shared.shape[-2:])
    return Value(labels=repeated, shape=shape, extent=shape)


def einsum(call: Call) -> Value | tuple[Value, ...]:
    """Multiply two operands as the equation says; more of them, and diagonals, pin what they touch."""
    operands = [v for v in call.arguments["tensors"] if isinstance(v, Value)]
    inputs, _, output = str(call.arguments["equation"]).replace(" ", "").partition("->")
    terms = [_indices(t, len(v.shape)) for t, v in zip(inputs.split(","), operands, strict=True)]
    if len(operands) == 2 and output and all(len(set(t)) == len(t) for t in terms):
        result = _indices(output, len(call.shapes[0]))
        labels = contract(call, operands[0], operands[1], terms, result)
        return call.pinned(REASON) if labels is None else call.returning(labels)
    if len(operands) > 1:
        call.flow.multiply(math.prod(_lengths(operands, terms).values()) // call.per_sample)
    return call.pinned(REASON)


def norm(call: Call) -> Value | tuple[Value, ...]:
    """Take the length of vectors of channels, to which a channel that is zero adds nothing."""
    order = call.arguments.get("ord", call.arguments.get("p"))
    return (
        total(call) if order is None or (isinstance(order, (int, float)) and order > 0) else reductions.reduction(call)
    )


def total(call: Call) -> Value | tuple[Value, ...]:
    """Sum channels of one layer; where several make them they are pinned."""
    value = call.values()[0]
    rank, labels = len(value.shape), labels_of(call.flow, value)
    varying = call.flow.varying(labels)
    if not varying or not varying <= reductions.axes_of(call, rank):
        return reductions.reduction(call)
    _record(call, [labels], sorted(varying))
    return tuple(fixed(shape) for shape in call.shapes)


def contract(
    call: Call, left: Value, right: Value, terms: list[list[str]], output: list[str], *, follows: bool = False
) -> Labels | None:
    """Return the labels of a product of two values, whose axes are named by ``terms``; None where they cannot pass.

    What is counted is the product of all lengths, of which that of the channels may shrink.
    """
    lengths = _lengths([left, right], terms)
    letters = sorted(lengths)
    arrays = [_aligned(_labelled(call, v, other, terms, n), term, letters)
              for n, (v, other, term) in enumerate([(left, right, terms[0]), (right, left, terms[1])])]  # fmt: skip
    for number, array in enumerate(arrays):
        if _conflict(call, arrays, letters, output) and (
            call.flow.is_data(array) or _on_fixed_axis(call, arrays, number, letters, (left, right), terms)
        ):
            arrays[number] = call.flow.given_up(array)
    macs = math.prod(lengths.values()) // call.per_sample
    varying = _varying(call, arrays, letters)
    summed = {n for n in lengths if n not in output}
    nothing = np.zeros((1,) * len(output), dtype=np.int64)
    if _conflict(call, arrays, letters, output):
        call.flow.multiply(macs)
        return None
    if not any(varying):
        call.flow.multiply(macs)
        for array in arrays:
            call.flow.pin(array.reshape(-1), REASON)
        return nothing
    if any(v & summed for v in varying):
        merged = call.flow.merge(*arrays)
        call.flow.multiply(macs // merged.size, labels=merged.reshape(-1))
        _record(call, arrays, [letters.index(n) for n in sorted(summed)], follows=follows)
        return nothing
    passing = call.flow.merge(*arrays) if all(varying) else arrays[0] if varying[0] else arrays[1]
    if (made := call.flow.maker(passing)) is not None:
        call.flow.passings.append(Passing(labels=passing, weight=made[0], rows=made[1], module=call.flow.module))
    call.flow.multiply(macs // passing.size, labels=passing.reshape(-1))
    order = [letters.index(n) for n in output]
    return passing.transpose([*order, *(letters.index(n) for n in summed)]).reshape([passing.shape[a] for a in order])


def _varying(call: Call, arrays: list[Labels], letters: list[str]) -> list[set[str]]:
    return [{letters[a] for a in call.flow.varying(array)} for array in arrays]


def _conflict(call: Call, arrays: list[Labels], letters: list[str], output: list[str]) -> bool:
    """Tell whether channels cannot pass: they are on different axes, or summed over with other things."""
    varying = _varying(call, arrays, letters)
    summed = set(letters) - set(output)
    if any(v & summed for v in varying):
        return not all(array.any() and v <= summed for array, v in zip(arrays, varying, strict=True))
    return all(varying) and (varying[0] != varying[1] or len(varying[0]) > 1)


def _on_fixed_axis(
    call: Call, arrays: list[Labels], number: int, letters: list[str], values: tuple[Value, Value],
    terms: list[list[str]],
) -> bool:  # fmt: skip
    """Tell whether channels lie on an axis that the other operand has at a length of its own, as that of heads."""
    varying, other = _varying(call, arrays, letters), 1 - number
    lengths = dict(zip(terms[other], values[other].extent, strict=True))
    return bool(varying[other]) and any(lengths.get(n, 1) > 1 for n in varying[number] - varying[other])


def _labelled(call: Call, value: Value, other: Value, terms: list[list[str]], number: int) -> Labels:
    """Return a value's labels; a parameter of several axes gets them along the axis on which the other's vary."""
    if value.tensor is not None and other.tensor is None:
        theirs = {terms[1 - number][a] for a in call.flow.varying(other.labels)}
        axes = [a for a, letter in enumerate(terms[number]) if letter in theirs]
        if len(axes) == 1 and len(value.shape) > 1:
            return call.flow.spread(value.tensor, axes[0])
    return labels_of(call.flow, value)


def _record(call: Call, arrays: list[Labels], summed: list[int], *, follows: bool = False) -> None:
    """Note where a mask of this contraction can sit: at the layer that makes one side's channels."""
    squared = len(arrays) > 1 and np.array_equal(arrays[0].reshape(-1), arrays[1].reshape(-1))
    for array in arrays:
        heads = np.moveaxis(array, summed, range(-len(summed), 0)).reshape(
            -1, math.prod(array.shape[a] for a in summed)
        )
        made = call.flow.maker(heads)
        if made is not None:
            weight, rows = made
            call.flow.contractions.append(
                Contraction(
                    labels=heads, weight=weight, rows=rows, follows=follows, squared=squared, module=call.flow.module
                )
            )
            return
    for array in arrays:
        call.flow.pin(array.reshape(-1), "activations that no single layer makes are multiplied over this axis")


def _aligned(labels: Labels, term: list[str], letters: list[str]) -> Labels:
    """Order the axes by letter, with length 1 along those that the operand does not have."""
    labels = labels.transpose([term.index(n) for n in letters if n in term])
    sizes = iter(labels.shape)
    return labels.reshape([next(sizes) if n in term else 1 for n in letters])


def _lengths(operands: list[Value], terms: list[list[str]]) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        for index, length in zip(term, operand.shape, strict=True):
            lengths[index] = max(length, lengths.get(index, 1))
    return lengths


def _indices(term: str, rank: int) -> list[str]:
    """Name the axes of one operand; those behind an ellipsis are numbered from the right."""
    if "..." not in term:
        return list(term)
    head, tail = term.split("...")
    return [*head, *(f".{k}" for k in range(rank - len(head) - len(tail), 0, -1)), *tail]
