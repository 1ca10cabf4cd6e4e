"""Channel labels and what is learnt about them while they flow through the graph.

Every producer of channels (a row of a convolution or linear layer) has an integer label of its own. A value in the
graph carries an array of labels of the activation's rank, of size 1 along every axis on which the labels do not vary,
so that a feature map of 512 channels costs 512 integers. Label 0 stands for what is never cut: network inputs,
constants, zero padding along channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Labels = np.ndarray
"""int64, size 1 along every axis on which the labels do not vary."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Value:
    """A tensor in the graph as its labels.

    ``shape`` is the activation's shape; ``extent`` is the shape with 1 along axes that were expanded from size 1, so a
    gate that was spread over channels is still known to be one channel. ``tensor`` names the parameter or buffer
    where the value is one.
    """

    labels: Labels
    shape: tuple[int, ...]
    extent: tuple[int, ...]
    tensor: str | None = None

    def along(self, axis: int) -> Labels:
        """Return one label for each position along ``axis``, [size]; the labels must not vary along other axes."""
        return np.broadcast_to(self.labels.reshape(-1), (self.shape[axis],))

    def varying(self) -> set[int]:
        """Return the axes along which labels vary."""
        return {axis for axis, size in enumerate(self.labels.shape) if size > 1}


def fixed(shape: tuple[int, ...]) -> Value:
    """Make a value that is never cut."""
    return Value(labels=np.zeros((1,) * len(shape), dtype=np.int64), shape=shape, extent=shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pin:
    """Labels that are never cut, and why."""

    labels: Labels
    reason: str
    operator: str
    module: str


@dataclass(frozen=True, kw_only=True)
class Product:
    """Multiply-adds of one sample: ``coefficient`` times the current lengths of the weight's first two axes.

    Where activations are multiplied with each other it is times the number of ``labels`` that are left instead; without
    either the coefficient is the whole cost, a constant. ``module`` is where it happens.
    """

    coefficient: int
    weight: str | None = None
    labels: Labels | None = None
    module: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Contraction:
    """A sum over channels of two activations' product, as of queries and keys.

    No weight reads these channels, so a mask sits where one of the two is made: at outputs ``rows`` of the layer with
    ``weight``, whose labels are ``labels`` [heads, channels of a head]. ``follows`` tells that the operator divides by
    the root of the number of channels it finds, ``squared`` that the same outputs are on both sides; ``module`` is
    where it happens.
    """

    labels: Labels
    weight: str
    rows: np.ndarray
    follows: bool
    squared: bool
    module: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Passing:
    """Channels ``labels`` that pass a product, as those of values do, made at outputs ``rows`` of ``weight``."""

    labels: Labels
    weight: str
    rows: np.ndarray
    module: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Division:
    """A place where an axis of channels is divided at bounds: a slice, or a split into unequal parts.

    Where the bounds are fractions of the width, channels at the same position of all ``parts``, which are equal or
    none, are cut together; where they are numbers in the code, the ``bounded`` labels between a bound and the end it
    counts from never are. ``pieces`` are the labels whose numbers modules may keep as such bounds or sizes, each
    [size].
    """

    parts: tuple[Labels, ...]
    pieces: tuple[Labels, ...]
    bounded: Labels
    reason: str
    operator: str
    module: str


@dataclass(kw_only=True, eq=False)
class Flow:
    """The record that operators write while labels flow: which labels merge, are pinned, own entries, are read.

    ``operator`` and ``module`` say where in the graph the flow is; pins take their origin from them. ``counted`` has
    the norms that hold a number of channels but no tensor, with the labels that they count; ``made`` tells which labels
    some layer produces; ``integral`` names tensors of integers, ``data_axes`` the axes along which tensors that are
    used as data have labels. ``constants`` maps those that stand for what a layer made to the path of that layer.
    """

    shapes: dict[str, tuple[int, ...]]
    operator: str = ""
    module: str = ""
    num_labels: int = 1
    edges: list[tuple[Labels, Labels]] = field(default_factory=list)
    pins: list[Pin] = field(default_factory=list)
    ties: dict[tuple[str, int], list[tuple[Labels, np.ndarray]]] = field(default_factory=dict)
    reads: dict[str, list[tuple[Labels, np.ndarray]]] = field(default_factory=dict)
    norms: dict[str, list[tuple[Labels, np.ndarray]]] = field(default_factory=dict)
    normalised: list[tuple[str | None, Labels]] = field(default_factory=list)
    fresh: dict[tuple[str, int], Labels] = field(default_factory=dict)
    producers: dict[tuple[str, int], Labels] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    at_least_two: list[Labels] = field(default_factory=list)
    contractions: list[Contraction] = field(default_factory=list)
    passings: list[Passing] = field(default_factory=list)
    divisions: list[Division] = field(default_factory=list)
    biases: dict[str, str] = field(default_factory=dict)
    counted: list[tuple[str, Labels]] = field(default_factory=list)
    first: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    made: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=bool))
    integral: frozenset[str] = frozenset()
    constants: Mapping[str, str] = field(default_factory=dict)
    data_axes: dict[str, set[int]] = field(default_factory=dict)

    def rows(self, tensor: str, axis: int, *, producer: bool) -> Labels:
        """Return the labels of a tensor's entries along ``axis``: the same ones however often it is used."""
        key = (tensor, axis)
        if key not in self.fresh:
            count = self.shapes[tensor][axis]
            self.fresh[key] = np.arange(self.num_labels, self.num_labels + count, dtype=np.int64)
            self.num_labels += count
            self.first = np.concatenate([self.first, self.fresh[key]])
            self.made = np.concatenate([self.made, np.zeros(count, dtype=bool)])
            self.tie(tensor, axis, self.fresh[key], np.arange(count))
        if producer or tensor in self.constants:
            self.producers.setdefault(key, self.fresh[key])
            self.made[self.fresh[key]] = True
        return self.fresh[key]

    def spread(self, tensor: str, axis: int) -> Labels:
        """Return the labels of a tensor that is used as data, varying along ``axis`` only."""
        self.data_axes.setdefault(tensor, set()).add(axis)
        sizes = [-1 if a == axis else 1 for a in range(len(self.shapes[tensor]))]
        return self.rows(tensor, axis, producer=False).reshape(sizes)

    def tie(self, tensor: str, axis: int, labels: Labels, indices: np.ndarray) -> None:
        """Note that ``labels[i]`` owns entry ``indices[i]`` along an axis of a parameter or buffer."""
        self.ties.setdefault((tensor, axis), []).append((labels, indices))

    def read(self, weight: str, labels: Labels) -> None:
        """Note that ``labels[i]`` arrives at input channel i of the layer with this weight."""
        self.reads.setdefault(weight, []).append((labels, np.arange(len(labels))))

    def normalise(self, weight: str, labels: Labels) -> None:
        """Note that the norm with this weight takes its statistics over these channels."""
        self.norms.setdefault(weight, []).append((labels, np.arange(len(labels))))
        self.normalised.append((weight, labels))

    def divide(self, parts: Sequence[Labels], pieces: Sequence[Labels], bounded: Labels, reason: str) -> None:
        """Note that channels are divided here, see `Division`."""
        self.divisions.append(
            Division(
                parts=tuple(parts), pieces=tuple(pieces), bounded=bounded.reshape(-1), reason=reason,
                operator=self.operator, module=self.module,
            )
        )  # fmt: skip

    def pin(self, labels: Labels, reason: str) -> None:
        """Never cut these labels."""
        found = labels[labels != 0]
        if found.size:
            self.pins.append(Pin(labels=found, reason=reason, operator=self.operator, module=self.module))

    def maker(self, labels: Labels) -> tuple[str, np.ndarray] | None:
        """Return the one layer that makes all these channels and at which of its outputs, shaped as the labels.

        Where norms work on them it is the last of these. None where several layers make the channels, or a norm does
        that has no weight.
        """
        for weight, own in reversed(self.normalised):
            is_normed = np.isin(labels, own)
            if is_normed.any():
                place = np.zeros(self.num_labels, dtype=np.int64)
                place[own] = np.arange(own.size)
                return (weight, place[labels]) if weight is not None and is_normed.all() else None
        for (tensor, _axis), own in self.producers.items():
            if own[0] <= labels.min() and labels.max() <= own[-1] and tensor in self.reads:
                return tensor, labels - own[0]
        return None

    def freeze(self, tensor: str, reason: str) -> None:
        """Never cut a parameter or buffer that is used in a way that is not followed."""
        for axis, size in enumerate(self.shapes[tensor]):
            self.tie(tensor, axis, np.zeros(size, dtype=np.int64), np.arange(size))
        self.pin(np.concatenate([v for (name, _), v in self.fresh.items() if name == tensor] or [np.zeros(0)]), reason)

    def merge(self, *arrays: Labels) -> Labels:
        """Cut together the labels that meet at the same place of these arrays; what meets label 0 is pinned."""
        merged = arrays[0]
        for other in arrays[1:]:
            one, two = np.broadcast_arrays(merged, other)
            differ = one != two
            both = differ & (one != 0) & (two != 0)
            self.edges.append((one[both], two[both]))
            alone = differ & ~both
            self.pin(np.maximum(one[alone], two[alone]), "meets channels that are fixed: inputs, constants or padding")
            merged = np.where(alone, 0, np.where(both & ~self.made[one], two, one))
        return merged

    def is_data(self, labels: Labels) -> bool:
        """Tell whether these labels are only those of parameters that are used as data: nothing is lost by pins."""
        found = labels[labels != 0]
        return bool(found.size) and not bool(self.made[found].any())

    def given_up(self, labels: Labels) -> Labels:
        """Pin labels that would be in the way of others, and return some of the same rank that vary nowhere."""
        self.pin(labels, "its channels meet an axis of fixed length")
        return np.zeros((1,) * labels.ndim, dtype=np.int64)

    def tie_rows(self, labels: Labels, axis: int) -> None:
        """Cut the same positions of every row along ``axis``: its length is fixed, however different its labels."""
        rows = np.split(labels, labels.shape[axis], axis)
        self.merge(*rows)
        for row in rows[1:]:
            one, two = self.leading(rows[0]), self.leading(row)
            free = (one != 0) & (two != 0)
            self.first[np.maximum(one, two)[free]] = np.minimum(one, two)[free]

    def leading(self, labels: Labels) -> Labels:
        """Replace labels of tied rows by those of the first."""
        found = self.first[labels]
        while not np.array_equal(found, further := self.first[found]):
            found = further
        return found

    def varying(self, labels: Labels) -> set[int]:
        """Return the axes of channels: those along which labels vary other than by tied rows."""
        found = self.leading(labels) if labels.size > 1 else labels
        return {
            axis
            for axis, size in enumerate(labels.shape)
            if size > 1 and not bool((found == found.take([0], axis)).all())
        }

    def multiply(self, coefficient: int, weight: str | None = None, labels: Labels | None = None) -> None:
        """Count multiply-adds."""
        self.products.append(Product(coefficient=coefficient, weight=weight, labels=labels, module=self.module))
