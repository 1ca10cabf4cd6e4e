"""One set of laws over every backend of the table: built, proved, loaded, run, or absent with a reason."""

import gc
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
import torch
from external import weights_beside

from secateur.artifacts import EngineResult, Exported
from secateur.backends import BACKENDS
from secateur.backends.engine_inputs import ExpectedInputs
from secateur.backends.onnx_file import OnnxInput, read_whole
from secateur.backends.protocol import Backend, BuildOptions, skipped
from secateur.errors import BackendError, EqualityError, StorageError
from secateur.storage import sha256

ON_GPU = {name for name in BACKENDS if "cuda" in name or "tensorrt" in name}
backends = pytest.mark.parametrize(
    "backend",
    [pytest.param(backend, id=name, marks=[pytest.mark.gpu] * (name in ON_GPU)) for name, backend in BACKENDS.items()],
)


def able_to_build(backend: Backend) -> None:
    if (missing := backend.unavailable()) is not None:
        pytest.skip(f"{backend.name} cannot build here: {missing}")


def able_to_run(backend: Backend) -> None:
    if (missing := backend.unable_to_run()) is not None:
        pytest.skip(f"{backend.name} cannot run here: {missing}")


Built = Callable[[Backend], tuple[EngineResult, Path]]


@pytest.fixture(scope="module")
def built(narrow: Exported, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An engine of a backend that can run here, built once; the test is skipped where it cannot."""
    kept: dict[str, tuple[EngineResult, Path]] = {}

    def build(backend: Backend) -> tuple[EngineResult, Path]:
        able_to_run(backend)
        if backend.name not in kept:
            folder = tmp_path_factory.mktemp(backend.name)
            kept[backend.name] = backend.build(narrow.path, folder, BuildOptions()), folder
        return kept[backend.name]

    return build


def image(batch_size: int) -> np.ndarray:
    return np.random.default_rng(batch_size).standard_normal((batch_size, 3, 24, 24)).astype(np.float32)


def reference(exported: Exported, inputs: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(str(exported.path)).run(None, {"image": inputs})[0]


def test_the_table_names_its_entries() -> None:
    assert {name: backend.name for name, backend in BACKENDS.items()} == {name: name for name in BACKENDS}
    assert all(isinstance(backend, Backend) for backend in BACKENDS.values())


@backends
def test_what_is_missing_is_said_with_a_remedy(backend: Backend, narrow: Exported, tmp_path: Path) -> None:
    missing = backend.unavailable()
    if missing is None:
        assert backend.version()
        return
    assert missing.remedy.startswith(("Install", "Use"))
    with pytest.raises(BackendError) as caught:
        backend.build(narrow.path, tmp_path, BuildOptions())
    assert caught.value.found == missing.found
    assert caught.value.remedy == missing.remedy
    assert list(tmp_path.iterdir()) == []
    result = skipped(backend, missing)
    assert (result.status, result.path, result.reason) == ("skipped", None, str(missing))
    with pytest.raises(BackendError):
        backend.load(result, tmp_path)


@backends
def test_an_engine_is_described_as_it_is(backend: Backend, narrow: Exported, tmp_path: Path) -> None:
    able_to_build(backend)
    heard = []
    options = BuildOptions(progress=lambda *report: heard.append(report))
    result = backend.build(narrow.path, tmp_path / "engines", options)
    content = (tmp_path / "engines" / str(result.path)).read_bytes()
    assert (result.status, result.backend, result.backend_version) == ("built", backend.name, backend.version())
    assert (result.sha256, result.size_bytes) == (sha256(content), len(content))
    assert result.build_s > 0
    assert all(0 <= done <= total for _, done, total in heard)
    assert heard
    if backend.unable_to_run() is None:
        assert result.parity.worst_relative <= options.tolerance
        assert result.parity.num_batches == 2
        assert result.reason == ""
        assert result.device
    else:
        assert result.parity is None
        assert result.reason.startswith("built, not run: ")


@backends
def test_engines_compute_what_their_file_computes(backend: Backend, narrow: Exported, built: Built) -> None:
    result, folder = built(backend)
    with backend.load(result, folder) as first, backend.load(result, folder, num_threads=2) as second:
        for batch_size in (1, 2, 5):
            inputs = image(batch_size)
            (outputs,) = first.run((inputs,))
            np.testing.assert_allclose(outputs, reference(narrow, inputs), atol=1e-5)
            np.testing.assert_allclose(second.run((inputs,))[0], outputs, atol=1e-5)
        kept = outputs.copy()
        first.run((image(5) + 1,))
        np.testing.assert_array_equal(outputs, kept, err_msg="outputs belong to the caller")
        first.close()
        np.testing.assert_allclose(second.run((image(1),))[0], reference(narrow, image(1)), atol=1e-5)
    first.close()
    with pytest.raises(BackendError, match="a closed engine; wanted an open one"):
        first.run((image(1),))


@backends
def test_a_loaded_engine_gives_the_same_bits_every_time(backend: Backend, built: Built) -> None:
    result, folder = built(backend)
    outputs = []
    for _ in range(2):
        with backend.load(result, folder) as engine:
            outputs += [engine.run((image(2),))[0] for _ in range(2)]
    for other in outputs[1:]:
        np.testing.assert_array_equal(other, outputs[0])


@backends
def test_threads_that_call_at_once_get_their_own_answers(backend: Backend, narrow: Exported, built: Built) -> None:
    result, folder = built(backend)
    batches = [image(batch_size) for batch_size in (1, 2, 5, 2)]
    with backend.load(result, folder) as engine, ThreadPoolExecutor(4) as threads:
        outputs = list(threads.map(lambda inputs: engine.run((inputs,))[0], batches * 5))
    for inputs, found in zip(batches * 5, outputs, strict=True):
        np.testing.assert_allclose(found, reference(narrow, inputs), atol=1e-5)


@backends
def test_layers_are_timed(backend: Backend, built: Built) -> None:
    result, folder = built(backend)
    with backend.load(result, folder) as engine:
        layers = engine.profile((image(2),), num_calls=2)
        assert engine.run((image(1),))[0].shape == (1, 5), "the engine goes on"
    assert any("conv" in f"{layer.name} {layer.operator}".lower() for layer in layers)
    spent = [layer.time_s for layer in layers]
    assert spent == sorted(spent, reverse=True)
    assert 0 < sum(spent) < 10


@backends
def test_memory_stays_where_it_was(backend: Backend, built: Built) -> None:
    """Loads and calls in earnest are in benchmarks/engine_leaks.py; a leak of the outputs would show here too."""
    result, folder = built(backend)
    process = psutil.Process()

    def grown(work: Callable[[], object], times: int) -> int:
        """Return the least growth of three rounds: a leak grows in each, an allocator's pool in one."""
        work()
        rounds = []
        for _ in range(3):
            before = process.memory_info().rss
            for _ in range(times):
                work()
            gc.collect()
            rounds.append(process.memory_info().rss - before)
        return min(rounds)

    with backend.load(result, folder) as engine:
        inputs = (np.zeros((64, 3, 24, 24), np.float32),)
        weight = inputs[0].nbytes
        assert grown(lambda: engine.run(inputs), 20) < 12 * weight, "calls leave their inputs or activations behind"
    times, most = (3, 64 * 2**20) if backend.name in ON_GPU else (20, 20 * 8_000)
    assert grown(lambda: backend.load(result, folder).close(), times) < most, "closed engines leave parts behind"


@backends
@pytest.mark.parametrize(
    ("inputs", "given"),
    [
        ((image(1)[:, :2],), "'float32 [1, 2, 24, 24]'"),
        ((image(1).astype(np.float64),), "'float64 [1, 3, 24, 24]'"),
        ((image(1)[0],), "'float32 [3, 24, 24]'"),
        ((image(1), image(1)), "'float32 [1, 3, 24, 24]', 'float32 [1, 3, 24, 24]'"),
    ],
    ids=["channels", "type", "rank", "number"],
)
def test_wrong_inputs_are_refused(backend: Backend, built: Built, inputs: tuple[np.ndarray, ...], given: str) -> None:
    result, folder = built(backend)
    with backend.load(result, folder) as engine:
        with pytest.raises(BackendError, match=rf"inputs {re.escape(f'[{given}]')}.*wanted .*float32 \["):
            engine.run(inputs)
        assert engine.run((image(1),))[0].shape == (1, 5), "the engine goes on"


def test_a_refusal_says_on_which_device_tensors_are() -> None:
    expected = ExpectedInputs(
        engine="engine", inputs=(OnnxInput(name="x", dtype=np.dtype(np.float32), shape=("n", 3)),)
    )
    refused = expected.refusal((torch.empty(1, 3, device="meta"), image(1), [1.0]), "elsewhere")
    given = "['torch.float32 [1, 3] on meta', 'float32 [1, 3, 24, 24]', 'list'] (elsewhere)"
    assert refused.found == f"a refusal of the inputs {given}"
    assert refused.wanted == "[\"x: float32 ['n', 3]\"]"


@backends
def test_damaged_absent_and_foreign_engines_are_refused(backend: Backend, narrow: Exported, tmp_path: Path) -> None:
    able_to_run(backend)
    result = backend.build(narrow.path, tmp_path, BuildOptions())
    with pytest.raises(BackendError, match=rf"an engine of {backend.name} 0\.1; wanted one of {backend.name} "):
        backend.load(result.model_copy(update={"backend_version": "0.1"}), tmp_path)
    with pytest.raises(BackendError, match="an engine that was not built"):
        backend.load(result.model_copy(update={"status": "skipped"}), tmp_path)
    path = tmp_path / str(result.path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError, match=r"changed after it was built; wanted sha256 [0-9a-f]{64}"):
        backend.load(result, tmp_path)
    path.unlink()
    with pytest.raises(StorageError, match="No such file"):
        backend.load(result, tmp_path)


@backends
@pytest.mark.parametrize("kind", ["absent", "empty", "text", "truncated"])
def test_files_that_are_not_onnx(backend: Backend, not_onnx: dict[str, Path], tmp_path: Path, kind: str) -> None:
    able_to_build(backend)
    with pytest.raises(BackendError, match=rf"{kind}\.onnx: found .*; wanted an? (whole )?ONNX file"):
        backend.build(not_onnx[kind], tmp_path, BuildOptions())
    assert list(tmp_path.iterdir()) == []


@backends
def test_an_operator_set_that_is_not_known(backend: Backend, tmp_path: Path) -> None:
    able_to_build(backend)
    value = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, [2, 4])], [value("y", 1, [2, 4])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 99)], ir_version=10)
    (tmp_path / "new.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BackendError, match=r"new\.onnx: found operators of opset 99; wanted at most \d+"):
        backend.build(tmp_path / "new.onnx", tmp_path / "built", BuildOptions(batch_size=2))
    assert not (tmp_path / "built").exists()


def foreign_operator(folder: Path) -> Path:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Frobnicate", ["x"], ["y"], name="the_culprit", domain="com.acme")
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [2, 4])], [value("y", 1, [2, 4])])
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.acme", 1)]
    path = folder / "foreign.onnx"
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    return path


