"""MLflow as a tracker of runs."""

import json
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import yaml

from secateur.artifacts import Summary
from secateur.errors import BackendError
from secateur.report.plots.canvas import png
from secateur.report.tracking import REPORTS, figures, plots, settings


@dataclass(frozen=True, kw_only=True)
class Mlflow:
    """Log runs to MLflow: settings, figures, verdict, report and plots, and the network where every gate passed.

    ``experiment`` is made where it is absent. ``tracking_uri`` is MLflow's server or folder, its own default
    (MLFLOW_TRACKING_URI) where None. ``model`` is what the compressed network is registered as, with its signature,
    where every gate passed, None for not at all; ``alias`` is what the registered version is called from then on.
    """

    experiment: str = "secateur"
    tracking_uri: str | None = None
    model: str | None = None
    alias: str = "passed"

    def require(self) -> None:
        """Raise `BackendError` where MLflow is not installed."""
        try:
            import mlflow  # noqa: F401
        except ImportError as error:
            raise BackendError(
                "mlflow", f"no mlflow ({error})", "MLflow, which the recipe asks for",
                "Install it: pip install 'secateur[mlflow]', or leave mlflow out of the recipe.",
            ) from error  # fmt: skip

    def track(self, summary: Summary, folder: Path, onnx_file: Path) -> str:
        """Log a finished run and return MLflow's run id; raises `BackendError` where its store refuses."""
        self.require()
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            client = MlflowClient(self.tracking_uri)
            found = client.get_experiment_by_name(self.experiment)
            number = found.experiment_id if found else client.create_experiment(self.experiment)
            run = client.create_run(number, run_name=summary.name).info.run_id
            for key, value in settings(summary).items():
                client.log_param(run, key, value)
            for key, measured in figures(summary).items():
                client.log_metric(run, key, measured)
            client.set_tag(run, "verdict", summary.verdict.verdict)
            client.set_tag(run, "secateur", summary.version)
            for name in REPORTS:
                client.log_artifact(run, str(folder / name))
            with tempfile.TemporaryDirectory(prefix="secateur-mlflow-") as scratch:
                for name, figure in plots(summary).items():
                    (Path(scratch) / f"{name}.png").write_bytes(png(figure))
                client.log_artifacts(run, scratch, "plots")
            if self.model is not None and summary.verdict.verdict == "pass":
                _register(client, run, onnx_file, self.model, self.alias)
            client.set_terminated(run)
        except (MlflowException, OSError) as error:
            raise BackendError(
                "mlflow", f"{type(error).__name__}: {str(error).splitlines()[0]}", "a store that takes the run",
                "Check mlflow.tracking_uri; the report itself is in the run folder.",
            ) from error  # fmt: skip
        return str(run)


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
