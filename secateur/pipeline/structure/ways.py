"""Find out how Python code follows widths.

A graph holds numbers where the code may compute them: whether all heads together must stay as wide as the stream they
read, whether attention's scale is stored or computed from the width, and whether half of the channels is a fixed number
of them shows only when the network runs at another width.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from secateur.artifacts import Group
from secateur.pipeline.structure.groups import Assembly, Settings, assemble
from secateur.pipeline.structure.labels import Flow

Fault = Callable[[Assembly, Sequence[Group]], str]
"""Says what goes wrong when these groups of an assembly are cut."""


def fit(flow: Flow, settings: Settings, module: nn.Module, fault: Fault) -> tuple[Assembly, dict[str, str]]:
    """Assemble the groups in the first way in which the network can be cut, one class of modules after the other.

    Where no way works the groups are those of code that follows its own widths and has fixed bounds. Those that cannot
    be cut so are returned as well, with what goes wrong.
    """
    followed = frozenset(n for n, c in enumerate(flow.contractions) if c.follows)
    settings = replace(settings, rooted=followed)
    everybody = frozenset(
        type(owner) for owner in module.modules() if not type(owner).__module__.startswith("torch.nn.")
    )
    assembly, faults = assemble(flow, settings), dict[str, str]()
    for kind, sites in _by_class(flow, module).items():
        labels = [*(flow.contractions[n].labels for n in sites.contractions),
                  *(part for n in sites.divisions
                    for part in flow.divisions[n].parts or (flow.divisions[n].bounded,))]  # fmt: skip
        for way in _ways(settings, kind, sites, followed, everybody):
            found = assemble(flow, way)
            groups = found.groups_at(labels)
            if groups and not fault(found, groups):
                settings, assembly = way, found
                break
        else:
            faults |= {g.name: wrong for g in assembly.groups_at(labels) if (wrong := fault(assembly, [g]))}
    return assembly, faults


@dataclass(frozen=True, kw_only=True)
class _Sites:
    """The numbers of the contractions and of the divisions in the modules of one class."""

    contractions: list[int] = field(default_factory=list)
    divisions: list[int] = field(default_factory=list)


def _by_class(flow: Flow, module: nn.Module) -> Mapping[type, _Sites]:
    found: dict[type, _Sites] = {}
    for n, contraction in enumerate(flow.contractions):
        found.setdefault(type(module.get_submodule(contraction.module)), _Sites()).contractions.append(n)
    for n, division in enumerate(flow.divisions):
        found.setdefault(type(module.get_submodule(division.module)), _Sites()).divisions.append(n)
    return found


def _ways(
    settings: Settings, kind: type, sites: _Sites, followed: frozenset[int], everybody: frozenset[type]
) -> Iterator[Settings]:
    """List the ways in which modules of one class may be written, the plainest first."""
    nobody = frozenset[type]()
    nothing, all_of, parts = frozenset[int](), frozenset(sites.contractions), frozenset(sites.divisions)
    for relative, rooted, coupled, counting in itertools.product(
        dict.fromkeys([parts, nothing]), dict.fromkeys([nothing, all_of - followed]), dict.fromkeys([nothing, all_of]),
        (nobody, frozenset({kind}), everybody),
    ):  # fmt: skip
        yield replace(
            settings, relative=settings.relative | relative, rooted=settings.rooted | rooted,
            coupled=settings.coupled | coupled, counting=settings.counting | counting,
        )  # fmt: skip
