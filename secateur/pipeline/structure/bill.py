"""Write a network's multiply-adds and parameters as bilinear forms of its groups' widths."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from secateur.artifacts import Group
from secateur.pipeline.costs import CostTerms
from secateur.pipeline.structure.labels import Product


def mac_terms(
    groups: tuple[Group, ...], shapes: Mapping[str, tuple[int, ...]], products: Sequence[Product]
) -> CostTerms:
    """Count each layer's weight once a position: coefficient * length of axis 0 * length of axis 1."""
    weights = [p for p in products if p.weight is not None]
    constant = sum(p.coefficient for p in products if p.weight is None)
    return _terms(groups, shapes, [(str(p.weight), p.coefficient) for p in weights], constant)


def parameter_terms(
    groups: tuple[Group, ...], shapes: Mapping[str, tuple[int, ...]], parameters: Sequence[str]
) -> CostTerms:
    """Count the entries of every parameter; ``parameters`` names each tied parameter once."""
    entries = [(name, math.prod(shapes[name][2:])) for name in parameters]
    return _terms(groups, shapes, entries, 0)


def _terms(
    groups: tuple[Group, ...],
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Sequence[tuple[str, int]],
    constant: int,
) -> CostTerms:
    """Let the lengths of a tensor's first two axes shrink with the groups that own entries there."""
    rows: dict[str, list[int]] = {}
    for n, (name, _) in enumerate(tensors):
        rows.setdefault(name, []).append(n)
    matrices = np.zeros((2, len(tensors), len(groups)), dtype=np.int64)
    offsets = np.ones((2, len(tensors)), dtype=np.int64)
    for n, (name, _) in enumerate(tensors):
        for axis, length in enumerate(shapes[name][:2]):
            offsets[axis, n] = length
    trailing = [(name, group.name) for group in groups for name, axis in ((s.tensor, s.axis) for s in group.slices)
                if axis > 1 and name in rows]  # fmt: skip
    if trailing:
        raise ValueError(f"costs follow the first two axes of a tensor only, not {trailing}")
    for g, group in enumerate(groups):
        for s in group.slices:
            for n in rows.get(s.tensor, ()):
                matrices[s.axis, n, g] = s.indices.shape[1]
                offsets[s.axis, n] -= s.indices.size
    return CostTerms(
        groups=tuple(group.name for group in groups),
        coefficient=np.array([c for _, c in tensors], dtype=np.int64),
        a0=offsets[0], A=matrices[0], b0=offsets[1], B=matrices[1], constant=constant,
    )  # fmt: skip
