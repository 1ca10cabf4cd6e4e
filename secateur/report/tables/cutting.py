"""What was cut: redundancy, widths, rounds, and what was never cut."""

from collections.abc import Sequence

from secateur.artifacts import Pinned, PruneResult, Redundancy
from secateur.report.formatting import backend_label, count, percent, seconds, significant
from secateur.report.tables.table import Table


def redundancy_table(redundancy: Redundancy) -> Table:
    """List every group's effective filters and the share that is superfluous, dead channels and covering."""
    rows = tuple(
        (g.name, g.block, str(g.num_channels), str(g.num_effective), percent(g.redundancy),
         "" if g.dead is None else str(len(g.dead.all)),
         "" if g.covering is None else significant(g.covering.redundancy))
        for g in redundancy.groups
    )  # fmt: skip
    header = ("Group", "Block", "Channels", "Effective", "Superfluous", "Dead", "R")
    return Table(title="Redundancy", header=header, rows=rows, right=frozenset({2, 3, 4, 5, 6}), spare=(6, 5, 1))


def compression_table(redundancy: Redundancy) -> Table:
    """List the largest compression that the estimate allows."""
    most = redundancy.maximum_compression
    filters = sum(g.num_channels for g in redundancy.groups), sum(g.num_effective for g in redundancy.groups)
    rows: tuple[tuple[str, ...], ...] = (
        ("Filters", f"{filters[0]:,}", f"{filters[1]:,}", percent(most["filters"])),
        ("MACs", count(redundancy.macs), count(redundancy.macs_effective), percent(most["macs"])),
        (
            "Parameters",
            count(redundancy.parameters),
            count(redundancy.parameters_effective),
            percent(most["parameters"]),
        ),
    )
    if redundancy.latency_s and redundancy.latency_effective_s is not None:
        named = f"Layers in {backend_label(redundancy.backend)}"
        times = seconds(redundancy.latency_s), seconds(redundancy.latency_effective_s)
        rows = (*rows, (named, *times, percent(most["latency"])))
    header = ("", "Now", "Effective", "Superfluous")
    return Table(title="Largest compression", header=header, rows=rows, right=frozenset({1, 2, 3}))


def widths_table(prune: PruneResult) -> Table:
    """List every group's width before and after, with its floor."""
    rows = tuple(
        (name, prune.blocks.get(name, ""), str(width), str(prune.widths_after[name]), str(prune.floors.get(name, "")),
         percent(prune.widths_after[name] / width))
        for name, width in prune.widths_before.items()
    )  # fmt: skip
    header = ("Group", "Block", "Before", "After", "Floor", "Kept")
    return Table(title="Widths", header=header, rows=rows, right=frozenset({2, 3, 4, 5}), spare=(1,))


def rounds_table(prune: PruneResult) -> Table:
    """List the rounds: budget asked and reached, loss along the way, and the proof that each cut was exact."""
    rows = []
    for number, done in enumerate(prune.rounds, start=1):
        targets = (
            (done.target_macs, "MACs"), (done.target_parameters, "parameters"), (done.target_bytes, "bytes"),
        )  # fmt: skip
        counted = [f"{count(number)} {unit}" for number, unit in targets if number is not None]
        timed = [] if done.target_latency_s is None else [f"{significant(1e3 * done.target_latency_s)} ms of layers"]
        target = ", ".join([*counted, *timed, *(["loss allowed"] if done.stopped else [])])
        losses = (significant(x) for x in (done.loss_before, done.loss_after_cut, done.loss_after_recovery))
        saliency = f"{percent(done.saliency_kept, 4)} (at most {percent(done.saliency_bound, 4)})"
        row = (
            str(number), target, count(done.macs), count(done.parameters), saliency, *losses,
            significant(done.cut_error, 2),
        )  # fmt: skip
        rows.append(row)
    return Table(
        title="Rounds of pruning",
        header=(
            "Round", "Budget", "MACs", "Parameters", "Saliency kept", "Loss before", "after cut", "after recovery",
            "Cut differs by",
        ),
        rows=tuple(rows),
        right=frozenset({2, 3, 4, 5, 6, 7, 8}),
        spare=(8, 4, 3),
    )  # fmt: skip


def pinned_table(pinned: Sequence[Pinned]) -> Table:
    """List the channels that were never cut, and why."""
    rows = tuple((p.tensor, str(p.num_channels), p.reason, p.operator, p.module) for p in pinned)
    header = ("Tensor", "Channels", "Reason", "Operator", "Module")
    return Table(title="Channels never cut", header=header, rows=rows, right=frozenset({1}), spare=(4, 3))
