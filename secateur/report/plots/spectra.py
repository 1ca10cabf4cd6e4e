"""Draw how quickly every group's spectrum decays, and how many filters reach the tolerated tail."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from secateur.artifacts import GroupRedundancy, Redundancy
from secateur.report.formatting import percent, shortened
from secateur.report.plots.canvas import AFTER, AFTER_SOFT, INK, LINE, MARK, MUTED, drawing, log_ticks, png

_WIDTH_IN = 10.0
_PANEL_IN = 0.78  # height of one panel
_GAP_IN = 0.36  # between rows, for the title above and the ticks below
_TOP_IN, _BOTTOM_IN = 0.62, 0.5
_DECADES_BELOW = 3  # how far below the tolerated tail the axis reaches
_LEAST_SHARE = 0.01  # of a spectrum, on axes without tau
_MOST_POINTS = 96  # a panel is narrower than that in pixels


def spectra_figure(redundancy: Redundancy) -> Figure:
    """Draw one panel a group: what is left in the tail of the spectrum over the number of filters kept.

    That is the predicted loss, in nats, where a tail was counted; else the share of the spectrum's sum.
    """
    groups, tau = redundancy.groups, redundancy.tau
    num_columns = 4 if len(groups) <= 12 else 6
    num_rows = max(1, math.ceil(len(groups) / num_columns))
    height = num_rows * (_PANEL_IN + _GAP_IN) + _TOP_IN + _BOTTOM_IN - _GAP_IN
    low = (_LEAST_SHARE if tau is None else tau) * 10.0**-_DECADES_BELOW
    high = 2.0 if tau is None else max([sum(group.spectrum) for group in groups] + [tau]) * 2
    left, right = 0.055, 0.995
    pitch = (right - left) / num_columns
    longest = int(170 / num_columns) - max([len(_counts(group)) for group in groups], default=0) - 2
    with drawing():
        figure = Figure(figsize=(_WIDTH_IN, height))
        for index, group in enumerate(groups):
            row, column = divmod(index, num_columns)
            bottom = height - _TOP_IN - row * (_PANEL_IN + _GAP_IN) - _PANEL_IN
            axes = figure.add_axes((left + column * pitch, bottom / height, pitch * 0.86, _PANEL_IN / height))
            _panel(axes, group, tau, (low, high), max(8, longest))
            if column:
                axes.tick_params(labelleft=False)
        drawn = "predicted loss in the tail, nats" if tau is not None else "share of the spectrum in the tail"
        handles = [Line2D([], [], color=AFTER, label=drawn)]
        if tau is not None:
            dashes = (0, (4, 2))
            handles.append(Line2D([], [], color=MARK, linestyle=dashes, linewidth=1, label=f"tau = {tau:.3g} nats"))
        handles.append(
            Line2D([], [], color=MARK, marker="o", markersize=4, linestyle="none", label="effective filters")
        )
        figure.legend(handles=handles, loc="upper left", ncols=3, bbox_to_anchor=(0.0, 1.0))
        figure.text((left + right) / 2, 0.08 / height, "filters kept", ha="center", color=MUTED)
    return figure


def spectra_png(redundancy: Redundancy) -> bytes:
    """Draw the spectra as a picture that stands alone, with the largest compression in its title."""
    figure = spectra_figure(redundancy)
    most = redundancy.maximum_compression
    named = (
        ("filters", "filters"), ("macs", "MACs"), ("parameters", "parameters"), ("latency", "latency"),
    )  # fmt: skip
    shares = ", ".join(f"{percent(most[key])} of {label}" for key, label in named if key in most)
    with drawing():
        figure.text(
            0.995, 1 - 0.2 / figure.get_figheight(), f"superfluous: {shares}", ha="right", va="center", color=INK
        )
    return png(figure)


def tail(spectrum: tuple[float, ...]) -> np.ndarray:
    """Return the sum of the spectrum beyond each number of kept filters, float64 [len(spectrum) + 1]."""
    return np.append(np.cumsum(np.asarray(spectrum, dtype=np.float64)[::-1])[::-1], 0.0)


def _panel(axes: Axes, group: GroupRedundancy, tau: float | None, limits: tuple[float, float], longest: int) -> None:
    remaining = tail(group.spectrum)
    if tau is None and remaining[0] > 0:
        remaining = remaining / remaining[0]
    level = tau if tau is not None else max(float(remaining[group.num_effective]), limits[0])
    kept = np.arange(len(remaining))
    if len(kept) > _MOST_POINTS:
        chosen = np.unique(np.append(np.linspace(0, kept[-1], _MOST_POINTS).astype(int), group.num_effective))
        kept, remaining = kept[chosen], remaining[chosen]
    drawn = np.maximum(remaining, limits[0])
    axes.set_yscale("log")
    axes.fill_between(kept, limits[0], drawn, color=AFTER_SOFT, linewidth=0)
    axes.plot(kept, drawn, color=AFTER, linewidth=1.2)
    if tau is not None:
        axes.axhline(tau, color=MARK, linestyle=(0, (4, 2)), linewidth=0.8)
    axes.plot([group.num_effective], [level], "o", color=MARK, markersize=3.2, clip_on=False)
    axes.set_xlim(0, group.num_channels)
    axes.set_ylim(*limits)
    axes.set_xticks([0, group.num_channels])
    first, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    log_ticks(axes.yaxis, num_ticks=4)
    axes.tick_params(length=0, labelsize=6.5, pad=2)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.text(0, 1.06, shortened(group.name, longest), transform=axes.transAxes, fontsize=6.8, color=INK)
    axes.text(1, 1.06, _counts(group), transform=axes.transAxes, fontsize=6.8, color=MARK, ha="right")


def _counts(group: GroupRedundancy) -> str:
    return f"{group.num_effective}/{group.num_channels}"
