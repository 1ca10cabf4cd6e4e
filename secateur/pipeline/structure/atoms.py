"""From labels to atoms: what is connected is cut together, atoms with the same entries are interchangeable."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from secateur.pipeline.structure.labels import Flow

K = TypeVar("K", str, tuple[str, int])
Pairs = list[tuple[np.ndarray, np.ndarray]]
"""Labels, and the indices that they own along one axis of a tensor."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Entries:
    """Entries along one axis of a tensor, with the atom that owns each: sorted by atom, then by index, unique."""

    atoms: np.ndarray
    indices: np.ndarray

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the atoms and how many entries each owns."""
        starts = np.flatnonzero(np.diff(self.atoms, prepend=-1))
        return self.atoms[starts], np.diff(starts, append=self.atoms.size)


def pin_two_ways(flow: Flow) -> None:
    """Pin weights that are used both as they are and transposed: no one axis holds their input channels."""
    flow.operator = "shared parameter"
    for tensor in [t for t, axis in flow.producers if axis == 0 and (t, 1) in flow.producers and t in flow.reads]:
        flow.module = tensor.rpartition(".")[0]
        for axis in (0, 1):
            for labels, _ in flow.ties[tensor, axis]:
                flow.pin(labels, "its weight is used both as it is and transposed")


def merge_shared(flow: Flow) -> None:
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


def components(flow: Flow) -> np.ndarray:
    """Return the atom of every label."""
    one = np.concatenate([pair[0] for pair in flow.edges] or [np.zeros(0, dtype=np.int64)])
    two = np.concatenate([pair[1] for pair in flow.edges] or [np.zeros(0, dtype=np.int64)])
    n = flow.num_labels
    graph = coo_array((np.ones(one.size, dtype=np.int64), (one, two)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def first_pins(flow: Flow, atom: np.ndarray) -> np.ndarray:
    """Return the number of the first pin on every atom, -1 where there is none."""
    pin_of_atom = np.full(atom.max() + 1, -1)
    for k in reversed(range(len(flow.pins))):
        pin_of_atom[atom[flow.pins[k].labels]] = k
    return pin_of_atom


def free_entries(pairs: Mapping[K, Pairs], atom: np.ndarray, is_free: np.ndarray) -> dict[K, Entries]:
    """Return the entries that free atoms own of every tensor, without those of which they own none.

    Tensors with the very same pairs, as a norm's parameters have, get the very same entries.
    """
    known: dict[tuple[int, ...], Entries] = {}
    found = {}
    for key, some in pairs.items():
        identity = tuple(id(array) for pair in some for array in pair)
        if identity not in known:
            known[identity] = entries_of(some, atom, is_free)
        found[key] = known[identity]
    return {key: entries for key, entries in found.items() if entries.atoms.size}


def entries_of(pairs: Pairs, atom: np.ndarray, is_free: np.ndarray) -> Entries:
    """Replace labels by atoms and leave out what is pinned and what is said twice."""
    atoms = atom[np.concatenate([labels for labels, _ in pairs])]
    indices = np.concatenate([indices for _, indices in pairs])
    free = is_free[atoms]
    span = int(indices.max(initial=0)) + 1
    atoms, indices = np.divmod(np.unique(atoms[free] * span + indices[free]), span)
    return Entries(atoms=atoms, indices=indices)


def first_producers(flow: Flow, atom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for every atom the number of its first producer (-1: none) and the first of its labels there."""
    last = np.iinfo(np.int64).max
    number, first = np.full(atom.max() + 1, last), np.full(atom.max() + 1, last)
    for k, labels in enumerate(flow.producers.values()):
        fresh = number[atom[labels]] == last
        np.minimum.at(first, atom[labels[fresh]], labels[fresh])
        number[atom[labels[fresh]]] = k
    number[number == last] = -1
    return number, first


def signatures(owned: Mapping[tuple[str, int], Entries], num_atoms: int) -> np.ndarray:
    """Number the atoms so that equal numbers mean equally many entries in each tensor (partition refinement)."""
    number = np.zeros(num_atoms, dtype=np.int64)
    following = 1
    for entries in {id(entries): entries for entries in owned.values()}.values():
        atoms, counts = entries.counts()
        _, refined = np.unique(number[atoms] * (counts.max() + 1) + counts, return_inverse=True)
        number[atoms] = following + refined
        following += refined.max() + 1
    return number


def by_group(entries: Entries, group_of_atom: np.ndarray, order: np.ndarray) -> dict[int, np.ndarray]:
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