def weights_of_others(folder: Path) -> Path:
    (folder / "secret.bin").write_bytes(np.ones(4, np.float32).tobytes())
    (folder / "own").mkdir()
    return weights_beside(folder / "own", "../secret.bin")


@backends
@pytest.mark.parametrize(
    ("write", "told"),
    [(foreign_operator, r"foreign\.onnx.*Frobnicate"), (weights_of_others, r"net\.onnx: found weights that cannot be")],
    ids=["operator", "weights"],
)
def test_files_that_no_runtime_may_take(
    backend: Backend, tmp_path: Path, write: Callable[[Path], Path], told: str
) -> None:
    able_to_build(backend)
    if backend.name.startswith("torch"):
        pytest.skip("torch runs the exported program and reads operators and weights of no ONNX file")
    with pytest.raises(BackendError, match=told):
        backend.build(write(tmp_path), tmp_path / "built", BuildOptions(batch_size=2))
    assert not (tmp_path / "built").exists()


@backends
def test_a_tolerance_that_no_engine_meets(backend: Backend, wide: Exported, tmp_path: Path) -> None:
    able_to_run(backend)
    exact = BACKENDS["onnxruntime"] is backend
    options = BuildOptions(tolerance=-1.0 if exact else 0.0)
    with pytest.raises(EqualityError, match=rf"parity of {backend.name} .*relative difference of"):
        backend.build(wide.path, tmp_path, options)
    assert list(tmp_path.iterdir()) == [], "an engine that is not proved is not kept"


