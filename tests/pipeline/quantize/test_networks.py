"""Networks of many kinds: close to float32, fused by the runtimes as the linter says, equal to torch's own rounding."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rounding import NETWORKS, Case, Residual, operators, outputs
from torch import Tensor

from secateur.backends import BACKENDS
from secateur.backends.onnx_file import read_inputs
from secateur.backends.protocol import BuildOptions
from secateur.backends.tensorrt import TensorRt
from secateur.backends.tensorrt_log import log_of
from secateur.pipeline.quantize import TARGETS, Quantized
from secateur.pipeline.quantize.graph import Graph
from secateur.pipeline.quantize.grid import Grid
from secateur.pipeline.quantize.weights import quantize_weights

networks = pytest.mark.parametrize("name", NETWORKS)
targets = pytest.mark.parametrize("target", [name for name, target in TARGETS.items() if target.grid.integral])

INTEGER_FORMS = {
    "Conv": ("QLinearConv",), "Add": ("QLinearAdd",), "Gemm": ("QGemm",), "MatMul": ("MatMulIntegerToFloat",),
}  # fmt: skip
"""What ONNX Runtime makes of a node that it computes in integers."""


@networks
@targets
def test_outputs_stay_close_and_no_layer_is_left_out(
    name: str, target: str, case: Callable[[str], Case], quantized: Callable[..., Quantized]
) -> None:
    found, made = quantized(name, target=target), case(name)
    graph = Graph(proto=onnx.load(made.exported.path))
    assert len(found.result.layers) == sum(map(graph.is_layer, graph.proto.graph.node)) > 0
    assert all(ratio > 15 for ratio in found.result.signal_to_noise_db.values())
    assert all(0 <= layer.weight_error < 0.05 for layer in found.result.layers)
    onnx.checker.check_model(onnx.load(found.exported.path), full_check=True)
    for size in (1, 5):
        batch = made.batches[0][:size]
        wanted, got = outputs(made.exported.path, batch), outputs(found.exported.path, batch)
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= 0.3 * np.abs(wanted).max()


@networks
@targets
def test_no_constant_is_written_twice(name: str, target: str, quantized: Callable[..., Quantized]) -> None:
    """Zero points, of which every layer has a row, are those of all layers of its width; shared weights are one."""
    graph = onnx.load(quantized(name, target=target).exported.path).graph
    read = {
        name for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear") for name in node.input[1:]
    }
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    contents = Counter((tensor.data_type, tuple(tensor.dims), tensor.raw_data) for tensor in kept)
    assert len(kept) == len(contents) > 2


@networks
def test_onnxruntime_fuses_what_the_linter_lets_pass(
    name: str, quantized: Callable[..., Quantized], tmp_path: Path
) -> None:
    found = quantized(name, target="cpu")
    outputs(found.exported.path, torch.zeros(1, *NETWORKS[name][1]), tmp_path / "optimised.onnx")
    fused = Counter(operators(tmp_path / "optimised.onnx"))
    layers = Counter(layer.operator for layer in found.result.layers)
    unfused = Counter(entry.operator for entry in found.result.unfused)
    for operator, forms in INTEGER_FORMS.items():
        if operator != "Add":
            assert sum(fused[form] for form in forms) == layers[operator] - unfused[operator], (operator, fused)
    proto = onnx.load(found.exported.path)
    rounded = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    sums = [n for n in proto.graph.node if n.op_type == "Add" and set(n.input) & rounded]
    assert fused["QLinearAdd"] == len(sums) - unfused["Add"]


@networks
@targets
def test_onnxruntime_and_openvino_agree(name: str, target: str, case: Callable[[str], Case],
                                        quantized: Callable[..., Quantized], tmp_path: Path) -> None:  # fmt: skip
    """Within a step of the output, or of what rounding changed at all where deep networks carry borderline cases on."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    found, made = quantized(name, target=target), case(name)
    batch = made.batches[1]
    wanted = outputs(found.exported.path, batch)
    step = 2 * float(np.abs(wanted).max()) / 255
    noise = float(np.abs(wanted - outputs(made.exported.path, batch)).mean())
    for backend in (BACKENDS["onnxruntime"], BACKENDS["openvino"]):
        result = backend.build(found.exported.path, tmp_path, BuildOptions(batch_size=len(batch), tolerance=0.2))
        with backend.load(result, tmp_path) as engine:
            (got,) = engine.run((batch.numpy(),))
        assert np.abs(got - wanted).mean() <= max(step, noise), backend.name


