"""Draw theory beside practice: the roofline with its layers, and where the time of a call went."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from secateur.artifacts import LayerPractice, NetworkPractice, Practice
from secateur.report.formatting import count, percent, seconds, shortened, significant
from secateur.report.plots.canvas import AFTER, BEFORE, INK, LINE, MARK, MUTED, THIRD, drawing, log_ticks, quiet, tip

_MOST_ROWS = 22


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A row of the waterfall: what it is, its seconds before and after."""

    label: str
    before_s: float
    after_s: float


def roofline_figure(practice: Practice) -> Figure:
    """Draw every layer by intensity and pace below what the machine reaches, and latency over multiply-adds."""
    roofline = practice.roofline
    sides = ((practice.before, "before", BEFORE), (practice.after, "after", AFTER))
    with drawing():
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        roof, over = figure.subplots(1, 2)
        timed = [layer for network, _, _ in sides for layer in network.layers if layer.measured_s and layer.macs]
        intensities = [layer.intensity for layer in timed] or [1.0]
        span = np.geomspace(min(*intensities, 1.0) / 2, max(*intensities, 10.0) * 2, 100)
        bandwidth = roofline.bandwidth(practice.after.working_set)
        roof.loglog(span, np.minimum(roofline.macs_per_s, span * bandwidth) / 1e9, color=INK, linewidth=1.2)
        roof.annotate(
            f"{significant(roofline.macs_per_s / 1e9)} G multiply-adds/s", (span[-1], roofline.macs_per_s / 1e9),
            (0, 4), textcoords="offset points", ha="right", color=MUTED, fontsize=7.5,
        )  # fmt: skip
        roof.annotate(
            f"{significant(bandwidth / 1e9)} GB/s", (span[4], span[4] * bandwidth / 1e9), (6, -10),
            textcoords="offset points", color=MUTED, fontsize=7.5,
        )  # fmt: skip
        for network, label, colour in sides:
            for layer in network.layers:
                if not layer.measured_s or not layer.macs:
                    continue
                pace = layer.macs / layer.measured_s / 1e9
                share = layer.measured_s / network.profiled_s
                for axes, x, y in ((roof, layer.intensity, pace), (over, layer.macs / 1e6, layer.measured_s * 1e3)):
                    (dot,) = axes.plot(x, y, "o", color=colour, markersize=4 + 14 * share**0.5, alpha=0.75, mew=0)
                    tip(dot, _told(layer, label))
        over.set_xscale("log")
        over.set_yscale("log")
        for axes in (roof, over):
            for _, label, colour in sides:
                axes.plot([], [], "o", color=colour, label=label, markersize=6)
            for axis in (axes.xaxis, axes.yaxis):
                low, high = axis.get_view_interval()
                log_ticks(
                    axis, (1.0, 2.0, 5.0) if high > 10 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0), num_ticks=9
                )
            quiet(axes)
        roof.legend(loc="lower right")
        roof.set_xlabel("intensity: multiply-adds a byte")
        roof.set_ylabel("G multiply-adds a second")
        over.set_xlabel("M multiply-adds of a layer")
        over.set_ylabel("latency of a layer, ms")
    return figure


def waterfall_figure(practice: Practice) -> Figure:
    """Draw the way from the call before to the call after: what every layer gave, or took."""
    steps = _steps(practice.before, practice.after)
    scale, unit = (1e6, "µs") if practice.before.profiled_s < 1e-3 else (1e3, "ms")
    with drawing():
        figure = Figure(figsize=(10, 0.24 * (len(steps) + 2) + 0.7), layout="constrained")
        axes = figure.subplots()
        level = practice.before.profiled_s
        axes.barh(0, level * scale, color=BEFORE, height=0.62)
        for place, step in enumerate(steps, start=1):
            change = step.after_s - step.before_s
            (bar,) = axes.barh(
                place, change * scale, left=level * scale, color=THIRD if change <= 0 else MARK, height=0.62
            )
            tip(bar, f"{step.label}: {seconds(step.before_s)} before, {seconds(step.after_s)} after")
            axes.plot([level * scale] * 2, [place - 1, place], color=LINE, linewidth=0.8, zorder=0)
            level += change
            axes.annotate(
                f"{significant(change * scale, 2)}", (max(level, level - change) * scale, place), (4, 0),
                textcoords="offset points", va="center", color=MUTED, fontsize=7,
            )  # fmt: skip
        last = len(steps) + 1
        axes.barh(last, practice.after.profiled_s * scale, color=AFTER, height=0.62)
        labels = ["before", *(shortened(step.label, 34) for step in steps), "after"]
        axes.set_yticks(range(last + 1), labels)
        axes.tick_params(axis="y", labelcolor=INK, labelsize=7.5)
        axes.set_ylim(last + 0.6, -0.6)
        axes.set_xlabel(f"{unit} of a call, with the runtime's profiler on")
        quiet(axes, grid="x")
    return figure


def _steps(before: NetworkPractice, after: NetworkPractice) -> list[_Step]:
    """Pair layers by name in the order of the network; small changes beyond the most rows become one."""
    now = {layer.name: layer for layer in after.layers}
    was = {layer.name: layer for layer in before.layers}
    names = list(dict.fromkeys([*was, *now]))
    steps = [
        _Step(label=name, before_s=_seconds(was.get(name)), after_s=_seconds(now.get(name))) for name in names
    ]  # fmt: skip
    largest = sorted(steps, key=lambda step: -abs(step.after_s - step.before_s))[:_MOST_ROWS]
    rest = [step for step in steps if step not in largest]
    shown = [step for step in steps if step in largest]
    if rest:
        shown.append(_joined(f"{len(rest)} further layers", rest))
    return [
        *shown,
        _Step(label="memory layouts", before_s=before.reformat_s, after_s=after.reformat_s),
        _Step(label="other nodes", before_s=before.other_s, after_s=after.other_s),
        _Step(label="no node", before_s=before.overhead_s, after_s=after.overhead_s),
    ]


def _joined(label: str, steps: Sequence[_Step]) -> _Step:
    return _Step(label=label, before_s=sum(s.before_s for s in steps), after_s=sum(s.after_s for s in steps))


def _seconds(layer: LayerPractice | None) -> float:
    return 0.0 if layer is None or layer.measured_s is None else layer.measured_s


def _told(layer: LayerPractice, side: str) -> str:
    part = percent(layer.predicted_s / layer.measured_s) if layer.measured_s else ""
    return (
        f"{layer.name}, {side}: {layer.inputs} x {layer.outputs} channels, {count(layer.macs)} multiply-adds, "
        f"{significant(layer.intensity)} a byte, {seconds(layer.measured_s or 0.0)}, {part} of the roofline"
    )
