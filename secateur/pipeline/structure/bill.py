"""Write a network's multiply-adds and parameters as bilinear forms of its groups' widths."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.artifacts import Group
from secateur.pipeline.costs import CostTerms
from secateur.pipeline.structure.labels import Product
from secateur.pipeline.structure.paths import covers


@dataclass(frozen=True, kw_only=True, eq=False)
class Bill:
    """What a network spends: its products, and its parameters with the bytes of an entry of each.

    ``shares`` tells of each product how many of its labels each channel of a group owns.
    """

    products: Sequence[Product]
    shares: Sequence[Mapping[str, int]]
    parameters: Mapping[str, int]

    def without(self, modules: tuple[str, ...], constants: Sequence[str]) -> "Bill":
        """Return the bill once constants take the places of these modules."""
        stays = [not covers(modules, product.weight or product.module) for product in self.products]
        size = max((n for name, n in self.parameters.items() if covers(modules, name)), default=0)
        return Bill(
            products=[p for p, is_left in zip(self.products, stays, strict=True) if is_left],
            shares=[s for s, is_left in zip(self.shares, stays, strict=False) if is_left],
            parameters={name: n for name, n in self.parameters.items() if not covers(modules, name)}
            | dict.fromkeys(constants, size),
        )


def mac_terms(
    groups: tuple[Group, ...],
    shapes: Mapping[str, tuple[int, ...]],
    products: Sequence[Product],
    shares: Sequence[Mapping[str, int]],
) -> CostTerms:
    """Count each layer's weight once a position: coefficient * length of axis 0 * length of axis 1.

    Products of activations cost their coefficient times the labels that are left, of which each channel of a group owns
    as many as ``shares`` says.
    """
    weights = [_Entry(tensor=str(p.weight), axes=(0, 1), coefficient=p.coefficient) for p in products if p.weight]
    constant = sum(p.coefficient for p in products if p.weight is None and p.labels is None)
    terms = _terms(groups, shapes, weights, constant)
    summed = [(p, share) for p, share in zip(products, shares, strict=False) if p.labels is not None]
    lengths = np.array([[share.get(group.name, 0) for group in groups] for _, share in summed], dtype=np.int64)
    lengths = lengths.reshape(len(summed), len(groups))
    whole = np.array([p.labels.size for p, _ in summed if p.labels is not None], dtype=np.int64)
    widths = np.array([group.num_channels for group in groups], dtype=np.int64)
    ones = np.ones(len(summed), dtype=np.int64)
    return CostTerms(
        groups=terms.groups, constant=terms.constant,
        coefficient=np.concatenate([terms.coefficient, np.array([p.coefficient for p, _ in summed], dtype=np.int64)]),
        a0=np.concatenate([terms.a0, whole - lengths @ widths]), A=np.concatenate([terms.A, lengths]),
        b0=np.concatenate([terms.b0, ones]), B=np.concatenate([terms.B, np.zeros_like(lengths)]),
    )  # fmt: skip


def parameter_terms(
    groups: tuple[Group, ...], shapes: Mapping[str, tuple[int, ...]], parameters: Mapping[str, int]
) -> CostTerms:
    """Count each entry of every parameter as often as ``parameters`` says, which names each tied parameter once."""
    owned: dict[str, set[int]] = {}
    for group in groups:
        for s in group.slices:
            owned.setdefault(s.tensor, set()).add(s.axis)
    entries = []
    for name, each in parameters.items():
        shape = shapes[name]
        first = [*sorted(owned.get(name, ())), *(a for a in range(len(shape)) if a not in owned.get(name, ()))]
        coefficient = each * math.prod(shape[a] for a in first[2:])
        entries.append(_Entry(tensor=name, axes=tuple(first[:2]), coefficient=coefficient))
    return _terms(groups, shapes, entries, 0)


def length_terms(groups: tuple[Group, ...], shapes: Mapping[str, tuple[int, ...]], weights: Sequence[str]) -> CostTerms:
    """Return the lengths of the first two axes of these weights as functions of the widths: the sides of each term."""
    return _terms(groups, shapes, [_Entry(tensor=name, axes=(0, 1), coefficient=1) for name in weights], 0)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A cost: a coefficient times the lengths of up to two axes of a tensor."""

    tensor: str
    axes: tuple[int, ...]
    coefficient: int


def _terms(
    groups: tuple[Group, ...], shapes: Mapping[str, tuple[int, ...]], entries: Sequence[_Entry], constant: int
) -> CostTerms:
    """Let the lengths of the tensors' axes shrink with the groups that own entries there."""
    rows: dict[str, list[int]] = {}
    for n, entry in enumerate(entries):
        rows.setdefault(entry.tensor, []).append(n)
    matrices = np.zeros((2, len(entries), len(groups)), dtype=np.int64)
    offsets = np.ones((2, len(entries)), dtype=np.int64)
    for n, entry in enumerate(entries):
        for side, axis in enumerate(entry.axes[: len(shapes[entry.tensor])]):
            offsets[side, n] = shapes[entry.tensor][axis]
    for g, group in enumerate(groups):
        for s in group.slices:
            for n in rows.get(s.tensor, ()):
                if s.axis not in entries[n].axes:
                    raise ValueError(f"costs follow two axes of a tensor, not axis {s.axis} of {s.tensor}")
                side = entries[n].axes.index(s.axis)
                matrices[side, n, g] = s.indices.shape[1]
                offsets[side, n] -= s.indices.size
    return CostTerms(
        groups=tuple(group.name for group in groups),
        coefficient=np.array([entry.coefficient for entry in entries], dtype=np.int64),
        a0=offsets[0], A=matrices[0], b0=offsets[1], B=matrices[1], constant=constant,
    )  # fmt: skip
