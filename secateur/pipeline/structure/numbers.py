"""Find the attributes in which modules keep numbers of channels."""

from collections.abc import Mapping, Sequence

from torch import nn

from secateur.artifacts import Group
from secateur.pipeline.structure.groups import Assembly
from secateur.pipeline.structure.labels import Contraction
from secateur.pipeline.structure.structure import Number

HEAD_WIDTHS = frozenset({"attention_head_size", "d_head", "d_k", "dim_head", "head_dim", "head_size"})
WIDTHS = frozenset(
    {
        "all_head_size", "attn_dim", "channels", "d_model", "dim", "embed_dim", "hidden_dim", "hidden_size",
        "inner_dim", "kdim", "num_channels", "num_features", "vdim", "width",
    }
)  # fmt: skip
"""The usual names; a number of another name is left alone, and a trial cut tells whether that is right."""


def numbers_of(
    module: nn.Module, assembly: Assembly, contractions: Sequence[Contraction], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Number, ...]:
    """List the numbers of channels that modules of one's own keep, where it is clear which group they count."""
    found: dict[tuple[str, str], Number] = {}
    for contraction in contractions:
        num_heads, width = contraction.labels.shape
        heads, owner = assembly.groups_at([contraction.labels]), module.get_submodule(contraction.module)
        if len(heads) == 1 and heads[0].num_channels == width:
            for names, step in ((HEAD_WIDTHS, 1), (WIDTHS, num_heads)):
                found |= _counting(contraction.module, owner, names, heads[0], width * step)
    whole = [(s.tensor, s.indices.size, g) for g in assembly.groups for s in g.slices
             if s.indices.size == shapes[s.tensor][s.axis]]  # fmt: skip
    for path, owner in module.named_modules():
        if type(owner).__module__.startswith("torch.nn."):
            continue
        groups: dict[int, dict[str, Group]] = {}
        for tensor, size, group in whole:
            if tensor.startswith(f"{path}." if path else ""):
                groups.setdefault(size, {})[group.name] = group
        for size, counted in groups.items():
            if len(counted) == 1:
                found = _counting(path, owner, WIDTHS, next(iter(counted.values())), size) | found
    return tuple(found.values())


def widths_of(module: nn.Module) -> dict[str, dict[str, int]]:
    """Return the numbers that a network's modules keep under the usual names, by module and attribute."""
    found = {path: _named(owner, HEAD_WIDTHS | WIDTHS) for path, owner in module.named_modules()}
    return {path: numbers for path, numbers in found.items() if numbers}


def _named(owner: nn.Module, names: frozenset[str]) -> dict[str, int]:
    return {name: held for name, held in vars(owner).items() if name in names and type(held) is int}


def _counting(
    path: str, owner: nn.Module, names: frozenset[str], group: Group, size: int
) -> dict[tuple[str, str], Number]:
    """Return the attributes of these names that have the value of a group's size."""
    return {
        (path, name): Number(
            module=path, attribute=name, group=group.name, size=size, step=size // group.num_channels
        )
        for name, held in _named(owner, names).items() if held == size
    }  # fmt: skip
