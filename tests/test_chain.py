"""A user's own network, from `secateur init` to the judged engine; a rerun resumes, a change redoes its part."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from project import write_project

import secateur
from secateur.artifacts import Summary
from secateur.report.redundancy import redundancy_json
from secateur.report.write import read_summary

FAST = [
    "finetune.epochs=3",
    "finetune.batch_size=16",
    "prune.recovery_steps=5",
    "prune.rounds=2",
    "prune.multiple=4",
    "estimate.samples=64",
    "prune.samples=64",
    "measure.max_s=4",
    "measure.instances=3",
    "finetune.learning_rate=0.002",
]


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "secateur", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def overrides(*changes: str) -> list[str]:
    return [part for change in [*FAST, *changes] for part in ("--set", change)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which `secateur init` was run and three lines were edited."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder, "sorter")
    assert command(folder, "init").returncode == 0
    recipe = folder / "recipe.yaml"
    text = recipe.read_text()
    edited = re.sub(r"my_network:build .*", "sorter:build", text)
    edited = re.sub(r"\{folder: images, size: 64\}.*", "{folder: images, size: 32}", edited)
    edited = re.sub(r"  macs: 0\.5 .*", "  macs: 0.4", edited)
    changed = [a for a, b in zip(text.splitlines(), edited.splitlines(), strict=True) if a != b]
    assert len(changed) == 3
    recipe.write_text(edited)
    return folder


@pytest.fixture(scope="module")
def summary(project: Path) -> Summary:
    """The first run of the project, by the command line."""
    done = command(project, "run", "recipe.yaml", "--json", *overrides())
    assert done.returncode in (0, 1, 3), done.stderr
    found = Summary.model_validate_json(done.stdout)
    assert done.returncode == found.verdict.exit_code
    return found


def test_the_network_is_smaller_as_asked_and_still_works(summary: Summary) -> None:
    assert summary.prune.macs_after <= 0.4 * summary.prune.macs_before
    assert summary.prune.macs_after >= 0.3 * summary.prune.macs_before
    assert summary.evaluations["original"].metrics["top1"] > 0.9
    assert summary.evaluations["compressed"].metrics["top1"] > 0.8


def test_every_arrow_was_proved(summary: Summary) -> None:
    assert all(done.cut_error < 1e-4 for done in summary.prune.rounds)
    for name in ("original", "compressed"):
        assert summary.exports[name].parity.worst_relative < 1e-4
        built = [engine for engine in summary.engines[name] if engine.status == "built"]
        assert "onnxruntime" in {engine.backend for engine in built}


def test_theory_stands_beside_practice_for_every_layer(summary: Summary) -> None:
    practice = summary.practice
    assert practice is not None
    assert practice.before.macs == summary.prune.macs_before
    assert practice.after.macs == summary.prune.macs_after
    assert practice.speedup == summary.comparison.speedup.value
    for network in (practice.before, practice.after):
        assert {"stem.0", "body.0.deep", "fine", "coarse", "head"} <= {layer.name for layer in network.layers}
        assert sum(layer.measured_s is not None for layer in network.layers) >= 10


def test_the_engine_runs_where_the_package_is_not(project: Path, summary: Summary) -> None:
    file = next((project / "runs" / "my-network" / "steps").glob(f"export-*/{summary.exports['compressed'].path}"))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    shape = [size if isinstance(size, int) else 5 for size in session.get_inputs()[0].shape]
    (outputs,) = session.run(None, {session.get_inputs()[0].name: np.zeros(shape, np.float32)})
    assert outputs.shape == (5, 3)


def test_the_report_says_what_the_summary_says(project: Path, summary: Summary) -> None:
    folder = project / "runs" / "my-network"
    assert read_summary(folder / "report.json") == summary
    html = (folder / "report.html").read_text()
    assert summary.verdict.verdict.upper() in html
    assert all(gate.quantity in html for gate in summary.verdict.gates)
    assert "stem.0" in html


def test_a_rerun_in_python_takes_every_step_from_the_folder(
    project: Path, summary: Summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    again = secateur.run(secateur.read_recipe(project / "recipe.yaml", FAST))
    manifest = json.loads((project / "runs" / "my-network" / "manifest.json").read_text())
    assert [row["name"] for row in manifest["steps"]] == [
        "estimate", "prune", "finetune", "evaluate", "export", "build", "measure", "gate",
    ]  # fmt: skip
    assert all(row["reused"] for row in manifest["steps"])
    assert again.summary.verdict == summary.verdict
    assert again.exit_code == summary.verdict.exit_code


def test_a_changed_gate_redoes_the_gate_alone(project: Path, summary: Summary) -> None:
    done = command(project, "run", "recipe.yaml", "--quiet", *overrides("gates=[{quantity: mac_ratio, at_least: 99}]"))
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    manifest = json.loads((project / "runs" / "my-network" / "manifest.json").read_text())
    assert [row["name"] for row in manifest["steps"] if not row["reused"]] == ["gate"]


def test_estimate_reuses_the_runs_step_and_draws(project: Path, summary: Summary) -> None:
    done = command(project, "estimate", "recipe.yaml", "--json", *overrides())
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads(json.dumps(redundancy_json(summary.redundancy)))
    assert (project / "runs" / "my-network" / "redundancy.png").read_bytes().startswith(b"\x89PNG")


def test_check_touches_nothing(project: Path) -> None:
    before = sorted(project.rglob("*"))
    done = command(project, "check", "recipe.yaml", *overrides("name=other"))
    assert done.returncode == 0, done.stderr
    assert "stem.0" in done.stdout
    assert "recovery_steps: 5" in done.stdout
    assert [p for p in sorted(project.rglob("*")) if "__pycache__" not in str(p)] == [
        p for p in before if "__pycache__" not in str(p)
    ]


def started(project: Path, *changes: str, largest_file: int | None = None) -> subprocess.Popen[str]:
    """Start a run; ``largest_file`` is what the operating system lets it write at most, in bytes."""

    def limit() -> None:
        import resource

        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job's children ignore it
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.Popen(
        [sys.executable, "-m", "secateur", "run", "recipe.yaml", *overrides(*changes)], cwd=project,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=limit,
    )  # fmt: skip


def finished(folder: Path) -> set[str]:
    return {path.name.split("-")[0] for path in (folder / "steps").iterdir()}


LONG = "finetune.epochs=200"


def begun(project: Path, name: str) -> Path:
    """Return another run's folder that has the first run's pruned network already."""
    folder = project / "runs" / name
    for step in ("estimate", "prune"):
        done = next((project / "runs" / "my-network" / "steps").glob(f"{step}-*"))
        shutil.copytree(done, folder / "steps" / done.name)
    return folder


def test_a_run_that_is_interrupted_goes_on(project: Path, summary: Summary) -> None:
    changes, folder = ("name=interrupted", LONG), begun(project, "interrupted")
    process = started(project, *changes)
    while not list(folder.glob("partial/finetune-*/checkpoint/*")):
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 2
    assert "finished steps are kept, the same command goes on from there" in " ".join(said.split())
    assert "Traceback" not in said
    assert finished(folder) == {"estimate", "prune"}
    # The same command goes on; the epochs of the checkpoint are not trained again.
    process = started(project, *changes)
    heard = []
    for line in process.stderr:
        heard.append(line)
        if "fine-tuning" in line:
            break
    process.kill()
    process.communicate()
    assert sum("taken from the run folder" in line for line in heard) == 2
    assert int(re.search(r"epoch (\d+) of 200", heard[-1]).group(1)) > 1


def test_a_run_without_space_keeps_what_it_has(project: Path, summary: Summary) -> None:
    changes, folder = ("name=cramped", LONG), begun(project, "cramped")
    process = started(project, *changes, largest_file=150_000)  # enough for all but the checkpoint
    said = " ".join(process.communicate()[1].split())
    assert process.returncode == 2
    assert re.search(r"error .* a checkpoint that cannot be written .*File too large", said), said
    assert "Free some space or name another folder" in said
    assert "Traceback" not in said
    assert finished(folder) == {"estimate", "prune"}
