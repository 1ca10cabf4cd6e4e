"""Record the ATen operators that a network calls on tensors without values."""

import contextlib
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils import _pytree as pytree

from secateur.pipeline.structure.copying import copy_of, tensors
from secateur.pipeline.structure.dispatch import WithoutValues, mapped, seeing, without_values, written

_PLAIN = (bool, int, float, complex, str, type(None))


class UnrecordedError(Exception):
    """What a network does cannot be recorded; `torch.export` may know how to capture it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """A graph with the node of every parameter and buffer that it reads, by name, and of every input that it reads.

    ``outputs`` are the nodes of the tensors that the network returns, in order;
    ``written`` those that write into inputs, parameters or buffers.
    """

    graph: Graph
    tensors: Mapping[str, Node]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    written: tuple[Node, ...]


def record(module: nn.Module, example_inputs: tuple[Tensor, ...], *, training: bool) -> Recording:
    """Run a copy of the network on the meta device and return the graph of what it called.

    Operators are seen before PyTorch takes them apart, and nothing is computed: what a forward wants to know of values
    raises an error, as it does under `torch.export`, at a fraction of the time. Raises UnrecordedError, or whatever the
    network's own code raises, where this does not work.
    """
    bare = {name: without_values(tensor) for name, tensor in tensors(module).items()}
    duplicate = copy_of(module, bare).train(training)
    # In evaluation mode without gradients PyTorch's transformer layers hide behind one fused operator.
    for parameter in duplicate.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    recorder = _Recorder(names={id(tensor): name for name, tensor in reversed(tensors(duplicate).items())})
    inputs = tuple(without_values(x) for x in example_inputs)
    nodes = tuple(recorder.place(x, f"input_{n}") for n, x in enumerate(inputs))
    with recorder.watching(duplicate), torch.enable_grad(), seeing(recorder):
        leaves = pytree.tree_leaves(duplicate(*inputs))
    if any(not isinstance(leaf, (Tensor, *_PLAIN)) for leaf in leaves):
        raise UnrecordedError("the network returns other things than tensors in tuples, lists and dicts")
    for name, buffer in duplicate.named_buffers():
        if id(buffer) not in recorder.names and id(buffer) in recorder.nodes:
            recorder.written[recorder.nodes[id(buffer)]] = None
        elif id(buffer) not in recorder.names:
            raise UnrecordedError(f"the network replaces buffer {name}")
    outputs = tuple(recorder.node_of(leaf) for leaf in leaves if isinstance(leaf, Tensor))
    return Recording(
        graph=recorder.graph, tensors={n: node for n, node in recorder.held.items() if node.users or node in outputs},
        inputs=nodes, outputs=outputs, written=tuple(recorder.written),
    )  # fmt: skip


class _Recorder(WithoutValues):  # type: ignore[no-untyped-call]
    """Add a node for every operator; tensors are known by identity, so all that were met are kept."""

    def __init__(self, *, names: Mapping[int, str]) -> None:
        super().__init__()
        self.graph, self.names = Graph(), names
        self.nodes: dict[int, Node] = {}
        self.held: dict[str, Node] = {}
        self.written: dict[Node, None] = {}
        self.stack: list[dict[str, tuple[str, str]]] = [{}]
        self._storages: set[int] = set()

    def place(self, tensor: Tensor, name: str) -> Node:
        """Add a node for a tensor that is there before the network runs."""
        node = self.graph.create_node("placeholder", name.replace(".", "_"))
        self._note(node, tensor)
        self._storages.add(tensor.untyped_storage()._cdata)
        return node

    def node_of(self, tensor: Tensor) -> Node:
        """Return the node that made a tensor."""
        known = self.nodes.get(id(tensor))
        if known is not None:
            return known
        name = self.names.get(id(tensor))
        if name is not None:
            self.held[name] = self.place(tensor, name)
            return self.held[name]
        if tensor.is_meta:
            raise UnrecordedError("a tensor that no operator made")
        return self.place(tensor, "constant")

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Call an operator and add its node."""
        kwargs = kwargs or {}
        changed = written(func, args, kwargs)
        before = [tuple(tensor.shape) for tensor in changed]
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if before != [tuple(tensor.shape) for tensor in changed]:
            raise UnrecordedError(f"{func} changes the shape of a tensor in place")
        node = self.graph.create_node("call_function", func, mapped(args, self._noded), mapped(kwargs, self._noded))
        node.meta["nn_module_stack"] = self.stack[-1]
        if isinstance(result, Tensor):
            self._note(node, result)
        elif isinstance(result, (tuple, list)):
            node.meta["val"] = tuple(result)
            for n, tensor in enumerate(result):
                if isinstance(tensor, Tensor):
                    item = self.graph.create_node("call_function", operator.getitem, (node, n))
                    item.meta["nn_module_stack"] = self.stack[-1]
                    self._note(item, tensor)
        else:
            raise UnrecordedError(f"{func} returns {type(result).__name__}")
        if any(tensor.untyped_storage()._cdata in self._storages for tensor in changed):
            self.written[node] = None
        return result

    @contextlib.contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Know within the context in which of the network's modules the forward is, as `torch.export` notes it."""
        entries = {id(owner): {path: (path, type(owner).__qualname__)} for path, owner in module.named_modules()}

        def enter(owner: nn.Module, _: Any) -> None:
            if id(owner) in entries:
                self.stack.append({**self.stack[-1], **entries[id(owner)]})

        def leave(owner: nn.Module, *_: Any) -> None:
            if id(owner) in entries:
                self.stack.pop()

        # One hook for all modules costs nothing to set up; those of other networks pass it by.
        handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, node: Node, tensor: Tensor) -> None:
        node.meta["val"] = tensor  # keeps the tensor, so that no other gets its id
        self.nodes[id(tensor)] = node

    def _noded(self, argument: Any) -> Any:
        return self.node_of(argument) if isinstance(argument, Tensor) else argument
