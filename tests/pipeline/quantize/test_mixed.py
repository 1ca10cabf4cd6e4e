"""Half precision and mixed precision: within what was asked for, by what was measured."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from rounding import Case, outputs
from torch import nn

from secateur.artifacts import Model
from secateur.backends import BACKENDS
from secateur.backends.measure import Stopping, Stopwatch, WarmUp
from secateur.errors import BudgetError, ExportError
from secateur.layer_precision import LayerPrecisions
from secateur.pipeline.export import export
from secateur.pipeline.quantize import HALVES, PRECISIONS, Halve, Mixed, Quantize
from secateur.pipeline.quantize.graph import Graph
from secateur.pipeline.quantize.half import Errors, convertible, halved
from secateur.pipeline.quantize.mixed import RESOLUTION, falling
from secateur.pipeline.quantize.running import Running
from secateur.pipeline.quantize.single import single_layer
from secateur.pipeline.quantize.weights import quantize_weights


def graph_of(path: Path) -> Graph:
    return Graph(proto=onnx.shape_inference.infer_shapes(onnx.load(path)))


@pytest.mark.parametrize("name", ["residual", "mlp"])
def test_what_is_written_is_what_was_emulated(name: str, case: Callable[[str], Case]) -> None:
    made = case(name)
    graph = graph_of(made.exported.path)
    chosen = [node.output[0] for node in graph.proto.graph.node if convertible(graph, node)]
    errors = Errors(graph, made.batches)
    real = errors.of(halved(graph, chosen, "float16"))
    emulated = errors.of(halved(graph, chosen, "float16", emulate=True))
    assert 0 < real < 2e-3
    assert real == pytest.approx(emulated, rel=0.5)
    assert errors.of(halved(graph, chosen, "bfloat16", emulate=True)) > 3 * emulated
    assert errors.of(halved(graph, [], "float16")) == 0


@pytest.mark.parametrize("dtype", HALVES)
def test_all_is_converted_where_nothing_suffers(dtype: str, case: Callable[[str], Case], tmp_path: Path) -> None:
    made = case("residual")
    found = Halve(dtype=dtype, tolerance=0.1)(made.exported, made.batches, tmp_path / "half.onnx")
    proto = onnx.load(tmp_path / "half.onnx")
    assert found.kept == {}
    assert found.error == found.error_of_all <= 0.1
    assert found.size_bytes == (tmp_path / "half.onnx").stat().st_size
    assert {t.data_type for t in proto.graph.initializer if len(t.dims) > 1} == {HALVES[dtype]}
    assert {v.type.tensor_type.elem_type for v in (*proto.graph.input, *proto.graph.output)} == {TensorProto.FLOAT}
    # One cast in front and one behind: nodes in a row hand half precision on.
    assert sum(node.op_type == "Cast" for node in proto.graph.node) == 2
    if dtype == "float16":
        wanted = outputs(made.exported.path, made.batches[0])
        assert np.abs(outputs(tmp_path / "half.onnx", made.batches[0]) - wanted).max() < 1e-2 * np.abs(wanted).max()


class Overflowing(nn.Module):
    """Its middle leaves the range of float16."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.sqrt(1 + torch.square(1e3 * self.first(x))) * 1e-3)


def test_what_overflows_stays_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model(module=Overflowing().eval(), example_inputs=(torch.randn(2, 6),))
    exported = export(model, tmp_path, name="overflowing", tolerance=1e-3)
    batches = [torch.randn(16, 6)]
    found = Halve(tolerance=2e-3)(exported, batches, tmp_path / "half.onnx")
    assert found.error_of_all == np.inf
    assert found.error <= 2e-3
    assert found.kept
    assert found.num_converted > 0
    wanted, got = outputs(exported.path, batches[0]), outputs(tmp_path / "half.onnx", batches[0])
    assert np.isfinite(got).all()
    assert np.square(got - wanted).mean() <= (3e-3) ** 2 * np.square(wanted).mean()
    with pytest.raises(ExportError, match=r"\['nothing'\] among the names to keep"):
        Halve(keep=("nothing",))(exported, batches, tmp_path / "half.onnx")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A network whose first layer must not be rounded: small differences of large numbers."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    with torch.no_grad():
        module[0].weight[:, 0] *= 100
        module[0].weight[1:, 0] = module[0].weight[0, 0]
    model = Model(module=module, example_inputs=(torch.randn(2, 12),))
    exported = export(model, tmp_path_factory.mktemp("uneven"), name="uneven", tolerance=1e-3)
    return Case(module=module, exported=exported, batches=[torch.randn(32, 12) for _ in range(3)])


