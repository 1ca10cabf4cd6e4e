"""Draw what the compression cost: metrics before and after with their intervals, and the course of fine-tuning."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from secateur.artifacts import FinetuneResult, Interval
from secateur.report.formatting import metric_label, significant
from secateur.report.gates import COMPRESSED, ORIGINAL
from secateur.report.plots.canvas import AFTER, BEFORE, FOURTH, INK, MARK, THIRD, drawing, log_ticks, quiet

_PANELS_A_ROW = 4


def quality_figure(intervals: Mapping[str, Mapping[str, Interval]], higher_is_better: Mapping[str, bool]) -> Figure:
    """Draw the metrics that ``higher_is_better`` names, one panel each: the networks' means, [network][metric]."""
    names = list(higher_is_better)
    networks = list(intervals)
    colours = {ORIGINAL: BEFORE, COMPRESSED: AFTER}
    num_rows = -(-len(names) // _PANELS_A_ROW)
    with drawing():
        figure = Figure(figsize=(10, num_rows * (0.75 + 0.24 * len(networks))), layout="constrained")
        panels = figure.subplots(num_rows, min(_PANELS_A_ROW, len(names)), squeeze=False).ravel()
        for panel in panels[len(names) :]:
            panel.set_axis_off()
        for number, (panel, name) in enumerate(zip(panels, names, strict=False)):
            for place, network in enumerate(networks):
                found, colour = intervals[network][name], colours.get(network, THIRD)
                panel.plot([found.low, found.high], [place, place], color=colour, linewidth=2.2)
                panel.plot([found.value], [place], "o", color=colour, markersize=5.5)
                panel.annotate(
                    significant(found.value), (found.value, place), (0, 6), textcoords="offset points",
                    ha="center", color=INK, fontsize=7.5,
                )  # fmt: skip
            panel.set_ylim(len(networks) - 0.6, -0.8)
            panel.set_yticks(range(len(networks)), networks if number % _PANELS_A_ROW == 0 else [""] * len(networks))
            panel.margins(x=0.16)
            panel.xaxis.set_major_locator(MaxNLocator(4))
            panel.xaxis.set_major_formatter(lambda value, _: significant(value, 4, trim=True))
            better = "higher" if higher_is_better[name] else "lower"
            panel.set_title(f"{metric_label(name)} ({better} is better)", fontsize=8, fontweight="normal")
            quiet(panel, grid="x")
            panel.tick_params(axis="y", labelcolor=INK)
    return figure


def history_figure(finetune: FinetuneResult) -> Figure:
    """Draw the losses and every metric over the epochs; the kept epoch is marked."""
    epochs = np.array([epoch.epoch for epoch in finetune.epochs])
    names = list(dict.fromkeys(name for epoch in finetune.epochs for name in epoch.metrics))
    losses = (("total", "loss", INK), ("task", "task_loss", AFTER), ("distillation", "distillation_loss", THIRD),
              ("features", "feature_loss", FOURTH))  # fmt: skip
    num_panels = 1 + len(names)
    num_columns = min(num_panels, _PANELS_A_ROW)
    num_rows = -(-num_panels // num_columns)
    with drawing():
        figure = Figure(figsize=(10, 2.5 * num_rows), layout="constrained")
        ratios = [1.5, *[1.0] * (num_columns - 1)]
        panels = figure.subplots(num_rows, num_columns, squeeze=False, width_ratios=ratios).ravel()
        for panel in panels[num_panels:]:
            panel.set_axis_off()
        for label, field, colour in losses:
            values = np.array([getattr(epoch, field) for epoch in finetune.epochs])
            if (values != 0).any():
                panels[0].plot(epochs, values, color=colour, marker="o", markersize=3, label=label)
        if all(epoch.loss > 0 for epoch in finetune.epochs):
            panels[0].set_yscale("log")
            log_ticks(panels[0].yaxis, (1.0, 2.0, 5.0), num_ticks=9)
        panels[0].set_title("Loss")
        panels[0].legend(
            loc="lower right", bbox_to_anchor=(1.01, 0.98), ncols=4, fontsize=7, handlelength=1.2, columnspacing=1.0
        )
        for panel, name in zip(panels[1:], names, strict=False):
            panel.plot(epochs, [epoch.metrics.get(name, np.nan) for epoch in finetune.epochs], color=AFTER, marker="o",
                       markersize=3)  # fmt: skip
            panel.set_title(metric_label(name))
        for panel in panels[:num_panels]:
            panel.axvline(finetune.best_epoch, color=MARK, linestyle=(0, (2, 2)), linewidth=1)
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
            panel.set_xlabel("epoch (kept one dashed)")
            quiet(panel)
    return figure
