"""Prove by a trial cut that groups can be cut, and find those that cannot.

A graph shows what a network computed, not how its Python code would follow other widths: ``x.view(-1, 256 * 6 * 6)``
and ``x.view(len(x), -1)`` can be the same operator. So every group is cut once, and the cut network must agree with the
masked one.
"""

import enum
import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

from secateur.artifacts import Group
from secateur.calibration.masks import zeroing
from secateur.calibration.norms import gated_norms
from secateur.calibration.readers import tap_readers
from secateur.pipeline.structure.blame import blame
from secateur.pipeline.structure.copying import copy_of, tensors
from secateur.pipeline.structure.cut import Kept, along, shrunk
from secateur.pipeline.structure.structure import Joints
from secateur.pipeline.structure.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a trial cut is wrong: an error was ``raised``, by the class ``owner`` if known, or values differ."""

    reason: str
    raised: bool
    owner: type | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Cut groups of a network to about two thirds and compare with masking.

    ``trains`` asks for a run in training mode too, for networks with branches that evaluation does not show (where the
    whole network trains on the example inputs at all); ``is_divided`` for a second cut, of the first channels only, as
    bounds among channels may leave scattered ones where they are; ``input_axes`` tells along which axis of its weight a
    layer reads its input channels.
    """

    subject: Subject
    joints: Joints
    trains: bool
    is_uneven: bool
    is_divided: bool
    input_axes: Mapping[str, int]

    def failures(self, known: Set[str] = frozenset()) -> dict[str, str]:
        """Map the groups that cannot be cut to what goes wrong, apart from those that are known."""
        groups = _shrinking([g for g in self.joints.groups if g.name not in known])
        if not groups or self._fault(groups) is None:
            return {}
        found = self._search(groups)
        left = [g for g in groups if g.name not in found]
        return {**found, **(self._greedy(left) if found and self.fault(left) else {})}

    def fault(self, groups: Sequence[Group], *, only_shapes: bool = False) -> Fault | None:
        """Return what goes wrong when these groups are cut, None if all is well.

        With ``is_uneven`` they are cut to shares that differ, as parts may work only if all are cut alike;
        ``only_shapes`` asks for no more than what shows without values.
        """
        shrinking = _shrinking(groups)
        fault = self._shape_fault(shrinking) if shrinking else None
        return self._fault(shrinking) if shrinking and not fault and not only_shapes else fault

    def _masks(self, groups: Sequence[Group], cut: "_Cut") -> Kept:
        shares = _UNEVEN if self.is_uneven else _EVEN
        return {
            g.name: _mask(g, trial_width(g, shares[(n + cut) % len(shares)]), cut) for n, g in enumerate(groups)
        }  # fmt: skip

    def _shape_fault(self, groups: Sequence[Group]) -> Fault | None:
        """Return the error that the cut network raises even without values, which is found out at little cost."""
        if self.subject.bare is None:
            return None
        masks = self._masks(groups, _Cut.SCATTERED)
        small = shrunk(self.subject.bare, self.joints, masks, shares_parameters=True)
        try:
            self.subject.run_bare(small)
        except Exception as error:  # the network's own code fails in its own ways
            return _raised("its forward", error, small)
        return None

    def _fault(self, groups: Sequence[Group]) -> Fault | None:
        cuts = (_Cut.SCATTERED, _Cut.FRONT) if self.is_divided else (_Cut.SCATTERED,)
        faults = (self._fault_of(groups, self._masks(groups, cut)) for cut in cuts)
        return next((fault for fault in faults if fault is not None), None)

    def _fault_of(self, groups: Sequence[Group], masks: Kept) -> Fault | None:
        small = shrunk(
            self.subject.module, self.joints, masks, shares_parameters=True, is_double=self.subject.is_double
        ).eval()
        try:
            found = self.subject.run(small)
        except Exception as error:  # the network's own code fails in its own ways
            return self._fault_of(groups, masks) if self.subject.falls_back() else _raised("its forward", error, small)
        training_fault = self._training_fault(small) if self.trains else None
        masked = copy_of(self.subject.module, shares_parameters=True).eval()
        try:
            wanted = self.subject.remembered(_key(groups, masks), lambda: self._masked_outputs(masked, groups, masks))
        except Exception as error:  # the network's own code fails in its own ways
            return self._fault_of(groups, masks) if self.subject.falls_back() else _raised("its forward", error, masked)
        return disagreement(found, wanted) or training_fault

    def _masked_outputs(self, module: nn.Module, groups: Sequence[Group], masks: Kept) -> list[Tensor]:
        """Return what the network computes where channels that go are zero at their readers, or where they are made.

        Readers that are called with other than their weight itself get a weight with zeros, which is the same.
        """
        survivors = {name: torch.from_numpy(mask) for name, mask in masks.items()}
        read = zeroing(module, [(reader, survivors[g.name]) for g in groups for reader in g.readers])
        written = zeroing(module, [(writer, survivors[g.name]) for g in groups for writer in g.writers])
        with gated_norms(module, groups, survivors), tap_readers(module, read, written) as seen:
            outputs = self.subject.run(module)
        missed = read.keys() - seen
        if missed:
            rest = copy_of(module, self._zeroed(missed, groups, masks), shares_parameters=True)
            read = {name: zero for name, zero in read.items() if name not in missed}
            with gated_norms(rest, groups, survivors), tap_readers(rest, read, written):
                outputs = self.subject.run(rest)
        return outputs

    def _training_fault(self, small: nn.Module) -> Fault | None:
        """Return what goes wrong when the cut network trains, unless the whole one fails as well."""
        try:
            self.subject.run(small.train())
        except Exception as error:  # the network's own code fails in its own ways
            try:
                self.subject.run(copy_of(self.subject.module, shares_parameters=True).train())
            except Exception:  # example inputs that do not fit training, such as one sample for batch norm
                return None
            return _raised("its training forward", error, small)
        return None

    def _search(self, groups: Sequence[Group]) -> dict[str, str]:
        """Halve the set until the culprits are alone; groups that fail only together are tried one after another."""
        fault = self.fault(groups)
        if not fault:
            return {}
        if len(groups) == 1:
            return {groups[0].name: fault.reason}
        half = len(groups) // 2
        found = {**self._search(groups[:half]), **self._search(groups[half:])}
        return found or self._greedy(groups)

    def _greedy(self, groups: Sequence[Group]) -> dict[str, str]:
        accepted: list[Group] = []
        found: dict[str, str] = {}
        for group in groups:
            fault = self.fault([*accepted, group])
            if fault:
                found[group.name] = fault.reason
            else:
                accepted.append(group)
        return found

    def _zeroed(self, weights: Set[str], groups: Sequence[Group], masks: Kept) -> dict[str, Tensor]:
        """Return these readers' weights with zeros for the channels that go: the same as zeros in their inputs."""
        named, gone = tensors(self.subject.module), dict[str, list[np.ndarray]]()
        for group in groups:
            for s in group.slices:
                if s.tensor in weights and s.axis == self.input_axes[s.tensor]:
                    gone.setdefault(s.tensor, []).append(s.indices[~masks[group.name]].reshape(-1))
        found = {}
        for name, indices in gone.items():
            weight, axis = named[name].detach(), self.input_axes[name]
            stays = np.ones(weight.shape[axis])
            stays[np.concatenate(indices)] = 0
            found[name] = weight * along(stays, weight, axis)
        return found


