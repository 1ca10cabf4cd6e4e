"""What all figures share: colours that follow the reader's light or dark mode, type, and writing as SVG or PNG."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from secateur.report.formatting import significant

PALETTE: dict[str, tuple[str, str]] = {
    "ink": ("#1d2530", "#e4e8ee"),
    "muted": ("#5f6b7a", "#9daab9"),
    "line": ("#d9dee5", "#343d49"),
    "band": ("#f2f4f7", "#20262f"),
    "before": ("#98a3b1", "#727f8e"),
    "after": ("#1668b0", "#5fadf0"),
    "after-soft": ("#cfe0f1", "#1d3a57"),
    "mark": ("#c4570a", "#f5974f"),
    "third": ("#0a8570", "#3ec7ad"),
    "fourth": ("#8a4a9c", "#cb93db"),
}
"""Colour names with their hue in light and dark mode; blue, orange, green and purple stay apart for the colour-blind.

Within HTML the light hues become CSS variables ``--c-<name>``, so one SVG serves both modes."""

INK, MUTED, LINE, BAND, BEFORE, AFTER, AFTER_SOFT, MARK, THIRD, FOURTH = (light for light, _ in PALETTE.values())

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.grid": False,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: sharp, searchable, and in the page's own typeface
    "svg.hashsalt": "secateur",
    "text.color": INK,
    "text.parse_math": False,  # names may hold dollar signs
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 7.5,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 7.5,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw within in the report's style; matplotlib's own settings are as before afterwards."""
    with mpl.rc_context(_STYLE):
        yield


def svg(figure: Figure, name: str, description: str) -> str:
    """Write a figure as an ``<svg>`` element to be placed in HTML.

    ``name`` prefixes the element's ids, which must differ between the figures of a page; ``description`` is read to
    those who cannot see it.
    """
    buffer = io.StringIO()
    with drawing():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    opening, rest = text.split(">", 1)
    box = re.search(r'viewBox="([^"]*)"', opening)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = re.sub(
        r'<g id="tip:([^"]*)">',
        lambda found: f'<g class="tip" tabindex="0" data-tip="{found[1]}"><title>{found[1]}</title>',
        rest,
    )
    rest = re.sub(r'\bid="', f'id="{name}-', rest)
    rest = re.sub(r'href="#', f'href="#{name}-', rest).replace("url(#", f"url(#{name}-")
    for colour, (light, _) in PALETTE.items():
        rest = rest.replace(light, f"var(--c-{colour})")
    return f'<svg viewBox="{box[1] if box else ""}" role="img" aria-label="{label}">{rest}'


def tip(artist: Artist, text: str) -> None:
    """Have an artist tell its text where it is pointed at, within HTML."""
    artist.set_gid(f"tip:{text}")


def png(figure: Figure, dpi: int = 150) -> bytes:
    """Write a figure as a PNG file on white."""
    buffer = io.BytesIO()
    with drawing():
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def log_ticks(axis: Axis, subdivisions: tuple[float, ...] = (1.0,), num_ticks: int = 5) -> None:
    """Label a logarithmic axis with plain numbers."""
    axis.set_major_locator(LogLocator(subs=subdivisions, numticks=num_ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: significant(value, 2, trim=True)))
    axis.set_minor_locator(NullLocator())


def quiet(axes: Axes, *, grid: str = "y") -> None:
    """Take away what carries no information: ticks' strokes, the spine across the values; keep a faint grid."""
    axes.tick_params(length=0)
    axes.spines["left" if grid == "y" else "bottom"].set_visible(False)
    axes.yaxis.grid(grid == "y")
    axes.xaxis.grid(grid == "x")
