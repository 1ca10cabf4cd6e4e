"""Find and set the attributes in which modules keep numbers of channels."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import nn

from secateur.artifacts import Group
from secateur.pipeline.structure.groups import Assembly
from secateur.pipeline.structure.labels import Flow, Labels
from secateur.pipeline.structure.resize import NUMBERED
from secateur.pipeline.structure.structure import Number

HEAD_WIDTHS = frozenset({"attention_head_size", "d_head", "d_k", "dim_head", "head_dim", "head_size"})
WIDTHS = frozenset(
    {
        "all_head_size", "attn_dim", "channels", "d_model", "dim", "embed_dim", "hidden_dim", "hidden_size",
        "inner_dim", "kdim", "num_channels", "num_features", "vdim",
    }
)  # fmt: skip
"""The usual names. A number of another name is taken for one of channels only where a network runs cut no other way."""

NOT_CHANNELS = ("num_", "n_", "width", "height", "window", "kernel", "stride", "padding", "patch", "depth", "groups")
"""How attributes begin that count something else, such as heads."""

Ignored = frozenset[tuple[type, str]]
"""Attributes of classes that turned out not to count channels."""

Place = tuple[str, str, int | None]
"""A module, its attribute, and the position in that one where it is a list or tuple."""


def numbers_of(
    module: nn.Module, assembly: Assembly, flow: Flow, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Number, ...]:
    """List the numbers of channels that modules keep, where it is clear which group they count."""
    counting, ignored = assembly.settings.counting, assembly.settings.ignored
    found: dict[Place, list[Number]] = {}
    for contraction in flow.contractions:
        num_heads, width = contraction.labels.shape
        heads, attention = assembly.groups_at([contraction.labels]), module.get_submodule(contraction.module)
        if len(heads) != 1 or width % heads[0].num_channels:
            continue
        parts = attention.named_modules(prefix=contraction.module) if contraction.module else ()
        for path, owner in [(path, owner) for path, owner in parts if not isinstance(owner, NUMBERED)]:
            for names, step in ((HEAD_WIDTHS, 1), (WIDTHS, num_heads)):
                found |= _counting(path, owner, names, heads[0], width * step)
        if type(attention) in counting:
            found |= _counting(contraction.module, attention, None, heads[0], width, ignored)
    for passing in flow.passings:
        owner = module.get_submodule(passing.module)
        if type(owner) in counting:
            found |= _of_pieces((passing.labels.reshape(-1),), passing.module, owner, assembly)
    for division in flow.divisions:
        owner = module.get_submodule(division.module)
        if type(owner) in counting:
            found = _of_pieces(division.pieces, division.module, owner, assembly) | found
    for path, labels in flow.counted:
        if not isinstance(module.get_submodule(path), NUMBERED):  # a function was called, which keeps no number
            continue
        found[path, "num_features", None] = _of_labels((path, "num_features", None), labels, assembly)
    whole = [(s.tensor, s.indices.size, g) for g in assembly.groups for s in g.slices
             if counting or s.indices.size == shapes[s.tensor][s.axis]]  # fmt: skip
    sites = [*(c.labels for c in flow.contractions), *(d.bounded for d in flow.divisions)]
    at_sites = {g.name for g in assembly.groups_at(sites)} if sites else set[str]()
    for path, owner in module.named_modules():
        if type(owner).__module__.startswith("torch.nn.") or isinstance(owner, NUMBERED):
            continue
        groups: dict[int, dict[str, Group]] = {}
        for tensor, size, group in whole:
            if tensor.startswith(f"{path}." if path else ""):
                groups.setdefault(size, {})[group.name] = group
        for size, same in groups.items():
            is_clear = len(same) == 1 or type(owner) not in counting
            counted = same if is_clear else {name: g for name, g in same.items() if name in at_sites}
            if len(counted) == 1:
                any_of = None if type(owner) in counting else WIDTHS
                found = _counting(path, owner, any_of, next(iter(counted.values())), size, ignored) | found
    return tuple(number for numbers in found.values() for number in numbers)


def _of_labels(place: Place, labels: np.ndarray, assembly: Assembly) -> list[Number]:
    """Return how a number that counts these labels counts the groups that they belong to."""
    owners, counts = np.unique(assembly.group_of_label[labels], return_counts=True)
    groups = [(assembly.groups[n], int(count)) for n, count in zip(owners, counts, strict=True) if n >= 0]
    return [Number(module=place[0], attribute=place[1], position=place[2], group=g.name, step=count // g.num_channels)
            for g, count in groups if count % g.num_channels == 0]  # fmt: skip


def _of_pieces(pieces: Sequence[Labels], path: str, owner: nn.Module, assembly: Assembly) -> dict[Place, list[Number]]:
    """Return the numbers of a module that are as large as one of these pieces of labels, each [size].

    The entries of a list of all sizes belong to the piece at their position.
    """
    sizes = [piece.size for piece in pieces]
    found: dict[Place, list[Number]] = {}
    for attribute, position, held in _held(owner):
        place = (path, attribute, position)
        is_list = position is not None and list(getattr(owner, attribute)) == sizes
        if held in sizes and _may_count(owner, attribute, assembly.settings.ignored):
            piece = pieces[position if is_list and position is not None else sizes.index(held)]
            found[place] = _of_labels(place, piece, assembly)
    return found


def _may_count(owner: nn.Module, attribute: str, ignored: Ignored) -> bool:
    """Tell whether an attribute may be a number of channels, as far as its name and earlier trials say."""
    return not attribute.startswith(NOT_CHANNELS) and (type(owner), attribute) not in ignored


def _counting(
    path: str, owner: nn.Module, names: frozenset[str] | None, group: Group, size: int, ignored: Ignored = frozenset()
) -> dict[Place, list[Number]]:
    """Return the numbers of this size, of these names or of any that may count channels."""
    return {
        (path, attribute, position): [
            Number(
                module=path, attribute=attribute, position=position, group=group.name, step=size // group.num_channels
            )
        ]
        for attribute, position, held in _held(owner)
        if held == size and (attribute in names if names is not None else _may_count(owner, attribute, ignored))
    }


def unusual(module: nn.Module, numbers: Sequence[Number]) -> list[tuple[type, str]]:
    """Return the attributes, by class, that are taken for numbers of channels though their names do not say so."""
    usual = HEAD_WIDTHS | WIDTHS
    owners = [(type(module.get_submodule(n.module)), n.attribute) for n in numbers if n.attribute not in usual]
    return list(dict.fromkeys(owners))


def _held(owner: nn.Module) -> Iterator[tuple[str, int | None, int]]:
    """List a module's numbers: attributes that are int, and the entries of those that are lists or tuples."""
    for attribute, held in vars(owner).items():
        if type(held) is int:
            yield attribute, None, held
        elif type(held) in (list, tuple):
            yield from ((attribute, n, entry) for n, entry in enumerate(held) if type(entry) is int)


