"""Theory beside practice, layer by layer, and where the promise went."""

from collections.abc import Sequence

from secateur.artifacts import BenchCell, LayerPractice, Practice
from secateur.report.formatting import count, percent, ratio, seconds, significant, size
from secateur.report.tables.table import Table


def practice_table(practice: Practice) -> Table:
    """List what both networks cost on paper, by the roofline and on the stopwatch."""
    before, after = practice.before, practice.after
    rows = [
        ("multiply-adds", count(before.macs), count(after.macs), ratio(before.macs / max(1, after.macs))),
        ("bytes moved", size(before.num_bytes), size(after.num_bytes),
         ratio(before.num_bytes / max(1, after.num_bytes))),
        ("multiply-adds a byte", *(significant(n.macs / max(1, n.num_bytes)) for n in (before, after)), ""),
        ("predicted by the roofline", seconds(before.predicted_s), seconds(after.predicted_s),
         ratio(before.predicted_s / after.predicted_s)),
        ("a call", seconds(before.call_s), seconds(after.call_s), ratio(practice.speedup)),
        ("with the profiler on", *(seconds(n.profiled_s) for n in (before, after)), ""),
        ("of it layers", *(percent(n.layers_s / n.profiled_s) for n in (before, after)), ""),
        ("of it layouts", *(percent(n.reformat_s / n.profiled_s) for n in (before, after)), ""),
        ("of it other nodes", *(percent(n.other_s / n.profiled_s) for n in (before, after)), ""),
        ("of it no node", *(percent(n.overhead_s / n.profiled_s) for n in (before, after)), ""),
        ("of the multiply-adds' promise realised", "", "", _share(practice.realised)),
        ("of the roofline's promise realised", "", "", _share(practice.realised_roofline)),
    ]  # fmt: skip
    return Table(
        title="Theory and practice", header=("Of a call", "Before", "After", "Ratio"), rows=tuple(rows),
        right=frozenset({1, 2, 3}),
    )  # fmt: skip


def layers_table(practice: Practice) -> Table:
    """List every layer: widths, multiply-adds, intensity, prediction and time, before and after, and what came true."""
    was = {layer.name: layer for layer in practice.before.layers}
    rows = tuple(_row(was.get(layer.name), layer) for layer in practice.after.layers)
    header = (
        "Layer", "Channels", "Multiply-adds", "a byte", "Bound by", "Predicted", "Measured", "Faster", "Realised",
    )  # fmt: skip
    right = frozenset({1, 2, 3, 5, 6, 7, 8})
    return Table(title="Layers", header=header, rows=rows, right=right, spare=(3, 5, 4, 2, 8))


def findings_table(practice: Practice) -> Table:
    """List where the promise was lost, the largest share first."""
    rows = tuple((finding.kind, percent(finding.share), finding.told) for finding in practice.findings)
    return Table(title="Where the gain went", header=("Cause", "Of the call", "What to do"), rows=rows)


def cells_table(cells: Sequence[BenchCell]) -> Table:
    """List what was compared at which batch size and number of threads."""
    rows = []
    for cell in cells:
        c = cell.comparison
        interval = f"{significant(c.speedup.low)} to {significant(c.speedup.high)}"
        rows.append((
            str(c.batch_size), str(c.num_threads), seconds(c.baseline.p50_s), seconds(c.candidate.p50_s),
            f"{ratio(c.speedup.value)} [{interval}]", c.outcome,
            "" if c.resolution is None else percent(c.resolution), significant(c.candidate.throughput_per_s),
        ))  # fmt: skip
    header = ("Batch", "Threads", "Before", "After", "Speed-up", "Outcome", "Resolution", "Samples a second")
    right = frozenset({0, 1, 2, 3, 6, 7})
    return Table(title="Comparisons", header=header, rows=tuple(rows), right=right, spare=(7, 6))


def clients_table(cells: Sequence[BenchCell]) -> Table:
    """List what several clients at once reach."""
    rows = tuple(
        (
            str(cell.comparison.batch_size), str(cell.comparison.num_threads), side, str(found.num_clients),
            significant(found.throughput_per_s), seconds(found.latency.p50_s), seconds(found.latency.p99_s),
        )
        for cell in cells
        for side, crowd in cell.clients.items()
        for found in crowd
    )  # fmt: skip
    header = ("Batch", "Threads", "Side", "Clients", "Samples a second", "Median", "99th percentile")
    return Table(title="Clients at once", header=header, rows=rows, right=frozenset({0, 1, 3, 4, 5, 6}))


def cold_table(cells: Sequence[BenchCell]) -> Table:
    """List what starting costs beside a warm call: medians over fresh processes."""
    rows = []
    for cell in cells:
        warm = {"baseline": cell.comparison.baseline.p50_s, "candidate": cell.comparison.candidate.p50_s}
        for side, start in cell.cold.items():
            load, first, memory = (sorted(v)[len(v) // 2] for v in (start.load_s, start.first_s, start.memory_bytes))
            rows.append((
                str(cell.comparison.batch_size), str(cell.comparison.num_threads), side, str(len(start.load_s)),
                seconds(load), seconds(first), seconds(warm[side]), size(memory),
            ))  # fmt: skip
    header = ("Batch", "Threads", "Side", "Starts", "Load", "First call", "Warm call", "Memory")
    return Table(title="Cold starts", header=header, rows=tuple(rows), right=frozenset({0, 1, 3, 4, 5, 6, 7}))


def _row(was: LayerPractice | None, layer: LayerPractice) -> tuple[str, ...]:
    now = "" if layer.measured_s is None else seconds(layer.measured_s)
    if was is None:
        return (
            layer.name, f"{layer.inputs} x {layer.outputs}", count(layer.macs), significant(layer.intensity),
            layer.bound, seconds(layer.predicted_s), now, "", "",
        )  # fmt: skip
    gain = fraction = then = ""
    if was.measured_s and layer.measured_s:
        gain, then = ratio(was.measured_s / layer.measured_s), f"{seconds(was.measured_s)} → "
        fraction = _share(layer.realised(was))
    return (
        layer.name, f"{was.inputs} x {was.outputs} → {layer.inputs} x {layer.outputs}",
        f"{count(was.macs)} → {count(layer.macs)}", significant(layer.intensity), layer.bound,
        f"{seconds(was.predicted_s)} → {seconds(layer.predicted_s)}", f"{then}{now}", gain, fraction,
    )  # fmt: skip


def _share(share: float | None) -> str:
    return "" if share is None else percent(share)
