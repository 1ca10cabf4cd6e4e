"""Costs are counted as by hand, kernels find their layers, the roofline is kept, and losses are told."""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from secateur.artifacts import Finding, LayerPractice, Model, NetworkPractice, Practice, Roofline
from secateur.backends import BACKENDS
from secateur.backends.compare import Compare
from secateur.backends.measure import Stopwatch, WarmUp
from secateur.backends.practice.alignment import Trial, neighbours, step_of
from secateur.backends.practice.costs import Graph, costs
from secateur.backends.practice.findings import find
from secateur.backends.practice.practice import Examine, Examined, assigned
from secateur.backends.practice.probe import Probe
from secateur.backends.practice.profile import PROFILERS, Kernel
from secateur.backends.protocol import BuildOptions
from secateur.backends.stopping import Stopping
from secateur.errors import BackendError, StorageError
from secateur.pipeline.export import export

QUICK = Stopwatch(
    stopping=Stopping(least_calls=3, least_s=0.0, most_s=0.02),
    warm_up=WarmUp(least_s=0.0, most_s=0.02, window_s=0.002, agreement=0.5),
)
ROOF = Roofline(macs_per_s=1e9, bytes_per_s={1000: 1e9, 1_000_000: 1e8}, call_s=1e-5, node_s=1e-6)


