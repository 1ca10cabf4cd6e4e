"""From labels to groups: connected components are atoms, atoms with the same entries are interchangeable."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from secateur.artifacts import Group, Pinned, Reader, Slice
from secateur.pipeline.structure.labels import Contraction, Flow, Pin, Product

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Entries:
    """Entries along one axis of a tensor, with the atom that owns each: sorted by atom, then by index, unique."""

    atoms: np.ndarray
    indices: np.ndarray

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the atoms and how many entries each owns."""
        starts = np.flatnonzero(np.diff(self.atoms, prepend=-1))
        return self.atoms[starts], np.diff(starts, append=self.atoms.size)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How labels become groups.

    ``protected`` maps tensors whose channels the caller keeps to the reason; ``multiple`` is the wanted step of widths.
    ``coupled`` and ``rooted`` number the contractions whose channels must stay as many as those that the layer reads,
    and those whose forward divides by the root of the width that it finds.
    """

    protected: Mapping[str, str]
    multiple: int
    coupled: frozenset[int] = frozenset()
    rooted: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True, eq=False)
class Assembly:
    """The groups in order of execution, what is pinned, and how many labels of each product a group's channel owns.

    ``shares`` has one mapping from groups' names a product, empty where it has no labels.
    """

    groups: tuple[Group, ...]
    pinned: tuple[Pinned, ...]
    shares: tuple[Mapping[str, int], ...]
    group_of_label: np.ndarray

    def group_at(self, labels: np.ndarray) -> Group | None:
        """Return the group that these labels belong to, None where it is not one."""
        numbers = np.unique(self.group_of_label[labels])
        return self.groups[numbers[0]] if len(numbers) == 1 and numbers[0] >= 0 else None


def assemble(flow: Flow, settings: Settings) -> Assembly:
    """Find the groups; the flow is left as it was."""
    flow = replace(flow, edges=list(flow.edges), pins=list(flow.pins))
    protected = settings.protected
    for number in settings.coupled:
        _couple(flow, flow.contractions[number])
    for (tensor, axis), ties in flow.ties.items():
        if tensor in protected and ((tensor, axis) in flow.producers or len(flow.shapes[tensor]) == 1):
            flow.operator, flow.module = "", tensor.rpartition(".")[0]
            flow.pin(np.concatenate([labels for labels, _ in ties]), protected[tensor])
    _pin_two_ways(flow)
    _merge_shared(flow)
    atom = _components(flow)
    pin_of_atom = _pin_of_atom(flow, atom)
    is_free = pin_of_atom < 0
    is_free[atom[0]] = False

    owned = {key: _entries(ties, atom, is_free) for key, ties in flow.ties.items()}
    owned = {key: entries for key, entries in owned.items() if entries.atoms.size}
    read = {weight: _entries(reads, atom, is_free) for weight, reads in flow.reads.items()}
    read = {weight: entries for weight, entries in read.items() if entries.atoms.size}
    normed = {weight: _entries(norms, atom, is_free) for weight, norms in flow.norms.items()}
    normed = {weight: entries for weight, entries in normed.items() if entries.atoms.size}
    written, rooted = _contracted(flow, settings.rooted, atom, is_free)
    producer = _first_producer(flow, atom)
    group_of_atom = _signatures(owned, int(atom.max()) + 1)
    group_of_atom[~is_free | (producer[0] < 0)] = -1

    slices = {key: _by_group(entries, group_of_atom, producer[1]) for key, entries in owned.items()}
    members = np.unique(group_of_atom[group_of_atom >= 0])
    two = np.unique(atom[np.concatenate(flow.at_least_two)]) if flow.at_least_two else np.zeros(0, dtype=np.int64)
    narrow = set(group_of_atom[two].tolist())
    own_of, roots_of = dict[int, list[Slice]](), dict[int, list[Slice]]()
    reads_of, norms_of, writes_of = dict[int, list[Reader]](), dict[int, list[Reader]](), dict[int, list[Reader]]()
    for (tensor, axis), parts in sorted(slices.items()):
        for g, indices in parts.items():
            own_of.setdefault(g, []).append(Slice(tensor=tensor, axis=axis, indices=indices))
    for (tensor, axis), entries in rooted.items():
        for g, indices in _by_group(entries, group_of_atom, producer[1]).items():
            roots_of.setdefault(g, []).append(Slice(tensor=tensor, axis=axis, indices=indices))
    for found_of, by_weight in ((reads_of, read), (norms_of, normed), (writes_of, written)):
        for weight, entries in by_weight.items():
            for g, positions in _by_group(entries, group_of_atom, producer[1]).items():
                found_of.setdefault(g, []).append(Reader(weight=weight, positions=positions))
    found: list[_Found] = []
    for g in members.tolist():
        own, first = tuple(own_of[g]), int(producer[0][group_of_atom == g].min())
        found.append(
            _Found(
                order=(first, *((s.tensor, s.axis, s.indices.shape[1]) for s in own)),
                number=g, own=own, readers=tuple(reads_of.get(g, ())), norms=tuple(norms_of.get(g, ())),
                writers=tuple(writes_of.get(g, ())), roots=tuple(roots_of.get(g, ())), narrow=g in narrow,
            )
        )  # fmt: skip
    found.sort(key=lambda item: item.order)
    groups = tuple(_named(flow, found, settings.multiple))
    place = np.full(max(int(group_of_atom.max(initial=-1)) + 1, 1) + 1, -1)
    place[[item.number for item in found]] = range(len(found))
    group_of_label = place[group_of_atom[atom]]
    shares = tuple(_shares(product, group_of_label, groups) for product in flow.products)
    return Assembly(
        groups=groups, pinned=tuple(_report(flow, atom, pin_of_atom)), shares=shares, group_of_label=group_of_label
    )


def _couple(flow: Flow, contraction: Contraction) -> None:
    """Cut a layer's contracted outputs together with the inputs at the same places."""
    (inputs, _), *_ = flow.reads[contraction.weight]
    flow.module, flow.operator = contraction.module, "attention"
    if inputs.size == contraction.labels.size:
        flow.merge(inputs.reshape(-1), contraction.labels.reshape(-1))


