"""Which channels of a network stay: data that can be made, combined, written down and applied."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool
from pydantic import Field, ValidationError
from torch import Tensor

from secateur.artifacts import Group, Record
from secateur.errors import BudgetError, LoadError, TraceError
from secateur.pipeline.allocation import allocate
from secateur.pipeline.structure.branch import require_branches
from secateur.pipeline.structure.structure import Structure
from secateur.storage import read, write

FORMAT: Literal[1] = 1
MOST_BYTES = 1 << 26
"""No plan is larger: a network of a million channels takes a tenth of it."""


class _Content(Record):
    """A plan's file."""

    format: Literal[1] = FORMAT
    fingerprint: str
    kept: dict[str, tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...]]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The channels that stay, for the groups that lose any.

    ``kept`` maps the name of a group to the ascending indices of its surviving channels, int64; groups that are not in
    it stay whole. ``fingerprint`` is that of the structure the plan was made for, see `Structure.fingerprint`.
    ``removed`` names the residual branches that go whole; no channel of their groups stays.
    """

    kept: Mapping[str, Tensor]
    fingerprint: str
    removed: tuple[str, ...] = ()

    @staticmethod
    def of(structure: Structure, keep: Mapping[str, Tensor], removed: Sequence[str] = ()) -> "Plan":
        """Make a plan of masks, bool [num_channels], or of int64 indices of the channels that stay, by group.

        ``removed`` names residual branches to remove whole; one of which no channel is kept is removed as well. Raises
        TraceError where something does not fit: another size, too few channels left, a width off the step, no branch
        of a name.
        """
        require_branches(structure.branches, removed)
        empty = {name for name, stays in keep.items() if not _count(stays)}
        gone = tuple(b.name for b in structure.branches if b.name in removed or empty.issuperset(b.groups))
        inside = {name for branch in structure.branches if branch.name in gone for name in branch.groups}
        masks = {name: _checked(structure.group(name), s) for name, s in keep.items() if name not in inside}
        kept = {name: torch.from_numpy(np.flatnonzero(mask)) for name, mask in masks.items() if not mask.all()}
        kept |= {name: torch.zeros(0, dtype=torch.int64) for name in sorted(inside)}
        return Plan(kept=kept, fingerprint=structure.fingerprint, removed=gone)

    @staticmethod
    def random(structure: Structure, keep: float = 0.5, seed: int = 0) -> "Plan":
        """Keep this share of every group's channels, in (0, 1] and rounded up to an allowed width, drawn at random."""
        _require_share("Plan.random, keep", keep)
        generator = np.random.default_rng(seed)
        drawn = {}
        for group in structure.groups:
            width = group.allowed_width(math.ceil(keep * group.num_channels))
            drawn[group.name] = torch.from_numpy(generator.permutation(group.num_channels)[:width])
        return Plan.of(structure, drawn)

    @staticmethod
    def from_scores(
        structure: Structure,
        scores: Mapping[str, Tensor],
        *,
        macs: float | None = None,
        parameters: float | None = None,
        floors: Mapping[str, int] | None = None,
    ) -> "Plan":
        """Keep the channels of most worth for their cost, within a budget.

        ``scores`` has one finite value >= 0 a channel, [num_channels] by group. The budget is the share of the
        network's ``macs`` or of its ``parameters`` that may stay, in (0, 1]; the plan ends within one channel step of
        it and never above. ``floors`` are widths to keep at least. Raises BudgetError where the budget is not one of
        the two, or cannot be reached, DataError for scores that do not fit; see `allocate`.
        """
        shares = {kind: s for kind, s in (("macs", macs), ("parameters", parameters)) if s is not None}
        if len(shares) != 1:
            raise BudgetError(
                "Plan.from_scores", f"budgets {shares}", "either macs or parameters", "Give one of the two."
            )
        kind, share = next(iter(shares.items()))
        _require_share(f"Plan.from_scores, {kind}", share)
        terms = structure.cost_terms("macs" if kind == "macs" else "parameters")
        whole = terms.total(terms.vector(structure.widths))
        return Plan.of(structure, allocate(scores, terms, math.floor(share * whole), structure.groups, floors))

    def masks(self, structure: Structure) -> dict[str, Bool[np.ndarray, " num_channels"]]:
        """Return which channels stay of every group that loses any; raise TraceError for a plan of another network."""
        if self.fingerprint != structure.fingerprint:
            raise TraceError(
                "plan", f"a plan for the structure {self.fingerprint}", f"one for {structure.fingerprint}",
                "Trace the network that the plan was made for, with the same keep= and multiple=.",
            )  # fmt: skip
        require_branches(structure.branches, self.removed)
        inside = {name for branch in structure.branches if branch.name in self.removed for name in branch.groups}
        return {
            name: np.zeros(structure.group(name).num_channels, dtype=bool) if name in inside
            else _checked(structure.group(name), indices)
            for name, indices in self.kept.items()
        }  # fmt: skip

    def remainder(self, structure: Structure) -> tuple[Structure, dict[str, Bool[np.ndarray, " num_channels"]]]:
        """Return the structure without the branches that the plan removes, and `masks` of the groups it still has."""
        left = structure.without(self.removed)
        return left, {name: mask for name, mask in self.masks(structure).items() if name in left.widths}

    def widths(self, structure: Structure) -> dict[str, int]:
        """Return the width of every group that the plan leaves."""
        return {**structure.widths, **{name: int(mask.sum()) for name, mask in self.masks(structure).items()}}

    def then(self, later: "Plan") -> "Plan":
        """Return the plan that does at once what this one and then ``later``, made for the cut network, do.

        Raises TraceError where ``later`` keeps channels that this plan does not leave.
        """
        composed = dict(self.kept)
        for name, indices in later.kept.items():
            before = self.kept.get(name)
            if before is not None and indices.numel() and int(indices.max()) >= before.numel():
                raise TraceError(
                    f"plan, group {name}", f"channel {int(indices.max())} in the later plan",
                    f"one of the {before.numel()} that the first plan leaves",
                    "Trace the cut network for a later plan.",
                )  # fmt: skip
            composed[name] = indices if before is None else before[indices]
        removed = (*self.removed, *later.removed)
        return Plan(kept=composed, fingerprint=self.fingerprint, removed=removed)

    def save(self, path: Path) -> None:
        """Write the plan as JSON; raises StorageError where the file cannot be written."""
        kept = {name: tuple(indices.tolist()) for name, indices in self.kept.items()}
        content = _Content(fingerprint=self.fingerprint, kept=kept, removed=self.removed)
        write(path, content.model_dump_json().encode())

    @staticmethod
    def load(path: Path) -> "Plan":
        """Read a plan that `save` wrote; raises LoadError for another file, StorageError for one that is not there."""
        try:
            content = _Content.model_validate_json(read(path, MOST_BYTES))
        except ValidationError as error:
            raise LoadError(
                str(path), f"another file ({error.errors()[0]['msg']})", f"a plan in format {FORMAT}",
                "Save the plan again.",
            ) from error  # fmt: skip
        kept = {name: torch.tensor(indices, dtype=torch.int64) for name, indices in content.kept.items()}
        return Plan(kept=kept, fingerprint=content.fingerprint, removed=content.removed)


