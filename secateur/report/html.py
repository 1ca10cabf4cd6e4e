"""Write a run as one HTML file that needs nothing beside it."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from secateur.artifacts import Interval, Summary
from secateur.errors import DataError
from secateur.report.formatting import (
    backend_label,
    confidence,
    count,
    metric_label,
    percent,
    ratio,
    seconds,
    significant,
    size,
    span,
)
from secateur.report.gates import COMPRESSED, ORIGINAL
from secateur.report.plots.canvas import PALETTE, svg
from secateur.report.plots.latency import latency_figure, promise_figure
from secateur.report.plots.practice import roofline_figure, waterfall_figure
from secateur.report.plots.quality import history_figure, quality_figure
from secateur.report.plots.rounds import rounds_figure
from secateur.report.plots.spectra import spectra_figure
from secateur.report.plots.widths import widths_figure
from secateur.report.redundancy import found_told, rule_told
from secateur.report.sentence import achievement, reasons
from secateur.report.strip import gate_strip
from secateur.report.tables import cutting, outcome, practice, rounding, running
from secateur.report.tables.table import NO_TABLE, Table

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A key figure: what it is, the figure, and where it comes from."""

    label: str
    figure: str
    detail: str


def render_html(
    summary: Summary,
    intervals: Mapping[str, Mapping[str, Interval]],
    pictures: Sequence[tuple[str, np.ndarray]] = (),
) -> str:
    """Return the report as one HTML document.

    Args:
        summary: the run.
        intervals: metrics and drops of every network, see `secateur.report.gates.network_intervals`.
        pictures: captions and RGB pictures, uint8 [height, width, 3], which are embedded as they are.

    Raises:
        DataError: a picture is of another type or shape.
    """
    embedded = [(caption, _data_address(caption, picture)) for caption, picture in pictures]
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,  # whatever its suffix: names come from users
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        summary=summary,
        headline=(achievement(summary), summary.verdict.verdict.upper()),
        reasons=reasons(summary),
        redundancy_told={"rule": rule_told(summary.redundancy), "found": found_told(summary.redundancy)},
        tiles=_tiles(summary, intervals),
        palette=PALETTE,
        strips=[Markup(gate_strip(gate)) for gate in summary.verdict.gates],
        figures=_figures(summary, intervals),
        tables=_tables(summary, intervals),
        pictures=embedded,
        recipe=yaml.safe_dump(
            summary.model_dump(mode="json", include={"recipe"})["recipe"], sort_keys=False, allow_unicode=True
        ),
    )


def _tiles(summary: Summary, intervals: Mapping[str, Mapping[str, Interval]]) -> list[Tile]:
    prune, comparison, speedup = summary.prune, summary.comparison, summary.comparison.speedup
    latency = f"{seconds(comparison.baseline.p50_s)} → {seconds(comparison.candidate.p50_s)}"
    limits = f"{confidence(speedup)} {significant(speedup.low)} to {significant(speedup.high)}"
    tiles = [Tile(label=f"Speed-up on {backend_label(comparison.backend)}", figure=ratio(speedup.value),
                  detail=f"{latency}, {limits}")]  # fmt: skip
    evaluation = summary.evaluations.get(COMPRESSED)
    if evaluation is not None and summary.primary in evaluation.metrics:
        lost = intervals.get(COMPRESSED, {}).get(f"{summary.primary}_drop")
        before = summary.evaluations.get(ORIGINAL)
        was = f"was {significant(before.metrics[summary.primary])}" if before is not None else ""
        note = f"lost {span(f'{summary.primary}_drop', lost)}" if lost is not None else ""
        unit = evaluation.units.get(summary.primary, "")
        tiles.append(Tile(label=metric_label(summary.primary),
                          figure=f"{significant(evaluation.metrics[summary.primary])} {unit}".rstrip(),
                          detail=", ".join(part for part in (was, note) if part)))  # fmt: skip
    tiles.append(_saving("MACs saved", prune.macs_before, prune.macs_after, count))
    tiles.append(_saving("Parameters saved", prune.parameters_before, prune.parameters_after, count))
    if ORIGINAL in summary.exports and COMPRESSED in summary.exports:
        before_bytes, after_bytes = (summary.exports[who].size_bytes for who in (ORIGINAL, COMPRESSED))
        tiles.append(_saving("ONNX file", before_bytes, after_bytes, size))
    if summary.realised is not None:
        tiles.append(Tile(label="Of the MACs' promise", figure=percent(summary.realised),
                          detail="ln speed-up / ln MAC ratio"))  # fmt: skip
    return tiles


