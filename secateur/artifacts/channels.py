"""What is cut together: groups of channels and the places where they live."""

from dataclasses import dataclass

import numpy as np

from secateur.artifacts.record import Record


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """Where a group's channels live in one tensor: channel i owns ``indices[i]`` along ``axis`` of ``tensor``.

    ``tensor`` is the name of a parameter or buffer; ``indices`` is int64 [num_channels, entries per channel].
    """

    tensor: str
    axis: int
    indices: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Root(Slice):
    """Entries that a cut multiplies by a ``power`` of the share of channels that stay."""

    power: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """A convolution or linear layer that consumes a group: channel i arrives at ``positions[i]`` of its input channels.

    ``weight`` names the reading layer's weight; ``positions`` is int64 [num_channels, entries per channel]. Multiplying
    these input channels by zero in every reader is the same function as cutting the channel.
    """

    weight: str
    positions: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Channels that are interchangeable: cutting any one of them removes the same number of entries from each tensor.

    ``least`` is the smallest width that leaves a working network, ``multiple`` the step in which widths may change
    (the final width is a multiple of it, or the uncut width). ``block`` names the residual stream or module that the
    group belongs to. ``norms`` are the layers whose statistics run over the group's channels, by the name of their
    weight: cutting a channel takes it out of the statistics too. ``writers`` are layers that make channels which no
    weight reads (queries, which meet keys): these are masked at the layer's outputs. ``roots`` are the entries that
    make up for a division by the root of the width.
    """

    name: str
    num_channels: int
    block: str
    slices: tuple[Slice, ...]
    readers: tuple[Reader, ...]
    norms: tuple[Reader, ...] = ()
    writers: tuple[Reader, ...] = ()
    roots: tuple[Root, ...] = ()
    least: int = 1
    multiple: int = 1

    def allowed_width(self, wanted: int) -> int:
        """Return the smallest width allowed that is at least ``wanted``: no less than ``least``, on a step or uncut."""
        return min(self.num_channels, -(-max(wanted, self.least) // self.multiple) * self.multiple)


class Pinned(Record):
    """Channels that are never cut, and why; ``tensor`` is the parameter, ``operator`` the ATen operator behind it."""

    tensor: str
    num_channels: int
    reason: str
    operator: str
    module: str