def lower(module: nn.Module, number: Number, removed: int) -> None:
    """Take ``removed`` channels off a number of this network."""
    owner = module.get_submodule(number.module)
    kept = getattr(owner, number.attribute)
    held = kept if number.position is None else kept[number.position]
    set_number(owner, number.attribute, number.position, held - number.step * removed)


def set_number(owner: nn.Module, attribute: str, position: int | None, value: int) -> None:
    """Set a module's attribute, or one entry of it."""
    held = getattr(owner, attribute)
    if position is not None:
        value = type(held)(value if n == position else entry for n, entry in enumerate(held))
    setattr(owner, attribute, value)


def kept_numbers(module: nn.Module) -> dict[str, dict[str, int]]:
    """Return all numbers that modules keep, by module and attribute, entries of lists as ``attribute.position``.

    Layers are left out where their tensors say what their numbers are.
    """
    found = {
        path: {attribute if n is None else f"{attribute}.{n}": held for attribute, n, held in _held(owner)}
        for path, owner in module.named_modules()
        if not isinstance(owner, NUMBERED) or not (owner._parameters or owner._buffers)
    }
    return {path: numbers for path, numbers in found.items() if numbers}


def put_numbers(module: nn.Module, numbers: Mapping[str, Mapping[str, int]]) -> None:
    """Set numbers that `kept_numbers` returned for a cut of this network."""
    for path, attributes in numbers.items():
        for name, value in attributes.items():
            attribute, _, position = name.partition(".")
            set_number(module.get_submodule(path), attribute, int(position) if position else None, value)
