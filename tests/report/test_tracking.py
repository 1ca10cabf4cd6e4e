"""Trackers hold what the report says: MLflow in a store on disk and on a server, a file of JSON lines, one's own."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.artifacts import Model, Summary
from secateur.errors import BackendError, StorageError
from secateur.pipeline.export import export
from secateur.report.json_lines import JsonLines
from secateur.report.mlflow import Mlflow
from secateur.report.tracking import Tracker, figures, settings
from secateur.report.write import write_report


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)  # MLflow makes its own default store where it runs
    return (tmp_path / "mlruns").as_uri()


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    model = Model(module=net, example_inputs=(torch.randn(2, 3, 4),))
    return export(
        model, tmp_path_factory.mktemp("onnx"), name="compressed", input_names=["image"], output_names=["scores"]
    ).path


def test_a_run_is_logged_with_settings_figures_verdict_and_report(
    small: Summary, store: str, onnx_file: Path, tmp_path: Path
) -> None:
    from mlflow.tracking import MlflowClient

    write_report(small, tmp_path / "run", num_resamples=50)
    mlflow = Mlflow(experiment="cuts", tracking_uri=store)
    number = mlflow.track(small, tmp_path / "run", onnx_file)
    client = MlflowClient(store)
    logged = client.get_run(number)
    assert logged.data.metrics == pytest.approx(figures(small))
    assert logged.data.tags["verdict"] == small.verdict.verdict
    assert logged.data.params["name"] == small.name
    assert logged.info.status == "FINISHED"
    assert {entry.path for entry in client.list_artifacts(number)} == {
        "report.html", "report.md", "report.json", "plots",
    }  # fmt: skip
    plots = {Path(entry.path).stem for entry in client.list_artifacts(number, "plots")}
    assert plots == {"promise", "latency", "roofline", "waterfall"}
    again = mlflow.track(small, tmp_path / "run", onnx_file)
    assert again != number
    assert client.get_run(again).info.experiment_id == logged.info.experiment_id


def test_a_store_that_refuses_is_told(summary: Summary, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    with pytest.raises(BackendError, match=r"mlflow\.tracking_uri"):
        Mlflow(experiment="cuts", tracking_uri="nonsense://nowhere").track(summary, tmp_path, tmp_path / "none.onnx")


def test_a_network_is_registered_only_where_every_gate_passed(
    bare: Summary, store: str, onnx_file: Path, tmp_path: Path
) -> None:
    from mlflow.tracking import MlflowClient

    write_report(bare, tmp_path / "run", num_resamples=50)
    client = MlflowClient(store)
    mlflow = Mlflow(experiment="cuts", tracking_uri=store, model="gaze", alias="released")
    failed = bare.model_copy(update={"verdict": bare.verdict.model_copy(update={"verdict": "undecided"})})
    mlflow.track(failed, tmp_path / "run", onnx_file)
    assert client.search_registered_models() == []
    assert bare.verdict.verdict == "pass"
    number = mlflow.track(bare, tmp_path / "run", onnx_file)
    version = client.get_model_version_by_alias("gaze", "released")
    assert (str(version.version), version.run_id) == ("1", number)
    assert {Path(e.path).name for e in client.list_artifacts(number, "model")} == {"MLmodel", "model.onnx"}
    mlflow.track(bare, tmp_path / "run", onnx_file)
    assert str(client.get_model_version_by_alias("gaze", "released").version) == "2"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own on a free port, with SQLite behind it; the light MLflow package has none."""
    if any(importlib.util.find_spec(name) is None for name in ("flask", "sqlalchemy", "pandas", "uvicorn")):
        pytest.skip("no MLflow server: mlflow is installed without flask, sqlalchemy, uvicorn and pandas")
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "files"),
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        for _ in range(240):
            if process.poll() is not None:
                pytest.fail((folder / "log").read_text()[-2000:])
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
        shutil.rmtree(folder / "files", ignore_errors=True)


def test_a_real_server_takes_the_run_and_serves_the_registered_network(
    bare: Summary, server: str, onnx_file: Path, tmp_path: Path
) -> None:
    import mlflow
    import numpy as np
    from mlflow.tracking import MlflowClient

    write_report(bare, tmp_path / "run", num_resamples=50)
    tracker = Mlflow(experiment="cuts", tracking_uri=server, model="gaze", alias="passed")
    number = tracker.track(bare, tmp_path / "run", onnx_file)
    client = MlflowClient(server)
    logged = client.get_run(number).data
    assert logged.metrics == pytest.approx(figures(bare))
    assert settings(bare).items() <= logged.params.items()
    assert {"report.html", "plots"} <= {entry.path for entry in client.list_artifacts(number)}
    assert client.get_model_version_by_alias("gaze", "passed").run_id == number
    mlflow.set_tracking_uri(server)
    loaded = mlflow.pyfunc.load_model("models:/gaze@passed")
    signature = loaded.metadata.signature
    assert [(spec.name, str(spec.type), spec.shape) for spec in signature.inputs] == [("image", "float32", (-1, 3, 4))]
    inputs = np.ones((2, 3, 4), dtype=np.float32)
    outputs = loaded.predict({"image": inputs})
    assert np.shape(outputs["scores"]) == (2, 4)


def test_every_run_is_a_line_and_lines_do_not_mix(summary: Summary, tmp_path: Path) -> None:
    tracker = JsonLines(path=str(tmp_path / "all" / "runs.jsonl"))
    assert isinstance(tracker, Tracker)
    assert isinstance(Mlflow(), Tracker)
    tracker.require()
    folders = [tmp_path / str(number) for number in range(8)]
    threads = [threading.Thread(target=tracker.track, args=(summary, folder, folder)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in (tmp_path / "all" / "runs.jsonl").read_text().splitlines()]
    assert sorted(line["run"] for line in lines) == sorted(map(str, folders))
    assert all(line["figures"] == figures(summary) and line["settings"] == settings(summary) for line in lines)
    assert {line["verdict"] for line in lines} == {summary.verdict.verdict}
    with pytest.raises(StorageError, match="Check trackers in the recipe"):
        JsonLines(path=str(tmp_path)).require()
