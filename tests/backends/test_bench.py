"""Real engines against one another: the numbers are the machine's, their structure is ours."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from secateur.artifacts import BenchCell, Comparison, Exported, Model
from secateur.backends import BACKENDS
from secateur.backends.bench import Bench, bench, usual_tolerance
from secateur.backends.clients import Crowd
from secateur.backends.compare import Compare
from secateur.backends.measure import Stopwatch, WarmUp, measure
from secateur.backends.protocol import BuildOptions, Engine
from secateur.backends.stopping import Stopping
from secateur.errors import BackendError, MeasurementError, StorageError
from secateur.pipeline.export import export

BRIEF = Compare(
    num_instances=3, num_blocks=4, block_s=0.002, target=0.5, max_s=20.0, num_resamples=1000,
    warm_up=WarmUp(least_s=0.02, most_s=0.1, window_s=0.005),
)  # fmt: skip


def check(result: Comparison) -> None:
    speedup = result.speedup
    assert 0 < speedup.low <= speedup.value <= speedup.high < math.inf
    assert result.resolution >= 0
    assert result.num_instances >= 3
    assert result.stopped_by in ("width", "time")
    assert {np.shape(times) for times in result.samples_s.values()} == {(result.num_instances, result.num_blocks)}
    for summary in (result.baseline, result.candidate):
        assert summary.num_samples == result.num_instances * result.num_blocks * result.num_iterations
        assert 0 < summary.p50_s <= summary.p90_s <= summary.p95_s <= summary.p99_s
    assert Comparison.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_against_itself(wide: Exported, backend: str) -> None:
    if (missing := BACKENDS[backend].unable_to_run()) is not None:
        pytest.skip(str(missing))
    result = bench(wide.path, wide.path, backend=backend, batch_size=2, num_threads=1, compare=BRIEF)
    check(result)
    assert result.backend == f"{backend} {BACKENDS[backend].version()}"
    assert (result.batch_size, result.num_threads) == (2, 1)
    assert result.machine.cpu


def test_a_pruned_network_against_the_whole(wide: Exported, narrow: Exported) -> None:
    heard = []
    check(bench(wide.path, narrow.path, compare=BRIEF, progress=lambda *report: heard.append(report)))
    assert heard[-1][0] == "compare"
    assert heard[-1][1] == heard[-1][2]


def test_a_single_engine(wide: Exported, tmp_path: Path) -> None:
    backend = BACKENDS["onnxruntime"]
    stopwatch = Stopwatch(stopping=Stopping(least_s=0.02, most_s=0.05), warm_up=BRIEF.warm_up)
    with backend.load(backend.build(wide.path, tmp_path, BuildOptions()), tmp_path) as engine:
        found = measure(engine, (np.zeros((2, 3, 24, 24), np.float32),), stopwatch=stopwatch)
    assert len(found.samples_s) == found.latency.num_samples > 1
    assert found.latency.throughput_per_s == pytest.approx(2 / found.latency.mean_s)
    assert found.median.low <= found.latency.p50_s <= found.median.high
    assert found.machine.cpu


def relu(path: Path, *shape: int | str) -> Path:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", 1, shape)], [value("y", 1, shape)]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


def test_open_sizes_are_given_by_name(tmp_path: Path) -> None:
    path = relu(tmp_path / "relu.onnx", "batch", 3, "height")
    with pytest.raises(BackendError, match=r"the open sizes \['height'\].*Give a size for each"):
        bench(path, path, compare=BRIEF)
    check(bench(path, path, sizes={"height": 16}, compare=BRIEF))


def test_files_that_cannot_be_compared(wide: Exported, not_onnx: dict[str, Path], tmp_path: Path) -> None:
    other = relu(tmp_path / "relu.onnx", "batch", 3, 12, 24)
    with pytest.raises(
        BackendError, match=r"the inputs \['float32 \[1, 3, 12, 24\]'\] of .*relu.onnx and .*same inputs"
    ):
        bench(wide.path, other, compare=BRIEF)
    fixed = relu(tmp_path / "fixed.onnx", 2, 3)
    with pytest.raises(BackendError, match="a batch size fixed to 2; wanted batch size 1"):
        bench(fixed, fixed, compare=BRIEF)
    for kind, path in not_onnx.items():
        with pytest.raises(BackendError, match=f"{kind}.onnx"):
            bench(wide.path, path, compare=BRIEF)
    with pytest.raises(BackendError, match=r"the backend 'abacus'; wanted one of \['onnxruntime'"):
        bench(wide.path, wide.path, backend="abacus", compare=BRIEF)


def test_a_runtime_that_cannot_run_here_is_refused_first(wide: Exported) -> None:
    for backend in BACKENDS.values():
        if (missing := backend.unable_to_run()) is not None:
            with pytest.raises(BackendError) as caught:
                bench(wide.path, wide.path, backend=backend.name, compare=BRIEF)
            assert caught.value.found == missing.found


def test_every_batch_and_number_of_threads_is_compared(wide: Exported, narrow: Exported) -> None:
    """The command line's test looks at clients and cold starts."""
    cells = list(Bench(compare=BRIEF).cells(wide.path, narrow.path, batch_sizes=(1, 2), num_threads=(1, 2)))
    assert [(cell.comparison.batch_size, cell.comparison.num_threads) for cell in cells] == [
        (1, 1), (1, 2), (2, 1), (2, 2),
    ]  # fmt: skip
    for cell in cells:
        check(cell.comparison)
        assert cell.parity.keys() == {"baseline", "candidate"}
        assert cell.cold == cell.clients == {}
    assert BenchCell.model_validate_json(cells[0].model_dump_json()) == cells[0]


