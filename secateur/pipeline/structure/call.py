"""One operator call in the graph, with values in place of nodes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from secateur.pipeline.structure.labels import Flow, Labels, Value, fixed


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """An ATen operator's arguments by their schema names, and the shapes of what it returns.

    ``per_sample`` divides a count over the whole example batch down to one sample; it is 1 where nothing depends on
    the network's inputs.
    """

    flow: Flow
    name: str
    arguments: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    per_sample: int

    def value(self, *names: str) -> Value | None:
        """Return the first of these arguments that is a tensor."""
        return next((v for n in names if isinstance(v := self.arguments.get(n), Value)), None)

    def tensor(self, *names: str) -> Value:
        """Return the first of these arguments that is a tensor; a rule asks only for what its schema has."""
        found = self.value(*names)
        if found is None:
            raise KeyError(f"{self.name} has none of the tensors {names}")
        return found

    def values(self) -> list[Value]:
        """List every tensor argument, those in lists included."""
        flat = [v for a in self.arguments.values() for v in (a if isinstance(a, (list, tuple)) else [a])]
        return [v for v in flat if isinstance(v, Value)]

    def returning(self, labels: Labels, extent: tuple[int, ...] | None = None) -> Value:
        """Make the value that a call with one result returns."""
        return Value(labels=labels, shape=self.shapes[0], extent=extent or self.shapes[0])

    def pinned(self, reason: str) -> tuple[Value, ...]:
        """Pin whatever touches this call and return values that are never cut, one for each result."""
        for value in self.values():
            self.flow.pin(labels_of(self.flow, value).reshape(-1), reason)
        return tuple(fixed(shape) for shape in self.shapes)


Rule = Callable[[Call], Value | tuple[Value, ...]]


def labels_of(flow: Flow, value: Value) -> Labels:
    """Return a value's labels where it is used as data.

    A parameter or buffer (layer scale, a position embedding) gets labels along the last of its long axes and is cut
    with what it meets there; those that hold no floating-point numbers are frozen.
    """
    if value.tensor is None:
        return value.labels
    long = [axis for axis, size in enumerate(value.shape) if size > 1]
    if long and value.tensor not in flow.integral:
        return flow.spread(value.tensor, long[-1])
    flow.freeze(value.tensor, "its parameter is also used outside of its layer")
    return value.labels