@networks
def test_tensorrt_for_rtx_computes_every_layer_in_integers(
    name: str, quantized: Callable[..., Quantized], tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install 'secateur[rtx]'")
    found = quantized(name, target="tensorrt")
    runtime = TensorRt(package="tensorrt_rtx", compute_capabilities=("8.9",))
    result = runtime.build(found.exported.path, tmp_path, BuildOptions(tolerance=0.2))
    assert result.status == "built"
    assert result.options["compute_capabilities"] == "8.9"
    assert read_inputs(found.exported.path)[0].dtype == np.float32
    products = [layer for layer in log_of("tensorrt_rtx").layers() or () if layer.kind in ("correlation", "gemm")]
    assert [layer.reads for layer in products].count("Int8") == len(found.result.layers)


def rounded(values: Tensor, found: Quantized, tensor: str, grid: Grid) -> Tensor:
    steps = found.result.activations[tensor]
    return torch.fake_quantize_per_tensor_affine(values, steps.scale, steps.zero_point, grid.low, grid.high)


@targets
@pytest.mark.parametrize("bits", [7, 8])
def test_a_quantised_network_is_what_torch_computes_with_rounded_numbers(
    target: str, bits: int, case: Callable[[str], Case], quantized: Callable[..., Quantized]
) -> None:
    found, made = quantized("residual", target=target, weight_bits=bits, corrections=()), case("residual")
    grid, module = TARGETS[target].grid, made.module
    assert isinstance(module, Residual)
    nodes = {node.op_type: [] for node in onnx.load(made.exported.path).graph.node}
    for node in onnx.load(made.exported.path).graph.node:
        nodes[node.op_type].append(node)
    (first, second), (sums,), (last,), relus = nodes["Conv"], nodes["Add"], nodes["Gemm"], nodes["Relu"]

    def weights(layer: torch.nn.Module) -> Tensor:
        weight = layer.weight.detach()
        most = 2 ** (bits - 1) - 1
        scales = weight.abs().flatten(1).amax(1) / most
        scales = torch.where(scales > 0, scales, scales.max())
        zeros = torch.zeros(len(weight), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -most, most)

    batch = made.batches[2]
    with torch.no_grad():
        x = rounded(batch, found, first.input[0], grid)
        x = torch.relu(torch.conv2d(x, weights(module.first), module.first.bias, padding=1))
        x = rounded(x, found, relus[0].output[0], grid)
        y = torch.conv2d(x, weights(module.second), module.second.bias, padding=1)
        if target == "cpu":
            y = rounded(y, found, second.output[0], grid)
        x = torch.relu(x + y)
        if target == "cpu":
            x = rounded(x, found, relus[1].output[0], grid)
        x = rounded(x.mean((2, 3)), found, last.input[0], grid)
        wanted = torch.nn.functional.linear(x, weights(module.last), module.last.bias).numpy()
    got = outputs(found.exported.path, batch)
    # A sum that falls between two integers may go either way: one step of the last input at most, rarely.
    step = found.result.activations[last.input[0]].scale * float(module.last.weight.detach().abs().max())
    assert np.abs(got - wanted).max() <= 1.1 * step
    assert np.median(np.abs(got - wanted)) <= 1e-5
    assert set(sums.input) & set(found.result.activations)


def test_dead_channels_and_silent_layers_are_quantised() -> None:
    values = np.zeros((4, 3), dtype=np.float32)
    dead = quantize_weights(values, 0, bits=8)
    assert (dead.scales > 0).all()
    assert not dead.values.any()
    values[1] = [1, -2, 3]
    one = quantize_weights(values, 0, bits=8)
    assert np.allclose(one.scales, 3 / 127)
    assert np.allclose(one.values[1], values[1], atol=one.scales[1] / 2)


def test_scales_leave_room_for_biases_of_32_bits() -> None:
    values, bias = np.array([[1e-6], [1.0]], dtype=np.float32), np.array([100.0, 0.1], dtype=np.float32)
    found = quantize_weights(values, 0, bits=8, bias=bias, input_scale=1e-3)
    assert (np.abs(bias / (found.scales.astype(np.float64) * 1e-3)) < 2**31).all()
    assert found.scales[1] == np.float32(1 / 127)
