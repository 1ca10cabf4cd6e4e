"""A run with quantisation: one more file, evaluated, built and timed beside the others."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from project import write_project
from pydantic import ValidationError

import secateur
from secateur.artifacts import QUANTIZED, Evaluation, ExportResult, HalveResult, Model, QuantizeResult, Summary
from secateur.backends import BACKENDS
from secateur.deploying import deploy_run
from secateur.errors import BackendError, ExportError, RecipeError
from secateur.judging import judge_run
from secateur.listening import Silent
from secateur.loading import importable, load
from secateur.manifest import read_manifest
from secateur.pipeline.export import export
from secateur.pipeline.finetune import Finetune
from secateur.pipeline.quantize.module import FileModule
from secateur.quantization import EVALUATION, Quantization, read_result, unreadable
from secateur.recipe import Policy
from secateur.recipe_quantization import MixedSettings, QuantizeSettings
from secateur.recipe_template import write_template
from secateur.report.gates import Gate
from secateur.report.tables.rounding import quantization_table
from secateur.steps import Steps, read
from secateur.verify import verify

SETTINGS = [
    "name=eight-bits", "model=sorter:build", "data.arguments.size=32", "prune.macs=0.6", "prune.rounds=1",
    "prune.multiple=4", "prune.samples=32", "prune.recovery_steps=2", "estimate.samples=32", "finetune.epochs=1",
    "measure.max_s=3", "measure.instances=3", "measure.layers=false", "measure.resolution=false", "pictures=0",
    "gates=[{quantity: parity, at_most: 0.0001}, {quantity: quantized_parity, at_most: 0.1}, "
    "{quantity: quantized_top1_drop, at_most: 1}, {quantity: quantized_size_ratio, at_least: 1000}]",
    "quantize={samples: 32, skip: [stem.0]}",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Path]:
    folder = tmp_path_factory.mktemp("eight-bits")
    write_project(folder, "sorter")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_template(folder / "recipe.yaml")
        outcome = secateur.run(secateur.read_recipe(folder / "recipe.yaml", SETTINGS), beside=folder)
    return outcome.summary, folder / outcome.folder


def test_the_quantised_network_is_measured_like_the_others(run: tuple[Summary, Path]) -> None:
    summary, _ = run
    assert summary.evaluations[QUANTIZED].num_samples == summary.evaluations["original"].num_samples
    assert summary.evaluations[QUANTIZED].metrics["top1"] >= summary.evaluations["compressed"].metrics["top1"] - 0.2
    assert summary.exports[QUANTIZED].size_bytes < summary.exports["compressed"].size_bytes
    assert isinstance(summary.quantization, QuantizeResult)
    assert summary.quantization.target == "cpu"
    assert summary.quantization.num_samples == 32
    assert list(summary.quantization.left.values()) == ["skipped by name"]
    assert summary.quantized_comparison is not None
    assert summary.quantized_comparison.samples_s["baseline"]
    engines = {engine.backend: engine for engine in summary.engines[QUANTIZED]}
    assert engines["onnxruntime"].status == "built"
    assert engines["tensorrt_rtx"].status == "skipped"


def test_gates_on_parity_are_not_about_rounding(run: tuple[Summary, Path]) -> None:
    summary, _ = run
    assert summary.exports[QUANTIZED].parity.worst_absolute > 1e-4
    gates = {gate.quantity: gate for gate in summary.verdict.gates}
    assert gates["parity"].verdict == gates["quantized_parity"].verdict == "pass"
    assert gates["parity"].measured.value < 1e-4


def test_gates_on_the_quantised_network_count(run: tuple[Summary, Path]) -> None:
    summary, folder = run
    gates = {gate.quantity: gate for gate in summary.verdict.gates}
    assert gates["quantized_top1_drop"].verdict == "pass"
    assert gates["quantized_size_ratio"].verdict == "fail"
    assert gates["quantized_size_ratio"].measured.value == pytest.approx(
        summary.exports["original"].size_bytes / summary.exports[QUANTIZED].size_bytes
    )
    assert summary.verdict.verdict == "fail"
    policy = Policy(gates=[Gate(quantity="quantized_speedup", at_least=0.001), Gate(quantity="parity", at_most=1e-4)])
    assert judge_run(folder, policy).verdict.verdict == "pass"
    assert "quantised: bytes of the ONNX file before over after" in (folder / "report.html").read_text()


def test_the_report_tells_of_it(run: tuple[Summary, Path]) -> None:
    _, folder = run
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        assert "Quantisation" in text
        assert "ranges by mse" in text
    file = next(folder.glob(f"steps/quantize-*/{QUANTIZED}.onnx"))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: np.zeros((2, 3, 32, 32), np.float32)})
    assert scores.shape == (2, 3)


def test_the_manifest_follows_it_and_verify_holds_its_engines_to_it(run: tuple[Summary, Path]) -> None:
    summary, folder = run
    manifest = read_manifest(folder)
    numbers = manifest.stage("quantize").numbers
    assert numbers["top1_quantized"] == summary.evaluations[QUANTIZED].metrics["top1"]
    assert not any(
        "quantized" in name for name in {**manifest.stage("evaluate").numbers, **manifest.stage("export").numbers}
    )
    links = {link.what.rpartition("/")[2]: link for link in manifest.lineage if "engine" not in link.what}
    assert links["quantized.onnx"].parents[0].endswith("/compressed.onnx")
    assert any("/quantized/onnxruntime/" in link.what for link in manifest.lineage)
    found = verify(folder, beside=folder.parents[1])
    assert {arrow.state for arrow in found.arrows if arrow.what == "quantized: onnxruntime = ONNX"} == {"holds"}
    assert not found.differences


def test_its_file_says_of_itself_what_the_float_file_says(run: tuple[Summary, Path], tmp_path: Path) -> None:
    _, folder = run
    rounded, plain = (deploy_run(folder, tmp_path / name, network=name) for name in (QUANTIZED, "compressed"))
    assert rounded.engine.sha256 != plain.engine.sha256
    assert len(plain.lineage["weights"]) == 64
    assert rounded.lineage["weights"] == plain.lineage["weights"]
    assert (rounded.classes, rounded.pictures) == (plain.classes, plain.pictures)


def again(run: tuple[Summary, Path], tmp_path: Path, *settings: str) -> tuple[Summary, Path]:
    """Run another recipe on a copy of the run's folder, where the steps that it shares are finished."""
    place = tmp_path / "copy"
    shutil.copytree(run[1].parents[1], place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        recipe = secateur.read_recipe(place / "recipe.yaml", [*SETTINGS, "gates=[]", *settings])
        outcome = secateur.run(recipe, beside=place)
    return outcome.summary, place / outcome.folder


def test_training_low_bits_and_sparsity_go_through_a_run(run: tuple[Summary, Path], tmp_path: Path) -> None:
    summary, folder = again(
        run, tmp_path, "sparsity={keep: [head]}", "finetune.batch_size=32",
        "quantize={samples: 32, corrections: [], mixed: {bytes: 0.16, precisions: [int8, int6, int4], "
        "decreasing: true}, qat: {epochs: 1, stages: [6], learning_rate: 0.001}}",
    )  # fmt: skip
    found = summary.quantization
    assert isinstance(found, QuantizeResult)
    assert len(found.training) == 2
    assert found.training[-1].num_epochs == 1
    widths = [layer.weight_bits for layer in found.layers]
    assert widths == sorted(widths, reverse=True)
    assert set(widths) <= {4, 6, 7, 8}
    assert min(widths) < 7
    assert summary.evaluations[QUANTIZED].metrics["top1"] >= summary.evaluations["compressed"].metrics["top1"] - 0.2
    assert {e.backend: e.status for e in summary.engines[QUANTIZED]}["onnxruntime"] == "built"
    assert summary.quantized_comparison is not None
    assert f"{widths.count(4)} layers" in (folder / "report.md").read_text()
    newest = max(folder.glob(f"steps/quantize-*/{QUANTIZED}.onnx"), key=lambda path: path.stat().st_mtime)
    file = onnx.load(newest)
    shares = {
        t.name: float(np.mean(numpy_helper.to_array(t) != 0))
        for t in file.graph.initializer
        if len(t.dims) == 4 and t.dims[1] % 4 == 0
    }
    assert shares
    assert max(shares.values()) <= 0.5


def test_half_precision_is_a_step_like_eight_bits(run: tuple[Summary, Path], tmp_path: Path) -> None:
    summary, folder = run
    place = folder.parents[1]
    recipe = secateur.read_recipe(
        place / "recipe.yaml", [*SETTINGS, "quantize={precision: float16, samples: 32, skip: [stem.0], error: 0.01}"]
    )
    assert recipe.quantize is not None
    with pytest.MonkeyPatch.context() as patch, importable(place):
        patch.chdir(place)
        workload = load(recipe)
        step = Quantization(
            recipe=recipe, settings=recipe.quantize, workload=workload, listener=Silent(), finetune=Finetune()
        )
        compressed = Steps(recipe=recipe, workload=workload, listener=Silent()).compressed(
            next(folder.glob("steps/finetune-*"))
        )
        step(next(folder.glob("steps/export-*")), compressed, tmp_path)
    found = read_result(tmp_path)
    assert isinstance(found, HalveResult)
    assert found.error <= 0.01
    assert found.size_bytes < 0.7 * summary.exports["compressed"].size_bytes
    assert read(tmp_path, QUANTIZED, ExportResult).size_bytes == found.size_bytes
    evaluation = read(tmp_path, EVALUATION, Evaluation)
    assert evaluation.metrics["top1"] == summary.evaluations["compressed"].metrics["top1"]
    told = quantization_table(summary.model_copy(update={"quantization": found}))
    assert ("Nodes in half precision", f"{found.num_converted}, float16") in told.rows


def test_bfloat16_goes_through_a_run_on_a_runtime_that_reads_it(run: tuple[Summary, Path], tmp_path: Path) -> None:
    if (missing := BACKENDS["openvino"].unable_to_run()) is not None:
        pytest.skip(str(missing))
    summary, folder = again(
        run, tmp_path, "measure.backend=openvino", "build.backends=[onnxruntime, openvino, tensorrt_rtx]",
        "quantize={precision: bfloat16, samples: 32, skip: [stem.0]}",
    )  # fmt: skip
    found = summary.quantization
    assert isinstance(found, HalveResult)
    assert found.dtype == "bfloat16"
    assert found.kept == {}
    assert 0 < found.error <= 0.008
    assert summary.exports[QUANTIZED].opset >= 22
    assert summary.exports[QUANTIZED].size_bytes < 0.7 * summary.exports["compressed"].size_bytes
    assert summary.exports[QUANTIZED].parity.worst_relative > 0
    assert summary.evaluations[QUANTIZED].metrics["top1"] >= summary.evaluations["compressed"].metrics["top1"] - 0.2
    engines = {engine.backend: engine for engine in summary.engines[QUANTIZED]}
    parity = engines["openvino"].parity
    assert parity is not None
    assert parity.worst_relative < parity.tolerance == 0.1
    assert engines["onnxruntime"].status == "skipped"
    assert "bfloat16, in which the runtime has no arithmetic" in engines["onnxruntime"].reason
    if BACKENDS["tensorrt_rtx"].unavailable() is None:
        assert engines["tensorrt_rtx"].status == "built"
    assert summary.quantized_comparison is not None
    assert summary.quantized_comparison.samples_s["candidate"]
    for name in ("report.md", "report.html"):
        assert f"{found.num_converted}, bfloat16" in (folder / name).read_text()
    deployed = deploy_run(folder, tmp_path / "deployed", network=QUANTIZED)
    assert deployed.lineage["network"] == "compressed"
    proofs = [a for a in verify(folder, beside=folder.parents[1]).arrows if a.what == "quantized: openvino = ONNX"]
    assert [arrow.state for arrow in proofs] == ["holds"]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"precision": "float16", "qat": {}}, "mixed and qat are of eight bits"),
        ({"precision": "bfloat16", "mixed": {"bytes": 0.5}}, "take them or precision bfloat16 out"),
        ({"precision": "bfloat16", "error": "none"}, "error"),
        ({"qat": {"stages": [4, 6]}}, "stages fall"),
        ({"qat": {"stages": [2]}}, "greater than or equal to 3"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wanted: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        QuantizeSettings(**wanted)


def test_training_wants_an_open_batch_size(run: tuple[Summary, Path]) -> None:
    with pytest.raises(RecipeError, match=r"set export\.dynamic_batch to true"):
        secateur.read_recipe(
            run[1].parents[1] / "recipe.yaml", [*SETTINGS, "export.dynamic_batch=false", "quantize={qat: {}}"]
        )


def test_what_cannot_be_read_is_said() -> None:
    missing = unreadable(BACKENDS["tensorrt"], "cpu")
    assert missing is not None
    assert "uint8 with a zero point" in missing.found
    assert unreadable(BACKENDS["tensorrt"], "tensorrt") is None
    assert unreadable(BACKENDS["openvino"], "cpu") is None
    missing = unreadable(BACKENDS["onnxruntime"], "tensorrt_float8")
    assert missing is not None
    assert missing.remedy == "Set build.options.onnxruntime.optimisation to basic."
    missing = unreadable(BACKENDS["onnxruntime"], "bfloat16")
    assert missing is not None
    assert missing.remedy.endswith("or set quantize.precision to float16.")
    for name in ("onnxruntime_cuda", "openvino", "tensorrt", "tensorrt_rtx"):
        assert unreadable(BACKENDS[name], "bfloat16") is None
    assert unreadable(BACKENDS["torch"], "bfloat16") is not None
    assert unreadable(BACKENDS["onnxruntime"], "float16") is None
    for reading in (replace(BACKENDS["onnxruntime"], optimisation="basic"), BACKENDS["openvino"], BACKENDS["tensorrt"]):
        assert unreadable(reading, "tensorrt_float8") is None


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({}, "one of bytes, latency and signal_to_noise_db"),
        ({"bytes": 0.5, "latency": 0.5}, "one of bytes, latency and signal_to_noise_db"),
        ({"bytes": 0.5, "cost": "latency"}, "leave cost out"),
        ({"latency": 0.5, "precisions": []}, "at least 1 item"),
    ],
)
def test_mixed_precision_takes_one_budget(wanted: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        MixedSettings(**wanted)


class Twins(torch.nn.Module):
    """Returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.layer(x)
        return {"scores": y, "doubled": 2 * y}


@pytest.mark.parametrize("dynamic_batch", [True, False])
def test_a_file_is_called_as_its_network(dynamic_batch: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model(module=Twins().eval(), example_inputs=(torch.randn(4, 6),))
    exported = export(model, tmp_path, name="twins", dynamic_batch=dynamic_batch)
    found = secateur.quantize(exported, [torch.randn(4, 6) for _ in range(8)], secateur.Quantize(calibrator="min-max"))
    assert found.exported.path == tmp_path / "twins_int8.onnx"
    assert found.exported.result.dynamic_batch == dynamic_batch
    inputs = torch.randn(7, 6)
    wanted, got = model.module(inputs), FileModule(found.exported.path, model)(inputs)
    assert list(got) == ["scores", "doubled"]
    for name, values in wanted.items():
        assert got[name].shape == (7, 4)
        assert float((got[name] - values.detach()).abs().max()) < 0.1 * float(values.detach().abs().max())


def test_requests_that_cannot_be_met_are_refused(tmp_path: Path) -> None:
    model = Model(module=torch.nn.Linear(4, 2).eval(), example_inputs=(torch.randn(2, 4),))
    exported = export(model, tmp_path, name="linear")
    samples = [torch.randn(2, 4)]
    with pytest.raises(ExportError, match=r"\['nothing'\] among the names to skip"):
        secateur.quantize(exported, samples, secateur.Quantize(skip=("nothing",)))
    with pytest.raises(ExportError, match="no layer to quantise"):
        secateur.quantize(exported, samples, secateur.Quantize(skip=("weight",)))
    with pytest.raises(ExportError, match="calibrator: found 'guess'"):
        secateur.Quantize(calibrator="guess")
    with pytest.raises(secateur.SecateurError, match="an iterator, which can be walked once"):
        secateur.quantize(exported, iter(samples))
    with pytest.raises(secateur.SecateurError, match="no batches"):
        secateur.quantize(exported, [])
    with pytest.raises(secateur.SecateurError, match="finite values"):
        secateur.quantize(exported, [torch.full((2, 4), torch.nan)])
    with pytest.raises(secateur.SecateurError, match="a single sample; wanted at least 2; some hundreds are usual"):
        secateur.quantize(exported, [torch.randn(1, 4)])
    for wrong, told in [
        (torch.randn(2, 5), r"\['float32 \[2, 5\]'\] .*wanted \[.*: tensor\(float\) \['batch', 4\]"),
        (torch.randn(2, 4).double(), r"\['float64 \[2, 4\]'\]"),
        ((torch.randn(2, 4), torch.randn(2, 4)), r"\['float32 \[2, 4\]', 'float32 \[2, 4\]'\]"),
    ]:
        with pytest.raises(secateur.SecateurError, match=told):
            secateur.quantize(exported, [wrong])
    whole = exported.path.read_bytes()
    for content, told in [(whole[: len(whole) // 2], "truncated or not ONNX"), (b"", "no graph in it")]:
        (tmp_path / "linear.onnx").write_bytes(content)
        with pytest.raises(BackendError, match=rf"linear\.onnx: found .*{told}"):
            secateur.quantize(tmp_path / "linear.onnx", samples)
    foreign = onnx.load_from_string(whole)
    foreign.graph.node[-1].output[0] = "inner"
    foreign.graph.node.append(onnx.helper.make_node("Frobnicate", ["inner"], [foreign.graph.output[0].name]))
    (tmp_path / "linear.onnx").write_bytes(foreign.SerializeToString())
    with pytest.raises(secateur.SecateurError, match="Frobnicate"):
        secateur.quantize(tmp_path / "linear.onnx", samples)
    (tmp_path / "linear.onnx").write_bytes(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["linear.onnx"], "a refusal leaves no file"
    found = secateur.quantize(exported, samples)
    with pytest.raises(ExportError, match="DequantizeLinear, QuantizeLinear in it"):
        secateur.quantize(replace(found.exported), samples)
    silent = secateur.quantize(exported, [torch.zeros(2, 4)])
    assert all(entry.scale > 0 for entry in silent.result.activations.values())
