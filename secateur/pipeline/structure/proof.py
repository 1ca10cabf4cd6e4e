"""Prove by a trial cut that groups can be cut, and find those that cannot.

A graph shows what a network computed, not how its Python code would follow other widths: ``x.view(-1, 256 * 6 * 6)``
and ``x.view(len(x), -1)`` can be the same operator. So every group is cut once, and the cut network must agree with the
masked one.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

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
    whole network trains on the example inputs at all); ``input_axes`` tells along which axis of its weight a layer
    reads its input channels.
    """

    subject: Subject
    joints: Joints
    trains: bool
    is_uneven: bool
    input_axes: Mapping[str, int]

    def failures(self, known: Set[str] = frozenset()) -> dict[str, str]:
        """Map the groups that cannot be cut to what goes wrong, apart from those that are known."""
        groups = [g for g in self.joints.groups if trial_width(g) < g.num_channels and g.name not in known]
        found = self._search(groups)
        left = [g for g in groups if g.name not in found]
        return {**found, **(self._greedy(left) if found and self.fault(left) else {})}

    def fault(self, groups: Sequence[Group]) -> Fault | None:
        """Return what goes wrong when these groups are cut, None if all is well.

        With ``is_uneven`` they are cut again to shares that differ, as parts may work only if all are cut alike.
        """
        fault = self._fault(groups, {g.name: _mask(g, trial_width(g)) for g in groups}) if groups else None
        if fault is not None or not self.is_uneven:
            return fault
        return self._fault(groups, {g.name: _mask(g, trial_width(g, n % 3)) for n, g in enumerate(groups)})

    def _fault(self, groups: Sequence[Group], masks: Kept) -> Fault | None:
        small = shrunk(self.subject.module, self.joints, masks, shares_parameters=True).eval()
        try:
            found = self.subject.run(small)
        except Exception as error:  # the network's own code fails in its own ways
            return self._fault(groups, masks) if self.subject.falls_back() else _raised("its forward", error, small)
        training_fault = self._training_fault(small) if self.trains else None
        del small  # the masked network needs as much memory
        masked = copy_of(self.subject.module, self._masked_readers(groups, masks), shares_parameters=True).eval()
        survivors = {name: torch.from_numpy(mask) for name, mask in masks.items()}
        written = [(writer, survivors[group.name]) for group in groups for writer in group.writers]
        try:
            with gated_norms(masked, groups, survivors), tap_readers(masked, {}, zeroing(masked, written)):
                wanted, is_exact = self.subject.is_exact_after(masked)
        except Exception as error:  # the network's own code fails in its own ways
            return self._fault(groups, masks) if self.subject.falls_back() else _raised("its forward", error, masked)
        return disagreement(found, wanted) or training_fault if is_exact else self._fault(groups, masks)

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

    def _masked_readers(self, groups: Sequence[Group], masks: Kept) -> dict[str, Tensor]:
        """Return the readers' weights with zeros for the channels that go: the same as zeros in their inputs."""
        named, gone = tensors(self.subject.module), dict[str, list[np.ndarray]]()
        for group in groups:
            readers = {reader.weight for reader in group.readers}
            for s in group.slices:
                if s.tensor in readers and s.axis == self.input_axes[s.tensor]:
                    gone.setdefault(s.tensor, []).append(s.indices[~masks[group.name]].reshape(-1))
        found = {}
        for name, indices in gone.items():
            weight, axis = named[name].detach(), self.input_axes[name]
            stays = np.ones(weight.shape[axis])
            stays[np.concatenate(indices)] = 0
            found[name] = weight * along(stays, weight, axis)
        return found


def trial_width(group: Group, more: int = 1) -> int:
    """Return an allowed width near two thirds, or ``more`` thirds and one; odd if it may be, to find out halves."""
    width = max(group.num_channels * (1 + more) // 3 // group.multiple * group.multiple, group.least)
    return width - 1 if group.multiple == 1 and width % 2 == 0 and width > group.least else width


def _mask(group: Group, width: int) -> np.ndarray:
    mask = np.zeros(group.num_channels, dtype=bool)
    mask[np.random.default_rng(0).permutation(group.num_channels)[:width]] = True
    return mask


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
