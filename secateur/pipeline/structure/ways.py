"""Find out how Python code follows widths.

A graph holds numbers where the code may compute them: whether all heads together must stay as wide as the stream they
read, whether attention's scale is stored or computed from the width, and whether half of the channels is a fixed number
of them shows only when the network runs at another width.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from torch import nn

from secateur.artifacts import Group
from secateur.pipeline.structure.groups import Assembly, Settings, assemble
from secateur.pipeline.structure.labels import Flow, Labels
from secateur.pipeline.structure.proof import Fault

Test = Callable[[Assembly, Sequence[Group], bool], Fault | None]
"""Says what goes wrong when these groups of an assembly are cut; the last asks only for what shows without values."""

_WORKS, _OTHER_VALUES, _RAISED_ELSEWHERE, _RAISED = range(4)


@dataclass(frozen=True, kw_only=True)
class _Sites:
    """The numbers of the contractions and of the divisions in the modules of one class."""

    contractions: list[int] = field(default_factory=list)
    divisions: list[int] = field(default_factory=list)

    def labels(self, flow: Flow) -> list[Labels]:
        """Return the labels of the channels that are contracted or divided here."""
        parts = [flow.divisions[n] for n in self.divisions]
        return [*(flow.contractions[n].labels for n in self.contractions),
                *(labels for part in parts for labels in part.parts or (part.bounded,))]  # fmt: skip


def fit(flow: Flow, settings: Settings, module: nn.Module, test: Test) -> tuple[Assembly, dict[str, str]]:
    """Assemble the groups in the first way in which the network can be cut, one class of modules after the other.

    Where no way works the groups are those of code that follows its own widths and has fixed bounds. Those that cannot
    be cut so are returned as well, with what goes wrong.
    """
    settings = replace(settings, rooted=_followed(flow))
    by_class = _by_class(flow, module)
    classes = {type(owner) for owner in module.modules()}
    everybody = frozenset(kind for kind in classes if not kind.__module__.startswith("torch.nn."))
    works = True
    for kind, sites in by_class.items():
        rank, settings = _best(flow, settings, kind, sites, everybody, set(by_class) - {kind}, test)
        works = works and rank == _WORKS
    assembly = assemble(flow, settings)
    if works:
        return assembly, {}
    labels = [labels for sites in by_class.values() for labels in sites.labels(flow)]
    fault = test(assembly, assembly.groups_at(labels), False)
    if fault is not None and not fault.raised:
        contractions = [frozenset(sites.contractions) for sites in by_class.values()]
        assembly, fault = _together(flow, assembly, fault, labels, contractions, test)
    groups = [] if fault is None else assembly.groups_at(labels)
    faults = {group.name: test(assembly, [group], False) for group in groups}
    reasons = {name: wrong.reason for name, wrong in faults.items() if wrong is not None}
    return (_bounded(flow, assembly, set(reasons), test) if reasons else None) or (assembly, reasons)


def _bounded(flow: Flow, assembly: Assembly, failed: Set[str], test: Test) -> tuple[Assembly, dict[str, str]] | None:
    """Pin what the bounds count in groups that cannot be cut, so that their rest can; None if that does not help."""
    settings = assembly.settings
    tried = settings.free | settings.equal
    fixed = frozenset(n for n in tried if failed & {g.name for g in assembly.groups_at([flow.divisions[n].bounded])})
    if not fixed:
        return None
    other = assemble(flow, replace(settings, free=settings.free - fixed, equal=settings.equal - fixed))
    return (other, {}) if other.groups and test(other, other.groups, False) is None else None


def _followed(flow: Flow) -> frozenset[int]:
    """Return the numbers of the contractions whose operator itself divides by the root of the width."""
    return frozenset(n for n, contraction in enumerate(flow.contractions) if contraction.follows)


def _by_class(flow: Flow, module: nn.Module) -> Mapping[type, _Sites]:
    found: dict[type, _Sites] = {}
    for n, contraction in enumerate(flow.contractions):
        found.setdefault(type(module.get_submodule(contraction.module)), _Sites()).contractions.append(n)
    for n, division in enumerate(flow.divisions):
        found.setdefault(type(module.get_submodule(division.module)), _Sites()).divisions.append(n)
    return found


def _best(
    flow: Flow, settings: Settings, kind: type, sites: _Sites, everybody: frozenset[type], others: set[type], test: Test
) -> tuple[int, Settings]:
    """Return the first way for one class that works, else the one that comes nearest, with how near it comes.

    An error that code of ``others`` raises does not speak against a way: it may be theirs to change.
    """
    best = (_RAISED, settings)
    for way in _ways(settings, kind, sites, everybody):
        rooted = replace(way, rooted=way.rooted | frozenset(sites.contractions))
        # All groups at once are the whole proof; where other classes are in the way, those of this one alone tell.
        for at_once in (True, False):
            rank = _rank(flow, way, sites, others, test, at_once=at_once)
            if rank == _WORKS:
                return _WORKS, way
            may_divide = rank == _OTHER_VALUES and sites.contractions
            if may_divide and _rank(flow, rooted, sites, others, test, at_once=at_once) == _WORKS:
                return _WORKS, rooted
        if rank < best[0]:
            best = (rank, way)
    return best


def _rank(flow: Flow, way: Settings, sites: _Sites, others: set[type], test: Test, *, at_once: bool) -> int:
    assembly = assemble(flow, way)
    groups = assembly.groups_at(sites.labels(flow))
    if not groups:
        return _RAISED
    # All at once may fit by chance where those of this class alone do not.
    fault = test(assembly, groups, True) if at_once else None
    fault = fault or test(assembly, assembly.groups if at_once else groups, False)
    if fault is not None and fault.raised:
        return _RAISED_ELSEWHERE if fault.owner in others else _RAISED
    return _WORKS if fault is None else _OTHER_VALUES


def _ways(settings: Settings, kind: type, sites: _Sites, everybody: frozenset[type]) -> Iterator[Settings]:
    """List the ways in which modules of one class may treat the shapes of channels, the plainest first."""
    nobody, nothing = frozenset[type](), frozenset[int]()
    parts, all_of = frozenset(sites.divisions), frozenset(sites.contractions)
    divided = [(parts, nothing), (nothing, parts), (nothing, nothing)] if parts else [(nothing, nothing)]
    for (free, equal), coupled, counting in itertools.product(
        divided, dict.fromkeys([nothing, all_of]), (nobody, frozenset({kind}), everybody)
    ):
        yield replace(
            settings, free=settings.free | free, equal=settings.equal | equal, coupled=settings.coupled | coupled,
            counting=settings.counting | counting,
        )  # fmt: skip


def _together(
    flow: Flow, assembly: Assembly, fault: Fault, labels: Sequence[Labels], contractions: Sequence[frozenset[int]],
    test: Test,
) -> tuple[Assembly, Fault | None]:  # fmt: skip
    """Find out which classes divide by roots of widths, where each alone does not tell; shapes do not depend on it.

    Returns the groups as they are with the fault that they have where no choice works.
    """
    for chosen in itertools.product(*([frozenset[int](), numbers] for numbers in contractions if numbers)):
        other = assemble(flow, replace(assembly.settings, rooted=_followed(flow).union(*chosen)))
        if test(other, other.groups_at(labels), False) is None:
            return other, None
    return assembly, fault
