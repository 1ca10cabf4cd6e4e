"""Find the residual branches that can be removed whole, and prove that they can."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from secateur.calibration.masks import masked
from secateur.pipeline.structure.blame import blame
from secateur.pipeline.structure.branch import Branch
from secateur.pipeline.structure.copying import copy_of
from secateur.pipeline.structure.follow import Env
from secateur.pipeline.structure.labels import Value
from secateur.pipeline.structure.paths import covers
from secateur.pipeline.structure.proof import disagreement
from secateur.pipeline.structure.removal import Seen, seen_without, without_branches
from secateur.pipeline.structure.residual import Candidate, Search
from secateur.pipeline.structure.stand_in import Place, Window
from secateur.pipeline.structure.subject import Subject

Reasons = dict[str, str]
"""Why branches cannot be removed, by name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Removable:
    """Sort the branches of a network into those that can be removed, as was proved, and those that cannot.

    Every removal is tried: the network with stand-ins must equal the one whose inner channels are masked, in double
    precision, to 1e-9 of its largest output. ``env`` has what flowed through the graph's nodes.
    """

    search: Search
    env: Env
    inputs: tuple[Tensor, ...]

    def __call__(self) -> tuple[tuple[Branch, ...], Reasons]:
        """Return the branches that can go, no two with a module or sum in common, and the reasons of the others."""
        candidates = self.search.candidates()
        reasons = {c.name: c.reason for c in candidates if c.reason is not None}
        possible = [c for c in candidates if c.reason is None]
        if not possible:
            return (), reasons
        subject = Subject(self.search.module, self.inputs, wants_double=True)
        readers = sorted({name for c in possible for name in c.readers})
        paths = sorted({path for c in possible for path in c.modules})
        seen = seen_without(self.search.module, readers, paths, self.inputs)
        made = {c.name: [self._branch(c, seen, thin=thin) for thin in (True, False)] for c in possible}
        disjoint = _disjoint(possible)
        at_once = [branch for c in disjoint if isinstance(branch := made[c.name][0], Branch)]
        if len(at_once) == len(possible) and self._fault(subject, at_once) is None:
            return tuple(at_once), reasons
        accepted: list[tuple[Candidate, Branch]] = []
        for candidate in possible:
            if any(_meet(candidate, other) for other, _ in accepted):
                continue
            for branch in made[candidate.name]:
                fault = branch if isinstance(branch, str) else self._fault(subject, [*(b for _, b in accepted), branch])
                if fault is None and isinstance(branch, Branch):
                    accepted.append((candidate, branch))
                    reasons.pop(candidate.name, None)
                    break
                reasons.setdefault(candidate.name, str(fault))
        return tuple(branch for _, branch in accepted), reasons

    def _fault(self, subject: Subject, branches: Sequence[Branch]) -> str | None:
        """Return what goes wrong when these branches are removed, None if all is well."""
        groups = self.search.groups
        gone = {name for branch in branches for name in branch.groups}
        keep = {g.name: torch.zeros(g.num_channels, dtype=torch.bool) for g in groups if g.name in gone}
        whole = copy_of(subject.module, shares_parameters=True).eval()
        try:
            with subject.precision():  # constants are computed here
                small = without_branches(subject.module, branches, subject.inputs, shares_parameters=True).eval()
            found = subject.run(small)
            with masked(whole, groups, keep):
                wanted = subject.run(whole)
        except Exception as error:  # the network's own code fails in its own ways
            if subject.falls_back():
                return self._fault(subject, branches)
            return f"its forward does not go without it: {blame(error, whole)[0]}"
        fault = disagreement(found, wanted)
        return None if fault is None else fault.reason

    def _branch(self, candidate: Candidate, seen: Mapping[str, Seen], *, thin: bool) -> Branch | str:
        """Return the branch with its stand-ins, or why there are none.

        Stand-ins whose results nothing reads return one channel if ``thin``, else as many as the modules did.
        Then constants stay as small as they are, too, unless forward writes into them.
        """
        places, writers, counts = dict[str, Place](), dict[str, tuple[str, int]](), dict[str, int]()
        for path in candidate.modules:
            if path not in seen:
                return f"{path} returns other than one tensor"
            one, calls = seen[path], candidate.calls[path]
            if path not in candidate.exits:
                axes = _label_axes(self.env, calls[-1])
                places[path] = _place(one, calls, fixed=dict.fromkeys(axes, 1) if thin else {})
                continue
            axis = _axis_of_constant(one.output, _label_axes(self.env, candidate.exits[path]))
            if axis is None or one.times > 1:
                return f"what {path} returns without its inputs is not one constant a channel"
            count = one.output.shape[axis]
            place = _place(one, calls, fixed={axis: count}, axis=axis)
            if thin and not candidate.is_written:
                sizes = tuple(count if a == axis else 1 for a in range(one.output.ndim))
                place = place.model_copy(update={"sizes": sizes, "windows": {}})
            elif any(size is not None for a, size in enumerate(place.sizes) if a != axis):
                return f"the shape of what {path} returns does not follow from its input's"
            made_by = self._producer(candidate.exits[path], count)
            if isinstance(made_by, str):
                return made_by
            if made_by is not None:
                writers[path] = made_by
                place = place.model_copy(update={"producer": _relative(made_by[0], path)})
            places[path], counts[path] = place, count
        return Branch(
            name=candidate.name, groups=candidate.groups, gates=candidate.gates, readers=candidate.readers,
            places=places, writers=writers, num_constants=counts,
        )  # fmt: skip

    def _producer(self, node: Node, count: int) -> tuple[str, int] | str | None:
        """Return the weight and axis that make a value's channels, None where they are not followed, or a reason."""
        labels = _labels(self.env, node)
        if labels.size != count or not labels.all():
            return None
        for (tensor, axis), own in self.search.flow.producers.items():
            if np.array_equal(labels.reshape(-1), own):
                return tensor, axis
        return "several layers make the channels of what it returns"


