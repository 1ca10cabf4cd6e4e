"""Log a run to MLflow: settings, measured quantities, verdict and report."""

import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import onnx
import yaml
from matplotlib.figure import Figure

from secateur.artifacts import Summary
from secateur.errors import BackendError
from secateur.report.plots.canvas import png
from secateur.report.plots.latency import latency_figure, promise_figure
from secateur.report.plots.practice import roofline_figure, waterfall_figure


def require_mlflow() -> None:
    """Raise `BackendError` where MLflow is not installed."""
    try:
        import mlflow  # noqa: F401
    except ImportError as error:
        raise BackendError(
            "mlflow", f"no mlflow ({error})", "MLflow, which the recipe asks for",
            "Install it: pip install 'secateur[mlflow]', or leave mlflow out of the recipe.",
        ) from error  # fmt: skip


def track(
    summary: Summary,
    folder: Path,
    onnx_file: Path,
    *,
    experiment: str,
    tracking_uri: str | None,
    model: str | None = None,
    alias: str = "passed",
) -> str:
    """Log a finished run and return MLflow's run id.

    Args:
        summary: the run.
        folder: the run folder; its report.html, report.md and report.json are logged as artefacts, and plots.
        onnx_file: the compressed network.
        experiment: the experiment's name; made where it is absent.
        tracking_uri: MLflow's server or folder; its own default (MLFLOW_TRACKING_URI) where None.
        model: what the network is registered as, with its signature, where every gate passed; None for not at all.
        alias: what the registered version is called from then on.

    Raises:
        BackendError: MLflow is absent or its store refuses.
    """
    require_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else client.create_experiment(experiment)
        run = client.create_run(number, run_name=summary.name).info.run_id
        for key, value in settings(summary).items():
            client.log_param(run, key, value)
        for key, measured in figures(summary).items():
            client.log_metric(run, key, measured)
        client.set_tag(run, "verdict", summary.verdict.verdict)
        client.set_tag(run, "secateur", summary.version)
        for name in ("report.html", "report.md", "report.json"):
            client.log_artifact(run, str(folder / name))
        with tempfile.TemporaryDirectory(prefix="secateur-mlflow-") as scratch:
            for name, figure in _plots(summary).items():
                (Path(scratch) / f"{name}.png").write_bytes(png(figure))
            client.log_artifacts(run, scratch, "plots")
        if model is not None and summary.verdict.verdict == "pass":
            _register(client, run, onnx_file, model, alias)
        client.set_terminated(run)
    except (MlflowException, OSError) as error:
        raise BackendError(
            "mlflow", f"{type(error).__name__}: {str(error).splitlines()[0]}", "a store that takes the run",
            "Check mlflow.tracking_uri; the report itself is in the run folder.",
        ) from error  # fmt: skip
    return str(run)


def _plots(summary: Summary) -> dict[str, Figure]:
    drawn = {
        "promise": promise_figure(summary.prune, summary.exports, summary.comparison),
        "latency": latency_figure(summary.comparison),
    }
    if summary.practice is not None:
        drawn |= {"roofline": roofline_figure(summary.practice), "waterfall": waterfall_figure(summary.practice)}
    return drawn


def _register(client: Any, run: str, onnx_file: Path, model: str, alias: str) -> None:
    """Log the ONNX file as an MLflow model and make it the newest version of a registered one."""
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory(prefix="secateur-mlflow-") as scratch:
        (Path(scratch) / "model.onnx").write_bytes(onnx_file.read_bytes())
        (Path(scratch) / "MLmodel").write_text(mlmodel(onnx_file, run), encoding="utf-8")
        client.log_artifacts(run, scratch, "model")
    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run).info.artifact_uri}/model"
    version = client.create_model_version(model, source, run_id=run)
    client.set_registered_model_alias(model, alias, version.version)


def mlmodel(onnx_file: Path, run: str) -> str:
    """Describe an ONNX file as MLflow's MLmodel files do: how it is loaded, and the signature of its tensors.

    Written here because MLflow's own code for it needs pandas, which its light package lacks.
    """
    graph = onnx.load(onnx_file, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_tensor(value) for value in graph.input if value.name not in weights]
    onnx_flavor = {"data": "model.onnx", "onnx_version": onnx.__version__, "providers": ["CPUExecutionProvider"]}
    python = {"data": "model.onnx", "loader_module": "mlflow.onnx", "python_version": platform.python_version()}
    return yaml.safe_dump({
        "artifact_path": "model", "run_id": run, "flavors": {"onnx": onnx_flavor, "python_function": python},
        "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps([_tensor(v) for v in graph.output])},
    })  # fmt: skip


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    return {"name": value.name, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}


def settings(summary: Summary) -> dict[str, str]:
    """Return the recipe as flat ``section.key`` settings."""
    flat = {"name": summary.name, "task": summary.task}
    for section, value in summary.recipe.items():
        if isinstance(value, dict):
            flat |= {f"{section}.{key}": str(below)[:500] for key, below in value.items() if below is not None}
    return flat


def figures(summary: Summary) -> dict[str, float]:
    """Return what a comparison of runs needs: costs, speed, metrics of both networks, worst parity."""
    comparison = summary.comparison
    metrics = {
        f"{name}_{network}": value
        for network, evaluation in summary.evaluations.items()
        for name, value in evaluation.metrics.items()
    }
    return {
        "macs": float(summary.prune.macs_after),
        "parameters": float(summary.prune.parameters_after),
        "mac_ratio": summary.mac_ratio,
        "speedup": comparison.speedup.value,
        "speedup_low": comparison.speedup.low,
        "speedup_high": comparison.speedup.high,
        "latency_s": comparison.candidate.p50_s,
        "parity": max(export.parity.worst_absolute for export in summary.exports.values()),
        **metrics,
    }
