"""Floats of eight bits: the type's own numbers, a network as torch computes it with them, and who reads the file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rounding import Case, Residual
from torch import Tensor
from torch.utils.data import TensorDataset

from secateur.artifacts import Data, Model
from secateur.backends import BACKENDS
from secateur.backends.protocol import BuildOptions
from secateur.errors import BackendError, ExportError
from secateur.pipeline.quantize import Qat, Quantize, Quantized, lint
from secateur.pipeline.quantize.grid import FLOAT8, Steps
from secateur.pipeline.quantize.running import Running
from secateur.pipeline.quantize.weights import quantize_weights
from secateur.recipe_quantization import QuantizeSettings
from secateur.workloads.classification import task

FLOAT8_TARGET = "tensorrt_float8"


def as_torch(values: Tensor, scale: Tensor | float) -> Tensor:
    return (values / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


@given(values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1), exponent=st.integers(-10, 10))
@settings(max_examples=50, deadline=None)
def test_numbers_are_those_of_the_type(values: list[float], exponent: int) -> None:
    steps, array = Steps(scale=2.0**exponent, zero_point=0), np.array(values, dtype=np.float32)
    wanted = as_torch(torch.from_numpy(array), steps.scale).numpy()
    np.testing.assert_array_equal(FLOAT8.rounded(array, steps), wanted.astype(np.float64))


def test_weights_keep_their_largest_and_dead_channels_a_scale() -> None:
    values = np.array([[0, 0, 0], [1, -2, 3], [1e-3, 2e-3, 4e-3]], dtype=np.float32)
    found = quantize_weights(values, 0, bits=7, grid=FLOAT8)
    assert (found.bits, found.integers.dtype) == (8, FLOAT8.dtype)
    assert (found.scales > 0).all()
    assert not found.values[0].any()
    np.testing.assert_allclose(found.values.max(1), values.max(1), rtol=1e-6)
    assert np.linalg.norm(found.values - values) < 0.04 * np.linalg.norm(values)


def test_a_network_is_what_torch_computes_with_these_numbers(
    case: Callable[[str], Case], quantized: Callable[..., Quantized]
) -> None:
    found, made = quantized("residual", target=FLOAT8_TARGET, corrections=()), case("residual")
    module, proto = made.module, onnx.load(found.exported.path)
    assert isinstance(module, Residual)
    assert found.result.unfused == lint(proto, FLOAT8_TARGET) == ()
    assert {layer.weight_bits for layer in found.result.layers} == {8}
    assert all(ratio > 20 for ratio in found.result.signal_to_noise_db.values())
    assert "float8_e4m3fn" in lint(proto, "tensorrt")[0].reason
    assert {entry.zero_point for entry in found.result.activations.values()} == {0}
    nodes = [node for node in onnx.load(made.exported.path).graph.node if node.op_type in ("Conv", "Relu", "Gemm")]
    tensors = (nodes[0].input[0], nodes[1].output[0], nodes[-1].input[0])
    assert [node.op_type for node in nodes] == ["Conv", "Relu", "Conv", "Relu", "Gemm"]
    scales = [found.result.activations[tensor].scale for tensor in tensors]

    def weights(layer: torch.nn.Module) -> Tensor:
        weight = layer.weight.detach()
        largest = weight.abs().flatten(1).amax(1) / 448
        largest = torch.where(largest > 0, largest, largest.max())
        return as_torch(weight, largest.reshape(-1, *[1] * (weight.dim() - 1)))

    batch = made.batches[2]
    with torch.no_grad():
        x = torch.relu(
            torch.conv2d(as_torch(batch, scales[0]), weights(module.first), module.first.bias, padding=1)
        )  # fmt: skip
        x = as_torch(x, scales[1])
        x = torch.relu(x + torch.conv2d(x, weights(module.second), module.second.bias, padding=1))
        last = as_torch(x.mean((2, 3)), scales[2])
        wanted = torch.nn.functional.linear(last, weights(module.last), module.last.bias).numpy()
    name = proto.graph.output[0].name
    got = Running(proto, [name])((batch.numpy(),))[name]
    # What falls between two numbers may go either way: one step of the last input at most, rarely.
    assert np.abs(got - wanted).max() <= float(last.abs().max()) / 8 * float(module.last.weight.detach().abs().max())
    assert np.median(np.abs(got - wanted)) <= 1e-5


def test_processors_read_it_where_their_optimiser_lets_them(
    quantized: Callable[..., Quantized], tmp_path: Path
) -> None:
    file = quantized("residual", target=FLOAT8_TARGET).exported.path
    options = BuildOptions(tolerance=0.05)
    with pytest.raises(BackendError, match=r"a refusal .*float8e4m3fn"):
        BACKENDS["onnxruntime"].build(file, tmp_path, options)
    assert list(tmp_path.iterdir()) == []
    assert replace(BACKENDS["onnxruntime"], optimisation="basic").build(file, tmp_path, options).status == "built"
    if BACKENDS["openvino"].unable_to_run() is None:
        assert BACKENDS["openvino"].build(file, tmp_path, options).status == "built"


def test_what_is_of_integers_is_refused(case: Callable[[str], Case], tmp_path: Path) -> None:
    made = case("residual")
    for settings_ in ({"corrections": ("adaround",)}, {"layer_bits": {"first": 4}}):
        with pytest.raises(ExportError, match="which are of integers; wanted floats of eight bits everywhere"):
            Quantize(target=FLOAT8_TARGET, **settings_)
    teacher = Model(module=made.module, example_inputs=(made.batches[0],))
    items = TensorDataset(made.batches[0], torch.zeros(8, dtype=torch.int64))
    calibrated = Quantize(target=FLOAT8_TARGET).calibrate(made.exported, made.batches)
    with pytest.raises(ExportError, match="floats of eight bits; wanted integers"):
        Qat()(calibrated, teacher, task(5), Data(train=items, test=items), made.batches)
    with pytest.raises(ValidationError, match="are of integers"):
        QuantizeSettings.model_validate({"target": FLOAT8_TARGET, "mixed": {"bytes": 0.5}})
    older = onnx.load(made.exported.path)
    next(entry for entry in older.opset_import if entry.domain == "").version = 18
    onnx.save(older, tmp_path / "older.onnx")
    with pytest.raises(ExportError, match="opset 18; wanted 19 or more, which has floats of eight bits"):
        Quantize(target=FLOAT8_TARGET).calibrate(tmp_path / "older.onnx", made.batches)
