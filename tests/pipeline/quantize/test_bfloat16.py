"""bfloat16: what a written file is emulated by equals what the float32 file is, and runtimes are held to it."""

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from rounding import NETWORKS, Case
from torch import nn

from secateur.artifacts import Model
from secateur.backends import BACKENDS
from secateur.backends.protocol import BuildOptions
from secateur.bfloat16 import emulated
from secateur.errors import BackendError
from secateur.pipeline.export import export
from secateur.pipeline.quantize import HALVES, Halve
from secateur.pipeline.quantize.graph import Graph
from secateur.pipeline.quantize.half import BFLOAT16_OPSET, convertible, halved, raised
from secateur.pipeline.quantize.running import Running


def graph_of(path: Path) -> Graph:
    return Graph(proto=onnx.shape_inference.infer_shapes(raised(onnx.load(path))))


def all_of(graph: Graph) -> list[str]:
    return [node.output[0] for node in graph.proto.graph.node if convertible(graph, node)]


@pytest.mark.parametrize("share", ["all", "every other"])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_written_file_computes_what_was_emulated(
    name: str, dtype: str, share: str, case: Callable[[str], Case]
) -> None:
    made = case(name)
    graph = graph_of(made.exported.path)
    chosen = all_of(graph)[:: 1 if share == "all" else 2]
    written, wanted = halved(graph, chosen, dtype), halved(graph, chosen, dtype, emulate=True)
    changed = emulated(written)
    onnx.checker.check_model(changed, full_check=True)
    assert emulated(changed) is changed
    assert emulated(wanted) is wanted
    assert emulated(graph.proto) is graph.proto
    outputs = [value.name for value in written.graph.output]
    if dtype == "float16":  # ONNX Runtime reads it as it is
        assert changed is written
        return
    with pytest.raises(Exception, match="Could not find an implementation"):
        _session(written)
    for batch in made.batches:
        inputs = (batch.numpy(),)
        expected = Running(wanted, outputs)(inputs)
        for got in (Running(written, outputs)(inputs), Running(changed, outputs)(inputs)):
            for output in outputs:
                np.testing.assert_array_equal(got[output], expected[output])


def _session(proto: onnx.ModelProto) -> object:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_results_are_the_nearest_numbers_of_the_type() -> None:
    """Sums of numbers in bfloat16, in the order in which ml_dtypes adds them: in float32, then rounded."""
    kind = TensorProto.BFLOAT16
    values = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    held = values[::-1].astype(ml_dtypes.bfloat16)
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=kind),
        helper.make_node("Constant", [], ["other"], value=numpy_helper.from_array(held)),
        helper.make_node("Add", ["narrow", "held"], ["sum"]),
        helper.make_node("Mul", ["sum", "other"], ["product"]),
        helper.make_node("Greater", ["sum", "product"], ["larger"]),
        helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes, "sums", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64]),
         helper.make_tensor_value_info("larger", TensorProto.BOOL, [64])],
        [numpy_helper.from_array(held, "held")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", BFLOAT16_OPSET)], ir_version=10)
    found = Running(proto, ["y", "larger"])((values,))
    total = values.astype(ml_dtypes.bfloat16) + held
    np.testing.assert_array_equal(found["y"], (total * held).astype(np.float32))
    np.testing.assert_array_equal(found["larger"], total > total * held)


class Masked(nn.Module):
    """Adds the least number of float32, as masks of attention do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.register_buffer("mask", torch.tensor([0.0, 0.0, 0.0, torch.finfo(torch.float32).min]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.layer(x) + self.mask, 1)


@pytest.mark.parametrize("dtype", HALVES)
def test_constants_beyond_the_type_become_its_largest(dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model(module=Masked().eval(), example_inputs=(torch.randn(2, 6),))
    exported = export(model, tmp_path, name="masked")
    batches = [torch.randn(16, 6)]
    found = Halve(dtype=dtype, tolerance=0.05)(exported, batches, tmp_path / "half.onnx")
    assert found.kept == {}
    held = [numpy_helper.to_array(t).astype(np.float32) for t in onnx.load(tmp_path / "half.onnx").graph.initializer]
    assert all(np.isfinite(values).all() for values in held)
    assert min(values.min() for values in held) == -float(ml_dtypes.finfo(held_type(dtype)).max)
    graph = graph_of(exported.path)
    expected = Running(halved(graph, all_of(graph), dtype, emulate=True), ["output"])((batches[0].numpy(),))
    got = Running(onnx.load(tmp_path / "half.onnx"), ["output"])((batches[0].numpy(),))
    np.testing.assert_allclose(got["output"], expected["output"], atol=0 if dtype == "bfloat16" else 1e-3)


def held_type(dtype: str) -> np.dtype:
    return np.dtype(helper.tensor_dtype_to_np_dtype(HALVES[dtype]))


@pytest.mark.parametrize("dtype", HALVES)
def test_modules_are_named_in_every_type(dtype: str, case: Callable[[str], Case], tmp_path: Path) -> None:
    made = case("mlp")
    graph = Graph(proto=onnx.load(made.exported.path))
    inner = [graph.names(node) for node in graph.proto.graph.node if node.op_type == "Relu"]
    assert all(len(names) > 1 for names in inner), "nodes without weights are named by their modules"
    newer = graph_of(made.exported.path)
    assert [newer.names(node) for node in newer.proto.graph.node] == [graph.names(n) for n in graph.proto.graph.node]
    found = Halve(dtype=dtype, tolerance=0.1, keep=(inner[0][-1],))(made.exported, made.batches, tmp_path / "half.onnx")
    assert found.num_converted == len(all_of(newer)) - 1


@pytest.mark.parametrize("name", ["residual", "mlp", "resnet20", "mobilenet_v2", "vit"])
def test_runtimes_that_read_it_are_held_to_it(name: str, case: Callable[[str], Case], tmp_path: Path) -> None:
    made = case(name)
    file = tmp_path / "half.onnx"
    Halve(dtype="bfloat16", tolerance=0.1)(made.exported, made.batches, file)
    options = BuildOptions(tolerance=0.1)
    with pytest.raises(BackendError, match="a refusal"):
        BACKENDS["onnxruntime"].build(file, tmp_path / "onnxruntime", options)
    tried = 0
    for backend in (BACKENDS["openvino"], BACKENDS["tensorrt_rtx"]):
        if backend.unavailable() is None:
            tried += 1
            result = backend.build(file, tmp_path / backend.name, options)
            assert result.status == "built"
            if backend.unable_to_run() is None:
                assert result.parity is not None
                assert 0 < result.parity.worst_relative < 0.1
            else:
                assert "BFloat16" in result.options["layers"]
    if not tried:
        pytest.skip("no runtime here reads bfloat16")
