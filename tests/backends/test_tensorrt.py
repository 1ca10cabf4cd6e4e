"""TensorRT for RTX compiles for named GPUs without one; running needs a GPU, and says so."""

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision

from secateur.artifacts import EngineResult, Exported, Model
from secateur.backends import BACKENDS
from secateur.backends.cuda import missing_cuda
from secateur.backends.cuda_driver import DRIVERS, DriverName
from secateur.backends.onnx_file import OnnxInput, read_inputs
from secateur.backends.protocol import BuildOptions, engine_file
from secateur.backends.ready_made import ready_made
from secateur.backends.tensorrt import TensorRt, profile_shapes
from secateur.backends.tensorrt_engine import TensorRtEngine
from secateur.backends.tensorrt_layers import NO_WORK
from secateur.backends.tensorrt_log import log_of
from secateur.errors import BackendError, StorageError
from secateur.pipeline.export import export
from secateur.pipeline.quantize.quantize import Quantize
from secateur.pipeline.structure import cut, trace

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install 'secateur[rtx]'")
pytestmark = pytest.mark.trt_rtx

RTX = BACKENDS["tensorrt_rtx"]
ENDS = (16, 64)
SIZED = BuildOptions(
    batch_size=2, max_batch_size=4, sizes={"height": 32, "width": 32}, ranges={"height": ENDS, "width": ENDS}
)
"""How the network of open sizes is built."""


def needs_no_gpu() -> None:
    if missing_cuda() is None:
        pytest.skip("there is a CUDA device here")


def test_an_engine_comes_with_a_description(narrow: Exported, tmp_path: Path) -> None:
    result = RTX.build(narrow.path, tmp_path, BuildOptions(batch_size=2, max_batch_size=16))
    assert result.path == "narrow.tensorrt_rtx.engine"
    assert json.loads((tmp_path / "narrow.tensorrt_rtx.engine.json").read_text()) == result.model_dump(mode="json")
    assert result.options["onnx_sha256"] == narrow.result.sha256
    assert result.options["batch_sizes"] == "1 to 16, tuned for 2"
    assert result.options["compute_capabilities"] == "8.6 8.9 12.0"
    assert 1 <= int(result.options["num_layers"]) <= 20
    assert result.size_bytes > 1000


def test_a_pruned_torchvision_network_compiles(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=10)
    network.layer1[0].conv1 = torch.nn.Conv2d(64, 37, 3, padding=1, bias=False)
    network.layer1[0].bn1 = torch.nn.BatchNorm2d(37)
    network.layer1[0].conv2 = torch.nn.Conv2d(37, 64, 3, padding=1, bias=False)
    exported = export(Model(module=network, example_inputs=(torch.rand(2, 3, 64, 64),)), tmp_path, name="pruned")
    one = TensorRt(package="tensorrt_rtx", compute_capabilities=("8.9",))
    result = one.build(exported.path, tmp_path, BuildOptions())
    assert result.options["compute_capabilities"] == "8.9"
    num_nodes = len(onnx.load(exported.path).graph.node)
    assert 0 < int(result.options["num_layers"]) < num_nodes, "convolutions, sums and activations are fused"


