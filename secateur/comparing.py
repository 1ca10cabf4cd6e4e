"""Put finished runs beside each other: in what their recipes differ, and what came of it."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.artifacts import Interval, Record, Summary
from secateur.judging import read_run
from secateur.report.formatting import count, span
from secateur.report.gates import quantities_of
from secateur.report.plots.canvas import png
from secateur.report.plots.pareto import RunPoint, pareto_figure
from secateur.report.tables.table import Table

COMMON = ("name", "folder")
"""Keys in which recipes differ without meaning anything."""


class RunRow(Record):
    """A finished run: what its recipe says where recipes differ, and everything a gate can be put on."""

    run: str
    name: str
    settings: dict[str, Any]
    macs: int
    parameters: int
    primary: str
    higher_is_better: bool = True
    verdict: str
    measured: dict[str, Interval]


class RunsCompared(Record):
    """Runs in the order they were given; ``warnings`` say why figures may not belong beside each other."""

    runs: tuple[RunRow, ...]
    warnings: tuple[str, ...]


def compare_runs(folders: Sequence[Path]) -> RunsCompared:
    """Read finished runs and compare them; nothing is run.

    Raises:
        StorageError: a folder holds no finished run.
    """
    summaries = [read_run(folder) for folder in folders]
    flat = [flattened(summary.recipe) for summary in summaries]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    differing = [
        key
        for key in keys
        if key not in COMMON and len({json.dumps(settings.get(key), sort_keys=True) for settings in flat}) > 1
    ]
    rows = tuple(
        RunRow(
            run=str(folder), name=summary.name, settings={key: settings.get(key) for key in differing},
            macs=summary.prune.macs_after, parameters=summary.prune.parameters_after, primary=summary.primary,
            higher_is_better=summary.evaluations["compressed"].higher_is_better.get(summary.primary, True),
            verdict=summary.verdict.verdict,
            measured=quantities_of(summary, seed=int(summary.recipe["seed"])),
        )
        for folder, summary, settings in zip(folders, summaries, flat, strict=True)
    )  # fmt: skip
    return RunsCompared(runs=rows, warnings=_warnings(summaries))


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def pareto_png(compared: RunsCompared) -> bytes:
    """Draw the runs by their first run's primary metric and their latency, as a PNG file."""
    first = compared.runs[0]
    points = [
        RunPoint(name=row.name, latency_s=row.measured["latency_s"], quality=row.measured[first.primary])
        for row in compared.runs
        if first.primary in row.measured
    ]
    return png(pareto_figure(points, first.primary, higher_is_better=first.higher_is_better))


def runs_table(compared: RunsCompared) -> Table:
    """List runs with what differs in their recipes, accuracy, costs, latency and verdict.

    Folders are told from the one on that holds all of them.
    """
    keys = tuple(compared.runs[0].settings) if compared.runs else ()
    figures = ("speedup", "latency_s", "p99_s", "size_bytes")
    header = (
        *("Run", *keys, "Metric", "Value", "Drop", "MACs"),
        *("MAC ratio", "Speed-up", "Latency", "p99", "ONNX file", "Verdict"),
    )
    rows = []
    folders = [Path(row.run).absolute() for row in compared.runs]
    shared = os.path.commonpath([folder.parent for folder in folders]) if folders else ""
    for row, folder in zip(compared.runs, folders, strict=True):
        quality = [span(name, row.measured[name]) for name in (row.primary, f"{row.primary}_drop")]
        rows.append((
            os.path.relpath(folder, shared), *(_told(row.settings[key]) for key in keys), row.primary, *quality,
            count(row.macs), *(span(name, row.measured[name]) for name in ("mac_ratio", *figures)), row.verdict.upper(),
        ))  # fmt: skip
    spare = tuple(header.index(name) for name in ("p99", "ONNX file", "MAC ratio", "MACs", "Metric", "Drop"))
    right = frozenset(range(len(keys) + 2, len(header) - 1))
    return Table(title="Runs", header=header, rows=tuple(rows), right=right, spare=spare)


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _warnings(summaries: Sequence[Summary]) -> tuple[str, ...]:
    """Say in which respects runs differ that their figures presuppose to be the same."""
    seen = {
        "data": {summary.data for summary in summaries},
        "numbers of test samples": {str(e.num_samples) for s in summaries for e in s.evaluations.values()},
        "primary metrics": {summary.primary for summary in summaries},
        "runtimes": {summary.comparison.backend for summary in summaries},
        "batch sizes": {str(summary.comparison.batch_size) for summary in summaries},
        "threads": {str(summary.comparison.num_threads) for summary in summaries},
        "machines": {summary.comparison.machine.cpu for summary in summaries},
    }
    return tuple(f"the runs differ in {what}: {', '.join(sorted(s))}" for what, s in seen.items() if len(s) > 1)
