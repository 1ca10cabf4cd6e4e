"""A second clean-up by onnxslim: what it finds is arithmetic on shapes, which attention leaves behind."""

import onnx

from secateur.errors import ExportError


def slimmed(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return a graph of fewer nodes, or the same where none can go; nodes that stay keep what is noted at them.

    Raises:
        ExportError: onnxslim is not installed, or fails.
    """
    try:
        import onnxslim
    except ImportError as error:
        raise ExportError(
            f"export of {name}", f"no onnxslim ({error})", "onnxslim, which was asked for",
            "Install it: pip install 'secateur[slim]'; or leave slim out.",
        ) from error  # fmt: skip
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    try:
        found = onnxslim.slim(copy)
    except Exception as error:
        raise ExportError(
            f"export of {name}", f"a failure of onnxslim: {type(error).__name__}: {str(error)[:200]}",
            "a graph that it cleans up", "Leave slim out.",
        ) from error  # fmt: skip
    if len(found.graph.node) >= len(proto.graph.node):
        return proto
    noted = {node.name: node.metadata_props for node in proto.graph.node}
    for node in found.graph.node:
        del node.metadata_props[:]
        node.metadata_props.extend(noted.get(node.name, ()))
    return found