WIDTH = 21
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0")
FROM_AMPERE = CAPABILITIES[1:]
COMPILED: dict[str, dict[str, tuple[str, int, int]]] = {
    "Float": {"7.5": ("Float", 24, 5), **dict.fromkeys(FROM_AMPERE, ("Float", WIDTH, 5))},
    "Half": {"7.5": ("Half", 24, 5), **dict.fromkeys(FROM_AMPERE, ("Half", 22, 7))},
    "Int8": {"7.5": ("Float", 24, 10), **dict.fromkeys(FROM_AMPERE, ("Int8", 24, 7))},
    "FP8": dict.fromkeys(("8.9", "12.0"), ("FP8", 24, 7)),
}
"""By precision and GPU: in what type convolutions read, how many channels a width of 21 takes there, and the layers in
all. Odd widths cost layers that only copy; for Turing the release has no convolutions of integers."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A network of convolutions that was really pruned, to an odd width, by precision, its batch size open."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU(),
        torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 5, 1),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
    ).eval()  # fmt: skip
    inputs = (torch.randn(2, 3, 16, 16),)
    structure = trace(network, inputs)
    small = cut(network, structure, {group.name: torch.arange(WIDTH) for group in structure.groups})
    folder = tmp_path_factory.mktemp("precisions")
    exported = export(Model(module=small, example_inputs=inputs), folder, name="fp32")
    half = Model(module=copy.deepcopy(small).half(), example_inputs=(inputs[0].half(),))
    found = {"Float": exported.path, "Half": export(half, folder, name="fp16", tolerance=0.05).path}
    for precision, target in (("Int8", "tensorrt"), ("FP8", "tensorrt_float8")):
        quantize = Quantize(target=target, corrections=())
        found[precision] = quantize(exported, [torch.randn(8, 3, 16, 16)], folder, name=target).exported.path
    return found


@pytest.mark.parametrize("precision", COMPILED)
def test_pruned_networks_compile_for_every_gpu(files: dict[str, Path], tmp_path: Path, precision: str) -> None:
    options = BuildOptions(batch_size=2, max_batch_size=8)
    for capability, (read, width, num_layers) in COMPILED[precision].items():
        one = TensorRt(package="tensorrt_rtx", compute_capabilities=(capability,))
        told = one.build(files[precision], tmp_path / capability, options).options["layers"]
        layers = [layer for layer in log_of("tensorrt_rtx").layers() or () if layer.kind not in NO_WORK]
        convolutions = [layer for layer in layers if layer.kind == "correlation"]
        assert [layer.reads for layer in convolutions] == [read] * 3, (capability, told)
        assert [layer.read_channels for layer in convolutions][1:] == [width] * 2, (capability, told)
        assert all(layer.tactic and layer.nodes for layer in convolutions)
        assert len(layers) <= num_layers, (capability, told)
        assert f"3 correlation {read}" in told
    several = TensorRt(package="tensorrt_rtx", compute_capabilities=tuple(COMPILED[precision]))
    result = several.build(files[precision], tmp_path / "all", options)
    assert result.options["compute_capabilities"] == " ".join(COMPILED[precision])
    assert result.options["batch_sizes"] == "1 to 8, tuned for 2"


def test_floats_of_eight_bits_are_refused_for_gpus_that_have_none(files: dict[str, Path], tmp_path: Path) -> None:
    older = TensorRt(package="tensorrt_rtx", compute_capabilities=("8.6", "8.9"))
    with pytest.raises(BackendError, match=r"a failed build .*sm86.*fp8"):
        older.build(files["FP8"], tmp_path, BuildOptions())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["timing_cache", "hardware_compatible"])
def test_what_a_release_cannot_do_is_refused(narrow: Exported, tmp_path: Path, field: str) -> None:
    if field == "hardware_compatible" and hasattr(trt, "HardwareCompatibilityLevel"):
        pytest.skip("this release has it")
    asked = {"timing_cache": tmp_path / "timings", "hardware_compatible": True}[field]
    with pytest.raises(BackendError, match=rf"{field}, which tensorrt_rtx .* cannot do"):
        TensorRt(package="tensorrt_rtx", **{field: asked}).build(narrow.path, tmp_path, BuildOptions())
    assert list(tmp_path.iterdir()) == []


def test_options_are_told(narrow: Exported, tmp_path: Path) -> None:
    compiler = TensorRt(package="tensorrt_rtx", compute_capabilities=("8.9",), workspace_bytes=2**26)
    told = compiler.build(narrow.path, tmp_path, BuildOptions()).options
    assert told["workspace_bytes"] == str(2**26)
    assert "Float" in told["layers"]


def test_an_engine_of_another_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorRt, "devices", lambda self: ("Here (compute capability 8.0)",))
    full, rtx = TensorRt(package="tensorrt"), TensorRt(package="tensorrt_rtx")
    made = EngineResult(
        backend="tensorrt", backend_version="1", status="built", device="There (compute capability 9.0)"
    )
    full._require_gpu(made.model_copy(update={"device": "Here (compute capability 8.0)"}), "e")
    full._require_gpu(made.model_copy(update={"options": {"hardware_compatible": "True"}}), "e")
    with pytest.raises(BackendError, match=r"the GPU Here .*; wanted one it was compiled for: There"):
        full._require_gpu(made, "e")
    rtx._require_gpu(made.model_copy(update={"options": {"compute_capabilities": "8.0 8.9"}}), "e")
    with pytest.raises(BackendError, match=r"wanted one it was compiled for: the compute capabilities 8\.6 8\.9"):
        rtx._require_gpu(made.model_copy(update={"options": {"compute_capabilities": "8.6 8.9"}}), "e")


def test_an_engine_that_is_there_already_is_what_its_description_says(narrow: Exported, tmp_path: Path) -> None:
    result = RTX.build(narrow.path, tmp_path, BuildOptions())
    path = tmp_path / str(result.path)
    beside = path.with_name(f"{path.name}.json")
    assert ready_made(path, RTX).result == result
    for change, refusal in [
        ({"backend_version": "1.0"}, r"an engine of tensorrt_rtx 1\.0; wanted one of tensorrt_rtx "),
        ({"backend": "tensorrt"}, r"an engine of tensorrt .*; wanted one of tensorrt_rtx "),
        ({"sha256": "0" * 64}, "changed after it was built"),
    ]:
        beside.write_text(result.model_copy(update=change).model_dump_json())
        with pytest.raises((BackendError, StorageError), match=refusal):
            engine_file(RTX, ready_made(path, RTX).result, tmp_path)
    beside.write_text("{")
    with pytest.raises(StorageError, match=r"engine\.json: found .*; wanted the description"):
        ready_made(path, RTX)
    beside.unlink()
    assert ready_made(path, RTX).result.sha256 == result.sha256


def test_operators_that_the_parser_does_not_know_are_named(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Unique", ["x"], ["y"], name="the_culprit")
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [4])], [value("y", 1, ["n"])])
    path = tmp_path / "unique.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), path)
    with pytest.raises(BackendError, match=r"UNSUPPORTED_NODE at node 'the_culprit' \(Unique\)"):
        RTX.build(path, tmp_path / "engines", BuildOptions())


def test_unknown_gpus_are_refused(narrow: Exported, tmp_path: Path) -> None:
    other = TensorRt(package="tensorrt_rtx", compute_capabilities=("8.9", "3.5"))
    with pytest.raises(BackendError, match=r"\['SM35'\]; wanted some of \[.*'SM89'"):
        other.build(narrow.path, tmp_path, BuildOptions())


def test_an_interruption_stops_the_build_and_goes_on(narrow: Exported, tmp_path: Path) -> None:
    heard = []

    def interrupting(phase: str, done: int, total: int) -> None:
        heard.append((phase, done, total))
        if len(heard) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RTX.build(narrow.path, tmp_path, BuildOptions(progress=interrupting))
    assert len(heard) >= 3
    assert all(1 <= done <= total for _, done, total in heard)
    assert list(tmp_path.iterdir()) == []
    assert RTX.build(narrow.path, tmp_path, BuildOptions()).status == "built", "the next build is not disturbed"


def test_other_open_sizes_have_to_be_given(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    shape = ["batch", 3, "height", 8]
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, shape)], [value("y", 1, shape)])
    path = tmp_path / "relu.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), path)
    with pytest.raises(BackendError, match=r"the open sizes \['height'\].*for example height=224"):
        RTX.build(path, tmp_path / "engines", BuildOptions())
    assert RTX.build(path, tmp_path / "engines", BuildOptions(sizes={"height": 8})).status == "built"


def test_profiles_cover_the_ranges_of_open_sizes(sized: Exported, tmp_path: Path) -> None:
    (entry,) = read_inputs(sized.path)
    assert profile_shapes(entry, SIZED) == ((1, 3, 16, 16), (2, 3, 32, 32), (4, 3, 64, 64))
    told = RTX.build(sized.path, tmp_path, SIZED).options
    assert told["height"] == told["width"] == "16 to 64, tuned for 32"
    fixed = OnnxInput(name="x", dtype=np.dtype(np.float32), shape=(5, "width"))
    assert profile_shapes(fixed, SIZED) == ((5, 16), (5, 32), (5, 64))


def test_graphs_need_a_driver_that_records_them() -> None:
    with pytest.raises(BackendError, match=r"CUDA graphs by pycuda; wanted cuda\.bindings"):
        TensorRt(package="tensorrt_rtx", driver="pycuda", cuda_graph=True)


def test_without_a_gpu_loading_is_refused_before_the_runtime_is_touched(narrow: Exported, tmp_path: Path) -> None:
    needs_no_gpu()
    result = RTX.build(narrow.path, tmp_path, BuildOptions())
    with pytest.raises(BackendError, match=r"tensorrt_rtx: found no CUDA .*; wanted tensorrt_rtx and a GPU"):
        RTX.load(result, tmp_path)
    with pytest.raises(BackendError, match="wanted a CUDA device"):
        TensorRtEngine(
            trt, log_of("tensorrt_rtx"), (tmp_path / str(result.path)).read_bytes(), driver=DRIVERS["cuda.bindings"]
        )


def test_full_tensorrt_asks_for_the_package_or_a_gpu() -> None:
    missing = BACKENDS["tensorrt"].unavailable()
    if missing is None:
        pytest.skip("full TensorRT and a GPU are here")
    assert "tensorrt" in missing.found or "CUDA" in missing.found


@pytest.mark.gpu
@pytest.mark.parametrize("driver", DRIVERS)
def test_an_engine_runs_on_the_gpu(narrow: Exported, tmp_path: Path, driver: DriverName) -> None:
    portable = TensorRt(package="tensorrt_rtx", driver=driver)
    if (missing := portable.unable_to_run()) is not None:
        pytest.skip(f"no GPU to run on: {missing}")
    result = portable.build(narrow.path, tmp_path, BuildOptions())
    assert result.parity.worst_relative < 1e-4
    with portable.load(result, tmp_path) as engine:
        for batch_size in (1, 8, 3):
            assert engine.run((np.zeros((batch_size, 3, 24, 24), np.float32),))[0].shape == (batch_size, 5)
        with pytest.raises(BackendError, match="not within the sizes that it was built for"):
            engine.run((np.zeros((9, 3, 24, 24), np.float32),))


@pytest.mark.gpu
def test_an_engine_without_weights_gets_them_when_it_is_loaded(narrow: Exported, tmp_path: Path) -> None:
    stripped = TensorRt(package="tensorrt", stripped=True)
    if (missing := stripped.unable_to_run()) is not None:
        pytest.skip(f"no full TensorRT to run on: {missing}")
    result = stripped.build(narrow.path, tmp_path, BuildOptions())
    assert set(result.weights) == {narrow.path.name}
    assert result.parity.worst_relative < 1e-4
    image = np.random.default_rng(0).standard_normal((2, 3, 24, 24)).astype(np.float32)
    whole = TensorRt(package="tensorrt").build(narrow.path, tmp_path / "whole", BuildOptions())
    with (
        stripped.load(result, tmp_path) as engine,
        TensorRt(package="tensorrt").load(whole, tmp_path / "whole") as other,
    ):
        np.testing.assert_allclose(engine.run((image,))[0], other.run((image,))[0], atol=1e-4)


@pytest.mark.gpu
def test_open_sizes_run_within_their_ranges(sized: Exported, tmp_path: Path) -> None:
    portable = TensorRt(package="tensorrt_rtx")
    if (missing := portable.unable_to_run()) is not None:
        pytest.skip(f"no GPU to run on: {missing}")
    result = portable.build(sized.path, tmp_path, SIZED)
    assert result.parity.num_batches == 4
    with portable.load(result, tmp_path) as engine:
        for rows, columns in ((16, 64), (64, 16), (32, 48)):
            assert engine.run((np.zeros((2, 3, rows, columns), np.float32),))[0].shape == (2, 2, rows, columns)
        with pytest.raises(BackendError, match="not within the sizes that it was built for"):
            engine.run((np.zeros((1, 3, 16, 80), np.float32),))
