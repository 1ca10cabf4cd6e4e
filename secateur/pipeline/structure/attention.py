"""Find out how attention's Python code follows the width of its heads.

A graph holds numbers where the code may compute them: whether all heads together must stay as wide as the stream they
read, and whether a scale is stored or computed from the width, shows only when a network runs at another width.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from secateur.artifacts import Group
from secateur.pipeline.structure.atoms import Assembly, Settings, assemble
from secateur.pipeline.structure.labels import Contraction, Flow

Fault = Callable[[Assembly, Sequence[Group]], str]
"""Says what goes wrong when these groups of an assembly are cut."""


def fit(flow: Flow, settings: Settings, module: nn.Module, fault: Fault) -> tuple[Assembly, dict[str, str]]:
    """Assemble the groups in the first way in which the network's attention can be cut, class by class.

    Where none works the groups are those of attention that follows its own widths. They are returned as well, with what
    goes wrong when they are cut.
    """
    followed = frozenset(n for n, c in enumerate(flow.contractions) if c.follows)
    settings = replace(settings, rooted=followed)
    assembly, faults = assemble(flow, settings), dict[str, str]()
    for numbers in _by_class(flow.contractions, module).values():
        stored = frozenset(numbers) - followed
        ways = itertools.product((frozenset(), stored) if stored else (frozenset(),), (frozenset(), frozenset(numbers)))
        first: dict[str, str] = {}
        for rooted, coupled in ways:
            way = replace(settings, rooted=settings.rooted | rooted, coupled=settings.coupled | coupled)
            found = assemble(flow, way)
            groups = {g.name: g for n in numbers if (g := found.group_at(flow.contractions[n].labels)) is not None}
            wrong = fault(found, list(groups.values()))
            if groups and not wrong:
                settings, assembly = way, found
                break
            first = first or dict.fromkeys(groups, wrong)
        else:
            faults |= first
    return assembly, faults


def _by_class(contractions: Sequence[Contraction], module: nn.Module) -> Mapping[type, list[int]]:
    numbers: dict[type, list[int]] = {}
    for n, contraction in enumerate(contractions):
        numbers.setdefault(type(module.get_submodule(contraction.module)), []).append(n)
    return numbers