def weights_bytes(path: Path) -> int:
    return sum(
        len(t.raw_data) for t in onnx.load(path).graph.initializer if len(t.dims) == 2
    )  # fmt: skip


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_a_budget_of_bytes_is_kept_and_spent_where_it_helps(share: float, uneven: Case, tmp_path: Path) -> None:
    quantize, table = Mixed(bytes=share)(uneven.exported, uneven.batches, Quantize(corrections=()))
    found = quantize(uneven.exported, uneven.batches, tmp_path, name="mixed")
    whole = weights_bytes(uneven.exported.path)
    assert weights_bytes(found.exported.path) <= share * whole
    assert weights_bytes(found.exported.path) == sum(row.cost[row.precision] for row in table)
    assert len(found.result.layers) == sum(row.precision == "int8" for row in table)
    plain = Quantize(corrections=())(uneven.exported, uneven.batches, tmp_path, name="plain")
    got, all_int8 = (f.result.signal_to_noise_db["output"] for f in (found, plain))
    assert got >= all_int8 if share == 0.25 else got > all_int8 + 3


def test_precision_costs_what_the_noise_allows(uneven: Case, tmp_path: Path) -> None:
    costs = []
    for wanted in (20.0, 40.0, 60.0):
        quantize, table = Mixed(signal_to_noise_db=wanted)(uneven.exported, uneven.batches, Quantize(corrections=()))
        found = quantize(uneven.exported, uneven.batches, tmp_path, name="mixed")
        # Noises are taken to add up, which they do to a few decibels.
        assert found.result.signal_to_noise_db["output"] >= wanted - 3
        costs.append(sum(row.cost[row.precision] for row in table))
        for row in table:
            assert row.noise_db["int8"] < row.noise_db["float16"] < row.noise_db["float32"]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_latency_decides_where_it_is_measured(uneven: Case) -> None:
    names = [node.name for node in onnx.load(uneven.exported.path).graph.node if node.op_type in ("Gemm", "MatMul")]
    slow = {name: {"float32": 1.0, "float16": 2.0, "int8": 0.9 if name == names[0] else 0.1} for name in names}
    _, table = Mixed(latency=0.5)(uneven.exported, uneven.batches, Quantize(corrections=()), lambda *_: slow)
    assert [row.precision for row in table] == ["float32", "int8", "int8"]
    with pytest.raises(BudgetError, match=r"at least 1\.1 with the cheapest precisions"):
        Mixed(latency=0.1)(uneven.exported, uneven.batches, Quantize(), lambda *_: slow)
    with pytest.raises(BudgetError, match="no latencies"):
        Mixed(latency=0.5)(uneven.exported, uneven.batches, Quantize())
    with pytest.raises(ExportError, match=r"no latency in \['float16', 'int8'\]"):
        Mixed(latency=0.5)(uneven.exported, uneven.batches, Quantize(), lambda *_: {n: {"float32": 1.0} for n in names})
    with pytest.raises(BudgetError, match="every layer in float32 within the budget"):
        Mixed(bytes=1.0)(uneven.exported, uneven.batches, Quantize())
    with pytest.raises(BudgetError, match="2 budgets"):
        Mixed(latency=0.5, bytes=0.5)
    with pytest.raises(BudgetError, match="precisions"):
        Mixed(bytes=0.5, precisions=("int1",))
    with pytest.raises(BudgetError, match="no falling choice within the budget"):
        Mixed(latency=0.5, precisions=("float32", "int8"), decreasing=True)(
            uneven.exported, uneven.batches, Quantize(corrections=()),
            lambda *_: {n: {"float32": 1.0, "int8": 2.0 if n == names[-1] else 0.0} for n in names},
        )  # fmt: skip


