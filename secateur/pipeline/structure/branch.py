"""A residual branch that can be removed whole, and the constants that stay of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from secateur.artifacts import Group, Slice
from secateur.errors import TraceError
from secateur.pipeline.structure.paths import covers
from secateur.pipeline.structure.stand_in import VALUE, Place


@dataclass(frozen=True, kw_only=True, eq=False)
class Branch:
    """A branch f of a residual sum x + f(x) whose inner channels can all go: what stays of it is a constant.

    ``groups`` are the inner channels, ``gates`` those of them that the last layers of the branch read: without these
    f(x) does not depend on x. ``readers`` are the weights of the layers that read inner channels only. ``places`` maps
    the modules that go to what stands in for them; those of ``writers`` return the constants, whose channels are the
    outputs of the layer with the weight and along the axis given. ``macs`` and ``parameters`` are what goes of the
    whole network.
    """

    name: str
    groups: tuple[str, ...]
    gates: tuple[str, ...]
    readers: tuple[str, ...] = field(repr=False)
    places: Mapping[str, Place] = field(repr=False)
    writers: Mapping[str, tuple[str, int]]
    num_constants: Mapping[str, int] = field(repr=False)
    macs: int = 0
    parameters: int = 0

    @property
    def modules(self) -> tuple[str, ...]:
        """The paths of the modules that go."""
        return tuple(self.places)

    def without(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of a network's tensors once the branch is gone."""
        left = {name: shape for name, shape in shapes.items() if not covers(self.modules, name)}
        return left | {f"{path}.{VALUE}": (count,) for path, count in self.num_constants.items()}

    def left_of(self, group: Group) -> Group:
        """Return what a group consists of once the branch is gone."""
        modules = self.modules
        slices = [s for s in group.slices if not covers(modules, s.tensor)]
        for path, made_by in self.writers.items():
            made = (s.indices for s in group.slices if (s.tensor, s.axis) == made_by)
            slices += [Slice(tensor=f"{path}.{VALUE}", axis=0, indices=indices) for indices in made]
        return replace(
            group, slices=tuple(sorted(slices, key=lambda s: (s.tensor, s.axis))),
            readers=tuple(r for r in group.readers if not covers(modules, r.weight)),
            norms=tuple(n for n in group.norms if not covers(modules, n.weight)),
            writers=tuple(w for w in group.writers if not covers(modules, w.weight)),
            roots=tuple(r for r in group.roots if not covers(modules, r.tensor)),
        )  # fmt: skip


def require_branches(branches: Sequence[Branch], names: Sequence[str]) -> None:
    """Raise TraceError where one of these names is no branch that can be removed."""
    known = [branch.name for branch in branches]
    for name in names:
        if name not in known:
            raise TraceError(
                "structure", f"no branch {name!r}", f"one of {known}",
                "Trace with branches=True, and name a branch that can be removed.",
            )  # fmt: skip
