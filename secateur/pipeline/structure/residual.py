"""Find the branches of residual sums in a captured graph, whatever the architecture."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import Node

from secateur.artifacts import Group
from secateur.pipeline.structure import layers, products
from secateur.pipeline.structure.capture import Captured
from secateur.pipeline.structure.copying import tensors
from secateur.pipeline.structure.groups import Assembly
from secateur.pipeline.structure.labels import Flow
from secateur.pipeline.structure.operators import RULES
from secateur.pipeline.structure.paths import covers


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A branch f of a sum x + f(x) as the graph shows it.

    It is named after the last of the ``modules`` that has parameters; these are the paths of what would go, in order of
    execution, ``exits`` those whose outputs reach the ``total``, with the node that does. ``groups`` live in these
    modules only; layers with weights ``readers`` read nothing else, and ``gates`` are those of the groups that the last
    of them read. ``calls`` are those inside each module. ``is_written`` tells that forward writes into what an exit
    returns. ``reason`` says why the branch cannot go, if it cannot.
    """

    name: str
    total: Node
    modules: tuple[str, ...]
    exits: Mapping[str, Node]
    groups: tuple[str, ...]
    gates: tuple[str, ...]
    readers: tuple[str, ...]
    calls: Mapping[str, tuple[Node, ...]]
    is_written: bool
    reason: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """Where branches are looked for: a captured network, what flowed through it and the groups that were found.

    ``protected`` names the tensors whose channels the caller keeps.
    """

    module: nn.Module
    captured: Captured
    flow: Flow
    found: Assembly
    groups: tuple[Group, ...]
    protected: frozenset[str]

    def candidates(self) -> list[Candidate]:
        """Return the branches that have channels of their own, the smallest first."""
        nodes = [node for node in self.captured.graph.nodes if node.op == "call_function"]
        depends = self._depending(nodes)
        calls = Counter(path for node in nodes for path in _stack(node))
        found = []
        for total in nodes:
            for end in _operands(total, depends):
                inside = _private(end)
                ordered = [node for node in nodes if node in inside]
                candidate = self._candidate(total, end, ordered, depends, calls)
                if candidate is not None:
                    found.append((len(ordered), candidate))
        return [candidate for _, candidate in sorted(found, key=lambda pair: pair[0])]

    def _depending(self, nodes: list[Node]) -> set[Node]:
        """Return the nodes that depend on the network's inputs."""
        found = {n for n in self.captured.graph.nodes if n.name in self.captured.user_inputs}
        for node in nodes:
            if any(n in found for n in node.all_input_nodes):
                found.add(node)
        return found

    def _candidate(
        self, total: Node, end: Node, ordered: list[Node], depends: set[Node], calls: Counter[str]
    ) -> Candidate | None:
        inside = set(ordered)
        own = Counter(path for node in ordered for path in _stack(node))
        whole = {path for path, count in own.items() if path and count == calls[path]}
        owner = {n: p for n in ordered if (p := next((p for p in _stack(n) if p in whole), None)) is not None}
        modules = tuple(dict.fromkeys(owner.values()))
        groups = tuple(g for g in self.groups if all(covers(modules, s.tensor) for s in g.slices))
        if sum(map(_is_layer, ordered)) < 2:
            return None
        readers = self._readers(groups, modules)
        blocked = {n: w for n in ordered if (w := self._weight(n)) in readers}
        varying = set[Node]()
        for node in ordered:
            sources = node.all_input_nodes
            if node not in blocked and any(n in varying or (n in depends and n not in inside) for n in sources):
                varying.add(node)
        exits = {owner[n]: n for n in _reached(end, inside, owner)}
        last = {blocked[n] for n in _reached(end, inside, blocked)}
        outside = [node for node in ordered if node not in owner]
        return Candidate(
            name=[*_stack(end)[-1:], *(path for path in modules if next(self._tensors((path,)), None))][-1],
            total=total, modules=modules, exits=exits, groups=tuple(g.name for g in groups),
            gates=tuple(g.name for g in groups if any(r.weight in last for r in g.readers)),
            readers=tuple(sorted(readers)),
            calls={p: tuple(n for n in ordered if owner.get(n) == p) for p in modules},
            is_written=any(_name(n).endswith("_") and n.args[0] in inside for n in (*outside, total)),
            reason=self._reason(modules, groups, exits, outside, bool(varying & {end, *exits.values()})),
        )  # fmt: skip

    def _readers(self, groups: tuple[Group, ...], modules: tuple[str, ...]) -> set[str]:
        """Return the weights of the layers that read these groups and nothing else."""
        names = {g.name for g in groups}
        numbers = {n for n, g in enumerate(self.found.groups) if g.name in names}
        read = {w: {int(n) for labels, _ in pairs for n in self.found.group_of_label[labels]}
                for w, pairs in self.flow.reads.items() if covers(modules, w)}  # fmt: skip
        return {weight for weight, owners in read.items() if owners <= numbers}

    def _reason(
        self,
        modules: tuple[str, ...],
        groups: tuple[Group, ...],
        exits: Mapping[str, Node],
        outside: list[Node],
        varies: bool,
    ) -> str | None:
        """Say why a branch cannot go, as far as the graph shows."""
        gone = dict(self._tensors(modules))
        held = {id(tensor) for tensor in gone.values()}
        shared = [n for n, t in tensors(self.module).items() if id(t) in held and n not in gone]
        if self.protected & gone.keys():
            return "kept by the user"
        if shared:
            return f"{shared[0]} is a parameter of the branch too"
        if not groups and not any(_is_layer(n) for n in outside):
            return "none of its inner channels can be cut"
        if any(_is_layer(n) for n in outside):
            return "layers of the branch work outside of its modules, or also elsewhere"
        if varies or not exits:
            return "its output depends on its input in other ways than through channels that can be cut"
        return None

    def _tensors(self, modules: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
        return ((name, tensor) for name, tensor in tensors(self.module).items() if covers(modules, name))

    def _weight(self, node: Node) -> str | None:
        """Return the weight that a layer reads its inputs with."""
        names = (self.captured.names.get(n.name) for n in node.all_input_nodes)
        return next((name for name in names if name in self.flow.reads), None)


_PRODUCTS = frozenset(
    rule for rule in RULES.values()
    if rule in (layers.convolution, layers.linear) or rule.__module__ == products.__name__
)  # fmt: skip


def _is_layer(node: Node) -> bool:
    """Tell whether a call multiplies and adds."""
    return RULES.get(_name(node).removesuffix("_")) in _PRODUCTS


def _operands(total: Node, depends: set[Node]) -> list[Node]:
    """Return the operands of a sum that nothing else uses, where both have its shape and depend on the inputs."""
    if _name(total) not in ("add", "add_"):
        return []
    both = [a for a in total.args if isinstance(a, Node)]
    if len({_shape(n) for n in (total, *both)}) > 1 or len(set(both)) < 2 or not set(both) <= depends:
        return []
    return [n for n in both if n.op == "call_function" and len(n.users) == 1]


def _private(end: Node) -> set[Node]:
    """Return the nodes that nothing but this one needs, itself included."""
    inside, waiting = {end}, [end]
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node.op == "call_function" and node not in inside and all(user in inside for user in node.users):
                inside.add(node)
                waiting.append(node)
    return inside


def _reached(end: Node, inside: set[Node], stops: Mapping[Node, str]) -> list[Node]:
    """Return the first of these stops that one meets on all ways back from the end."""
    found, seen, waiting = [], {end}, [end]
    while waiting:
        node = waiting.pop()
        if node in stops:
            found.append(node)
            continue
        further = [n for n in node.all_input_nodes if n in inside and n not in seen]
        seen.update(further)
        waiting.extend(further)
    return found


def _name(node: Node) -> str:
    schema: Any = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).removeprefix("aten::")


def _shape(node: Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else None


def _stack(node: Node) -> list[str]:
    """Return the paths of the modules in whose forward a call is, the outermost first."""
    return list(
        dict.fromkeys(str(entry[0]).split("@")[0] for entry in (node.meta.get("nn_module_stack") or {}).values())
    )
