"""Draw several runs by quality and latency, with their intervals and the front that none of them is beyond."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from secateur.artifacts import Interval
from secateur.report.formatting import metric_label, seconds, shortened, significant
from secateur.report.plots.canvas import AFTER, BEFORE, INK, drawing, quiet, tip


@dataclass(frozen=True, kw_only=True)
class RunPoint:
    """A run: its name, its median latency in seconds and its quality."""

    name: str
    latency_s: Interval
    quality: Interval


def front(points: Sequence[RunPoint], *, higher_is_better: bool) -> list[RunPoint]:
    """Return the runs that no other run beats in both latency and quality, the fastest first."""
    sign = 1.0 if higher_is_better else -1.0
    kept: list[RunPoint] = []
    for point in sorted(points, key=lambda p: (p.latency_s.value, -sign * p.quality.value)):
        if not kept or sign * point.quality.value > sign * kept[-1].quality.value:
            kept.append(point)
    return kept


def pareto_figure(points: Sequence[RunPoint], metric: str, *, higher_is_better: bool) -> Figure:
    """Draw quality over latency; runs on the front are blue."""
    best = front(points, higher_is_better=higher_is_better)
    with drawing():
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.step(
            [point.latency_s.value * 1e3 for point in best], [point.quality.value for point in best], where="post",
            color=AFTER, linewidth=1, alpha=0.6,
        )  # fmt: skip
        for point in points:
            colour = AFTER if point in best else BEFORE
            x, y = point.latency_s, point.quality
            axes.plot([x.low * 1e3, x.high * 1e3], [y.value] * 2, color=colour, linewidth=1)
            axes.plot([x.value * 1e3] * 2, [y.low, y.high], color=colour, linewidth=1)
            (dot,) = axes.plot(x.value * 1e3, y.value, "o", color=colour, markersize=6)
            tip(dot, f"{point.name}: {seconds(x.value)}, {significant(y.value)}")
            axes.annotate(
                shortened(point.name, 28), (x.value * 1e3, y.value), (6, 5), textcoords="offset points", color=INK
            )
        axes.set_xlabel("median latency, ms")
        axes.set_ylabel(metric_label(metric))
        axes.margins(0.15)
        quiet(axes)
    return figure
