"""Run the captured graph on labels instead of data."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from secateur.pipeline.structure.call import Call, labels_of
from secateur.pipeline.structure.capture import Captured
from secateur.pipeline.structure.labels import Flow, Value, fixed
from secateur.pipeline.structure.operators import apply

Env = dict[Node, Value | tuple[Value, ...]]


def follow(captured: Captured, flow: Flow, batch_size: int) -> Env:
    """Write into ``flow`` what the labels learn on their way through the graph, and return what every node has.

    ``batch_size`` is the length of the example inputs' first axis.
    """
    env: Env = {}
    batched: set[Node] = set()
    for node in captured.graph.nodes:
        flow.module = _module_path(node)
        flow.operator = str(node.target)
        if node.op == "placeholder":
            shape = _shapes(node)
            if shape:
                value = fixed(shape[0])
                name = captured.names.get(node.name)
                env[node] = Value(labels=value.labels, shape=value.shape, extent=value.extent, tensor=name)
            if node.name in captured.user_inputs:
                batched.add(node)
        elif node.op == "call_function":
            if any(n in batched for n in node.all_input_nodes):
                batched.add(node)
            result = _call(flow, node, env, batch_size if node in batched else 1)
            if result is not None:
                env[node] = result
        flow.operator = "output"
        if node.name in captured.outputs and node in env:
            for value in _flat(env[node]):
                flow.pin(labels_of(flow, value).reshape(-1), "output of the network")
    return env


def _call(flow: Flow, node: Node, env: Env, batch_size: int) -> Value | tuple[Value, ...] | None:
    """Let one node act on the labels; nodes that return no tensors return None."""
    target: Any = node.target
    shapes = _shapes(node)
    if target.__name__ == "getitem":
        source = env.get(node.args[0])  # type: ignore[arg-type]
        index = node.args[1]
        return source[index] if isinstance(source, tuple) and isinstance(index, int) else None
    if not isinstance(target, torch._ops.OpOverload):
        inputs = {str(k): env[n] for k, n in enumerate(node.all_input_nodes) if n in env}
        call = Call(flow=flow, name=str(target), arguments=inputs, shapes=tuple(shapes), per_sample=batch_size)
        return _packed(call.pinned("an operator that is not followed"), node)
    arguments = {a.name: a.default_value for a in target._schema.arguments if a.has_default_value()}
    arguments |= {a.name: _values(x, env) for a, x in zip(target._schema.arguments, node.args, strict=False)}
    arguments |= {name: _values(x, env) for name, x in node.kwargs.items()}
    if not shapes and not isinstance(node.meta.get("val"), (tuple, list)):
        return None
    name = target._schema.name.removeprefix("aten::")
    call = Call(flow=flow, name=name, arguments=arguments, shapes=tuple(shapes), per_sample=batch_size)
    return _packed(apply(call), node)


def _packed(result: tuple[Value, ...], node: Node) -> Value | tuple[Value, ...]:
    """Return one value where the node returns a tensor, else the tuple that getitem picks from."""
    return result[0] if isinstance(node.meta.get("val"), Tensor) else result


def _flat(value: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    return value if isinstance(value, tuple) else (value,)


def _shapes(node: Node) -> list[tuple[int, ...]]:
    """List the shapes of the tensors that a node returns."""
    found = node.meta.get("val")
    leaves = found if isinstance(found, (tuple, list)) else [found]
    return [tuple(int(n) for n in leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]


def _values(argument: Any, env: Env) -> Any:
    """Put values in place of nodes."""
    if isinstance(argument, Node):
        return env.get(argument)
    if isinstance(argument, (list, tuple)):
        return [_values(a, env) for a in argument]
    return argument


def _module_path(node: Node) -> str:
    """Return the dotted path of the module whose forward made this call."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]).split("@")[0] if stack else ""