def _contracted(
    flow: Flow, rooted: frozenset[int], atom: np.ndarray, is_free: np.ndarray
) -> tuple[dict[str, Entries], dict[tuple[str, int], Entries]]:
    """Return the outputs at which contractions are masked, and the entries that hold the root of their width."""
    written, rows = dict[str, list[Pair]](), dict[tuple[str, int], list[Pair]]()
    for number, contraction in enumerate(flow.contractions):
        pair = (contraction.labels.reshape(-1), contraction.rows.reshape(-1))
        written.setdefault(contraction.weight, []).append(pair)
        if number in rooted:
            axis = next(axis for tensor, axis in flow.producers if tensor == contraction.weight)
            rows.setdefault((contraction.weight, axis), []).append(pair)
            if contraction.weight in flow.biases:
                rows.setdefault((flow.biases[contraction.weight], 0), []).append(pair)
    own = {weight: _entries(pairs, atom, is_free) for weight, pairs in written.items()}
    roots = {key: _entries(pairs, atom, is_free) for key, pairs in rows.items()}
    return {k: v for k, v in own.items() if v.atoms.size}, {k: v for k, v in roots.items() if v.atoms.size}


def _shares(product: Product, group_of_label: np.ndarray, groups: tuple[Group, ...]) -> dict[str, int]:
    """Return how many labels of a product each channel of a group owns."""
    if product.labels is None:
        return {}
    numbers, counts = np.unique(group_of_label[product.labels], return_counts=True)
    return {groups[n].name: int(c) // groups[n].num_channels for n, c in zip(numbers, counts, strict=True) if n >= 0}


def _pin_two_ways(flow: Flow) -> None:
    """Pin weights that are used both as they are and transposed: no one axis holds their input channels."""
    flow.operator = "shared parameter"
    for tensor in [t for t, axis in flow.producers if axis == 0 and (t, 1) in flow.producers and t in flow.reads]:
        flow.module = tensor.rpartition(".")[0]
        for axis in (0, 1):
            for labels, _ in flow.ties[tensor, axis]:
                flow.pin(labels, "its weight is used both as it is and transposed")


def _merge_shared(flow: Flow) -> None:
    """Merge labels that own the same entry of a tensor; those that share one with label 0 are pinned."""
    flow.operator = "shared parameter"
    for (tensor, _axis), ties in flow.ties.items():
        labels = np.concatenate([pair[0] for pair in ties])
        indices = np.concatenate([pair[1] for pair in ties])
        order = np.lexsort((labels, indices))
        labels, indices = labels[order], indices[order]
        same = indices[1:] == indices[:-1]
        one, two = labels[:-1][same], labels[1:][same]
        flow.edges.append((one[one != 0], two[one != 0]))
        flow.module = tensor.rpartition(".")[0]
        flow.pin(two[one == 0], "its layer also works on channels that are fixed")


def _components(flow: Flow) -> np.ndarray:
    """Return the atom of every label."""
    one = np.concatenate([pair[0] for pair in flow.edges] or [np.zeros(0, dtype=np.int64)])
    two = np.concatenate([pair[1] for pair in flow.edges] or [np.zeros(0, dtype=np.int64)])
    n = flow.num_labels
    graph = coo_array((np.ones(one.size, dtype=np.int64), (one, two)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _pin_of_atom(flow: Flow, atom: np.ndarray) -> np.ndarray:
    """Return the number of the first pin on every atom, -1 where there is none."""
    pin_of_atom = np.full(atom.max() + 1, -1)
    for k in reversed(range(len(flow.pins))):
        pin_of_atom[atom[flow.pins[k].labels]] = k
    return pin_of_atom


def _entries(pairs: list[tuple[np.ndarray, np.ndarray]], atom: np.ndarray, is_free: np.ndarray) -> Entries:
    """Replace labels by atoms and leave out what is pinned and what is said twice."""
    atoms = atom[np.concatenate([labels for labels, _ in pairs])]
    indices = np.concatenate([indices for _, indices in pairs])
    free = is_free[atoms]
    span = int(indices.max(initial=0)) + 1
    atoms, indices = np.divmod(np.unique(atoms[free] * span + indices[free]), span)
    return Entries(atoms=atoms, indices=indices)


def _first_producer(flow: Flow, atom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for every atom the number of its first producer (-1: none) and the first of its labels there."""
    last = np.iinfo(np.int64).max
    number, first = np.full(atom.max() + 1, last), np.full(atom.max() + 1, last)
    for k, labels in enumerate(flow.producers.values()):
        fresh = number[atom[labels]] == last
        np.minimum.at(first, atom[labels[fresh]], labels[fresh])
        number[atom[labels[fresh]]] = k
    number[number == last] = -1
    return number, first


def _signatures(owned: Mapping[tuple[str, int], Entries], num_atoms: int) -> np.ndarray:
    """Number the atoms so that equal numbers mean equally many entries in each tensor (partition refinement)."""
    number = np.zeros(num_atoms, dtype=np.int64)
    following = 1
    for entries in owned.values():
        atoms, counts = entries.counts()
        _, refined = np.unique(number[atoms] * (counts.max() + 1) + counts, return_inverse=True)
        number[atoms] = following + refined
        following += refined.max() + 1
    return number


def _by_group(entries: Entries, group_of_atom: np.ndarray, order: np.ndarray) -> dict[int, np.ndarray]:
    """Cut the entries up by group: int64 [channel, entry], channels in the order of their first producer's rows."""
    groups = group_of_atom[entries.atoms]
    sorting = np.lexsort((entries.indices, entries.atoms, order[entries.atoms], groups))
    groups, atoms, indices = groups[sorting], entries.atoms[sorting], entries.indices[sorting]
    names, starts = np.unique(groups, return_index=True)
    ends = np.append(starts[1:], groups.size)
    return {
        int(g): indices[i:j].reshape(1 + np.count_nonzero(np.diff(atoms[i:j])), -1)
        for g, i, j in zip(names, starts, ends, strict=True)
        if g >= 0
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """What is known of a group before it has a name; ``order`` begins with the number of its first producer."""

    order: tuple[Any, ...]
    number: int
    own: tuple[Slice, ...]
    readers: tuple[Reader, ...]
    norms: tuple[Reader, ...]
    writers: tuple[Reader, ...]
    roots: tuple[Slice, ...]
    narrow: bool


def _named(flow: Flow, found: list[_Found], multiple: int) -> list[Group]:
    """Name the groups after the module of their first producer."""
    paths = [tensor.removesuffix(".weight") for tensor, _ in flow.producers]
    groups, used = [], dict[str, int]()
    for item in found:
        path, own = paths[item.order[0]], item.own
        used[path] = used.get(path, 0) + 1
        name = path if used[path] == 1 else f"{path}#{used[path]}"
        width = len(own[0].indices)
        makers = [s.tensor.rpartition(".")[0].rpartition(".")[0] for s in own if (s.tensor, s.axis) in flow.producers]
        block = _shared_path(makers) or name
        step = step_for(width, multiple)
        least = min(width, -(-(2 if item.narrow else 1) // step) * step)
        groups.append(
            Group(
                name=name,
                num_channels=width,
                block=block,
                slices=own,
                readers=item.readers,
                norms=item.norms,
                writers=item.writers,
                roots=item.roots,
                least=least,
                multiple=step,
            )
        )
    return groups


def _shared_path(paths: list[str]) -> str:
    """Return the dotted path that all these paths begin with."""
    shared = []
    for steps in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(steps)) > 1:
            break
        shared.append(steps[0])
    return ".".join(shared)


def step_for(width: int, multiple: int) -> int:
    """Return the step in which a group of this width may change.

    The wanted multiple where the width is at least that; a group that is narrower cannot be aligned to it at all, and
    takes the largest divisor of the multiple that is at most half its width, so that it is not silently left alone.
    """
    if width >= multiple:
        return multiple
    return next((d for d in range(width // 2, 0, -1) if math.gcd(d, multiple) == d), 1)


def _report(flow: Flow, atom: np.ndarray, pin_of_atom: np.ndarray) -> list[Pinned]:
    """Say which producers' channels are pinned: by the first pin that reached them."""
    report = []
    for (tensor, _axis), labels in flow.producers.items():
        pins, counts = np.unique(pin_of_atom[atom[labels]], return_counts=True)
        merged: dict[tuple[str, str, str], int] = {}
        for k, count in zip(pins, counts, strict=True):
            if k >= 0:
                pin: Pin = flow.pins[k]
                key = (pin.reason, pin.operator, pin.module)
                merged[key] = merged.get(key, 0) + int(count)
        report += [Pinned(tensor=tensor, num_channels=n, reason=r, operator=o, module=m)
                   for (r, o, m), n in merged.items()]  # fmt: skip
    return report
