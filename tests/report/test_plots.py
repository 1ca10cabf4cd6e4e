"""Figures: every group is there, labels keep apart, colours follow the page, settings stay as they were."""

import io
import itertools
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from secateur.artifacts import Interval, Summary
from secateur.report.gates import network_intervals
from secateur.report.plots.canvas import PALETTE, drawing, png, svg
from secateur.report.plots.latency import latency_figure, promise_figure
from secateur.report.plots.measured import measured_figures
from secateur.report.plots.pareto import RunPoint, front, pareto_figure
from secateur.report.plots.practice import roofline_figure, waterfall_figure
from secateur.report.plots.quality import history_figure, quality_figure
from secateur.report.plots.rounds import rounds_figure
from secateur.report.plots.spectra import spectra_figure, spectra_png, tail
from secateur.report.plots.widths import widths_figure


def quality(summary: Summary) -> Figure:
    intervals = network_intervals(summary.evaluations, num_resamples=100)
    return quality_figure(intervals, summary.evaluations["original"].higher_is_better)


FIGURES: dict[str, Callable[[Summary], Figure]] = {
    "widths": lambda summary: widths_figure(summary.prune),
    "spectra": lambda summary: spectra_figure(summary.redundancy),
    "latency": lambda summary: latency_figure(summary.comparison),
    "promise": lambda summary: promise_figure(summary.prune, summary.exports, summary.comparison),
    "quality": quality,
    "history": lambda summary: history_figure(summary.finetune),
    "roofline": lambda summary: roofline_figure(summary.practice),
    "waterfall": lambda summary: waterfall_figure(summary.practice),
    "rounds": lambda summary: rounds_figure(summary.prune),
    "pareto": lambda summary: pareto_figure(POINTS, "auc", higher_is_better=True),
}


def point(name: str, latency_s: float, quality: float) -> RunPoint:
    latency, reached = (
        Interval(value=value, low=0.97 * value, high=1.02 * value) for value in (latency_s, quality)
    )  # fmt: skip
    return RunPoint(name=name, latency_s=latency, quality=reached)


POINTS = [point(f"keep-{share}", 0.02 * share, share**0.1) for share in (0.9, 0.6, 0.35)]


def visible_texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


class Recorder(RendererAgg):
    """Draws, and remembers what text was drawn where; matplotlib keeps ticks that it does not draw."""

    def __init__(self, width: float, height: float, dpi: float) -> None:
        super().__init__(width, height, dpi)
        self.texts: dict[Text, np.ndarray] = {}

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None) -> None:
        super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
        if mtext is not None:
            self.texts[mtext] = np.ravel(mtext.get_window_extent(self).get_points())


def overlap(figure: Figure) -> list[tuple[str, str]]:
    """Return the pairs of texts that cover more than a sliver of each other, as drawn."""
    with drawing():
        recorder = Recorder(*figure.bbox.size, figure.dpi)
        figure.draw(recorder)
    texts, corners = list(recorder.texts), np.array(list(recorder.texts.values()))
    width = np.minimum(corners[:, None, 2], corners[None, :, 2]) - np.maximum(corners[:, None, 0], corners[None, :, 0])
    height = np.minimum(corners[:, None, 3], corners[None, :, 3]) - np.maximum(corners[:, None, 1], corners[None, :, 1])
    pairs = np.argwhere(np.triu((width > 2) & (height > 3), k=1))
    return [(texts[a].get_text(), texts[b].get_text()) for a, b in pairs]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_becomes_svg_that_follows_the_page(name: str, summary: Summary) -> None:
    before = dict(mpl.rcParams)
    drawn = svg(FIGURES[name](summary), name, 'a "figure" <of> & more')
    assert dict(mpl.rcParams) == before
    ElementTree.fromstring(drawn.replace("xlink:href", "href"))  # well-formed
    assert "http" not in drawn
    assert not any(light in drawn for light, _ in PALETTE.values())
    assert set(re.findall(r"var\(--c-([a-z-]+)\)", drawn)) <= set(PALETTE)
    assert all(found.startswith(f"{name}-") for found in re.findall(r'\bid="([^"]*)"', drawn))
    targets = set(re.findall(r'href="#([^"]*)"', drawn)) | set(re.findall(r"url\(#([^)]*)\)", drawn))
    assert targets <= set(re.findall(r'\bid="([^"]*)"', drawn))


@pytest.mark.parametrize("num_blocks", [2, 17, 27])
@pytest.mark.parametrize("name", ["widths", "spectra"])
def test_labels_of_many_groups_do_not_overlap(name: str, num_blocks: int, make_summary: Callable[..., Summary]) -> None:
    assert overlap(FIGURES[name](make_summary(num_blocks=num_blocks))) == []


@pytest.mark.parametrize("name", ["latency", "promise", "quality", "history", "rounds", "pareto"])
def test_labels_of_the_other_figures_do_not_overlap(name: str, summary: Summary) -> None:
    assert overlap(FIGURES[name](summary)) == []


