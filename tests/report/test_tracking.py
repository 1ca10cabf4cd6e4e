"""MLflow holds what the report says, in a store on disk."""

from pathlib import Path

import pytest

from secateur.artifacts import Summary
from secateur.errors import BackendError
from secateur.report.tracking import figures, track
from secateur.report.write import write_report

pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlruns").as_uri()


def test_a_run_is_logged_with_settings_figures_verdict_and_report(summary: Summary, store: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    write_report(summary, tmp_path / "run", num_resamples=200)
    number = track(summary, tmp_path / "run", experiment="cuts", tracking_uri=store)
    client = MlflowClient(store)
    logged = client.get_run(number)
    assert logged.data.metrics == pytest.approx(figures(summary))
    assert logged.data.tags["verdict"] == summary.verdict.verdict
    assert logged.data.params["name"] == summary.name
    assert logged.info.status == "FINISHED"
    assert {entry.path for entry in client.list_artifacts(number)} == {"report.html", "report.md", "report.json"}
    again = track(summary, tmp_path / "run", experiment="cuts", tracking_uri=store)
    assert again != number
    assert client.get_run(again).info.experiment_id == logged.info.experiment_id


def test_a_store_that_refuses_is_told(summary: Summary, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"mlflow\.tracking_uri"):
        track(summary, tmp_path, experiment="cuts", tracking_uri="nonsense://nowhere")
