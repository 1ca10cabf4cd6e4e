"""Draw what was measured: the two latency distributions, and what the promise of fewer operations became."""

import numpy as np
from matplotlib.figure import Figure

from secateur.artifacts import Comparison, ExportResult, PruneResult, realised_fraction
from secateur.report.formatting import percent, ratio, seconds
from secateur.report.gates import COMPRESSED, ORIGINAL
from secateur.report.plots.canvas import AFTER, BEFORE, INK, LINE, MARK, MUTED, drawing, log_ticks, quiet

_SIDES = (("baseline", "before", BEFORE), ("candidate", "after", AFTER))
_SHOWN = 0.995  # share of the samples within the axis; stragglers would flatten the rest


def latency_figure(comparison: Comparison) -> Figure:
    """Draw the distributions of block medians with their medians, and the blocks in the order they were timed."""
    scale, unit = _unit(comparison.baseline.p50_s)
    pooled = {side: np.sort(np.concatenate([np.asarray(run) for run in comparison.samples_s[side]])) * scale
              for side, _, _ in _SIDES}  # fmt: skip
    highest = max(float(np.quantile(values, _SHOWN)) for values in pooled.values()) * 1.06
    beyond = sum(int((values > highest).sum()) for values in pooled.values())
    with drawing():
        figure = Figure(figsize=(10, 2.9), layout="constrained")
        distribution, order = figure.subplots(1, 2, width_ratios=(1, 1))
        faster = comparison.baseline.p50_s < comparison.candidate.p50_s
        for side, label, colour in _SIDES:
            values = pooled[side]
            median = getattr(comparison, side).p50_s
            distribution.step(values, np.arange(1, len(values) + 1) / len(values), where="post", color=colour)
            distribution.axvline(median * scale, color=colour, linestyle=(0, (2, 2)), linewidth=1)
            distribution.annotate(
                f"{label} {seconds(median)}", (median * scale, 1.0), (0, 6), textcoords="offset points",
                ha="right" if (label == "before") == faster else "left", color=INK, xycoords=("data", "axes fraction"),
            )  # fmt: skip
            for run in comparison.samples_s[side]:
                order.plot(np.arange(1, len(run) + 1), np.asarray(run) * scale, color=colour, linewidth=0.9, alpha=0.75)
        lowest = min(values[0] for values in pooled.values())
        distribution.set_xlim(max(0.0, lowest - 0.12 * (highest - lowest)), highest)
        distribution.set_ylim(0, 1.0)
        distribution.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        note = f" ({beyond} beyond the axis)" if beyond else ""
        distribution.set_xlabel(f"latency of a block, {unit}{note}")
        distribution.set_ylabel("share of blocks")
        order.set_ylim(0, highest)
        order.set_xlabel("block, in the order of timing; one line an engine instance")
        order.set_ylabel(f"latency, {unit}")
        quiet(distribution)
        quiet(order)
    return figure


def promise_figure(prune: PruneResult, exports: dict[str, ExportResult], comparison: Comparison) -> Figure:
    """Draw the factors of MACs, parameters and file size beside the measured speed-up, on a logarithmic axis from 1.

    On this axis the length of the speed-up's bar over that of the MACs is the realised fraction.
    """
    mac_ratio = prune.macs_before / prune.macs_after
    bars = [
        ("MACs saved", mac_ratio, LINE),
        ("parameters saved", prune.parameters_before / prune.parameters_after, LINE),
    ]
    if ORIGINAL in exports and COMPRESSED in exports:
        bars.append(("file size saved", exports[ORIGINAL].size_bytes / exports[COMPRESSED].size_bytes, LINE))
    speedup = comparison.speedup
    bars.append(("measured speed-up", speedup.value, AFTER))
    realised = realised_fraction(mac_ratio, speedup.value)
    with drawing():
        figure = Figure(figsize=(10, 0.36 * len(bars) + 0.75), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(bars))
        values = np.array([value for _, value, _ in bars])
        axes.set_xscale("log")
        axes.barh(places, values - 1, left=1, height=0.56, color=[colour for _, _, colour in bars])
        axes.plot([speedup.low, speedup.high], [places[-1]] * 2, color=MARK, linewidth=2, solid_capstyle="butt")
        highest, lowest = max(*values, speedup.high, 1.2), min(*values, speedup.low, 1.0)
        for place, (label, value, _) in zip(places, bars, strict=True):
            note = ratio(value)
            end = value
            if label == "measured speed-up":
                end = max(value, speedup.high)
                note += f"  [{ratio(speedup.low)}, {ratio(speedup.high)}]"
                note += f", {percent(realised)} of the MACs' promise" if realised is not None else ""
            axes.annotate(note, (max(end, 1.0), place), (6, 0), textcoords="offset points", va="center", color=INK)
        axes.set_yticks(places, [label for label, _, _ in bars])
        axes.tick_params(axis="y", labelcolor=INK, labelsize=8)
        axes.invert_yaxis()
        axes.set_xlim(lowest / 1.02, highest**1.75)
        log_ticks(axes.xaxis, (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0), num_ticks=30)
        axes.axvline(1, color=MUTED, linewidth=0.8)
        axes.set_xlabel("factor, logarithmic: equal lengths are equal gains")
        quiet(axes, grid="x")
        axes.spines["left"].set_visible(False)
    return figure


def _unit(typical_s: float) -> tuple[float, str]:
    return (1e6, "µs") if typical_s < 1e-3 else (1e3, "ms") if typical_s < 1 else (1.0, "s")
