"""The command line: bad input is told with its remedy and exit code 2; verbs print what they should."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from project import write_project

from secateur import cli
from secateur.artifacts import Model
from secateur.pipeline.export import export

RECIPE = """\
name: bad
model: {module}:build
data: {{function: "secateur.workloads.classification:image_folder", arguments: {{folder: images, size: 32}}}}
task: classification
prune: {{macs: 0.5, multiple: 4}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad")
    write_project(path, "badsorter", per_class=12)
    (path / "recipe.yaml").write_text(RECIPE.format(module="badsorter"))
    return path


def call(
    arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run the command line in a folder; return exit code, standard output and standard error on one line each."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["secateur", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, " ".join(captured.err.split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model=nowhere:build"], "the module 'nowhere' does not import"),
        (["model=badsorter:bild"], "no 'bild' in 'badsorter'; wanted one of"),
        (["model=badsorter:nothing"], "it returned str; wanted a torch.nn.Module"),
        (["model.arguments.file=none.pt"], "FileNotFoundError"),
        (["model.arguments.files=none.pt"], "arguments ['files']"),
        (["model.arguments.spoil=true"], "1 of 3456 values of fine.weight are NaN or infinite"),
        (["model=badsorter:moody", "task=classification"], "depend on tensor values"),
        (["data.arguments.folder=nowhere"], "nowhere"),
        (["data=badsorter:flat"], "samples the network rejects: a batch of shape (2, 3, 32)"),
        (["data=badsorter:empty"], "an empty data set"),
        (["prune.macs=0.001"], "the smallest that these floors allow"),
        (["prune.keep=[steem]"], "steem"),
        (["gates=[{quantity: speed, at_least: 2}]"], "speedup"),
        (["measure.backend=tensorrt"], "tensorrt"),
        (["folder=recipe.yaml"], "--set folder=PATH"),
        (["task={loss: 'torch.nn.functional:mse_loss', metrics: {x: 'badsorter:build'}}"], "custom"),
        (["name=${NO_SUCH_VARIABLE}"], "an environment variable NO_SUCH_VARIABLE"),
    ],
)
def test_bad_input_is_told_with_its_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changes: list[str], message: str
) -> None:
    options = [part for change in changes for part in ("--set", change)]
    code, out, err = call(["run", "recipe.yaml", "--quiet", *options], folder, monkeypatch, capsys)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert "def forward" not in err, "torch.export printed its unfinished graph"
    assert out == ""


def test_a_defect_exits_with_2_and_its_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", lambda: 1 / 0)
    code, _, err = call(["run", "recipe.yaml"], folder, monkeypatch, capsys)
    assert code == 2
    assert "ZeroDivisionError" in err
    assert "defect" in err


def test_interrupting_exits_with_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    code, _, err = call(["run", "recipe.yaml"], folder, monkeypatch, capsys)
    assert code == 2
    assert "finished steps are kept" in err


def test_bench_compares_any_two_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    for name, width in (("wide", 64), ("narrow", 8)):
        net = torch.nn.Sequential(torch.nn.Conv2d(3, width, 3), torch.nn.ReLU(), torch.nn.Conv2d(width, 4, 3))
        export(Model(module=net, example_inputs=(torch.randn(2, 3, 32, 32),)), folder, name=name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    arguments = ["bench", "wide.onnx", "narrow.onnx", "--max-s", "5", "--quiet", "--batch", "2", "--plots", "plots"]
    code, out, err = call([*arguments, "--json", "--concurrency", "2", "--cold", "1"], folder, monkeypatch, capsys)
    assert code == 0, err
    (found,) = json.loads(out)
    compared = found["comparison"]
    assert (compared["batch_size"], compared["outcome"]) == (2, "faster")
    assert compared["speedup"]["low"] > 1
    before, after = found["practice"]["before"], found["practice"]["after"]
    assert before["macs"] == 2 * (30 * 30 * 64 * 27 + 28 * 28 * 4 * 576)
    assert [layer["outputs"] for layer in after["layers"]] == [8, 4]
    assert all(layer["measured_s"] > 0 for layer in before["layers"])
    assert found["clients"]["candidate"][0]["num_clients"] == 2
    assert found["clients"]["candidate"][0]["latency"]["num_samples"] >= 4
    assert found["cold"]["baseline"]["first_s"][0] > 0
    assert found["cold"]["baseline"]["flushed"]
    practice = found["practice"]
    assert practice["realised"] == pytest.approx(
        math.log(practice["speedup"]) / math.log(before["macs"] / after["macs"])
    )
    assert practice["realised_layers"].keys() == {layer["name"] for layer in after["layers"]}
    drawn = sorted(path.name for path in (folder / "plots").iterdir())
    assert drawn == [f"{name}-batch-2-threads-1.png" for name in ("latency", "roofline", "waterfall")]
    assert list((folder / "cache" / "secateur").glob("roofline-onnxruntime-*.json"))


def test_bench_times_one_file_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    export(Model(module=net, example_inputs=(torch.randn(2, 3, 4),)), folder, name="single")
    code, out, _ = call(
        ["bench", "single.onnx", "--quiet", "--batch", "4", "--max-s", "1"], folder, monkeypatch, capsys
    )
    assert code == 0
    assert "batch 4: median" in out
    assert "stopped by" in out


def test_bench_of_one_file_refuses_what_compares(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(["bench", "single.onnx", "--cold", "2", "--plots", "x"], folder, monkeypatch, capsys)
    assert code == 2
    assert "bench --cold --plots: found one file; wanted two files" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--batch", "0"], "--batch 0"), (["--threads", "two"], "for example --threads 1,8"),
     (["--size", "height"], "no name=number")],
)  # fmt: skip
def test_bench_wants_numbers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    code, _, err = call(["bench", "a.onnx", "b.onnx", *options], folder, monkeypatch, capsys)
    assert code == 2
    assert message.lower() in err.lower()


def test_bench_names_a_file_that_is_no_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(["bench", "recipe.yaml", "none.onnx"], folder, monkeypatch, capsys)
    assert code == 2
    assert "recipe.yaml" in err


def test_doctor_lists_every_backend(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from secateur.backends import BACKENDS

    code, out, _ = call(["doctor"], folder, monkeypatch, capsys)
    assert code == 0
    assert all(name in out for name in BACKENDS)


def test_the_recipe_knows_every_backend() -> None:
    from secateur.backends import BACKENDS
    from secateur.recipe_engines import BuildSettings, MeasureSettings

    assert BuildSettings(backends=list(BACKENDS)).backends == list(BACKENDS)
    assert {MeasureSettings(backend=name).backend for name in BACKENDS} == set(BACKENDS)
    with pytest.raises(ValueError, match="one of torch, "):
        MeasureSettings(backend="onnx")


def test_the_recipe_knows_every_signal_and_component() -> None:
    from typing import get_args

    from secateur.pipeline.signals import SIGNALS, TABLES
    from secateur.recipe_pruning import CombinedSignal, SignalName

    assert set(get_args(SignalName)) == set(SIGNALS)
    assert {n: set(get_args(f.annotation)) for n, f in CombinedSignal.model_fields.items()} == {
        name: set(table) for name, table in TABLES.items()
    }


def test_version(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(["--version"], folder, monkeypatch, capsys)
    assert code == 0
    assert out.startswith("secateur 0.")