class Residual(nn.Module):
    """A stem, a residual sum, a grouped and a depthwise convolution, and a head."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.first = nn.Conv2d(width, inner, 3, padding=1)
        self.norm = nn.BatchNorm2d(inner)
        self.second = nn.Conv2d(inner, width, 3, padding=1)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (x + self.second(self.norm(self.first(x)).relu())).relu()
        return self.head(self.depthwise(x).relu().mean((2, 3)))


def exported(folder: Path, name: str, inner: int) -> Path:
    torch.manual_seed(0)
    return export(
        Model(module=Residual(32, inner).eval(), example_inputs=(torch.randn(2, 3, 16, 16),)), folder, name=name
    ).path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("practice")
    return exported(folder, "whole", 64), exported(folder, "cut", 19)


def test_multiply_adds_and_bytes_are_those_counted_by_hand(files: tuple[Path, Path]) -> None:
    paid = {cost.name: cost for cost in costs(Graph(files[0], 2))}
    places = 2 * 8 * 8
    by_hand = {
        "stem": (places * 32 * 27, 4 * (2 * 3 * 256 + 32 * 27 + places * 32)),
        "first": (places * 64 * 288, 4 * (places * 32 + 64 * 288 + places * 64)),
        "second": (places * 32 * 576, 4 * (places * 64 + 32 * 576 + places * 32)),
        "depthwise": (places * 32 * 9, 4 * (places * 32 + 32 * 9 + places * 32)),
        "head": (2 * 32 * 5, 4 * (2 * 32 + 32 * 5 + 2 * 5)),
    }
    assert {name: (paid[name].macs, paid[name].num_bytes) for name in by_hand} == by_hand
    assert paid["depthwise"].shape.groups == 0
    assert paid["stem"].shape.stride == (2, 2)
    assert (paid["first"].inputs, paid["first"].outputs) == (32, 64)
    added = next(cost for cost in paid.values() if cost.operator == "Add")
    assert (added.macs, added.num_bytes) == (0, 4 * places * 32), "a fused sum reads its second operand"


def test_files_whose_shapes_are_unknown_are_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("MatMul", ["x", "x"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, ["n", 3])], [value("y", 1, ["n", 3])])
    onnx.save(onnx.helper.make_model(graph, ir_version=10), tmp_path / "odd.onnx")
    with pytest.raises(BackendError, match="a MatMul whose shape cannot be inferred"):
        costs(Graph(tmp_path / "odd.onnx", 2))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_layer_has_its_time_and_a_kept_roofline_is_read(
    files: tuple[Path, Path], tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = BACKENDS[backend]
    if (missing := runtime.unable_to_run()) is not None:
        pytest.skip(str(missing))
    monkeypatch.setattr("secateur.backends.practice.probe.COPIED", (1 << 16, 1 << 20))
    sides, image = [], np.zeros((1, 3, 16, 16), np.float32)
    for file in files:
        built = runtime.build(file, tmp_path / file.stem, BuildOptions())
        sides.append(Examined(file=file, engine=built, folder=tmp_path / file.stem))
    probe = Probe(backend=runtime, folder=tmp_path / "kept", stopwatch=QUICK)
    examine = Examine(backend=runtime, probe=probe, num_calls=5, worth=0.0, most_tried=1)
    compare = Compare(
        num_instances=3,
        num_blocks=4,
        block_s=0.002,
        target=0.5,
        max_s=30.0,
        null=False,
        num_resamples=100,
        warm_up=QUICK.warm_up,
    )
    loads = [functools.partial(runtime.load, side.engine, side.folder) for side in sides]
    comparison = compare.compare(*loads, (image,), backend=backend, num_threads=1)
    found = examine(*sides, comparison=comparison)
    assert Practice.model_validate_json(found.model_dump_json()) == found
    for network in (found.before, found.after):
        assert [layer.name for layer in network.layers] == ["stem", "first", "second", "depthwise", "head"]
        assert all(layer.measured_s is not None and layer.measured_s >= 0 for layer in network.layers)
        assert 0 < network.layers_s <= network.profiled_s
    assert found.after.macs < found.before.macs
    assert found.speedup == comparison.speedup.value
    assert (found.before.call_s, found.after.call_s) == (comparison.baseline.p50_s, comparison.candidate.p50_s)
    assert min(found.roofline.macs_per_s, *found.roofline.bytes_per_s.values()) > 0
    assert replace(probe, backend=runtime).roofline() == found.roofline
    probe.path.write_text("{}")
    with pytest.raises(StorageError, match="no roofline"):
        probe.roofline()


def test_kernels_are_given_to_the_layers_behind_them(files: tuple[Path, Path]) -> None:
    graph = Graph(files[0], 1)
    paid = costs(graph)
    kernels = [
        Kernel(names=(str(cost.tensor),), operator="Conv", provider="p", seconds=1.0)
        for cost in paid
        if cost.operator in ("Conv", "Gemm", "MatMul")
    ]
    kernels += [
        Kernel(names=("nowhere",), operator="ReorderInput", provider="p", seconds=0.25),
        Kernel(names=("nowhere",), operator="Softmax", provider="p", seconds=0.5),
    ]
    owned, reformat_s, other_s = assigned(kernels, graph, paid)
    assert len(owned) == 5
    assert all(len(ran) == 1 for ran in owned.values())
    assert (reformat_s, other_s) == (0.25, 0.5)
    last_relu = next(node for node in reversed(graph.nodes) if node.op_type == "Relu")
    fused, _, _ = assigned([replace(kernels[0], names=(last_relu.output[0],))], graph, paid)
    name = next(cost.name for cost in paid if (cost.node or cost.tensor) in fused)
    assert name == "depthwise", "a kernel that is named by what was fused into it"


def layer(name: str, outputs: int, seconds: float, macs: int = 1_000_000, **changes: object) -> LayerPractice:
    values = {
        "name": name, "operator": "Conv", "inputs": 64, "outputs": outputs, "macs": macs, "num_bytes": 1000,
        "predicted_s": 1e-3, "bound": "compute", "measured_s": seconds, "provider": "CPUExecutionProvider",
    }  # fmt: skip
    return LayerPractice.model_validate({**values, **changes})


def network(layers: list[LayerPractice], **changes: float) -> NetworkPractice:
    total = sum(one.measured_s or 0.0 for one in layers)
    values = {
        "layers": tuple(layers), "num_nodes": len(layers), "macs": sum(one.macs for one in layers), "num_bytes": 1000,
        "working_set": 1000, "predicted_s": 1e-3, "call_s": total, "reformat_s": 0.0, "other_s": 0.0, "overhead_s": 0.0,
    }  # fmt: skip
    return NetworkPractice.model_validate({**values, **changes})


def found(
    before: NetworkPractice, after: NetworkPractice, *trials: Trial, backend: str = "onnxruntime"
) -> list[Finding]:
    return list(find(BACKENDS[backend], ROOF, before, after, 2.0, trials))


WHOLE = network([layer("a", 128, 0.010), layer("b", 128, 0.010)])
HALF = [layer("a", 64, 0.005, 500_000), layer("b", 64, 0.005, 500_000)]


def test_nothing_is_told_where_nothing_was_lost() -> None:
    assert found(WHOLE, network(HALF)) == []


@pytest.mark.parametrize(
    ("after", "kind", "told"),
    [
        (network([HALF[0], layer("b", 75, 0.012, 586_000)]), "slower", "b takes 1.2e+04 µs at 64 x 75 channels"),
        (network(HALF, overhead_s=0.01), "launch bound", "goes to calling 2 kernels"),
        (network([HALF[0], layer("b", 64, 0.005, 500, bound="memory")]), "memory bound", "the longest is b with 0.5"),
        (network(HALF, reformat_s=0.002), "reformat", "17 % of the call changes memory layouts"),
        (network([HALF[0], layer("b", 128, 0.010)]), "never pruned", "cannot exceed 2.0x"),
        (
            network([HALF[0], layer("b", 64, 0.005, 500_000, provider="CUDAExecutionProvider")]), "provider",
            "1 layers ran on CUDAExecutionProvider and not on CPUExecutionProvider, beginning with b",
        ),
    ],
)  # fmt: skip
def test_every_loss_is_told_with_what_to_do(after: NetworkPractice, kind: str, told: str) -> None:
    match = [finding for finding in found(WHOLE, after) if finding.kind == kind]
    assert len(match) == 1
    assert told in match[0].told
    assert 0 < match[0].share <= 1


def test_widths_off_the_steps_are_told_with_what_their_neighbours_take() -> None:
    trial = Trial(layer="b", before=128, width=75, step=16, up=80, down=64, width_s=1e-4, up_s=1e-4, down_s=8e-5)
    after = network([HALF[0], layer("b", 75, 0.006, 586_000)])
    (told,) = [finding for finding in found(WHOLE, after, trial) if finding.kind == "misaligned"]
    assert told.told == (
        "b went from 128 to 75 channels; onnxruntime works in steps of 16 here: 80 is free (100 µs instead of 100 µs) "
        "and 64 would take 20 % less"
    )
    dear = replace(trial, up_s=1.2e-4)
    (told,) = [finding for finding in found(WHOLE, after, dear) if finding.kind == "misaligned"]
    assert "64 would take 80 µs instead of 100 µs, 80 takes 120 µs" in told.told
    first = replace(trial, width=75, up=80, before=80)
    (told,) = [finding for finding in found(WHOLE, after, first) if finding.kind == "misaligned"]
    assert "80, as before, is free" in told.told
    small = replace(trial, width=6, up=16, down=6, down_s=1e-4)
    (told,) = [finding for finding in found(WHOLE, after, small) if finding.kind == "misaligned"]
    assert told.told.endswith("16 is free (100 µs instead of 100 µs)"), "there is no step below"
    smooth = replace(trial, up_s=1.1e-4, down_s=1e-4)
    assert not [finding for finding in found(WHOLE, after, smooth) if finding.kind == "misaligned"]


def test_neighbours_are_steps_that_pruning_could_have_left() -> None:
    assert neighbours(75, 128, 16) == (75, 80, 64)
    assert neighbours(22, 24, 16) == (22, 24, 16), "no wider than it was"
    assert neighbours(6, 16, 16) == (6, 16, 6), "no step below"


def test_nodes_that_shrank_with_their_channels_do_not_bound_the_speed_up() -> None:
    before = network([layer("a", 128, 0.010)], other_s=0.010)
    assert not found(before, network([layer("a", 64, 0.005, 500_000)], other_s=0.0001))
    (told,) = found(before, network([layer("a", 64, 0.005, 500_000)], other_s=0.010))
    assert "cannot exceed 2.0x" in told.told


def test_the_roofline_has_its_ridge_and_knows_caches() -> None:
    assert ROOF.predicted(1_000_000, 1000, 500) == (pytest.approx(1.001e-3), "compute")
    assert ROOF.predicted(1000, 100_000, 500) == (pytest.approx(1.01e-4), "memory")
    assert ROOF.predicted(1000, 100_000, 10**9) == (pytest.approx(1.001e-3), "memory")
    assert ROOF.predicted(1, 1, 500)[1] == "launch"
    assert ROOF.ridge(500) == 1.0


def test_tables_name_backends_that_exist() -> None:
    assert set(PROFILERS) <= set(BACKENDS)
    assert all(step_of(name) in (4, 8, 16) for name in BACKENDS)