class _Cut(enum.IntEnum):
    """Which channels a trial takes: some of all over a group, or its first ones."""

    SCATTERED = 0
    FRONT = 1


_EVEN = (Fraction(2, 3),)
_UNEVEN = (Fraction(1, 3), Fraction(2, 3), Fraction(1, 2))
_TELLING = 3
"""Statistics over fewer channels leave nothing of one and a sign of two: what is wrong behind them would not show."""


def trial_width(group: Group, share: Fraction = _EVEN[0]) -> int:
    """Return an allowed width near a share of a group; odd if it may be, to find out halves."""
    telling = min(_TELLING, group.num_channels - group.multiple) // group.multiple * group.multiple
    least = max(group.least, telling) if group.norms else group.least
    width = max(int(group.num_channels * share) // group.multiple * group.multiple, least)
    return width - 1 if group.multiple == 1 and width % 2 == 0 and width > least else width


def _shrinking(groups: Sequence[Group]) -> list[Group]:
    return [group for group in groups if trial_width(group) < group.num_channels]


def _mask(group: Group, width: int, cut: _Cut) -> np.ndarray:
    """Keep channels of a group, not its first one and, where two or more are scattered, not its last one."""
    mask = np.zeros(group.num_channels, dtype=bool)
    if cut is _Cut.FRONT:
        mask[-width:] = True
        return mask
    first, *inner, last = range(group.num_channels)
    order = np.array([*np.random.default_rng(0).permutation(inner), last, first], dtype=np.int64)
    mask[order[:width]] = True
    return mask


def _key(groups: Sequence[Group], masks: Kept) -> str:
    """Name what is masked: of ways that differ in the cut only, one masked network will do."""
    digest = hashlib.sha256()
    for group in groups:
        for layers in (group.readers, group.norms, group.writers):
            for layer in layers:
                digest.update(layer.weight.encode() + layer.positions[~masks[group.name]].tobytes() + b";")
            digest.update(b"|")
    return digest.hexdigest()


def _raised(what: str, error: Exception, module: nn.Module) -> Fault:
    text, owner = blame(error, module)
    kind = None if owner is None else type(owner)
    return Fault(reason=f"{what} does not follow the new width: {text}", raised=True, owner=kind)


def disagreement(found: list[Tensor], wanted: list[Tensor]) -> Fault | None:
    """Return how outputs differ beyond rounding, None if they do not.

    That is 1e-9 of the largest entry in double precision, else the root of the type's spacing.
    """
    shapes = [tuple(t.shape) for t in found], [tuple(t.shape) for t in wanted]
    if shapes[0] != shapes[1]:
        return Fault(
            reason=f"its forward does not follow the new width (outputs {shapes[0]}, not {shapes[1]})", raised=True
        )
    for one, two in zip(found, wanted, strict=True):
        if not two.is_floating_point() or not two.numel():
            continue
        finite = torch.isfinite(two)
        if not bool(finite.any()):
            return Fault(reason="an output is NaN or infinite throughout, so that no cut can be checked", raised=False)
        scale = float(two[finite].abs().max())
        error = float((one[finite] - two[finite]).abs().nan_to_num(torch.inf).max())
        tolerance = 1e-9 if two.dtype == torch.float64 else torch.finfo(two.dtype).eps ** 0.5
        if error > tolerance * scale:
            return Fault(
                reason=f"cutting it is not the same as masking it (outputs differ by {error:.2g} of {scale:.2g})",
                raised=False,
            )
    return None
