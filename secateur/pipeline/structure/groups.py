"""From atoms to groups: channels that are interchangeable, with all that is known of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from secateur.artifacts import Group, Pinned, Reader, Root, Slice
from secateur.pipeline.structure.atoms import (
    Entries,
    Pairs,
    by_group,
    components,
    first_pins,
    first_producers,
    free_entries,
    merge_shared,
    pin_two_ways,
    signatures,
)
from secateur.pipeline.structure.labels import Contraction, Flow, Passing, Pin, Product


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How labels become groups.

    ``protected`` maps tensors whose channels the caller keeps to the reason; ``multiple`` is the wanted step of widths.
    ``coupled`` and ``rooted`` number the contractions whose channels must stay as many as those that the layer reads,
    and those whose forward divides by the root of the width that it finds; ``free`` the divisions whose bounds follow
    any widths, ``equal`` those whose parts must stay alike. ``counting`` are the classes of modules in which attributes
    of any name may be numbers of channels, but for the ``ignored`` attributes of a class, see `numbers_of`.
    """

    protected: Mapping[str, str]
    multiple: int
    coupled: frozenset[int] = frozenset()
    rooted: frozenset[int] = frozenset()
    free: frozenset[int] = frozenset()
    equal: frozenset[int] = frozenset()
    counting: frozenset[type] = frozenset()
    ignored: frozenset[tuple[type, str]] = frozenset()


@dataclass(frozen=True, kw_only=True, eq=False)
class Assembly:
    """The groups in order of execution, what is pinned, and how many labels of each product a group's channel owns.

    ``shares`` has one mapping from groups' names a product, empty where it has no labels.
    """

    settings: Settings
    groups: tuple[Group, ...]
    pinned: tuple[Pinned, ...]
    shares: tuple[Mapping[str, int], ...]
    group_of_label: np.ndarray

    def groups_at(self, arrays: Sequence[np.ndarray]) -> list[Group]:
        """Return the groups that labels belong to."""
        numbers = np.unique(self.group_of_label[np.concatenate([labels.reshape(-1) for labels in arrays])])
        return [self.groups[n] for n in numbers if n >= 0]


def assemble(flow: Flow, settings: Settings) -> Assembly:
    """Find the groups; the flow is left as it was."""
    flow = replace(flow, edges=list(flow.edges), pins=list(flow.pins))
    _decide(flow, settings)
    pin_two_ways(flow)
    merge_shared(flow)
    atom = components(flow)
    pin_of_atom = first_pins(flow, atom)
    is_free = pin_of_atom < 0
    is_free[atom[0]] = False
    order, first = first_producers(flow, atom)
    owned = free_entries(flow.ties, atom, is_free)
    group_of_atom = signatures(owned, int(atom.max()) + 1)
    group_of_atom[~is_free | (order < 0)] = -1
    two = np.unique(atom[np.concatenate(flow.at_least_two)]) if flow.at_least_two else np.zeros(0, dtype=np.int64)

    def slices(entries: Mapping[tuple[str, int], Entries]) -> dict[int, list[Slice]]:
        found: dict[int, list[Slice]] = {}
        parts = {id(own): by_group(own, group_of_atom, first) for own in {id(e): e for e in entries.values()}.values()}
        for (tensor, axis), own in sorted(entries.items(), key=lambda item: item[0]):
            for g, indices in parts[id(own)].items():
                found.setdefault(g, []).append(Slice(tensor=tensor, axis=axis, indices=indices))
        return found

    def layers(pairs: Mapping[str, Pairs]) -> dict[int, list[Reader]]:
        found: dict[int, list[Reader]] = {}
        for weight, own in free_entries(pairs, atom, is_free).items():
            for g, positions in by_group(own, group_of_atom, first).items():
                found.setdefault(g, []).append(Reader(weight=weight, positions=positions))
        return found

    own, roots = slices(owned), dict[int, list[Root]]()
    for power, entries in _roots(flow, settings.rooted).items():
        for g, rooted in slices(free_entries(entries, atom, is_free)).items():
            roots.setdefault(g, []).extend(Root(**vars(s), power=power) for s in rooted)
    readers, norms, writers = layers(flow.reads), layers(flow.norms), layers(_writers(flow))
    producer = {g: int(order[group_of_atom == g].min()) for g in own}
    numbers = sorted(own, key=lambda g: (producer[g], [(s.tensor, s.axis, s.indices.shape[1]) for s in own[g]]))
    names = _names(flow, [producer[g] for g in numbers])
    narrow = set(group_of_atom[two].tolist())
    groups = tuple(
        _group(
            flow, name, settings.multiple, 2 if g in narrow else 1,
            slices=tuple(own[g]), readers=tuple(readers.get(g, ())), norms=tuple(norms.get(g, ())),
            writers=tuple(writers.get(g, ())), roots=tuple(roots.get(g, ())),
        )
        for g, name in zip(numbers, names, strict=True)
    )  # fmt: skip
    place = np.full(int(group_of_atom.max(initial=0)) + 2, -1)
    place[numbers] = range(len(numbers))
    group_of_label = place[group_of_atom[atom]]
    return Assembly(
        settings=settings, groups=groups, pinned=tuple(_report(flow, atom, pin_of_atom)), group_of_label=group_of_label,
        shares=tuple(_shares(product, group_of_label, groups) for product in flow.products),
    )  # fmt: skip


