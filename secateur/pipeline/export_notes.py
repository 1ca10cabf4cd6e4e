"""What the exporter notes beside a graph: kept as far as something reads it, since a small network's notes are long."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import onnx

SCOPES = "pkg.torch.onnx.name_scopes"
"""Where the exporter notes the modules that a node comes from."""


def forget_notes(proto: onnx.ModelProto) -> None:
    """Leave of the notes the modules of every node, and of the shapes those of tensors that are there.

    The rest are paths in this machine's folders, the classes and names of what was captured, and its signature.
    """
    _forget(proto.graph)
    for function in proto.functions:
        _forget_nodes(function.node)


def _forget(graph: onnx.GraphProto) -> None:
    written = {name for node in graph.node for name in node.output}
    _keep(graph.value_info, lambda value: value.name in written)
    _keep(graph.metadata_props, lambda entry: False)
    for noted in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        _keep(noted.metadata_props, lambda entry: False)
    _forget_nodes(graph.node)


def _forget_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        _keep(node.metadata_props, lambda entry: entry.key == SCOPES)
        for inner in _inside(node):
            _forget(inner)


def _inside(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Return the graphs within a node, such as the branches of an If."""
    return (attribute.g for attribute in node.attribute if attribute.HasField("g"))


def _keep(entries: Any, wanted: Callable[[Any], bool]) -> None:
    """Leave of a field's entries those that are wanted."""
    kept = [entry for entry in entries if wanted(entry)]
    del entries[:]
    entries.extend(kept)