def test_files_in_integers_are_compared_at_their_tolerance(wide: Exported, tmp_path: Path) -> None:
    assert usual_tolerance(wide.path) == 1e-4
    value = onnx.helper.make_tensor_value_info
    constants = [
        onnx.numpy_helper.from_array(np.array(0.05, np.float32), "scale"),
        onnx.numpy_helper.from_array(np.array(0, np.uint8), "zero"),
    ]
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, ["n", 8])], [value("y", 1, ["n", 8])], constants)
    path = tmp_path / "rounded.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    assert usual_tolerance(path) == 0.1
    check(bench(path, path, compare=BRIEF))


def test_the_first_error_of_a_client_ends_them_all() -> None:
    class Failing(Engine):
        def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
            raise BackendError("engine", "a refusal", "outputs", "Do otherwise.")

        def close(self) -> None:
            pass

    with pytest.raises((BackendError, MeasurementError), match=r"a refusal|another client"):
        Crowd(num_clients=3, duration_s=0.01).measure(Failing, (np.zeros((1, 2)),))
    with pytest.raises(MeasurementError, match="one at least"):
        Crowd(num_clients=0)


def test_engines_that_are_there_already_are_timed_beside_files(wide: Exported, tmp_path: Path) -> None:
    openvino = BACKENDS["openvino"]
    if (missing := openvino.unable_to_run()) is not None:
        pytest.skip(str(missing))
    from openvino import convert_model, save_model

    save_model(convert_model(str(wide.path)), tmp_path / "elsewhere.xml", compress_to_fp16=False)
    blob = replace(openvino, compiled=True)
    built = blob.build(wide.path, tmp_path, BuildOptions())
    before = sorted(path.name for path in tmp_path.iterdir())
    settings = Bench(backend="openvino", compare=BRIEF, num_starts=1, layers=True)
    cell = settings.cell(tmp_path / str(built.path), wide.path, batch_size=2, num_threads=1)
    check(cell.comparison)
    assert cell.parity.keys() == {"candidate"}
    assert cell.cold.keys() == {"baseline", "candidate"}
    assert cell.practice is None
    check(replace(settings, num_starts=0).cell(tmp_path / "elsewhere.xml", wide.path, 2, 1).comparison)
    alone = replace(settings, stopwatch=Stopwatch(stopping=Stopping(least_s=0.02, most_s=0.05))).alone(
        tmp_path / "elsewhere.xml", 2, 1
    )
    assert (alone.batch_size, alone.num_threads, alone.device) == (2, 1, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing is left beside an engine"
    with pytest.raises(BackendError, match=r"elsewhere\.xml: found an engine for openvino.*--backend openvino"):
        bench(tmp_path / "elsewhere.xml", wide.path, compare=BRIEF)
    with pytest.raises(StorageError, match=r"none\.blob"):
        bench(tmp_path / "none.blob", wide.path, backend="openvino", compare=BRIEF)


def test_an_exported_program_is_timed_as_it_is(tmp_path: Path) -> None:
    from torch import nn

    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval()
    one = export(Model(module=net, example_inputs=(torch.randn(2, 3, 4),)), tmp_path, name="small", program=True)
    program = one.path.with_suffix(".pt2")
    found = Bench(backend="torch", compare=BRIEF).cell(program, program, batch_size=3, num_threads=1)
    check(found.comparison)
    assert found.parity == {}
