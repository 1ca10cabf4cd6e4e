"""Engines of a run whose runtimes do not all take the network."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.utils.data import TensorDataset

from secateur.artifacts import Data, ExportResult, Model, OpenSize, Parity
from secateur.deployment import NETWORKS, Deployment, Engines, build_options
from secateur.errors import BackendError
from secateur.loading import Workload
from secateur.recipe import Recipe
from secateur.recipe_quantization import QuantizeSettings
from secateur.steps import read, write
from secateur.workloads import TASKS

pytest.importorskip("openvino", reason="OpenVINO is not installed")


@dataclass
class Noted:
    """Keeps what it is told."""

    messages: list[str] = field(default_factory=list)

    def step(self, name: str) -> None: ...
    def done(self, name: str, reused: bool, duration_s: float) -> None: ...
    def progress(self, description: str, done: int, total: int) -> None: ...
    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """ONNX files with a determinant, which ONNX Runtime computes and OpenVINO does not know."""
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"])], "determinant",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
    )  # fmt: skip
    folder = tmp_path / "exported"
    folder.mkdir()
    for network in NETWORKS:
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10),
                  folder / f"{network}.onnx")  # fmt: skip
        parity = Parity(reference="", candidate="", num_batches=1, worst_absolute=0, worst_relative=0, tolerance=1)
        described = ExportResult(
            path=f"{network}.onnx", sha256="", size_bytes=1, opset=18, input_names=("x",), output_names=("y",),
            input_shapes=((2, 3, 3),), dynamic_batch=True, parity=parity,
        )  # fmt: skip
        write(folder, network, described)
    return folder


def deployment(measured: str, others: list[str]) -> Deployment:
    recipe = Recipe.model_validate({
        "name": "determinant", "model": "nowhere:build", "data": "nowhere:read", "task": "classification",
        "prune": {"macs": 0.5}, "build": {"backends": others}, "measure": {"backend": measured},
    })  # fmt: skip
    items = TensorDataset(torch.zeros(2, 3, 3), torch.zeros(2, dtype=torch.int64))
    model = Model(module=nn.Identity(), example_inputs=(torch.zeros(2, 3, 3),))
    workload = Workload(
        model=model, data=Data(train=items, test=items), task=TASKS["classification"](), fingerprint="none"
    )
    return Deployment(recipe=recipe, workload=workload, listener=Noted())


def test_a_runtime_that_refuses_the_network_is_recorded_and_the_others_are_built(
    exported: Path, tmp_path: Path
) -> None:
    running = deployment("onnxruntime", ["openvino"])
    running.build(exported, tmp_path / "built")
    for network in NETWORKS:
        engines = read(tmp_path / "built", network, Engines)
        assert [engine.status for engine in engines.engines] == ["failed", "built"]
        assert "No conversion rule found for operations: Det" in engines.of("openvino").reason
    assert isinstance(running.listener, Noted)
    assert running.listener.messages[0].startswith("original, openvino: failed: openvino,")


def test_the_runtime_that_is_timed_may_not_refuse(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"a refusal \(.*Det"):
        deployment("openvino", ["onnxruntime"]).build(exported, tmp_path / "built")


def test_engines_are_tuned_for_the_examples_sizes_within_the_recipes(exported: Path) -> None:
    running = deployment("onnxruntime", [])
    sizes = {"side": OpenSize(axis=1, least=2, most=8)}
    result = read(exported, "original", ExportResult).model_copy(update={"open_sizes": sizes})
    options = build_options(running.recipe, result)
    assert (options.sizes, options.ranges) == ({"side": 3}, {"side": (2, 8)})
    assert (options.least(), options.most()) == ({"side": 2}, {"side": 8})
    assert options.tolerance == running.recipe.build.tolerance


def test_engines_belong_to_the_versions_of_their_runtimes() -> None:
    versions = deployment("onnxruntime", ["openvino"]).runtimes()
    assert set(versions) == {"onnxruntime", "openvino"}
    assert versions["onnxruntime"] == onnxruntime.__version__


def test_torch_is_not_asked_for_integers() -> None:
    asked = deployment("torch", [])
    asked.require_runtime()
    rounded = asked.recipe.model_copy(update={"quantize": QuantizeSettings()})
    with pytest.raises(BackendError, match=r"measure\.backend: torch: found a quantised network"):
        replace(asked, recipe=rounded).require_runtime()


def test_a_type_without_arithmetic_is_refused_before_work_starts() -> None:
    for measured, precision, refused in [
        ("onnxruntime", "bfloat16", True), ("openvino", "bfloat16", False), ("onnxruntime", "float16", False),
    ]:  # fmt: skip
        asked = deployment(measured, [])
        recipe = asked.recipe.model_copy(update={"quantize": QuantizeSettings(precision=precision)})
        if not refused:
            replace(asked, recipe=recipe).require_runtime()
            continue
        with pytest.raises(
            BackendError,
            match=r"measure\.backend: onnxruntime: found a network in bfloat16, .*wanted a runtime that reads the "
            r"quantised network\. Use openvino",
        ):
            replace(asked, recipe=recipe).require_runtime()