def _require_share(where: str, share: float) -> None:
    if not 0 < share <= 1:
        raise BudgetError(where, str(share), "a share in (0, 1]", "Use 0.5 to keep half.")


def _count(stays: Tensor) -> int:
    """Return how many channels stay."""
    return int(stays.sum()) if stays.dtype == torch.bool else stays.numel()


def _checked(group: Group, stays: Tensor) -> Bool[np.ndarray, " num_channels"]:
    """Return the mask of surviving channels; raises TraceError where it does not fit the group."""
    where, width = f"cut, group {group.name}", group.num_channels
    given = torch.as_tensor(stays).detach().cpu().numpy()
    if given.dtype == bool and given.shape != (width,):
        raise TraceError(where, f"a mask of shape {given.shape}", f"({width},)", "Give one entry a channel.")
    if given.dtype == bool:
        mask = given
    elif given.ndim == 1 and np.issubdtype(given.dtype, np.integer):
        if given.size and (given.min() < 0 or given.max() >= width or np.unique(given).size < given.size):
            raise TraceError(
                where, f"indices {given.tolist()[:8]}", f"distinct indices in [0, {width})", "List each channel once."
            )
        mask = np.zeros(width, dtype=bool)
        mask[given] = True
    else:
        raise TraceError(
            where, f"{given.dtype} of shape {given.shape}", "a bool mask or int64 indices",
            "Turn scores into a mask."
        )  # fmt: skip
    left = int(mask.sum())
    if left < group.least:
        raise TraceError(
            where, f"{left} channels to stay", f"at least {group.least}", "Keep more channels of this group."
        )
    if left % group.multiple and left != width:
        raise TraceError(
            where, f"{left} channels to stay", f"a multiple of {group.multiple}, or all {width}",
            "Round the width, or trace with another multiple.",
        )  # fmt: skip
    return mask
