"""What can be cut from a network and what each cut saves."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from secateur.artifacts import Group, Pinned
from secateur.errors import TraceError
from secateur.pipeline.costs import CostTerms
from secateur.pipeline.structure.bill import Bill, mac_terms, parameter_terms
from secateur.pipeline.structure.branch import Branch, require_branches
from secateur.pipeline.structure.paths import covers
from secateur.pipeline.structure.stand_in import VALUE


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number of channels that a module keeps as an attribute, or at a position of one, and its forward uses.

    It is lower by ``step`` for every channel that ``group`` loses.
    """

    module: str
    attribute: str
    position: int | None
    group: str
    step: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Joints:
    """Where a network comes apart: its groups of channels, and all that a cut needs to know of them.

    ``shapes`` are those of the network's parameters and buffers, by every name they have; ``numbers`` the widths that
    modules keep as attributes.
    """

    groups: tuple[Group, ...]
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    numbers: tuple[Number, ...] = field(default=(), repr=False)

    @functools.cached_property
    def _by_name(self) -> Mapping[str, Group]:
        return {group.name: group for group in self.groups}

    @property
    def widths(self) -> dict[str, int]:
        """Map every group's name to its number of channels."""
        return {group.name: group.num_channels for group in self.groups}

    def group(self, name: str) -> Group:
        """Return the group of this name, or raise TraceError listing the names there are."""
        if name not in self._by_name:
            raise TraceError(
                "structure", f"no group {name!r}", f"one of {sorted(self.widths)}", "Name a group of this network."
            )
        return self._by_name[name]


@dataclass(frozen=True, kw_only=True, eq=False)
class Structure(Joints):
    """The groups of channels of one network and what is pinned, with its costs as functions of the groups' widths.

    ``output_shapes`` are those of the tensors among the network's outputs on the example inputs. ``branches`` can be
    removed whole, where these were asked for; ``unremovable`` maps others to the reason why they cannot.
    """

    pinned: tuple[Pinned, ...]
    example_inputs: tuple[Tensor, ...] = field(repr=False)
    output_shapes: tuple[tuple[int, ...], ...] = field(repr=False)
    bill: Bill = field(repr=False)
    branches: tuple[Branch, ...] = ()
    unremovable: Mapping[str, str] = field(default_factory=dict)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of all shapes and of where every group's channels live, in hexadecimal."""
        digest = hashlib.sha256(repr(sorted(self.shapes.items())).encode())
        for group in self.groups:
            digest.update(f"{group.name} {group.num_channels} {group.least} {group.multiple}".encode())
            digest.update(str([root.power for root in group.roots]).encode())
            for s in (*group.slices, *group.roots):
                digest.update(f"{s.tensor} {s.axis} {s.indices.shape}".encode() + s.indices.astype("<i8").tobytes())
        return digest.hexdigest()

    def macs(self, widths: Mapping[str, int] | None = None) -> int:
        """Return the multiply-adds of one sample at these widths; groups that are not named keep theirs.

        A branch is removed where all its groups are 0 wide.
        """
        return self._total("macs", widths or {})

    def parameters(self, widths: Mapping[str, int] | None = None) -> int:
        """Return the number of parameters at these widths, see `macs`."""
        return self._total("parameters", widths or {})

    def cost_terms(self, kind: Literal["macs", "parameters", "bytes"]) -> CostTerms:
        """Return a cost as a bilinear form of the widths; bytes are those that the parameters occupy."""
        return self._terms[kind]

    @functools.cached_property
    def _terms(self) -> Mapping[str, CostTerms]:
        each = dict.fromkeys(self.bill.parameters, 1)
        return {
            "macs": mac_terms(self.groups, self.shapes, self.bill.products, self.bill.shares),
            "parameters": parameter_terms(self.groups, self.shapes, each),
            "bytes": parameter_terms(self.groups, self.shapes, self.bill.parameters),
        }

    def removed_at(self, widths: Mapping[str, int]) -> tuple[str, ...]:
        """Name the branches whose groups are all 0 wide."""
        return tuple(b.name for b in self.branches if all(widths.get(name) == 0 for name in b.groups))

    def without(self, names: Sequence[str]) -> "Structure":
        """Return the structure of the network from which these branches are removed."""
        require_branches(self.branches, names)
        left = self
        for branch in [branch for branch in self.branches if branch.name in names]:
            constants = [f"{path}.{VALUE}" for path in branch.num_constants]
            left = replace(
                left,
                groups=tuple(branch.left_of(group) for group in left.groups if group.name not in branch.groups),
                pinned=tuple(p for p in left.pinned if not covers(branch.modules, p.tensor)),
                shapes=branch.without(left.shapes),
                numbers=tuple(n for n in left.numbers if not covers(branch.modules, n.module)),
                bill=left.bill.without(branch.modules, constants),
                branches=tuple(other for other in left.branches if other is not branch),
            )
        return left

    @functools.cached_property
    def bare(self) -> "Structure":
        """The structure of the network from which all branches are removed: itself where there are none."""
        return self.without([branch.name for branch in self.branches])

    def _total(self, kind: Literal["macs", "parameters"], widths: Mapping[str, int]) -> int:
        for name in widths:
            self.group(name)
        removed = self.removed_at(widths)
        if removed:
            left = self.without(removed)
            return left._total(kind, {name: width for name, width in widths.items() if name in left.widths})
        terms = self.cost_terms(kind)
        return terms.total(terms.vector({**self.widths, **widths}))


def with_branches(structure: Structure, branches: Sequence[Branch], unremovable: Mapping[str, str]) -> Structure:
    """Return a structure with these branches and what each saves."""
    bare = replace(structure, branches=tuple(branches), unremovable=unremovable)
    priced = []
    for branch in branches:
        left = bare.without((branch.name,))
        macs, parameters = bare.macs() - left.macs(), bare.parameters() - left.parameters()
        priced.append(replace(branch, macs=macs, parameters=parameters))
    return replace(bare, branches=tuple(priced))
