"""Products of activations: their channels are pinned, their multiply-adds counted."""

import math

from secateur.pipeline.structure.call import Call
from secateur.pipeline.structure.labels import Value

REASON = "activations are multiplied with each other over this axis"


def matmul(call: Call) -> tuple[Value, ...]:
    """Count the entries of the result times the length of the contracted axis."""
    matrices = [v for v in (call.value(n) for n in ("self", "tensor", "other", "mat1", "batch1", "mat2", "batch2",
                                                    "vec", "vec2")) if v is not None]  # fmt: skip
    left = matrices[-2]
    call.flow.multiply(math.prod(call.shapes[0]) * left.shape[-1] // call.per_sample)
    return call.pinned(REASON)


def attention(call: Call) -> tuple[Value, ...]:
    """Count queries times keys, and weights times values."""
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    call.flow.multiply(pairs * (query.shape[-1] + value.shape[-1]) // call.per_sample)
    return call.pinned(REASON)


def einsum(call: Call) -> tuple[Value, ...]:
    """Count the product of all index lengths, which is what contracting two operands at once costs."""
    operands = [v for v in call.arguments["tensors"] if isinstance(v, Value)]
    terms = str(call.arguments["equation"]).replace(" ", "").split("->")[0].split(",")
    lengths: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        for index, length in zip(_indices(term, len(operand.shape)), operand.shape, strict=True):
            lengths[index] = max(length, lengths.get(index, 1))
    if len(operands) > 1:
        call.flow.multiply(math.prod(lengths.values()) // call.per_sample)
    return call.pinned(REASON)


def _indices(term: str, rank: int) -> list[str]:
    """Name the axes of one operand; those behind an ellipsis are numbered from the right."""
    if "..." not in term:
        return list(term)
    head, tail = term.split("...")
    return [*head, *(f".{k}" for k in range(rank - len(head) - len(tail), 0, -1)), *tail]