def _place(seen: Seen, nodes: Sequence[Node], fixed: Mapping[int, int], axis: int = 0) -> Place:
    """Return the shape of a module's result: sizes that follow from the input's wherever they do."""
    sizes: list[int | None] = []
    windows: dict[int, tuple[Window, ...]] = {}
    shape = tuple(seen.output.shape)
    for a, size in enumerate(shape):
        own = _windows(nodes, a - len(shape))
        length = seen.input_shape[a] if len(seen.input_shape) == len(shape) else -1
        for window in own:
            length = window(length)
        follows = length == size and a not in fixed
        sizes.append(None if follows else fixed.get(a, size))
        if follows and own:
            windows[a] = own
    return Place(sizes=tuple(sizes), windows=windows, item=seen.item, axis=axis)


def _windows(nodes: Sequence[Node], axis: int) -> tuple[Window, ...]:
    """Return how these calls change the length of an axis, counted from the last one, that changes at all."""
    found = []
    for node in nodes:
        schema: Any = getattr(node.target, "_schema", None)
        name = "" if schema is None else schema.name.removeprefix("aten::")
        if name not in _WINDOWED or axis < -_WINDOWED[name]:
            continue
        given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        given |= dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
        if isinstance(given.get("padding"), str) or given.get("ceil_mode"):
            continue
        spatial = _WINDOWED[name]
        kernel = given.get("kernel_size") or list(given["weight"].meta["val"].shape[2:])
        window = Window(
            kernel=_at(kernel, axis, spatial), stride=_at(given.get("stride") or kernel, axis, spatial),
            padding=_at(given.get("padding", 0), axis, spatial), dilation=_at(given.get("dilation", 1), axis, spatial),
        )  # fmt: skip
        if window.stride > 1 or 2 * window.padding != window.dilation * (window.kernel - 1):
            found.append(window)
    return tuple(found)


_WINDOWED = {
    "conv1d": 1, "conv2d": 2, "conv3d": 3, "avg_pool1d": 1, "avg_pool2d": 2, "avg_pool3d": 3, "max_pool1d": 1,
    "max_pool2d": 2, "max_pool3d": 3,
}  # fmt: skip
"""The operators of which a stand-in knows how they change lengths, and how many axes they work along."""


def _at(numbers: Any, axis: int, spatial: int) -> int:
    listed = [numbers] if isinstance(numbers, int) else list(numbers)
    return int((listed * spatial if len(listed) == 1 else listed)[axis])


def _labels(env: Env, node: Node) -> np.ndarray:
    value = env.get(node)
    return value.labels if isinstance(value, Value) else np.zeros(1, dtype=np.int64)


def _label_axes(env: Env, node: Node) -> list[int]:
    """Return the axes along which a node's labels vary."""
    return [axis for axis, size in enumerate(_labels(env, node).shape) if size > 1]


def _axis_of_constant(output: Tensor, labelled: Sequence[int]) -> int | None:
    """Return the axis of channels of a tensor that varies along no other, None where it does."""
    scale = float(output.abs().max()) if output.numel() else 0.0
    varying = {
        axis for axis in range(output.ndim)
        if float((output - output.narrow(axis, 0, 1)).abs().max()) > 1e-5 * scale
    } | set(labelled)  # fmt: skip
    if len(varying) > 1 or not math.isfinite(scale):
        return None
    return next(iter(varying), min(1, output.ndim - 1))


def _relative(weight: str, path: str) -> str:
    """Return the path of the layer with this weight from the parent of a module on, "" where it is not below it."""
    parent, layer = path.rpartition(".")[0], weight.rpartition(".")[0]
    return layer.removeprefix(f"{parent}." if parent else "") if covers((parent,), layer) or not parent else ""


def _meet(one: Candidate, two: Candidate) -> bool:
    """Tell whether two branches share modules or a sum."""
    return one.total is two.total or any(covers(one.modules, p) for p in two.modules) or any(
        covers(two.modules, p) for p in one.modules
    )  # fmt: skip


def _disjoint(candidates: Sequence[Candidate]) -> list[Candidate]:
    chosen: list[Candidate] = []
    for candidate in candidates:
        if not any(_meet(candidate, other) for other in chosen):
            chosen.append(candidate)
    return chosen