@pytest.mark.parametrize("decreasing", [False, True])
@pytest.mark.parametrize("share", [0.09, 0.14, 0.2])
def test_bits_of_weights_are_spent_where_they_help(
    share: float, decreasing: bool, uneven: Case, tmp_path: Path
) -> None:
    mixed = Mixed(bytes=share, precisions=("int8", "int6", "int4", "int3", "int2"), decreasing=decreasing)
    quantize, table = mixed(uneven.exported, uneven.batches, Quantize(corrections=()))
    found = quantize(uneven.exported, uneven.batches, tmp_path, name="mixed")
    widths = [layer.weight_bits for layer in found.result.layers]
    assert widths == [8 * PRECISIONS[row.precision] for row in table]
    sizes = [np.prod(t.dims) for t in onnx.load(uneven.exported.path).graph.initializer if len(t.dims) == 2]
    assert sum(n * bits for n, bits in zip(sizes, widths, strict=True)) <= share * 32 * sum(sizes)
    most = int(8 * share * 4)  # the widest that all layers could have alike
    alike = Quantize(corrections=(), weight_bits=most)(uneven.exported, uneven.batches, tmp_path, name="alike")
    assert found.result.signal_to_noise_db["output"] >= alike.result.signal_to_noise_db["output"] - 1
    if decreasing:
        assert widths == sorted(widths, reverse=True)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(2, 4), st.integers(0, 2**31))
def test_the_best_falling_choice_is_found(num_layers: int, num_options: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    price = generator.integers(0, RESOLUTION // 2, (num_layers, num_options))
    worth, widths = generator.random((num_layers, num_options)), generator.permutation(num_options).astype(float)
    every = [
        choice
        for choice in itertools.product(range(num_options), repeat=num_layers)
        if (np.diff(widths[list(choice)]) <= 0).all() and price[range(num_layers), choice].sum() <= RESOLUTION
    ]
    if not every:
        with pytest.raises(BudgetError):
            falling(price, worth, widths)
        return
    values = [worth[range(num_layers), choice].sum() for choice in every]
    assert tuple(falling(price, worth, widths)) == every[int(np.argmin(values))]


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_coarse_grids_lose_extremes_for_finer_steps(bits: int) -> None:
    values = np.random.default_rng(0).standard_t(3, (16, 4, 3, 3)).astype(np.float32)
    found = quantize_weights(values, 0, bits=bits)
    most = 2 ** (bits - 1) - 1
    scales = np.abs(values).max((1, 2, 3), keepdims=True) / most
    plain = np.rint(values / scales) * scales
    errors = [np.square(values - other).sum((1, 2, 3)) for other in (found.values, plain)]
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()
    assert errors[0].sum() < errors[1].sum()


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("name", ["residual", "mlp"])
def test_layers_are_timed_in_every_precision(name: str, target: str, case: Callable[[str], Case]) -> None:
    made = case(name)
    quantize = Quantize(target=target, weight_bits=7, corrections=())
    calibrated = quantize.calibrate(made.exported, made.batches)
    timed = LayerPrecisions(
        backend=BACKENDS["onnxruntime"],
        stopwatch=Stopwatch(
            stopping=Stopping(least_calls=2, least_s=0.0, most_s=0.001),
            warm_up=WarmUp(least_s=0.0, most_s=0.001, window_s=0.001, agreement=1.0),
        ),
    )  # fmt: skip
    found = timed(calibrated, list(PRECISIONS))
    assert all(own["int4"] == own["int8"] for own in found.values())
    assert list(found) == [node.name for node in calibrated.placement.layers]
    assert all(set(own) == set(PRECISIONS) and min(own.values()) >= 0 for own in found.values())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_layer_by_itself_computes_what_it_does_in_the_network(precision: str, case: Callable[[str], Case]) -> None:
    made = case("residual")
    calibrated = Quantize(target="cpu", weight_bits=7, corrections=()).calibrate(made.exported, made.batches)
    node = calibrated.placement.layers[1]
    proto = single_layer(calibrated, node, precision, 3)
    graph = calibrated.graph
    x = np.array([[0.3], [0.7], [0.0]], np.float32)
    (got,) = Running(proto, ["single_y"])((x,)).values()
    size = next(v for v in graph.proto.graph.value_info if v.name == node.input[0]).type.tensor_type.shape.dim[1:]
    wide = np.broadcast_to(x.reshape(3, 1, 1, 1), (3, *(d.dim_value for d in size))).copy()
    weight, bias = (torch.from_numpy(graph.array(name).copy()) for name in node.input[1:3])
    wanted = torch.conv2d(torch.from_numpy(wide), weight, bias, padding=1).amax((1, 2, 3)).numpy()
    step = {"float32": 1e-5, "float16": 1e-2}.get(precision, 0.15)
    assert np.abs(got - wanted).max() <= step * max(1.0, np.abs(wanted).max())
