"""Log a run to MLflow: settings, measured quantities, verdict and report."""

from pathlib import Path

from secateur.artifacts import Summary
from secateur.errors import BackendError


def require_mlflow() -> None:
    """Raise `BackendError` where MLflow is not installed."""
    try:
        import mlflow  # noqa: F401
    except ImportError as error:
        raise BackendError(
            "mlflow", f"no mlflow ({error})", "MLflow, which the recipe asks for",
            "Install it: pip install 'secateur[mlflow]', or leave mlflow out of the recipe.",
        ) from error  # fmt: skip


def track(summary: Summary, folder: Path, *, experiment: str, tracking_uri: str | None) -> str:
    """Log a finished run and return MLflow's run id.

    Args:
        summary: the run.
        folder: the run folder; its report.html, report.md and report.json are logged as artefacts.
        experiment: the experiment's name; made where it is absent.
        tracking_uri: MLflow's server or folder; its own default (MLFLOW_TRACKING_URI) where None.

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
        client.set_terminated(run)
    except (MlflowException, OSError) as error:
        raise BackendError(
            "mlflow", f"{type(error).__name__}: {str(error).splitlines()[0]}", "a store that takes the run",
            "Check mlflow.tracking_uri; the report itself is in the run folder.",
        ) from error  # fmt: skip
    return str(run)


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
