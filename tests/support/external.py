"""An ONNX file whose weights are said to be in another file."""

from pathlib import Path

import onnx


def weights_beside(folder: Path, location: str) -> Path:
    value = onnx.helper.make_tensor_value_info
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", [value("x", 1, [4])], [value("y", 1, [4])], [tensor]
    )
    path = folder / "net.onnx"
    path.write_bytes(onnx.helper.make_model(graph, ir_version=10).SerializeToString())
    return path
