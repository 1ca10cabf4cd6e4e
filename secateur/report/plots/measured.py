"""Draw everything that a comparison of two networks measured."""

from matplotlib.figure import Figure

from secateur.artifacts import Comparison, Practice
from secateur.report.plots.latency import latency_figure
from secateur.report.plots.practice import roofline_figure, waterfall_figure


def measured_figures(comparison: Comparison, practice: Practice | None) -> dict[str, Figure]:
    """Draw the latencies and, where layers were looked at, the roofline with latency over MACs, and the waterfall."""
    drawn = {"latency": latency_figure(comparison)}
    if practice is not None:
        drawn |= {"roofline": roofline_figure(practice), "waterfall": waterfall_figure(practice)}
    return drawn