def test_the_check_for_overlaps_finds_one() -> None:
    figure = Figure()
    figure.text(0.5, 0.5, "one")
    figure.text(0.505, 0.5, "other")
    assert overlap(figure) == [("one", "other")]


def test_every_group_has_its_widths(summary: Summary) -> None:
    shown = [text.get_text() for text in visible_texts(widths_figure(summary.prune))]
    for name, width in summary.prune.widths_before.items():
        block = summary.prune.blocks[name]
        assert name in shown or name.removeprefix(f"{block}.") in shown
        assert f"{width} → {summary.prune.widths_after[name]}" in shown


def test_every_group_has_its_spectrum(summary: Summary) -> None:
    shown = [text.get_text() for text in visible_texts(spectra_figure(summary.redundancy))]
    for group in summary.redundancy.groups:
        assert f"{group.num_effective}/{group.num_channels}" in shown


def test_names_with_markup_are_drawn_as_they_are(summary: Summary) -> None:
    odd = "a$x_1$<b>&"
    prune = summary.prune.model_copy(
        update={
            "widths_before": {odd: 8}, "widths_after": {odd: 4}, "floors": {}, "blocks": {odd: "block"},
        }
    )  # fmt: skip
    drawn = svg(widths_figure(prune), "w", "widths")
    assert "a$x_1$&lt;b&gt;&amp;" in drawn


@pytest.mark.parametrize(("before_s", "after_s"), [(0.0079, 0.0213), (0.01, 0.01), (2e-5, 1.9e-5), (3.0, 0.1)])
def test_promises_of_every_outcome_fit(before_s: float, after_s: float, make_summary: Callable[..., Summary]) -> None:
    summary = make_summary(num_blocks=2, before_s=before_s, after_s=after_s)
    for name in ("promise", "latency"):
        assert overlap(FIGURES[name](summary)) == []


@given(st.lists(st.tuples(st.floats(1e-6, 1), st.floats(0, 1)), min_size=1, max_size=20), st.booleans())
def test_no_run_is_both_faster_and_better_than_one_of_the_front(
    runs: list[tuple[float, float]], higher_is_better: bool
) -> None:
    points = [point(str(number), *run) for number, run in enumerate(runs)]
    best, sign = front(points, higher_is_better=higher_is_better), 1 if higher_is_better else -1
    beaten = {
        one.name
        for one in points
        for other in points
        if other.latency_s.value <= one.latency_s.value and sign * other.quality.value > sign * one.quality.value
    }
    assert best
    assert not beaten & {one.name for one in best}
    assert all(a.latency_s.value < b.latency_s.value for a, b in itertools.pairwise(best))


def test_runs_stand_where_their_latency_and_quality_are() -> None:
    figure = FIGURES["pareto"](None)
    shown = [text.get_text() for text in visible_texts(figure)]
    assert {one.name for one in POINTS} <= {*shown}
    assert {"median latency, ms", "AUC"} <= {*shown}
    dots = {(line.get_xdata()[0], line.get_ydata()[0]) for line in figure.axes[0].lines if line.get_marker() == "o"}
    assert dots == {(1e3 * one.latency_s.value, one.quality.value) for one in POINTS}


def test_layers_stand_at_their_multiply_adds_and_latency_and_axes_have_ticks(small: Summary) -> None:
    drawn = measured_figures(small.comparison, small.practice)
    assert list(drawn) == ["latency", "roofline", "waterfall"]
    assert list(measured_figures(small.comparison, None)) == ["latency"]
    roof, over = drawn["roofline"].axes
    dots = {(line.get_xdata()[0], line.get_ydata()[0]) for line in over.lines if len(line.get_xdata())}
    layers = [*small.practice.before.layers, *small.practice.after.layers]
    assert dots == {(layer.macs / 1e6, layer.measured_s * 1e3) for layer in layers}
    for axis in (roof.xaxis, roof.yaxis, over.xaxis, over.yaxis):
        low, high = axis.get_view_interval()
        assert sum(low <= tick <= high for tick in axis.get_majorticklocs()) >= 2


@given(st.lists(st.floats(0, 1e3), max_size=30))
def test_the_tail_falls_from_the_sum_to_nothing(values: list[float]) -> None:
    spectrum = tuple(sorted(values, reverse=True))
    found = tail(spectrum)
    assert len(found) == len(spectrum) + 1
    assert found[0] == pytest.approx(sum(spectrum))
    assert found[-1] == 0
    assert (np.diff(found) <= 0).all()


def test_the_spectra_stand_alone_as_a_picture(summary: Summary) -> None:
    picture = np.asarray(Image.open(io.BytesIO(spectra_png(summary.redundancy))).convert("RGB"))
    assert picture.shape[1] == 1500
    assert (picture[0, 0] == 255).all()
    assert picture.std() > 10


def test_a_figure_is_written_as_png() -> None:
    assert png(Figure(figsize=(1, 1)), dpi=20).startswith(b"\x89PNG")