def test_spinning_is_a_setting_that_is_told(narrow: Exported, tmp_path: Path) -> None:
    spinning = replace(BACKENDS["onnxruntime"], spinning=True)
    assert spinning.build(narrow.path, tmp_path, BuildOptions()).options["spinning"] == "True"


def test_onnx_runtime_never_falls_back(narrow: Exported, tmp_path: Path) -> None:
    """Asked for a provider that it cannot load, ONNX Runtime itself opens a session on the CPU and warns."""
    backend = BACKENDS["onnxruntime_cuda"]
    if backend.unavailable() is None:
        pytest.skip("CUDA works here, nothing to fall back from")
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(BackendError, match=r"a fall-back to .*; wanted CUDAExecutionProvider"),
    ):
        backend._session(read_whole(narrow.path), 1)
    with pytest.warns(UserWarning, match="not in available provider names"):
        allowed = replace(backend, fallback=True).build(narrow.path, tmp_path, BuildOptions())
    assert allowed.options["nodes"].endswith(" on CPUExecutionProvider"), "what ran where is told"


VARIANTS = [
    replace(BACKENDS["onnxruntime"], name="kept", keep_optimised=True, arena=False),
    replace(BACKENDS["onnxruntime"], name="plain", optimisation="none"),
    replace(BACKENDS["openvino"], name="blob", compiled=True),
    replace(BACKENDS["openvino"], name="streams", hint="throughput"),
]