def _saving(label: str, before: float | int, after: float | int, show: Callable[..., str]) -> Tile:
    return Tile(label=label, figure=ratio(before / after), detail=f"{show(before)} → {show(after)}")


def _figures(summary: Summary, intervals: Mapping[str, Mapping[str, Interval]]) -> dict[str, Markup]:
    """Draw what there is something to draw of; the template leaves out the rest."""
    prune, comparison = summary.prune, summary.comparison
    drawn = {"promise": (promise_figure(prune, summary.exports, comparison), "Factors saved beside the speed-up")}
    if all(any(runs) for runs in comparison.samples_s.values()):
        drawn["latency"] = (latency_figure(comparison), "Latency distributions before and after")
    evaluation = summary.evaluations.get(COMPRESSED)
    known = intervals.get(COMPRESSED, {})
    if evaluation is not None:
        directions = {name: evaluation.higher_is_better.get(name, True) for name in evaluation.metrics if name in known}
        if directions:
            drawn["quality"] = (quality_figure(intervals, directions), "Metrics of every network with intervals")
    if summary.finetune.epochs:
        drawn["history"] = (history_figure(summary.finetune), "Losses and metrics over the epochs")
    if prune.widths_before:
        drawn["widths"] = (widths_figure(prune), "Share of channels kept in every group")
    if prune.rounds:
        drawn["rounds"] = (rounds_figure(prune), "Cost and loss over the rounds of pruning")
    if any(group.spectrum for group in summary.redundancy.groups):
        drawn["spectra"] = (spectra_figure(summary.redundancy), "Spectrum of every group")
    if summary.practice is not None:
        drawn["roofline"] = (roofline_figure(summary.practice), "Layers below the machine's roofline")
        drawn["waterfall"] = (waterfall_figure(summary.practice), "What every layer gave to the call")
    return {name: Markup(svg(figure, name, description)) for name, (figure, description) in drawn.items()}


def _tables(summary: Summary, intervals: Mapping[str, Mapping[str, Interval]]) -> dict[str, Table]:
    found = summary.practice
    return {
        "gates": outcome.gates_table(summary.verdict),
        "quality": outcome.quality_table(summary.evaluations, intervals),
        "finetune": outcome.finetune_table(summary.finetune),
        "durations": outcome.durations_table(summary.durations_s),
        "facts": outcome.facts_table(summary.facts),
        "compression": cutting.compression_table(summary.redundancy),
        "redundancy": cutting.redundancy_table(summary.redundancy),
        "widths": cutting.widths_table(summary.prune),
        "rounds": cutting.rounds_table(summary.prune),
        "pinned": cutting.pinned_table(summary.prune.pinned),
        "exports": running.exports_table(summary.exports),
        "engines": running.engines_table(summary.engines),
        "quantization": rounding.quantization_table(summary),
        "latency": running.latency_table(summary.comparison),
        "measurement": running.measurement_table(summary.comparison),
        "practice": practice.practice_table(found) if found else NO_TABLE,
        "layers": practice.layers_table(found) if found else NO_TABLE,
        "findings": practice.findings_table(found) if found else NO_TABLE,
        "machine": running.machine_table(summary.comparison.machine),
    }


def _data_address(caption: str, picture: np.ndarray) -> str:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise DataError(
            f"picture {caption!r}", f"{picture.dtype} {list(picture.shape)}", "uint8 [height, width, 3]",
            "Return an RGB picture from the task's illustrate.",
        )  # fmt: skip
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
