"""Draw what was cut where: every group's width before and after, and its floor."""

import math
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from secateur.artifacts import PruneResult
from secateur.report.formatting import shortened
from secateur.report.plots.canvas import AFTER, BAND, BEFORE, INK, LINE, MARK, MUTED, drawing, tip

_ROW_IN = 0.185  # height of one row
_WIDTH_IN = 10.0
_MARGIN_IN = 0.55  # above for the legend, below for the axis
_MOST_ROWS = 34  # more are drawn in two columns


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One line: a group, or the heading of a block (no group)."""

    label: str
    group: str | None
    block: str


def widths_figure(prune: PruneResult) -> Figure:
    """Draw the share of channels that stayed in every group, gathered by block, with the numbers beside it."""
    rows = _rows(prune)
    columns = _split(rows)
    num_rows = max(len(column) for column in columns)
    height = num_rows * _ROW_IN + 2 * _MARGIN_IN
    with drawing():
        figure = Figure(figsize=(_WIDTH_IN, height))
        for number, column in enumerate(columns):
            share = 1 / len(columns)
            label = min(0.17, 0.03 + 0.0060 * max(len(row.label) for row in column))
            left = number * share + label
            axes = figure.add_axes(
                (left, _MARGIN_IN / height, (number + 1) * share - left - 0.09, num_rows * _ROW_IN / height)
            )
            _draw(axes, column, num_rows, prune)
        handles: list[Artist] = [
            Patch(facecolor=LINE, label="cut"),
            Patch(facecolor=AFTER, label="kept"),
        ]
        if prune.floors:
            handles.append(Line2D([], [], color=MARK, linewidth=1.8, label="floor: effective filters"))
        figure.legend(handles=handles, loc="upper left", ncols=3, bbox_to_anchor=(0.0, 1.0), handlelength=1.2)
    return figure


def _rows(prune: PruneResult) -> list[_Row]:
    """Order groups by block as they run; blocks of several groups get a heading and short names below it."""
    blocks: dict[str, list[str]] = {}
    for name in prune.widths_before:
        blocks.setdefault(prune.blocks.get(name, name), []).append(name)
    rows = []
    for block, groups in blocks.items():
        if len(groups) == 1:
            rows.append(_Row(label=groups[0], group=groups[0], block=block))
            continue
        rows.append(_Row(label=block, group=None, block=block))
        rows += [_Row(label=group.removeprefix(f"{block}."), group=group, block=block) for group in groups]
    return rows


def _split(rows: list[_Row]) -> list[list[_Row]]:
    """Split into two columns where there are many rows, between blocks if one ends near the middle."""
    if len(rows) <= _MOST_ROWS:
        return [rows]
    middle = math.ceil(len(rows) / 2)
    ends = [i for i in range(1, len(rows)) if rows[i].block != rows[i - 1].block]
    near = min(ends, key=lambda i: abs(i - middle), default=middle)
    cut = near if abs(near - middle) <= len(rows) // 6 else middle
    return [rows[:cut], rows[cut:]]


def _draw(axes: Axes, rows: list[_Row], num_rows: int, prune: PruneResult) -> None:
    groups = {row.group: place for place, row in enumerate(rows) if row.group is not None}
    at = list(groups.values())
    before = np.array([prune.widths_before[group] for group in groups])
    after = np.array([prune.widths_after[group] for group in groups])
    for number, (_, members) in enumerate(groupby(range(len(rows)), key=lambda place: rows[place].block)):
        inside = list(members)
        if number % 2 == 0:
            axes.axhspan(inside[0] - 0.5, inside[-1] + 0.5, color=BAND, linewidth=0, zorder=0)
    axes.barh(at, np.ones(len(at)), height=0.62, color=LINE, zorder=1)
    bars = axes.barh(at, after / before, height=0.62, color=AFTER, zorder=2)
    for bar, group, old, new in zip(bars, groups, before, after, strict=True):
        floor = f", floor {prune.floors[group]}" if group in prune.floors else ""
        tip(bar, f"{group}: {old} channels before, {new} after, {new / old:.0%} kept{floor}")
    floored = [group for group in groups if group in prune.floors]
    where = np.array([groups[group] for group in floored])
    shares = [prune.floors[group] / prune.widths_before[group] for group in floored]
    axes.vlines(shares, where - 0.42, where + 0.42, color=MARK, linewidth=1.8, zorder=3)
    for place, old, new in zip(at, before, after, strict=True):
        axes.text(
            1.02, place, f"{old} → {new}", va="center", ha="left", fontsize=7.5, color=INK if old != new else MUTED
        )
    axes.set_yticks(range(len(rows)), [shortened(row.label, 24) for row in rows])
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(INK)
        if row.group is None:
            tick.set_fontweight("bold")
    axes.set_ylim(num_rows - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.set_xlabel("share of channels kept")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.vlines([0.25, 0.5, 0.75], -0.5, len(rows) - 0.5, color=BEFORE, linewidth=0.4, zorder=2.5, alpha=0.6)
