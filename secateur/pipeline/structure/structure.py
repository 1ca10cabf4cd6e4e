"""What can be cut from a network and what each cut saves."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from secateur.artifacts import Group, Pinned
from secateur.errors import TraceError
from secateur.pipeline.costs import CostTerms


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

    ``output_shapes`` are those of the tensors among the network's outputs on the example inputs.
    """

    pinned: tuple[Pinned, ...]
    example_inputs: tuple[Tensor, ...] = field(repr=False)
    output_shapes: tuple[tuple[int, ...], ...] = field(repr=False)
    mac_terms: CostTerms = field(repr=False)
    parameter_terms: CostTerms = field(repr=False)
    byte_terms: CostTerms = field(repr=False)

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
        """Return the multiply-adds of one sample at these widths; groups that are not named keep theirs."""
        return self._total(self.mac_terms, widths)

    def parameters(self, widths: Mapping[str, int] | None = None) -> int:
        """Return the number of parameters at these widths; groups that are not named keep theirs."""
        return self._total(self.parameter_terms, widths)

    def cost_terms(self, kind: Literal["macs", "parameters", "bytes"]) -> CostTerms:
        """Return a cost as a bilinear form of the widths; bytes are those that the parameters occupy."""
        return {"macs": self.mac_terms, "parameters": self.parameter_terms, "bytes": self.byte_terms}[kind]

    def _total(self, terms: CostTerms, widths: Mapping[str, int] | None) -> int:
        for name in widths or {}:
            self.group(name)
        return terms.total(terms.vector({**self.widths, **(widths or {})}))
