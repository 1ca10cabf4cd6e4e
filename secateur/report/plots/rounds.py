"""Draw how pruning went: what was left after each round, and what the loss did meanwhile."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from secateur.artifacts import PruneResult
from secateur.report.plots.canvas import AFTER, BEFORE, MARK, MUTED, THIRD, drawing, quiet


def rounds_figure(prune: PruneResult) -> Figure:
    """Draw the remaining MACs and parameters over the rounds, and the loss before and after each cut and recovery."""
    numbers = np.arange(len(prune.rounds) + 1)
    with drawing():
        figure = Figure(figsize=(10, 2.6), layout="constrained")
        cost, loss = figure.subplots(1, 2)
        macs = np.array([prune.macs_before, *(done.macs for done in prune.rounds)]) / prune.macs_before
        parameters = np.array([prune.parameters_before, *(done.parameters for done in prune.rounds)])
        cost.plot(numbers, macs, color=AFTER, marker="o", markersize=4, label="MACs")
        cost.plot(
            numbers, parameters / prune.parameters_before, color=THIRD, marker="s", markersize=4, label="parameters"
        )
        cost.set_ylim(0, 1.06)
        cost.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        cost.set_xticks(numbers, ["start", *(str(number) for number in numbers[1:])])
        cost.set_xlabel("after round")
        cost.set_title("What is left")
        cost.legend(loc="lower left")
        for end, done in enumerate(prune.rounds, start=1):
            losses = [done.loss_before, done.loss_after_cut, done.loss_after_recovery]
            places = [end - 1, end - 0.65, end]
            loss.plot(places[:2], losses[:2], color=MARK, label="cut" if end == 1 else None)
            loss.plot(places[1:], losses[1:], color=AFTER, label="recovery" if end == 1 else None)
            loss.plot(places, losses, "o", color=MUTED, markersize=3)
        if prune.rounds:
            loss.axhline(prune.rounds[0].loss_before, color=BEFORE, linestyle=(0, (2, 2)), linewidth=1)
        loss.set_xticks(numbers, ["start", *(str(number) for number in numbers[1:])])
        loss.set_xlabel("after round")
        loss.set_title("Loss")
        loss.legend(loc="upper left")
        quiet(cost)
        quiet(loss)
    return figure
