"""Adaptive rounding: no layer's output error is above that of the nearest integers, and nothing else moves."""

from collections.abc import Callable
from itertools import product

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from rounding import Case, outputs
from torch import nn

from secateur.artifacts import Model
from secateur.pipeline.export import export
from secateur.pipeline.quantize import Quantized
from secateur.pipeline.quantize.adaround import adapted, descended, nearest_plane
from secateur.pipeline.quantize.graph import Graph, channel_axis
from secateur.pipeline.quantize.reading import Reading
from secateur.pipeline.quantize.running import Running
from secateur.pipeline.quantize.weights import quantize_weights


@pytest.fixture(scope="module")
def separable(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A depthwise convolution with stride and dilation behind one on few channels, with a pad on one side."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ZeroPad2d((1, 0, 2, 0)), nn.Conv2d(8, 16, 3, 2, 1, 2, groups=8), nn.ReLU(),
        nn.Conv2d(16, 4, 1), nn.Flatten(),
    )  # fmt: skip
    model = Model(module=module.eval(), example_inputs=(torch.randn(2, 3, 12, 12),))
    exported = export(model, tmp_path_factory.mktemp("separable"), name="float", tolerance=1e-3)
    return Case(module=module, exported=exported, batches=[torch.randn(8, 3, 12, 12) for _ in range(3)])


@pytest.fixture
def made(request: pytest.FixtureRequest, case: Callable[[str], Case]) -> Case:
    return request.getfixturevalue("separable") if request.param == "separable" else case(request.param)


@pytest.mark.parametrize(
    ("made", "kind"), [("residual", "Conv"), ("separable", "Conv"), ("mlp", "Gemm"), ("vit", "MatMul")],
    indirect=["made"],
)  # fmt: skip
def test_sums_say_what_the_layers_of_a_runtime_compute(made: Case, kind: str) -> None:
    graph = Graph(proto=onnx.shape_inference.infer_shapes(onnx.load(made.exported.path)))
    # A depthwise convolution where there is one.
    nodes = [node for node in graph.proto.graph.node if node.op_type == kind and graph.is_layer(node)]
    node = max(nodes, key=lambda n: next((a.i for a in n.attribute if a.name == "group"), 1))
    axis = channel_axis(node)
    changed = quantize_weights(graph.array(node.input[1]), axis, bits=4).values
    other = onnx.ModelProto()
    other.CopyFrom(graph.proto)
    for tensor in other.graph.initializer:
        if tensor.name == node.input[1]:
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    batch = (made.batches[0].numpy(),)
    exact = Running(graph.proto, [node.input[0], node.output[0]])(batch)
    rounded = Running(other, [node.output[0]])(batch)
    reading = Reading(graph, node)
    reading.see(exact[node.input[0]], exact[node.input[0]])
    apart = np.square((rounded[node.output[0]] - exact[node.output[0]]).astype(np.float64))
    channels = 1 if node.op_type == "Conv" else apart.ndim - 1
    wanted = apart.sum(tuple(a for a in range(apart.ndim) if a != channels))
    assert np.allclose(reading.error(changed).numpy(), wanted, rtol=1e-3, atol=1e-5 * wanted.max())


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("made", ["residual", "mlp", "separable"], indirect=True)
def test_no_channel_gets_worse_and_every_weight_goes_up_or_down(bits: int, made: Case) -> None:
    graph = Graph(proto=onnx.shape_inference.infer_shapes(onnx.load(made.exported.path)))
    layers = [node for node in graph.proto.graph.node if graph.is_layer(node)][:4]
    nearest = {
        n.output[0]: quantize_weights(graph.array(n.input[1]), channel_axis(n), bits=bits) for n in layers
    }  # fmt: skip
    found = adapted(graph, layers, nearest, lambda weights: graph.proto, made.batches)
    running = Running(graph.proto, [node.input[0] for node in layers])
    better = []
    for node in layers:
        reading = Reading(graph, node)
        for batch in made.batches:
            x = running((batch.numpy(),))[node.input[0]]
            reading.see(x, x)
        before, after = nearest[node.output[0]], found[node.output[0]]
        one, other = reading.error(before.values), reading.error(after.values)
        assert bool((other <= one * (1 + 1e-6) + 1e-9).all())
        better.append(float(other.sum() / one.sum()))
        assert (after.scales == before.scales).all()
        exact = graph.array(node.input[1]) / before.steps
        assert np.abs(after.integers - exact).max() < 1 + 1e-3
        assert np.abs(after.integers).max() <= 2 ** (bits - 1) - 1
    assert np.mean(better) < 0.85


def test_small_problems_are_solved_almost_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    candidates = torch.tensor(list(product((0.0, 1.0), repeat=6)), dtype=torch.float64)
    found_, best_, nearest_ = 0.0, 0.0, 0.0
    for _ in range(50):
        rows = torch.randn(40, 6, generator=generator).double() @ torch.randn(6, 6, generator=generator).double()
        gram = rows.mT @ rows + 1e-3 * torch.eye(6, dtype=torch.float64)
        exact = 3 * torch.randn(1, 6, generator=generator).double()
        low = exact.floor()

        def error(chosen: torch.Tensor, exact: torch.Tensor = exact, gram: torch.Tensor = gram) -> torch.Tensor:
            return (((chosen - exact) @ gram) * (chosen - exact)).sum(-1)

        begun = nearest_plane(gram, exact @ gram, low, low + 1)
        found = descended(gram, exact @ gram, low, low + 1, begun)
        assert set((found - low).flatten().tolist()) <= {0.0, 1.0}
        assert float(error(found)) <= float(error(begun)) + 1e-9
        flipped = torch.where(torch.eye(6, dtype=torch.bool), 2 * low + 1 - found, found)
        assert bool((error(flipped) >= error(found) - 1e-6 * gram.diagonal().mean()).all()), "no single change helps"
        found_ += float(error(found)) / float(gram.trace())
        best_ += float(error(low + candidates).min()) / float(gram.trace())
        nearest_ += float(error(exact.round())) / float(gram.trace())
    assert best_ - 1e-9 <= found_ <= 1.25 * best_
    assert found_ < 0.7 * nearest_


@pytest.mark.parametrize("name", ["residual", "mlp"])
def test_networks_of_few_bits_come_closer(
    name: str, case: Callable[[str], Case], quantized: Callable[..., Quantized]
) -> None:
    made = case(name)
    plain, adapted_, both = (
        quantized(name, weight_bits=4, corrections=c) for c in ((), ("adaround",), ("bias", "adaround"))
    )
    ratios = [next(iter(found.result.signal_to_noise_db.values())) for found in (plain, both)]
    assert ratios[1] > ratios[0] + 1
    fresh = torch.randn(64, *made.batches[0].shape[1:], generator=torch.Generator().manual_seed(9))
    wanted = outputs(made.exported.path, fresh)

    def error(found: Quantized) -> float:
        return float(np.square(outputs(found.exported.path, fresh) - wanted).mean())

    # Inputs that are independent of each other, as the MLP's, leave nothing to gain, and little is lost.
    assert error(adapted_) < (1.5 if name == "mlp" else 1.0) * error(plain)
    assert adapted_.result.unfused == plain.result.unfused