def _decide(flow: Flow, settings: Settings) -> None:
    """Write into the flow what the settings say of couplings, divisions and tensors that the caller keeps."""
    for number in settings.coupled:
        _couple(flow, flow.contractions[number])
    for number, division in enumerate(flow.divisions):
        flow.operator, flow.module = division.operator, division.module
        if number in settings.equal and division.parts:
            flow.merge(*division.parts)
        elif number not in settings.free:
            flow.pin(division.bounded, division.reason)
    for tensor, axes in flow.data_axes.items():
        if len(axes | {axis for name, axis in flow.ties if name == tensor}) > 1:
            flow.operator, flow.module = "", tensor.rpartition(".")[0]
            flow.freeze(tensor, "its parameter is also used outside of its layer")
    for (tensor, axis), ties in flow.ties.items():
        reason = settings.protected.get(tensor)
        if reason is not None and ((tensor, axis) in flow.producers or len(flow.shapes[tensor]) == 1):
            flow.operator, flow.module = "", tensor.rpartition(".")[0]
            flow.pin(np.concatenate([labels for labels, _ in ties]), reason)


def _couple(flow: Flow, contraction: Contraction) -> None:
    """Cut outputs of layers that meet in attention together with the layers' inputs at the same places."""
    flow.module, flow.operator = contraction.module, "attention"
    passings: list[Contraction | Passing] = [p for p in flow.passings if p.module == contraction.module]
    for met in [contraction, *passings]:
        for inputs, _ in flow.reads.get(met.weight, [])[:1]:
            if inputs.size == met.labels.size:
                flow.merge(inputs.reshape(-1), met.labels.reshape(-1)[np.argsort(met.rows.reshape(-1))])


def _writers(flow: Flow) -> dict[str, Pairs]:
    """Return the outputs of layers at which contractions are masked."""
    found: dict[str, Pairs] = {}
    for contraction in flow.contractions:
        pair = (contraction.labels.reshape(-1), contraction.rows.reshape(-1))
        found.setdefault(contraction.weight, []).append(pair)
    return found


def _roots(flow: Flow, rooted: frozenset[int]) -> dict[float, dict[tuple[str, int], Pairs]]:
    """Return the entries, of weights and biases, that make up for a division by the root of a width.

    By the power of the share that they are multiplied by: outputs that are on both sides count twice.
    """
    powers: dict[float, dict[tuple[str, int], Pairs]] = {}
    for contraction in [flow.contractions[n] for n in sorted(rooted)]:
        found = powers.setdefault(0.25 if contraction.squared else 0.5, {})
        pair = (contraction.labels.reshape(-1), contraction.rows.reshape(-1))
        axis = next((axis for tensor, axis in flow.producers if tensor == contraction.weight), 0)
        found.setdefault((contraction.weight, axis), []).append(pair)
        if contraction.weight in flow.biases:
            found.setdefault((flow.biases[contraction.weight], 0), []).append(pair)
    return powers


def _shares(product: Product, group_of_label: np.ndarray, groups: tuple[Group, ...]) -> dict[str, int]:
    """Return how many labels of a product each channel of a group owns."""
    if product.labels is None:
        return {}
    numbers, counts = np.unique(group_of_label[product.labels], return_counts=True)
    return {groups[n].name: int(c) // groups[n].num_channels for n, c in zip(numbers, counts, strict=True) if n >= 0}


def _names(flow: Flow, producers: Sequence[int]) -> list[str]:
    """Name groups after the modules of their first producers; the second of a name is ``name#2``."""
    paths = [flow.constants.get(tensor, tensor.removesuffix(".weight")) for tensor, _ in flow.producers]
    names, used = [], dict[str, int]()
    for number in producers:
        path = paths[number]
        used[path] = used.get(path, 0) + 1
        names.append(path if used[path] == 1 else f"{path}#{used[path]}")
    return names


def _group(
    flow: Flow, name: str, multiple: int, least: int, *, slices: tuple[Slice, ...], readers: tuple[Reader, ...],
    norms: tuple[Reader, ...], writers: tuple[Reader, ...], roots: tuple[Root, ...],
) -> Group:  # fmt: skip
    """Make a group that keeps at least ``least`` channels and changes in steps as near to ``multiple`` as it can."""
    width = len(slices[0].indices)
    made = [s.tensor for s in slices if (s.tensor, s.axis) in flow.producers]
    makers = [flow.constants.get(name, name.rpartition(".")[0]).rpartition(".")[0] for name in made]
    step = step_for(width, multiple)
    return Group(
        name=name, num_channels=width, block=_shared_path(makers) or name, slices=slices, readers=readers, norms=norms,
        writers=writers, roots=roots, least=min(width, -(-least // step) * step), multiple=step,
    )  # fmt: skip


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