@pytest.mark.parametrize("backend", VARIANTS, ids=lambda backend: backend.name)
def test_settings_change_how_and_not_what(backend: Backend, narrow: Exported, tmp_path: Path) -> None:
    able_to_run(backend)
    result = backend.build(narrow.path, tmp_path, BuildOptions())
    with backend.load(result, tmp_path) as engine:
        for batch_size in (1, 3):
            inputs = image(batch_size)
            np.testing.assert_allclose(engine.run((inputs,))[0], reference(narrow, inputs), atol=1e-5)
        assert engine.profile((image(1),), num_calls=1)
        with pytest.raises(BackendError, match="wanted"):
            engine.run((image(1)[:, :2],))


@pytest.mark.parametrize("backend", [VARIANTS[0], VARIANTS[2]], ids=lambda backend: backend.name)
def test_what_was_made_for_one_processor_is_refused_on_another(
    backend: Backend, narrow: Exported, tmp_path: Path
) -> None:
    able_to_run(backend)
    result = backend.build(narrow.path, tmp_path, BuildOptions())
    told = f"{result.path}: found an engine for Abacus; wanted one for {', '.join(backend.devices())}"
    with pytest.raises(BackendError, match=re.escape(told)):
        backend.load(result.model_copy(update={"device": "Abacus"}), tmp_path)


def test_a_kept_graph_is_fused_and_not_rewritten_again(narrow: Exported, tmp_path: Path) -> None:
    kept = VARIANTS[0].build(narrow.path, tmp_path, BuildOptions())
    operators = [node.op_type for node in onnx.load(tmp_path / str(kept.path)).graph.node]
    assert len(operators) < len(onnx.load(narrow.path).graph.node)
    assert kept.sha256 != narrow.result.sha256


def test_coarser_arithmetic_needs_a_wider_tolerance(wide: Exported, tmp_path: Path) -> None:
    coarse = replace(BACKENDS["openvino"], precision="bf16")
    able_to_run(coarse)
    if "BF16" not in openvino_capabilities():
        pytest.skip("the processor has no bfloat16")
    with pytest.raises(EqualityError, match="relative difference"):
        coarse.build(wide.path, tmp_path, BuildOptions(tolerance=1e-6))
    result = coarse.build(wide.path, tmp_path, BuildOptions(tolerance=0.05))
    assert 1e-6 < result.parity.worst_relative < 0.05
    assert result.options["precision"] == "bf16"


def openvino_capabilities() -> list[str]:
    import openvino

    return openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_graphs_on_the_processor_are_refused() -> None:
    with pytest.raises(BackendError, match="CUDA graphs on the processor; wanted a provider on a GPU"):
        replace(BACKENDS["onnxruntime"], cuda_graph=True)


def test_results_survive_json(narrow: Exported, tmp_path: Path) -> None:
    result = BACKENDS["onnxruntime"].build(narrow.path, tmp_path, BuildOptions())
    again = type(result).model_validate(json.loads(result.model_dump_json()))
    assert again == result
    with BACKENDS["onnxruntime"].load(again, tmp_path) as engine:
        assert engine.run((image(2),))[0].shape == (2, 5)


SIGNALLED = """
import gc, signal, sys
from pathlib import Path

import numpy as np

from secateur.backends import BACKENDS
from secateur.backends.protocol import BuildOptions

backend, folder = BACKENDS[sys.argv[1]], Path(sys.argv[3])
result = backend.build(Path(sys.argv[2]), folder, BuildOptions())
first, second = backend.load(result, folder), backend.load(result, folder)
first.close()
gc.collect()
second.close()
gc.collect()
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
signal.raise_signal(signal.SIGUSR1)
assert heard == [1]
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")
@backends
def test_signals_are_survived_whatever_the_order_in_which_engines_closed(
    backend: Backend, narrow: Exported, tmp_path: Path
) -> None:
    """A runtime that leaves a freed stack for signal handlers behind ends the process at its next signal."""
    able_to_run(backend)
    if backend.name == "torch_compile":
        pytest.skip("the runtime is torch's, which goes through this already")
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", SIGNALLED, backend.name, str(narrow.path), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
