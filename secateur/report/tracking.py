"""What a tracker of runs is, and what it is told: settings, figures and plots."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from matplotlib.figure import Figure

from secateur.artifacts import Summary
from secateur.report.plots.latency import promise_figure
from secateur.report.plots.measured import measured_figures

REPORTS = ("report.html", "report.md", "report.json")
"""The files of a run folder that people read."""


@runtime_checkable
class Tracker(Protocol):
    """A place where finished runs are kept for comparison; recipes name them under ``trackers``."""

    def require(self) -> None:
        """Raise a `SecateurError` where runs could not be kept: asked before anything is computed."""

    def track(self, summary: Summary, folder: Path, onnx_file: Path) -> str:
        """Keep a finished run and return what it is called there.

        Args:
            summary: the run; `settings`, `figures` and `plots` are made of it.
            folder: the run folder, with `REPORTS`.
            onnx_file: the compressed network.

        Raises:
            SecateurError: the place refuses.
        """


def plots(summary: Summary) -> dict[str, Figure]:
    """Draw what a run promised and what was measured, by name."""
    promise = promise_figure(summary.prune, summary.exports, summary.comparison)
    return {"promise": promise, **measured_figures(summary.comparison, summary.practice)}


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
